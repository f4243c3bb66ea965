"""Delete reference prompt: a trained prompt; what was found with it stays."""

from __future__ import annotations

from . import forms
from .base import SimpleOperator, bullets


class DeleteReferencePrompt(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.delete_prompt`."""

    @property
    def config(self):
        return self.settings(
            "delete_reference_prompt",
            "Delete reference prompt",
            "Delete a trained reference prompt; what was found with it stays",
            risk_level="HIGH",
            icon="prompt",
        )

    def __call__(self, sample_collection, prompt_key):
        """Delete from Python; returns what was deleted, in words."""
        from ..nts.fiftyone_adapter import delete_prompt

        return delete_prompt(sample_collection, prompt_key)

    def form(self, ctx, inputs) -> None:
        forms.prompt(ctx, inputs, description="What to delete", unfinished=True)

    def do(self, ctx) -> str:
        return bullets("Deleted", self(ctx.dataset, ctx.params["prompt_key"]))
