"""The tab that compares two evaluations, with confidence intervals."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import charts, panels
from ..words import sentence
from .choices import evaluations, iou_type
from .figures import MAX_BARS, ends, percent, signed


def draw(ctx, evaluation) -> None:
    comparison = _comparison(ctx, evaluation)
    if comparison is None:
        return
    from ...nts.fiftyone_adapter.evaluation_comparison import COMPARED_FIGURES

    summary = evaluation.summary(iou_type(ctx))
    rows = [
        {
            "figure": COMPARED_FIGURES[figure],
            "difference": signed(interval.difference),
            "interval": f"{signed(interval.low)} … {signed(interval.high)}",
            "better": f"{100 * interval.p_better:.0f} %",
            "value": percent(summary[figure]),
        }
        for figure, interval in comparison.figures.items()
    ]
    panels.send(ctx, "compare.table", rows)
    ordered = ends(sorted(comparison.classes, key=comparison.classes.__getitem__, reverse=True))
    values = [100 * comparison.classes[name] for name in ordered]
    colours = [charts.RIGHT if value >= 0 else charts.WRONG for value in values]
    bars = charts.bars(ordered, {"AP": (values, charts.MUTED)}, unit="%{x:+.1f}", colours=colours)
    panels.send(ctx, "compare.bars", bars)


def render(panel, ctx, evaluation, content: types.Object) -> None:
    others = _others(ctx, evaluation)
    if not others:
        text = "Segment the same samples with other settings or another memory, and evaluate them as well."
        panels.empty(content, "Nothing to compare with", text)
        return
    choices = content.h_stack("choices", gap=2, componentsProps=panels.columns("minmax(0, 1fr)"))
    names = types.DropdownView(label=f"Compare {evaluation.key} with")
    for key, words in others.items():
        names.add_choice(key, label=words)
    choices.enum("other", names.values(), view=names, on_change=panel.on_choice)
    if ctx.panel.get_state("compare.choices.other") not in others:
        text = (
            "Choose another evaluation, and you see here how much AP, AP50, AP75 and AR100 differ on the images that "
            "both evaluated, whether that is more than chance, and which classes gained or lost."
        )
        panels.text(content, "preview", text)
        return
    comparison = _comparison(ctx, evaluation)
    if comparison is None:
        panels.empty(content, "These two cannot be compared", ctx.panel.get_state("compare.problem"))
        return
    columns = {
        "figure": "",
        "value": evaluation.key,
        "difference": "Difference",
        "interval": "95 % interval",
        "better": "Better in",
    }
    panels.table(content, columns)
    interval = comparison.figures["ap"]
    text = f"Paired bootstrap: {interval.draws} draws of the {interval.images} images that both evaluated"
    if interval.left_out:
        text += f"; {interval.left_out} images that only one evaluated are left out"
    text += f". An interval without 0 is more than chance. {evaluation.protocol}"
    panels.caption(content, "protocol", text)
    panels.heading(content, "bars_title", "Difference of AP per class", "Click a bar to see its samples.")
    content.plot(
        "bars",
        layout=charts.layout(
            90 + 24 * min(len(comparison.classes), MAX_BARS),
            bargap=0.35,
            xaxis=charts.axis("Points of AP", zeroline=True),
            yaxis=charts.names_axis(),
        ),
        config=charts.CONFIG,
        on_click=panel.on_class_bar,
    )


def _others(ctx, evaluation) -> dict[str, str]:
    return {key: words for key, words in evaluations(ctx.dataset).items() if key != evaluation.key}


def _comparison(ctx, evaluation):
    """The comparison with the chosen other evaluation; ``None``, and the reason in the state, if there is none."""
    from ...nts.fiftyone_adapter import InputError
    from ...nts.fiftyone_adapter.errors import RunNotFound
    from ...nts.fiftyone_adapter.evaluation_comparison import compare_evaluations
    from ...nts.fiftyone_adapter.evaluation_results import open_evaluation

    other = ctx.panel.get_state("compare.choices.other")
    if other not in _others(ctx, evaluation):
        return None
    try:
        return compare_evaluations(open_evaluation(ctx.dataset, other), evaluation, iou_type(ctx))
    except (InputError, RunNotFound) as error:
        ctx.panel.set_state("compare.problem", sentence(error))
        return None
