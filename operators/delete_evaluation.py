"""Delete evaluation: a result of evaluate nAP, and what it wrote."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator, bullets


class DeleteEvaluation(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.delete_evaluation`."""

    @property
    def config(self):
        return self.settings(
            "delete_evaluation",
            "Delete evaluation",
            "Delete a result of evaluate nAP, with the fields and attributes that it wrote",
            risk_level="HIGH",
        )

    def __call__(self, sample_collection, eval_key):
        """Delete from Python; returns what was deleted, in words."""
        from ..nts.fiftyone_adapter import delete_evaluation

        return delete_evaluation(sample_collection, eval_key)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter import list_evaluations, list_unfinished_evaluations, made_with_evaluation

        complete = list_evaluations(ctx.dataset)
        names = list(dict.fromkeys([*complete, *list_unfinished_evaluations(ctx.dataset)]))
        if not names:
            forms.refuse(inputs, "Nothing to delete", "this dataset has no result of evaluate nAP")
            return
        forms.choice(inputs, "eval_key", names, label="Evaluation", description="What to delete", default=names[0])
        chosen = ctx.params.get("eval_key") or names[0]
        if chosen in complete:
            made = ", ".join(made_with_evaluation(ctx.dataset, chosen))
            inputs.view("made", types.Notice(label="This is deleted", description=made))

    def do(self, ctx) -> str:
        return bullets("Deleted", self(ctx.dataset, ctx.params["eval_key"]))
