"""Add references: labels, patches or selected labels become references or negatives of a memory."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator
from .label_selection import target
from .outcomes import NextStep
from .words import bullets, paragraphs

REFERENCE, NEGATIVE = "reference", "negative"


class AddReferences(JobOperator):
    """See :mod:`nts.fiftyone_adapter.adding_references` and :func:`nts.fiftyone_adapter.add_negatives`."""

    columns = (("class", "Class"), ("references", "References now"))

    @property
    def config(self):
        return self.settings(
            "add_references",
            "Add references",
            "Use labels as further references of a memory, or as examples of what is none of its classes",
            risk_level="MEDIUM",
            icon="memory",
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def __call__(self, sample_collection, label_field, memory_key, *, delegate=False):
        """Add references from Python; returns a report, or, with ``delegate``, the scheduled operation."""
        from ..nts.fiftyone_adapter.adding_references import add_references

        if delegate:
            return self.schedule(sample_collection, label_field=label_field, memory_key=memory_key)
        return add_references(sample_collection, label_field, memory_key)

    def form(self, ctx, inputs) -> None:
        view = forms.target_view(ctx, inputs, "Take the labels from", labels=True)
        if view is None:
            return
        if forms.memory(ctx, inputs, description="It gets the references") is None:
            return
        chosen = forms.reference_field(
            ctx, inputs, view, "label_field", label="Label field", description="The field with the labels"
        )
        if chosen is None:
            return
        uses = types.RadioGroup(label="Use them as")
        uses.add_choice(REFERENCE, label="References", description="Of the class of each label")
        uses.add_choice(NEGATIVE, label="Not this class", description="What looks like them is left out from now on")
        inputs.enum("use_as", uses.values(), default=REFERENCE, required=False, view=uses)
        inputs.view("content", types.Notice(label=f"{chosen[1].words} will be added"))

    def makes(self, ctx) -> str | None:
        return forms.chosen_memory(ctx)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import negatives_job
        from ..nts.fiftyone_adapter.adding_references import references_job

        view, field, key = target(ctx), ctx.params["label_field"], ctx.params["memory_key"]
        if ctx.params.get("use_as") == NEGATIVE:
            return negatives_job(ctx.dataset, key, view, field)
        return references_job(view, field, key)

    def next_steps(self, ctx, report) -> list[NextStep]:
        key = report.memory_key
        return [
            NextStep("Segment the rest", "auto_segment_view", params={"memory_key": key}, rest_of=key),
            NextStep("See the references", panel="memory_panel", params={"header": {"memory": key}}),
        ]

    def summary(self, report) -> str:
        left_out = bullets(f"{len(report.skipped)} labels left out", [item.reason for item in report.skipped])
        if isinstance(report.added, int):
            words = f"**{report.added} negatives** were added to the memory **{report.memory_key}**."
        else:
            words = f"**{sum(report.added.values())} references** were added to the memory **{report.memory_key}**."
        return paragraphs(words, left_out)

    def rows(self, report):
        if isinstance(report.added, int):
            return []
        return [{"class": name, "references": count} for name, count in report.shots.items()]
