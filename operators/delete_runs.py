"""The operators that delete a run: a memory, a segmentation, an evaluation, maps or a reference prompt."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator
from .words import bullets


class DeleteRun(SimpleOperator):
    """Deletes a run of one kind with everything made with it. See :func:`nts.fiftyone_adapter.runs.delete_run`."""

    name: str
    label: str
    description: str
    icon = "icon"

    kind: str
    """Name of a constant of :mod:`nts.fiftyone_adapter.runs`: registering the operator must not import that."""

    parameter: str
    """Name of the operator's parameter with the key of the run."""

    choice_label: str
    nothing: str
    """Reason to refuse a dataset that has no such run."""

    notice = "This is deleted"

    @property
    def config(self):
        return self.settings(self.name, self.label, self.description, risk_level="HIGH", icon=self.icon, unlisted=True)

    def delete(self, sample_collection, key):
        """Delete the run ``key``; returns what was deleted, in words."""
        from ..nts.fiftyone_adapter import runs

        return runs.delete_run(sample_collection, key, getattr(runs, self.kind))

    def choose(self, ctx, inputs) -> str | None:
        """A drop-down of the runs, unfinished ones included; returns the chosen one."""
        from ..nts.fiftyone_adapter import runs

        kind = getattr(runs, self.kind)
        names = list({**runs.list_runs(ctx.dataset, kind), **runs.list_drafts(ctx.dataset, kind)})
        if not names:
            forms.refuse(inputs, "Nothing to delete", self.nothing)
            return None
        forms.choice(
            inputs,
            self.parameter,
            names,
            label=self.choice_label,
            description=f"{self.choice_label} to delete",
            default=names[0],
        )
        chosen = ctx.params.get(self.parameter) or names[0]
        return chosen if chosen in names else None

    def contents(self, ctx, key: str) -> list[str]:
        """Everything that would be deleted, in words."""
        from ..nts.fiftyone_adapter import runs

        return runs.run_contents(ctx.dataset, key, getattr(runs, self.kind))

    def form(self, ctx, inputs) -> None:
        key = self.choose(ctx, inputs)
        if key is None:
            return
        if contents := self.contents(ctx, key):
            inputs.view("made", types.Notice(label=self.notice, description=", ".join(contents)))

    def do(self, ctx) -> str:
        return bullets("Deleted", self.delete(ctx.dataset, ctx.params[self.parameter]))


class DeleteMemory(DeleteRun):
    """Deletes a memory with its segmentations, their evaluations, and its maps."""

    name = "delete_memory"
    label = "Delete memory"
    description = "Delete a reference memory and everything made with it"
    kind, parameter = "MEMORY", "memory_key"
    notice = "Everything made with it is also deleted"

    def __call__(self, sample_collection, memory_key):
        """Delete from Python; returns what was deleted, in words."""
        return self.delete(sample_collection, memory_key)

    def choose(self, ctx, inputs) -> str | None:
        return forms.memory(ctx, inputs, description="Memory to delete")

    def contents(self, ctx, key: str) -> list[str]:
        return super().contents(ctx, key)[:-1]  # without the memory itself


class DeleteSegmentation(DeleteRun):
    """Deletes the output of auto-segment view and its evaluations."""

    name = "delete_segmentation"
    label = "Delete segmentation"
    description = "Delete the output of auto-segment view: its fields, evaluations and run"
    kind, parameter = "SEGMENTATION", "output_field"
    choice_label = "Segmentation"
    nothing = "this dataset has no segmentation made by auto-segment view"

    def __call__(self, sample_collection, output_field):
        """Delete from Python; returns what was deleted, in words."""
        return self.delete(sample_collection, output_field)


class DeleteEvaluation(DeleteRun):
    """Deletes a result of evaluate nAP, with the fields and attributes that it wrote."""

    name = "delete_evaluation"
    label = "Delete evaluation"
    description = "Delete a result of evaluate nAP, with the fields and attributes that it wrote"
    kind, parameter = "EVALUATION", "eval_key"
    choice_label = "Evaluation"
    nothing = "this dataset has no result of evaluate nAP"

    def __call__(self, sample_collection, eval_key):
        """Delete from Python; returns what was deleted, in words."""
        return self.delete(sample_collection, eval_key)


class DeleteHeatmaps(DeleteRun):
    """Deletes the heat maps of a memory."""

    name = "delete_similarity_heatmaps"
    label = "Delete similarity heat maps"
    description = "Delete the heat maps of a memory and their fields"
    icon = "heatmap"
    kind, parameter = "HEATMAPS", "heatmaps_key"
    choice_label = "Heat maps"
    nothing = "this dataset has no similarity heat maps"

    def __call__(self, sample_collection, heatmaps_key):
        """Delete from Python; returns what was deleted, in words."""
        return self.delete(sample_collection, heatmaps_key)


class DeleteClassMaps(DeleteRun):
    """Deletes the output of map classes."""

    name = "delete_class_maps"
    label = "Delete class maps"
    description = "Delete the output of map classes: its fields and run"
    icon = "heatmap"
    kind, parameter = "CLASS_MAPS", "output_field"
    choice_label = "Class maps"
    nothing = "this dataset has no class maps made by map classes"

    def __call__(self, sample_collection, output_field):
        """Delete from Python; returns what was deleted, in words."""
        return self.delete(sample_collection, output_field)


class DeleteReferencePrompt(DeleteRun):
    """Deletes a trained reference prompt, or an unfinished training; predictions made with it stay."""

    name = "delete_reference_prompt"
    label = "Delete reference prompt"
    description = "Delete a trained reference prompt; predictions made with it stay"
    icon = "prompt"
    kind, parameter = "PROMPT", "prompt_key"

    def __call__(self, sample_collection, prompt_key):
        """Delete from Python; returns what was deleted, in words."""
        return self.delete(sample_collection, prompt_key)

    def choose(self, ctx, inputs) -> str | None:
        return forms.prompt(ctx, inputs, description="Reference prompt to delete", unfinished=True)
