"""Similarity heat maps: similarity of image patches to the classes of a memory, before any mask is proposed."""

from __future__ import annotations

from functools import partial

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator
from .label_selection import target
from .words import bullets, paragraphs


class SimilarityHeatmaps(JobOperator):
    """See :func:`nts.fiftyone_adapter.similarity_heatmaps`."""

    columns = (("class", "Class"), ("field", "Field"))

    @property
    def config(self):
        return self.settings(
            "similarity_heatmaps",
            "Similarity heat maps",
            "Map the similarity of images to the classes of a memory",
            risk_level="MEDIUM",
            icon="heatmap",
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def __call__(self, sample_collection, memory_key, *, delegate=False, **options):
        """Make heat maps from Python; returns a report, or, with ``delegate``, the scheduled operation.

        ``options`` are those of :func:`nts.fiftyone_adapter.similarity_heatmaps`.
        """
        from ..nts.fiftyone_adapter import similarity_heatmaps

        if delegate:
            return self.schedule(sample_collection, memory_key=memory_key, **options)
        return similarity_heatmaps(sample_collection, memory_key, **options)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.config import HeatmapsConfig
        from ..nts.fiftyone_adapter.heatmap_fields import MOST_CLASSES, heatmap_fields
        from ..nts.fiftyone_adapter.plan import plan_heatmaps
        from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

        view = forms.target_view(ctx, inputs, "Map")
        if view is None:
            return
        key = forms.memory(ctx, inputs, description="Its classes are mapped")
        if key is None:
            return
        known = list_runs(ctx.dataset, MEMORY)[key]["classes"]
        few = len(known) <= MOST_CLASSES
        description = "One field each; " + ("default: all" if few else f"choose up to {MOST_CLASSES}")
        forms.classes(inputs, known, description=description)
        forms.device(ctx, inputs, HeatmapsConfig)
        forms.option(inputs, HeatmapsConfig, "precision")

        def make(values, **changes):
            return plan_heatmaps(view, key, HeatmapsConfig.from_params({**values, **changes}))

        # The switch is shown only where there is something to overwrite.
        plan = forms.plan(ctx, inputs, partial(make, overwrite=True))
        if plan is None:
            return
        fields = ", ".join(heatmap_fields(ctx.dataset, key, plan.classes).values())
        inputs.view("fields", types.Notice(label=f"{view.count()} images, written to", description=fields))
        if plan.different:
            forms.overwrite(
                inputs, f"The existing heat maps have other settings ({', '.join(plan.different)}): delete them"
            )
            forms.plan(ctx, inputs, make)

    def makes(self, ctx) -> str | None:
        from ..nts.fiftyone_adapter.runs import heatmaps_key

        memory = forms.chosen_memory(ctx)
        return None if memory is None else heatmaps_key(memory)

    def new_fields(self, report) -> list[str]:
        return list(report.fields.values())

    def job(self, ctx):
        from ..nts.fiftyone_adapter import heatmaps_job
        from ..nts.fiftyone_adapter.config import HeatmapsConfig

        config = HeatmapsConfig.from_params(ctx.params)
        return heatmaps_job(target(ctx), ctx.params["memory_key"], config=config)

    def summary(self, report) -> str:
        words = f"**{len(report.fields)} heat maps** for each of {report.mapped} images, {report.seconds:.0f} s."
        if report.resumed:
            words += f" {report.resumed} images were skipped: already mapped with the same settings."
        words += " Tick a field in the sidebar to see it: bright is similar, and 0 is transparent."
        failures = list(report.failed.values())
        return paragraphs(words, bullets(f"{len(failures)} images could not be mapped", failures))

    def rows(self, report):
        return [{"class": name, "field": field} for name, field in report.fields.items()]
