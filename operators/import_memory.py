"""Import memory: a memory file becomes a memory of the dataset."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator


class ImportMemory(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.import_memory`."""

    @property
    def config(self):
        return self.settings(
            "import_memory", "Import memory", "Read a reference memory from a file", risk_level="MEDIUM"
        )

    def __call__(self, sample_collection, path, memory_key=None, *, overwrite=False):
        """Import from Python; returns a report."""
        from ..nts.fiftyone_adapter import import_memory

        return import_memory(sample_collection, path, memory_key, overwrite=overwrite)

    def form(self, ctx, inputs) -> None:
        inputs.str("path", label="File", description="A file made by export memory, where FiftyOne runs", required=True)
        inputs.str(
            "memory_key",
            label="Memory name",
            description="Left empty: the name of the file",
            required=False,
            view=types.TextFieldView(),
        )
        forms.overwrite(inputs, "Replace a memory of this name")

    def do(self, ctx) -> str:
        options = forms.given(ctx.params, "memory_key", "overwrite")
        report = self(ctx.dataset, ctx.params["path"], **options)
        count = sum(report.shots.values())
        return f"The memory **{report.memory_key}** holds {count} references of {len(report.shots)} classes."
