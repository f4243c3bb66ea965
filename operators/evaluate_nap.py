"""Evaluate nAP: average precision of predictions over the novel classes."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator, bullets, paragraphs


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

    @property
    def config(self):
        return self.settings(
            "evaluate_nap",
            "Evaluate nAP",
            "Average precision over the novel classes, by pycocotools",
            risk_level="LOW",
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
        from ..nts.fiftyone_adapter import list_memories, list_segmentations

        view = forms.target_view(ctx, inputs, "Evaluate")
        if view is None:
            return
        segmentations = list_segmentations(ctx.dataset)
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
            description="The field with the truth",
        )
        if ground_truth is None:
            return
        predictions_field, (_, counts) = predictions[0], ground_truth
        made = segmentations.get(predictions_field)
        forms.classes(
            inputs,
            counts.classes,
            description=f"The novel classes; left empty: {'those of the memory' if made else 'all'}",
        )
        inputs.bool(
            "leave_out_references",
            label="Leave out reference samples",
            description="Samples that references of the memory came from would flatter the result",
            default=True,
            view=types.SwitchView(),
        )
        memories = list(list_memories(ctx.dataset))
        if not made and memories and ctx.params.get("leave_out_references", True):
            forms.choice(
                inputs,
                "memory_key",
                memories,
                label="Memory",
                description="Whose reference samples are meant: these predictions do not say which memory made them",
                default=None,
                required=False,
            )
        _name(ctx, inputs, predictions_field)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import evaluation_job

        options = forms.given(ctx.params, "classes", "leave_out_references", "eval_key", "memory_key", "overwrite")
        fields = ctx.params["predictions_field"], ctx.params["ground_truth_field"]
        return evaluation_job(ctx.target_view(), *fields, **options)

    def summary(self, report) -> str:
        result = report.result
        count = report.left_out_references
        left_out = f" {count} reference samples were left out." if count else ""
        words = (
            f"**nAP of masks {_percent(result.masks.ap)}, of boxes {_percent(result.boxes.ap)}**, over "
            f"{len(result.classes)} classes, {result.images} images, {result.ground_truth} objects and "
            f"{result.predictions} predictions: mean over IoU 0.50:0.95 and classes, at most "
            f"{result.max_detections} predictions per image and class, by pycocotools.{left_out} "
            f"Kept as **{report.eval_key}**."
        )
        return paragraphs(words, bullets("Mind", report.notes))

    def rows(self, report):
        return report.table()


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _name(ctx, inputs, predictions: str) -> None:
    from ..nts.fiftyone_adapter import EVALUATION, InputError, check_key, list_evaluations

    suggested = f"nap_{predictions}"
    name = inputs.str(
        "eval_key",
        label="Name",
        description=f"Under this name the result is kept; left empty: {suggested}",
        required=False,
        view=types.TextFieldView(placeholder=suggested),
    )
    key = ctx.params.get("eval_key") or suggested
    if key in list_evaluations(ctx.dataset):
        forms.overwrite(inputs, f"There is a result {key!r} already: replace it")
    try:
        check_key(ctx.dataset, key, EVALUATION, overwrite=bool(ctx.params.get("overwrite")))
    except InputError as error:
        forms.mark_invalid(name, error)
