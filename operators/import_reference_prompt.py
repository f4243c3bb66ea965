"""Import reference prompt: a file of a trained prompt becomes a prompt of the dataset."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator


class ImportReferencePrompt(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.import_prompt`."""

    @property
    def config(self):
        return self.settings(
            "import_reference_prompt",
            "Import reference prompt",
            "Read a trained reference prompt from a file",
            risk_level="MEDIUM",
            icon="prompt",
        )

    def __call__(self, sample_collection, path, prompt_key=None, *, overwrite=False):
        """Import from Python; returns the prompt."""
        from ..nts.fiftyone_adapter import import_prompt

        return import_prompt(sample_collection, path, prompt_key, overwrite=overwrite)

    def form(self, ctx, inputs) -> None:
        inputs.str("path", label="File", description="A file made by the export, where FiftyOne runs", required=True)
        inputs.str(
            "prompt_key",
            label="Name",
            description="Left empty: the name of the file",
            required=False,
            view=types.TextFieldView(),
        )
        forms.overwrite(inputs, "Replace a prompt of this name")

    def do(self, ctx) -> str:
        options = forms.given(ctx.params, "prompt_key", "overwrite")
        prompt = self(ctx.dataset, ctx.params["path"], **options)
        return f"A reference prompt for the encoder {prompt.encoder.name} and the segmenter {prompt.segmenter.name}."
