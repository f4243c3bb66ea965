"""The tab of nAP over the number of references per class."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import charts, panels
from .choices import iou_type
from .figures import colour


def draw(ctx, evaluation) -> None:
    shots, own = _against_shots(ctx, evaluation), colour(iou_type(ctx))
    ctx.panel.set_state("shots_drawn", [key for _, _, key in shots.points])
    here = [evaluation.key == key for _, _, key in shots.points]
    single = {
        "type": "scatter",
        "mode": "markers",
        "name": "One evaluation",
        "x": [at for at, _, _ in shots.points],
        "y": [100 * value for _, value, _ in shots.points],
        "text": [key for _, _, key in shots.points],
        "marker": {"color": [own if chosen else charts.MUTED for chosen in here], "size": 8},
        "hovertemplate": "%{text}: %{y:.1f}<extra></extra>",
    }
    deviations = [100 * deviation for _, _, deviation in shots.means]
    mean = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "Mean ± standard deviation",
        "x": [at for at, _, _ in shots.means],
        "y": [100 * value for _, value, _ in shots.means],
        "error_y": {"type": "data", "array": deviations, "thickness": 1.5},
        "line": {"color": own, "width": 2},
        "marker": {"size": 9},
        "hovertemplate": "%{x} references per class: %{y:.1f}<extra></extra>",
    }
    panels.send(ctx, "shots.plot", [single, mean])


def render(panel, ctx, evaluation, content: types.Object) -> None:
    shots = _against_shots(ctx, evaluation)
    if len(shots.means) < 2:
        panels.empty(
            content,
            "One number of references so far",
            "Build memories with other numbers of references per class (with several draws of each, to see the "
            "spread), segment the same samples with them, and evaluate: their nAP is drawn here.",
        )
        return
    content.plot(
        "plot",
        layout=charts.layout(
            360,
            showlegend=True,
            xaxis=charts.axis("References per class", tickvals=[at for at, _, _ in shots.means]),
            yaxis=charts.axis(f"nAP of {iou_type(ctx)} (%)", rangemode="tozero"),
        ),
        config=charts.CONFIG,
        on_click=panel.on_shots_point,
    )
    text = f"{evaluation.protocol} · click a point to open its evaluation"
    if shots.left_out:
        text += f" · not drawn, being of other classes, samples or mixed numbers: {', '.join(shots.left_out)}"
    panels.caption(content, "protocol", text)


def evaluation_of_point(ctx, trace: int, point: int) -> str | None:
    """Name of the evaluation of a point; a mean has none."""
    return ctx.panel.get_state("shots_drawn")[point] if trace == 0 else None


def _against_shots(ctx, evaluation):
    from ...nts.fiftyone_adapter.evaluation_comparison import against_shots

    return against_shots(ctx.dataset, evaluation, iou_type(ctx))
