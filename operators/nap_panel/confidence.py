"""The tab of precision, recall and F1 above a confidence threshold, and of the reliability of confidences."""

from __future__ import annotations

import math
from typing import Any

import fiftyone.operators.types as types

from .. import charts, panels
from ..words import sentence
from .choices import ALL, class_name, iou_type
from .figures import colour, number, percent

OUTCOMES = {"tp": "Right", "fp": "Wrong", "fn": "Missed"}
LINES = {
    "Precision": ("precision", charts.MASKS),
    "Recall": ("recall", charts.BOXES),
    "F1": ("f1", charts.RIGHT),
}

_NO_BOXES = "the outcome of each label is stored by IoU of masks: choose masks to see the samples"
_CLASS, THRESHOLD = "confidence.choices.class", "confidence.choices.threshold"


def begin(ctx, evaluation) -> None:
    """Move the slider to the largest F1, unless the person has moved it in this evaluation."""
    of = list(evaluation.identity)
    if ctx.panel.get_state("threshold_of") != of:
        ctx.panel.set_state("threshold_of", of)
        # Rounded up, it would leave out the predictions that have just this confidence.
        ctx.panel.set_state(THRESHOLD, math.floor(1000 * evaluation.best_threshold(iou_type(ctx))) / 1000)


def draw(ctx, evaluation) -> None:
    kind = iou_type(ctx)
    thresholds, counted = evaluation.confidences(kind), evaluation.all_counted(kind, class_name(ctx, _CLASS))
    traces = [
        charts.line(label, thresholds, [number(getattr(each, figure)) for each in counted], colour)
        for label, (figure, colour) in LINES.items()
    ]
    panels.send(ctx, "confidence.plot", traces)
    reliability = evaluation.reliability(kind, class_name(ctx, _CLASS))
    panels.send(ctx, "confidence.reliability", [] if reliability is None else [_bars(reliability, colour(kind))])


def render(panel, ctx, evaluation, content: types.Object) -> None:
    choices = content.h_stack("choices", gap=2, align_y="center", componentsProps=panels.wrapping(220))
    slider = types.SliderView(label="Confidence", value_precision=3)
    low, high = _range(evaluation, iou_type(ctx))
    choices.float("threshold", min=low, max=high, view=slider, on_change=panel.on_choice)
    classes = types.DropdownView(label="Class")
    for name in [ALL, *evaluation.classes]:
        classes.add_choice(name, label=name)
    choices.enum("class", classes.values(), default=ALL, view=classes, on_change=panel.on_choice)
    threshold, kind = _threshold(ctx, evaluation), iou_type(ctx)
    counted = evaluation.counted(kind, threshold, class_name(ctx, _CLASS))
    panels.tiles(
        content,
        {
            "Precision": (percent(counted.precision), f"{counted.right} of {counted.right + counted.wrong} right"),
            "Recall": (percent(counted.recall), f"{counted.right} of {counted.right + counted.missed} found"),
            "F1": (percent(counted.f1), f"above {threshold:.2f}"),
        },
    )
    buttons = content.h_stack("outcomes", gap=1, componentsProps=panels.columns("auto auto auto 1fr"))
    for outcome, count in (("tp", counted.right), ("fp", counted.wrong), ("fn", counted.missed)):
        label = f"{OUTCOMES[outcome]} ({count})"
        shows = {"on_click": panel.on_outcome, "params": {"outcome": outcome}}
        buttons.btn(outcome, label, variant="outlined", disabled=kind == "boxes", **shows)
    if kind == "boxes":
        panels.caption(content, "no_boxes", sentence(_NO_BOXES))
    recommendation = evaluation.recommendation
    marked = [] if recommendation is None else [recommendation["threshold"]]
    content.plot(
        "plot",
        layout=charts.layout(
            320,
            showlegend=True,
            hovermode="x unified",
            shapes=[charts.upright(each) for each in (threshold, *marked)],
            annotations=[charts.upright_label(each, "recommended") for each in marked],
            xaxis=charts.axis("Confidence", range=[low, high]),
            yaxis=charts.axis("", range=[0, 1.03]),
        ),
        config=charts.CONFIG,
    )
    text = f"At IoU .50 of {kind}, all novel classes counted together. The slider starts at the largest F1."
    panels.caption(content, "protocol", text)
    if recommendation is not None:
        panels.caption(content, "recommended", f"Recommended by the segmentation: {recommendation['words']}")
    _render_reliability(content, evaluation.reliability(kind, class_name(ctx, _CLASS)), kind)


def _render_reliability(content: types.Object, reliability, kind: str) -> None:
    if reliability is None:
        text = "There is no reliability diagram: it needs predictions with confidences from 0 to 1."
        panels.caption(content, "no_reliability", text)
        return
    title = f"Reliability: expected calibration error {reliability.error:.3f}"
    text = f"Share of right predictions by confidence, at IoU .50 of {kind}. A probability lies on the dotted line."
    panels.heading(content, "reliability_title", title, text)
    content.plot(
        "reliability",
        layout=charts.layout(
            280,
            shapes=[charts.diagonal()],
            xaxis=charts.axis("Confidence", range=[0, 1]),
            yaxis=charts.axis("Precision", range=[0, 1.03]),
        ),
        config=charts.CONFIG,
    )


def _bars(reliability, shade: str) -> dict[str, Any]:
    """Precision of the predictions of every bin of confidences."""
    bins = len(reliability.count)
    details = zip(reliability.count.tolist(), map(number, reliability.confidence.tolist()), strict=True)
    return charts.columns(
        [edge / bins for edge in range(bins + 1)],
        [number(precision) for precision in reliability.precision.tolist()],
        shade,
        list(details),
        "%{customdata[0]} predictions, confidence %{customdata[1]:.2f}: %{y:.2f} right",
    )


def samples_of_outcome(ctx, evaluation, outcome: str) -> tuple[Any, str]:
    """Right, wrong or missed objects at the chosen confidence, and a caption."""
    from ...nts.fiftyone_adapter import InputError

    if iou_type(ctx) == "boxes":
        raise InputError(_NO_BOXES)
    name = class_name(ctx, _CLASS)
    names = None if name is None else [name]
    view = evaluation.samples_where(ctx.dataset, outcome, names=names, threshold=_threshold(ctx, evaluation))
    return view, f"{OUTCOMES[outcome].lower()} objects of {name or 'the novel classes'}"


def _range(evaluation, kind: str) -> tuple[float, float]:
    """From 0 to 1, or as far as the confidences reach."""
    thresholds = evaluation.confidences(kind)
    return min([0.0, *thresholds]), max([1.0, *thresholds])


def _threshold(ctx, evaluation) -> float:
    chosen = ctx.panel.get_state(THRESHOLD)
    return evaluation.best_threshold(iou_type(ctx)) if chosen is None else float(chosen)
