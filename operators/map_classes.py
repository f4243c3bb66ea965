"""Map classes: which class every pixel is of, by a reference prompt; and its deletion."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator, bullets, paragraphs


class MapClasses(JobOperator):
    """See :func:`nts.fiftyone_adapter.map_classes`."""

    columns = (("class", "Class"), ("images", "Images with it"))

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
        from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

        if forms.target_view(ctx, inputs, "Map") is None:
            return
        key = forms.memory(ctx, inputs, description="Whose classes to look for; built with whole images")
        if key is None:
            return
        radio = types.RadioGroup(label="Output")
        radio.add_choice("segmentation", label="Segmentation", description="The class of every pixel, in one field")
        radio.add_choice("heatmaps", label="Heat maps", description="A probability for every class, a field each")
        inputs.enum("output", radio.values(), default="segmentation", required=False, view=radio)
        if ctx.params.get("output") != "heatmaps":
            _output_field(ctx, inputs, key)
            inputs.float(
                "presence_threshold",
                label="Presence threshold",
                description="A class is painted where the prompt is so sure that it is in the image at all",
                min=0,
                max=1,
                default=0.5,
            )
        else:
            forms.overwrite(inputs, "If there are maps of other settings, delete them and begin anew")
        forms.segmenter(inputs)
        forms.reference_prompt(ctx, inputs, key)
        forms.preset(inputs, default=list_runs(ctx.dataset, MEMORY)[key]["preset"])
        forms.device(inputs)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import class_maps_job

        options = forms.given(
            ctx.params,
            "output",
            "presence_threshold",
            "reference_prompt",
            "overwrite",
            "segmenter",
            "encoder",
            "preset",
            "device",
            "precision",
        )
        if options.get("output") != "heatmaps":  # a name given before stays in the form's values
            options |= forms.given(ctx.params, "output_field")
        return class_maps_job(ctx.target_view(), ctx.params["memory_key"], **options)

    def summary(self, report) -> str:
        words = f"**{', '.join(report.fields)}**: {report.mapped} images mapped, {report.seconds:.0f} s."
        if report.resumed:
            words += f" {report.resumed} images had been done before, with the same settings."
        failures = list(report.failed.values())
        return paragraphs(words, bullets(f"{len(failures)} images could not be mapped", failures))

    def rows(self, report):
        return [{"class": name, "images": count} for name, count in report.images.items()]


def _output_field(ctx, inputs, memory_key: str) -> None:
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_output_field, suggest_output_field
    from ..nts.fiftyone_adapter.runs import CLASS_MAPS, list_runs

    suggested = suggest_output_field(ctx.dataset, memory_key, CLASS_MAPS)
    prop = inputs.str(
        "output_field",
        label="Output field",
        description=f"Left empty: {suggested}",
        required=False,
        view=types.TextFieldView(placeholder=suggested),
    )
    field = ctx.params.get("output_field") or suggested
    try:
        check_output_field(ctx.dataset, field, CLASS_MAPS)
    except InputError as error:
        forms.mark_invalid(prop, error)
        return
    if field in list_runs(ctx.dataset, CLASS_MAPS):
        forms.overwrite(inputs, "If the settings differ, delete what the field holds and begin anew")
