"""Export memory: a memory as a file, for other datasets and machines."""

from __future__ import annotations

from . import forms
from .base import SimpleOperator


class ExportMemory(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.export_memory`."""

    @property
    def config(self):
        return self.settings(
            "export_memory", "Export memory", "Write a reference memory to a file", risk_level="MEDIUM"
        )

    def __call__(self, sample_collection, memory_key, path, *, overwrite=False):
        """Export from Python; returns the path of the file."""
        from ..nts.fiftyone_adapter import export_memory

        return export_memory(sample_collection, memory_key, path, overwrite=overwrite)

    def form(self, ctx, inputs) -> None:
        if forms.memory(ctx, inputs, description="What to export") is None:
            return
        inputs.str(
            "path",
            label="File or folder",
            description="Where FiftyOne runs. In a folder the file gets the memory's name, with .safetensors",
            required=True,
        )
        forms.overwrite(inputs, "Replace a file that exists")

    def do(self, ctx) -> str:
        options = forms.given(ctx.params, "overwrite")
        path = self(ctx.dataset, ctx.params["memory_key"], ctx.params["path"], **options)
        return f"Written to {path}"
