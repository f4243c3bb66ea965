"""Auto-segment view: find the objects of a memory's classes in images."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator
from .label_selection import target
from .outcomes import NextStep
from .words import bullets, paragraphs

SHOW = {
    "recommended": ("The recommended instances", "More likely right than wrong"),
    "all": ("All, for an evaluation", "Many of them are wrong"),
    "confidence": ("A confidence of at least …", ""),
    "precision": ("An expected precision of at least …", ""),
}
"""Labels and descriptions of the choices of what the App shows at the end."""


class AutoSegmentView(JobOperator):
    """See :func:`nts.fiftyone_adapter.auto_segment_view`."""

    columns = (("class", "Class"), ("instances", "Instances"))
    in_grid = True

    @property
    def config(self):
        return self.settings(
            "auto_segment_view",
            "Auto-segment view",
            "Find and segment objects of a memory's classes",
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
        from ..nts.fiftyone_adapter.checks import suggest_output_field
        from ..nts.fiftyone_adapter.cluster import has_cluster
        from ..nts.fiftyone_adapter.config import SegmentationConfig
        from ..nts.fiftyone_adapter.plan import plan_segmentation
        from ..nts.fiftyone_adapter.runs import MEMORY, SEGMENTATION, list_runs

        view = forms.target_view(ctx, inputs, "Segment", default=_default_target(ctx))
        if view is None:
            return
        key = forms.memory(ctx, inputs, description="Its classes are searched for")
        if key is None:
            return
        forms.output_field(ctx, inputs, suggest_output_field(ctx.dataset, key), list_runs(ctx.dataset, SEGMENTATION))
        _shown(ctx, inputs)
        forms.option(inputs, SegmentationConfig, "limit")
        if forms.advanced(ctx, inputs, _ADVANCED):
            for name in ("score_threshold", "max_instances", "tiles", "segmenter"):
                forms.option(inputs, SegmentationConfig, name)
            _scorer(ctx, inputs, key)
            forms.option(inputs, SegmentationConfig, "preset", default=list_runs(ctx.dataset, MEMORY)[key]["preset"])
            forms.device(ctx, inputs, SegmentationConfig)
            forms.option(inputs, SegmentationConfig, "precision")
            if has_cluster():
                forms.option(inputs, SegmentationConfig, "executor")
                if ctx.params.get("executor") == "ray":
                    forms.option(inputs, SegmentationConfig, "actors")
                    forms.option(inputs, SegmentationConfig, "gpus_per_actor")

        plan = forms.plan(
            ctx,
            inputs,
            lambda values: plan_segmentation(view, key, values.get("output_field"), _config(values)),
        )
        if plan is not None:
            forms.earlier_run(inputs, plan)

    def makes(self, ctx) -> str | None:
        from ..nts.fiftyone_adapter.checks import suggest_output_field

        memory = forms.chosen_memory(ctx)
        if memory is None:
            return None
        return ctx.params.get("output_field") or suggest_output_field(ctx.dataset, memory)

    def next_steps(self, ctx, report) -> list[NextStep]:
        field = report.output_field
        return [
            NextStep("Review", panel="review_panel", params={"header": {"field": field}}),
            NextStep("Evaluate nAP", operator="evaluate_nap", params={"predictions_field": field}),
        ]

    def new_fields(self, report) -> list[str]:
        return [report.output_field]

    def job(self, ctx):
        from ..nts.fiftyone_adapter import segmentation_job

        return segmentation_job(
            target(ctx),
            ctx.params["memory_key"],
            ctx.params.get("output_field") or None,
            config=_config(ctx.params),
        )

    def view_to_show(self, ctx, report):
        """The saved view of the confident instances."""
        name = report.shown.view_name
        return None if name is None else ctx.dataset.load_saved_view(name)

    def summary(self, report) -> str:
        count = sum(report.instances.values())
        words = f"**{report.output_field}**: {count} instances in {report.segmented} images, {report.seconds:.0f} s."
        if report.empty:
            words += f" {report.empty} images have no instances."
        if report.from_cache:
            words += f" {report.from_cache} came from the cache."
        if report.resumed:
            words += f" {report.resumed} images were skipped: already segmented with the same settings."
        confident = report.shown.words
        if report.shown.view_name is not None:
            confident += f" The saved view **{report.shown.view_name}** shows them."
        failures = list(report.failed.values())
        title = f"{len(failures)} images could not be segmented (see the field {report.error_field})"
        return paragraphs(words, confident, bullets(title, failures))

    def rows(self, report):
        return [{"class": name, "instances": count} for name, count in sorted(report.instances.items())]


def _shown(ctx, inputs) -> None:
    """Radio buttons for what is shown at the end, and the number of the chosen one."""
    from ..nts.fiftyone_adapter.config import SegmentationConfig

    radio = types.RadioGroup(label="Show", description="At the end. All instances are written, for an evaluation")
    for name, (label, description) in SHOW.items():
        radio.add_choice(name, label=label, description=description)
    inputs.enum("show", radio.values(), default="recommended", required=False, view=radio)
    chosen = ctx.params.get("show")
    if chosen == "confidence":
        facts = {"label": "Confidence", "description": "Least confidence of the instances to show"}
        inputs.float("shown", **facts, min=0, max=1, default=0.5, required=False)
    elif chosen == "precision":
        forms.option(inputs, SegmentationConfig, "min_precision", default=0.9)


_ADVANCED = (
    "score_threshold",
    "max_instances",
    "tiles",
    "segmenter",
    "scorer",
    "reference_prompt",
    "preset",
    "device",
    "precision",
    "executor",
    "actors",
    "gpus_per_actor",
)


def _default_target(ctx) -> str | None:
    """The dataset, if all selected samples are those that the references of the memory come from."""
    from ..nts.fiftyone_adapter.inspecting import reference_samples
    from ..nts.memory import MemoryFileError

    memory = None if ctx.dataset is None else forms.chosen_memory(ctx)
    if memory is None or not ctx.selected:
        return None
    try:
        samples = reference_samples(ctx.dataset, memory)
    except MemoryFileError:  # the run will say so
        return None
    if not set(ctx.selected) <= samples:
        return None
    return "CURRENT_VIEW" if ctx.has_custom_view else "DATASET"


def _config(params):
    """Config of the values of a form; those of a choice that was left again are ignored."""
    from ..nts.fiftyone_adapter.config import SegmentationConfig

    params = forms.without_advanced(params, _ADVANCED)

    of_choice = {
        "recommended": {"shown": "recommended", "min_precision": None},
        "all": {"shown": "all", "min_precision": None},
        "confidence": {"min_precision": None},
        "precision": {"shown": "recommended"},
    }
    return SegmentationConfig.from_params({**params, **of_choice.get(params.get("show"), {})})


def _scorer(ctx, inputs, memory_key: str) -> None:
    """Radio buttons for the scorer, if a reference prompt can be used or has been chosen."""
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs
    from ..nts.fiftyone_adapter.scorers import prompt_facts, usable_prompts
    from ..nts.scorers import SCORERS

    memory = list_runs(ctx.dataset, MEMORY)[memory_key]
    chosen = ctx.params.get("scorer") or "prototype"
    if chosen == "prototype" and not usable_prompts(memory, prompt_facts(ctx.dataset)):
        return
    radio = types.RadioGroup(label="Scorer", description="Scores the classes of a proposal")
    for name, kind in SCORERS.items():
        radio.add_choice(name, label=kind.label, description=kind.description)
    inputs.enum("scorer", radio.values(), default="prototype", required=False, view=radio)
    if chosen != "prototype":
        forms.reference_prompt(ctx, inputs, memory_key)
