"""The operators that write memories and reference prompts to files, and read them, for other datasets and machines."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator


class ExportRun(SimpleOperator):
    """Writes a run of the dataset to a file. A subclass chooses the run, and is called with its key and a path."""

    parameter: str
    """Name of the operator's parameter with the key of the run."""

    noun: str

    def choose(self, ctx, inputs) -> str | None:
        """A drop-down of the runs; returns the chosen one."""
        raise NotImplementedError

    def form(self, ctx, inputs) -> None:
        if self.choose(ctx, inputs) is None:
            return
        inputs.str(
            "path",
            label="File or folder",
            description=f"On the machine that runs FiftyOne. In a folder, the file is named after the {self.noun}, "
            "with .safetensors",
            required=True,
        )
        forms.overwrite(inputs, "Replace an existing file")

    def do(self, ctx) -> str:
        options = forms.given(ctx.params, "overwrite")
        path = self(ctx.dataset, ctx.params[self.parameter], ctx.params["path"], **options)
        return f"Written to {path}"


class ImportRun(SimpleOperator):
    """Reads a run from a file. A subclass is called with a path and optionally a key, and reports the result."""

    parameter: str
    """Name of the operator's parameter with the key of the run."""

    noun: str
    name_label: str

    def report(self, imported) -> str:
        """A summary of the imported run (Markdown)."""
        raise NotImplementedError

    def form(self, ctx, inputs) -> None:
        exporter = f"Export {self.noun}"
        inputs.str(
            "path",
            label="File",
            description=f"Written by '{exporter}', on the machine that runs FiftyOne",
            required=True,
        )
        inputs.str(
            self.parameter,
            label=self.name_label,
            description="Default: the name of the file",
            required=False,
            view=types.TextFieldView(),
        )
        forms.overwrite(inputs, f"Replace a {self.noun} of this name")

    def do(self, ctx) -> str:
        options = forms.given(ctx.params, self.parameter, "overwrite")
        return self.report(self(ctx.dataset, ctx.params["path"], **options))


class ExportMemory(ExportRun):
    """See :func:`nts.fiftyone_adapter.export_memory`."""

    parameter, noun = "memory_key", "memory"

    @property
    def config(self):
        return self.settings(
            "export_memory", "Export memory", "Write a reference memory to a file", risk_level="MEDIUM", unlisted=True
        )

    def __call__(self, sample_collection, memory_key, path, *, overwrite=False):
        """Export from Python; returns the path of the file."""
        from ..nts.fiftyone_adapter import export_memory

        return export_memory(sample_collection, memory_key, path, overwrite=overwrite)

    def choose(self, ctx, inputs) -> str | None:
        return forms.memory(ctx, inputs, description="Memory to export")


class ImportMemory(ImportRun):
    """See :func:`nts.fiftyone_adapter.import_memory`."""

    parameter, noun, name_label = "memory_key", "memory", "Memory name"

    @property
    def config(self):
        return self.settings(
            "import_memory", "Import memory", "Read a reference memory from a file", risk_level="MEDIUM", unlisted=True
        )

    def __call__(self, sample_collection, path, memory_key=None, *, overwrite=False):
        """Import from Python; returns a report."""
        from ..nts.fiftyone_adapter import import_memory

        return import_memory(sample_collection, path, memory_key, overwrite=overwrite)

    def report(self, imported) -> str:
        count = sum(imported.shots.values())
        return f"The memory **{imported.memory_key}** holds {count} references of {len(imported.shots)} classes."


class ExportReferencePrompt(ExportRun):
    """See :func:`nts.fiftyone_adapter.prompts.export_prompt`."""

    parameter, noun = "prompt_key", "reference prompt"

    @property
    def config(self):
        return self.settings(
            "export_reference_prompt",
            "Export reference prompt",
            "Write a trained reference prompt to a file",
            risk_level="MEDIUM",
            icon="prompt",
            unlisted=True,
        )

    def __call__(self, sample_collection, prompt_key, path, *, overwrite=False):
        """Export from Python; returns the path of the file."""
        from ..nts.fiftyone_adapter.prompts import export_prompt

        return export_prompt(sample_collection, prompt_key, path, overwrite=overwrite)

    def choose(self, ctx, inputs) -> str | None:
        return forms.prompt(ctx, inputs, description="Reference prompt to export")


class ImportReferencePrompt(ImportRun):
    """See :func:`nts.fiftyone_adapter.prompts.import_prompt`."""

    parameter, noun, name_label = "prompt_key", "reference prompt", "Name"

    @property
    def config(self):
        return self.settings(
            "import_reference_prompt",
            "Import reference prompt",
            "Read a trained reference prompt from a file",
            risk_level="MEDIUM",
            icon="prompt",
            unlisted=True,
        )

    def __call__(self, sample_collection, path, prompt_key=None, *, overwrite=False):
        """Import from Python; returns the prompt."""
        from ..nts.fiftyone_adapter.prompts import import_prompt

        return import_prompt(sample_collection, path, prompt_key, overwrite=overwrite)

    def report(self, imported) -> str:
        encoder, segmenter = imported.encoder.name, imported.segmenter.name
        return f"A reference prompt for the encoder {encoder} and the segmenter {segmenter}."
