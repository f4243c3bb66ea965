"""Export reference prompt: a trained prompt as a file, for other datasets and machines."""

from __future__ import annotations

from . import forms
from .base import SimpleOperator


class ExportReferencePrompt(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.export_prompt`."""

    @property
    def config(self):
        return self.settings(
            "export_reference_prompt",
            "Export reference prompt",
            "Write a trained reference prompt to a file",
            risk_level="MEDIUM",
            icon="prompt",
        )

    def __call__(self, sample_collection, prompt_key, path, *, overwrite=False):
        """Export from Python; returns the path of the file."""
        from ..nts.fiftyone_adapter import export_prompt

        return export_prompt(sample_collection, prompt_key, path, overwrite=overwrite)

    def form(self, ctx, inputs) -> None:
        if forms.prompt(ctx, inputs, description="What to export") is None:
            return
        inputs.str(
            "path",
            label="File or folder",
            description="Where FiftyOne runs. In a folder the file gets the prompt's name, with .safetensors",
            required=True,
        )
        forms.overwrite(inputs, "Replace a file that exists")

    def do(self, ctx) -> str:
        options = forms.given(ctx.params, "overwrite")
        path = self(ctx.dataset, ctx.params["prompt_key"], ctx.params["path"], **options)
        return f"Written to {path}"
