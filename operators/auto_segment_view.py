"""Auto-segment view: find the objects of a memory's classes in images."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator, bullets, paragraphs


class AutoSegmentView(JobOperator):
    """See :func:`nts.fiftyone_adapter.auto_segment_view`."""

    columns = (("class", "Class"), ("instances", "Instances"))
    in_grid = True

    @property
    def config(self):
        return self.settings(
            "auto_segment_view",
            "Auto-segment view",
            "Segment every object of a memory's classes",
            risk_level="MEDIUM",
            icon="segment",
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def __call__(self, sample_collection, memory_key, output_field=None, *, delegate=False, **options):
        """Segment from Python; returns a report, or, with ``delegate``, the scheduled operation.

        ``options`` are those of :func:`nts.fiftyone_adapter.auto_segment_view`.
        """
        from ..nts.fiftyone_adapter import auto_segment_view

        if delegate:
            return self.schedule(sample_collection, memory_key=memory_key, output_field=output_field, **options)
        return auto_segment_view(sample_collection, memory_key, output_field, **options)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

        view = forms.target_view(ctx, inputs, "Segment")
        if view is None:
            return
        key = forms.memory(ctx, inputs, description="What to look for")
        if key is None:
            return
        _output_field(ctx, inputs, key)
        inputs.float(
            "score_threshold",
            label="Score threshold",
            description="Keep instances above this score. 0 keeps all, as an evaluation needs",
            min=0,
            max=1,
            default=0.0,
        )
        inputs.int(
            "max_instances",
            label="Most instances per image",
            description="Those of the highest score are kept",
            min=1,
            default=100,
        )
        inputs.int(
            "limit",
            label="Only the first images",
            description="A dry run, to see whether the settings suit; a later run does the rest. Left empty: all",
            min=1,
            required=False,
        )
        forms.segmenter(inputs)
        _scorer(ctx, inputs, key)
        forms.preset(inputs, default=list_runs(ctx.dataset, MEMORY)[key]["preset"])
        forms.device(inputs)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import segmentation_job

        options = forms.given(
            ctx.params,
            "output_field",
            "score_threshold",
            "max_instances",
            "limit",
            "overwrite",
            "segmenter",
            "encoder",
            "preset",
            "scorer",
            "device",
            "precision",
        )
        if options.get("scorer", "prototype") != "prototype":  # a choice made before stays in the form's values
            options |= forms.given(ctx.params, "reference_prompt")
        return segmentation_job(ctx.target_view(), ctx.params["memory_key"], **options)

    def summary(self, report) -> str:
        count = sum(report.instances.values())
        words = f"**{report.output_field}**: {count} instances in {report.segmented} images, {report.seconds:.0f} s."
        if report.empty:
            words += f" In {report.empty} of them nothing was found."
        if report.from_cache:
            words += f" {report.from_cache} of them had been encoded before: no model ran."
        if report.resumed:
            words += f" {report.resumed} images had been done before, with the same settings."
        failures = list(report.failed.values())
        title = f"{len(failures)} images could not be segmented (see the field {report.error_field})"
        return paragraphs(words, bullets(title, failures))

    def rows(self, report):
        return [{"class": name, "instances": count} for name, count in sorted(report.instances.items())]


def _scorer(ctx, inputs, memory_key: str) -> None:
    """What judges proposals; a choice only where a reference prompt can be used, or has been chosen."""
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs
    from ..nts.fiftyone_adapter.scorers import prompt_facts, prompt_problem

    memory, prompts = list_runs(ctx.dataset, MEMORY)[memory_key], prompt_facts(ctx.dataset)
    chosen = ctx.params.get("scorer") or "prototype"
    if chosen == "prototype" and all(prompt_problem(memory, name, facts) for name, facts in prompts.items()):
        return
    radio = types.RadioGroup(label="Scorer", description="What judges which class a proposal is of")
    radio.add_choice("prototype", label="Prototypes", description="Likeness to the class prototypes, without training")
    radio.add_choice("vrp", label="Reference prompt", description="A network trained to find what references show")
    radio.add_choice("both", label="Both", description="The likeness times the root of the prompt's score")
    inputs.enum("scorer", radio.values(), default="prototype", required=False, view=radio)
    if chosen != "prototype":
        forms.reference_prompt(ctx, inputs, memory_key)


def _output_field(ctx, inputs, memory_key: str) -> None:
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_output_field, suggest_output_field
    from ..nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

    suggested = suggest_output_field(ctx.dataset, memory_key)
    prop = inputs.str(
        "output_field",
        label="Output field",
        description=f"Left empty: {suggested}",
        required=False,
        view=types.TextFieldView(placeholder=suggested),
    )
    field = ctx.params.get("output_field") or suggested
    try:
        check_output_field(ctx.dataset, field)
    except InputError as error:
        forms.mark_invalid(prop, error)
        return
    earlier = list_runs(ctx.dataset, SEGMENTATION).get(field)
    if earlier is not None:
        inputs.view(
            "earlier",
            types.Notice(
                label=f"{field} holds {earlier.get('segmented', 0)} images by the memory {earlier['memory_key']!r}",
                description="With the same settings they are kept, and the others are added to them",
            ),
        )
        forms.overwrite(inputs, "If the settings differ, delete what the field holds and begin anew")
