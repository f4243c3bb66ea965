"""Map classes: assign every pixel its class by a reference prompt."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator
from .label_selection import target
from .words import bullets, paragraphs


class MapClasses(JobOperator):
    """See :func:`nts.fiftyone_adapter.map_classes`."""

    columns = (("class", "Class"), ("images", "Images"))

    @property
    def config(self):
        return self.settings(
            "map_classes",
            "Map classes",
            "Find the pixels of a memory's classes by a reference prompt, without telling objects apart",
            risk_level="MEDIUM",
            icon="heatmap",
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def __call__(self, sample_collection, memory_key, output_field=None, *, delegate=False, **options):
        """Map from Python; returns a report, or, with ``delegate``, the scheduled operation.

        ``options`` are those of :func:`nts.fiftyone_adapter.map_classes`.
        """
        from ..nts.fiftyone_adapter import map_classes

        if delegate:
            return self.schedule(sample_collection, memory_key=memory_key, output_field=output_field, **options)
        return map_classes(sample_collection, memory_key, output_field, **options)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.checks import suggest_output_field
        from ..nts.fiftyone_adapter.config import ClassMapsConfig
        from ..nts.fiftyone_adapter.plan import plan_class_maps
        from ..nts.fiftyone_adapter.runs import CLASS_MAPS, MEMORY, list_runs

        view = forms.target_view(ctx, inputs, "Map")
        if view is None:
            return
        key = forms.memory(ctx, inputs, description="Its classes are mapped; it must have whole images")
        if key is None:
            return
        radio = types.RadioGroup(label="Output")
        radio.add_choice("segmentation", label="Segmentation", description="The class of every pixel, in one field")
        radio.add_choice("heatmaps", label="Heat maps", description="A probability for every class, one field each")
        inputs.enum("output", radio.values(), default="segmentation", required=False, view=radio)
        if ctx.params.get("output") != "heatmaps":
            suggested = suggest_output_field(ctx.dataset, key, CLASS_MAPS)
            forms.output_field(ctx, inputs, suggested, list_runs(ctx.dataset, CLASS_MAPS))
            forms.option(inputs, ClassMapsConfig, "presence_threshold")
        else:
            forms.option(inputs, ClassMapsConfig, "overwrite")
        forms.option(inputs, ClassMapsConfig, "segmenter")
        forms.reference_prompt(ctx, inputs, key)
        forms.option(inputs, ClassMapsConfig, "preset", default=list_runs(ctx.dataset, MEMORY)[key]["preset"])
        forms.device(ctx, inputs, ClassMapsConfig)
        forms.option(inputs, ClassMapsConfig, "precision")

        plan = forms.plan(
            ctx,
            inputs,
            lambda values: plan_class_maps(view, key, _output_field(values), ClassMapsConfig.from_params(values)),
        )
        if plan is not None and ctx.params.get("output") != "heatmaps":
            forms.earlier_run(inputs, plan)

    def makes(self, ctx) -> str | None:
        from ..nts.fiftyone_adapter.checks import suggest_output_field
        from ..nts.fiftyone_adapter.runs import CLASS_MAPS, heatmaps_key

        memory = forms.chosen_memory(ctx)
        if memory is None:
            return None
        if ctx.params.get("output") == "heatmaps":
            return heatmaps_key(memory, "probability")
        return _output_field(ctx.params) or suggest_output_field(ctx.dataset, memory, CLASS_MAPS)

    def new_fields(self, report) -> list[str]:
        return list(report.fields)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import class_maps_job
        from ..nts.fiftyone_adapter.config import ClassMapsConfig

        config = ClassMapsConfig.from_params(ctx.params)
        return class_maps_job(target(ctx), ctx.params["memory_key"], _output_field(ctx.params), config=config)

    def summary(self, report) -> str:
        words = f"**{', '.join(report.fields)}**: {report.mapped} images mapped, {report.seconds:.0f} s."
        if report.resumed:
            words += f" {report.resumed} images were skipped: already mapped with the same settings."
        failures = list(report.failed.values())
        return paragraphs(words, bullets(f"{len(failures)} images could not be mapped", failures))

    def rows(self, report):
        return [{"class": name, "images": count} for name, count in report.images.items()]


def _output_field(params) -> str | None:
    """Output field of segmentations; heat maps have none, but a value entered earlier stays in the form."""
    return None if params.get("output") == "heatmaps" else params.get("output_field") or None
