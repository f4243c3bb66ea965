"""Evaluate nAP: average precision of predictions over the novel classes."""

from __future__ import annotations

from dataclasses import replace

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator
from .label_selection import target
from .outcomes import NextStep
from .words import bullets, paragraphs


class EvaluateNAP(JobOperator):
    """See :func:`nts.fiftyone_adapter.evaluate_nap`."""

    columns = (
        ("class", "Class"),
        ("masks_ap", "Masks AP"),
        ("masks_ap50", "AP50"),
        ("masks_ap75", "AP75"),
        ("boxes_ap", "Boxes AP"),
        ("boxes_ap50", "AP50"),
        ("boxes_ap75", "AP75"),
    )
    in_grid = True

    @property
    def config(self):
        return self.settings(
            "evaluate_nap",
            "Evaluate nAP",
            "Average precision over the novel classes, as pycocotools computes it",
            risk_level="LOW",
            icon="evaluate",
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def __call__(self, sample_collection, predictions_field, ground_truth_field, *, delegate=False, **options):
        """Evaluate from Python; returns a report, or, with ``delegate``, the scheduled operation.

        ``options`` are those of :func:`nts.fiftyone_adapter.evaluate_nap`.
        """
        from ..nts.fiftyone_adapter import evaluate_nap

        if delegate:
            fields = {"predictions_field": predictions_field, "ground_truth_field": ground_truth_field}
            return self.schedule(sample_collection, **fields, **options)
        return evaluate_nap(sample_collection, predictions_field, ground_truth_field, **options)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.config import EvaluationConfig
        from ..nts.fiftyone_adapter.runs import MEMORY, SEGMENTATION, list_runs

        view = forms.target_view(ctx, inputs, "Evaluate")
        if view is None:
            return
        segmentations = list_runs(ctx.dataset, SEGMENTATION)
        predictions = forms.detections_field(
            ctx,
            inputs,
            view,
            "predictions_field",
            label="Predictions",
            description="The field to evaluate",
            default=next(reversed(segmentations), None),
        )
        if predictions is None:
            return
        ground_truth = forms.detections_field(
            ctx,
            inputs,
            view,
            "ground_truth_field",
            label="Ground truth",
            description="The field with the true labels",
        )
        if ground_truth is None:
            return
        predictions_field, (ground_truth_field, counts) = predictions[0], ground_truth
        made = segmentations.get(predictions_field)
        forms.classes(
            inputs,
            counts.classes,
            description=f"The novel classes. Default: {'those of the memory' if made else 'all'}",
        )
        forms.multiple_choice(inputs, EvaluationConfig, "base_classes", counts.classes)
        forms.option(inputs, EvaluationConfig, "leave_out_references")
        memories = list(list_runs(ctx.dataset, MEMORY))
        if not made and memories and ctx.params.get("leave_out_references", True):
            forms.choice(
                inputs,
                "memory_key",
                memories,
                label="Memory",
                description="Its reference samples are left out; these predictions do not name their memory",
                default=None,
                required=False,
            )
        if view.has_field(f"{ground_truth_field}.detections.iscrowd"):
            inputs.bool(
                "crowds_as_objects",
                label="Count crowds as objects",
                description="Ignore the attribute iscrowd: some tools mark every mask as a crowd",
                default=False,
                view=types.SwitchView(),
            )
        if made:
            forms.option(inputs, EvaluationConfig, "diagnose_models")
        _name(ctx, inputs, predictions_field, ground_truth_field)

    def makes(self, ctx) -> str | None:
        predictions = ctx.params.get("predictions_field")
        return ctx.params.get("eval_key") or (predictions and f"nap_{predictions}")

    def next_steps(self, ctx, report) -> list[NextStep]:
        return [NextStep("Open the nAP panel", panel="nap_panel", params={"header": {"run": report.eval_key}})]

    def job(self, ctx):
        from ..nts.fiftyone_adapter import evaluation_job
        from ..nts.fiftyone_adapter.config import EvaluationConfig

        config = EvaluationConfig.from_params(ctx.params)
        if ctx.params.get("crowds_as_objects"):
            config = replace(config, crowd=None)
        fields = ctx.params["predictions_field"], ctx.params["ground_truth_field"]
        return evaluation_job(target(ctx), *fields, config=config)

    def summary(self, report) -> str:
        from ..nts.fiftyone_adapter.words import percent

        result = report.result
        count = report.left_out_references
        left_out = f" {count} reference samples were left out." if count else ""
        base = f" {len(result.base_classes)} base classes were evaluated beside them." if result.base_classes else ""
        words = (
            f"**nAP of masks {percent(result.masks.novel.ap)}, of boxes {percent(result.boxes.novel.ap)}**, over "
            f"{len(result.novel_classes)} novel classes, {result.images} images, {result.ground_truth} objects and "
            f"{result.predictions} predictions: mean over IoU 0.50:0.95 and classes, at most "
            f"{result.max_detections} predictions per image and class, as pycocotools computes it.{base}{left_out} "
            f"Stored as **{report.eval_key}**: see the panels **nAP** and **Model Evaluation** (the + above the grid)."
        )
        return paragraphs(words, bullets("Notes", report.notes))

    def rows(self, report):
        # A number would lose its decimal where that is 0.
        return [{key: _shown(value) for key, value in row.items()} for row in report.table()]


def _shown(value: str | float | None) -> str:
    return f"{value:.1f}" if isinstance(value, float) else value or ""


def _name(ctx, inputs, predictions: str, ground_truth: str) -> None:
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_key
    from ..nts.fiftyone_adapter.native_evaluation import check_evaluation_fields
    from ..nts.fiftyone_adapter.runs import EVALUATION, list_runs

    suggested = f"nap_{predictions}"
    name = inputs.str(
        "eval_key",
        label="Name",
        description=f"Name of the stored result. Default: {suggested}",
        required=False,
        view=types.TextFieldView(placeholder=suggested),
    )
    key = ctx.params.get("eval_key") or suggested
    if key in list_runs(ctx.dataset, EVALUATION):
        forms.overwrite(inputs, f"Replace the existing result {key!r}")
    try:
        check_key(ctx.dataset, key, EVALUATION, overwrite=bool(ctx.params.get("overwrite")))
        check_evaluation_fields(ctx.dataset, key, predictions, ground_truth)
    except InputError as error:
        forms.mark_invalid(name, error)
