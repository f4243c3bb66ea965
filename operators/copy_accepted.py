"""Copy accepted predictions: accepted and corrected labels to a field of their own."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator


class CopyAccepted(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.decisions.copy_decided`."""

    @property
    def config(self):
        return self.settings(
            "copy_accepted",
            "Copy accepted predictions",
            "Copy accepted and corrected predictions to a field of their own, without duplicates",
            risk_level="LOW",
            icon="copy",
        )

    def __call__(self, sample_collection, predictions_field, to_field):
        """Copy from Python; returns the number of labels that were copied."""
        from ..nts.fiftyone_adapter.decisions import copy_decided

        return copy_decided(sample_collection, predictions_field, to_field)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.checks import detections_fields
        from ..nts.fiftyone_adapter.decisions import decision_counts
        from ..nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

        chosen = forms.predictions(ctx, inputs, description="The field with the accepted predictions")
        if chosen is None:
            return
        counts = decision_counts(ctx.dataset, chosen)
        count = counts["accepted"] + counts["corrected"]
        if not count:
            forms.refuse(inputs, "Nothing accepted", "accept or correct some predictions first")
            return
        words = f"{counts['undecided']} are still undecided" if counts["undecided"] else "None is left undecided"
        inputs.view("count", types.Notice(label=f"{count} accepted or corrected labels", description=words))
        dropdown = types.AutocompleteView(label="Copy to", description="An existing field, or the name of a new one")
        made = list_runs(ctx.dataset, SEGMENTATION)
        for name in detections_fields(ctx.dataset):
            if name not in made:
                dropdown.add_choice(name, label=name)
        inputs.str("to_field", required=True, view=dropdown)

    def do(self, ctx) -> str:
        field, to = ctx.params["predictions_field"], ctx.params["to_field"]
        return f"**{self(ctx.dataset, field, to)} labels** of {field} were copied to {to}."
