"""The tab of precision against recall."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import charts, panels
from .choices import ALL, iou_type
from .figures import by_ap

IOUS = {"mean": "mean over .50:.95", "0.5": ".50", "0.75": ".75"}

_MAX_CURVES = 5


def draw(ctx, evaluation) -> None:
    kind, iou = iou_type(ctx), ctx.panel.get_state("curves.choices.iou") or "mean"
    chosen = ctx.panel.get_state("curves.choices.classes") or _best_and_worst(evaluation, kind)
    traces = []
    for name, colour in zip([None, *chosen[:_MAX_CURVES]], charts.SERIES, strict=False):
        curve = evaluation.curve(kind, iou, name)
        if curve is not None:
            hover = "recall %{x:.2f}, precision %{y:.3f}"
            traces.append(charts.line(name or ALL, *curve, colour, width=1.5 if name else 3.5, hover=hover))
    panels.send(ctx, "curves.plot", traces)


def render(panel, ctx, evaluation, content: types.Object) -> None:
    choices = content.h_stack("choices", gap=2, align_y="end", componentsProps=panels.wrapping(220))
    ious = types.DropdownView(label="IoU")
    for key, label in IOUS.items():
        ious.add_choice(key, label=label)
    choices.enum("iou", ious.values(), default="mean", view=ious, on_change=panel.on_choice)
    classes = types.DropdownView(label=f"Classes (max {_MAX_CURVES}). Default: the best and the worst", multiple=True)
    for name in evaluation.classes:
        classes.add_choice(name, label=name)
    choices.list("classes", types.String(), view=classes, on_change=panel.on_choice)
    content.plot(
        "plot",
        layout=charts.layout(
            400,
            showlegend=True,
            xaxis=charts.axis("Recall", range=[0, 1.01]),
            yaxis=charts.axis("Precision", range=[0, 1.03]),
        ),
        config=charts.CONFIG,
    )
    panels.caption(content, "protocol", f"{evaluation.protocol} · precision at 101 recalls")


def _best_and_worst(evaluation, kind: str) -> list[str]:
    names = by_ap(evaluation, kind)
    return names if len(names) <= _MAX_CURVES else [*names[:3], *names[-2:]]
