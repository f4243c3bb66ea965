"""Delete segmentation: the output of auto-segment view, and everything made with it."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator, bullets


class DeleteSegmentation(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.delete_segmentation`."""

    @property
    def config(self):
        return self.settings(
            "delete_segmentation",
            "Delete segmentation",
            "Delete what auto-segment view wrote: fields, evaluations, the run",
            risk_level="HIGH",
        )

    def __call__(self, sample_collection, output_field):
        """Delete from Python; returns what was deleted, in words."""
        from ..nts.fiftyone_adapter import delete_segmentation

        return delete_segmentation(sample_collection, output_field)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter import list_segmentations, made_with_segmentation

        segmentations = list(list_segmentations(ctx.dataset))
        if not segmentations:
            forms.refuse(inputs, "Nothing to delete", "this dataset has no segmentation made by auto-segment view")
            return
        forms.choice(
            inputs,
            "output_field",
            segmentations,
            label="Segmentation",
            description="What to delete",
            default=segmentations[0],
        )
        chosen = ctx.params.get("output_field") or segmentations[0]
        if chosen in segmentations:
            made = ", ".join(made_with_segmentation(ctx.dataset, chosen))
            inputs.view("made", types.Notice(label="This is deleted", description=made))

    def do(self, ctx) -> str:
        return bullets("Deleted", self(ctx.dataset, ctx.params["output_field"]))
