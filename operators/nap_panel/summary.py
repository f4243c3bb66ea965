"""The tab with the headline figures, and the AP of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone.operators.types as types

from .. import charts, panels
from ..words import sentence
from .choices import ALL, iou_type
from .figures import MAX_BARS, by_ap, colour, percent

COLUMNS = {
    "class": "Class",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar_100": "AR100",
    "objects": "Objects",
    "predictions": "Predictions",
}


def draw(ctx, evaluation) -> None:
    kind = iou_type(ctx)
    panels.send(ctx, "summary.table", [_printed(row) for row in _rows(ctx, evaluation)])
    shown = by_ap(evaluation, kind)
    ap, ap50 = ([100 * evaluation.summary(kind, name)[figure] for name in shown] for figure in ("ap", "ap50"))
    panels.send(ctx, "summary.bars", charts.bars(shown, {"AP50": (ap50, charts.MUTED), "AP": (ap, colour(kind))}))


def render(panel, ctx, evaluation, content: types.Object) -> None:
    kind = iou_type(ctx)
    masks, boxes, chosen = (evaluation.summary(each) for each in ("masks", "boxes", kind))
    tiles = {
        "Mask nAP": (masks["ap"], "IoU .50:.95"),
        "Box nAP": (boxes["ap"], "IoU .50:.95"),
        "AP50": (chosen["ap50"], f"{kind}, IoU .50"),
        "AP75": (chosen["ap75"], f"{kind}, IoU .75"),
        "AR100": (chosen["ar_100"], f"{kind}, recall"),
    }
    panels.tiles(content, {label: (percent(value), caption) for label, (value, caption) in tiles.items()})
    panels.caption(content, "protocol", evaluation.protocol)
    for number, note in enumerate(evaluation.content["notes"]):
        content.view(f"note{number}", types.Notice(label=sentence(note)))
    shown = by_ap(evaluation, kind)
    panels.heading(content, "bars_title", "AP per class", "Click a bar or a row to see its samples.")
    if len(shown) < len(evaluation.classes):
        panels.caption(content, "bars_hidden", f"The best and the worst {MAX_BARS // 2}; all are in the table.")
    content.plot(
        "bars",
        layout=charts.layout(
            90 + 26 * len(shown),
            barmode="overlay",
            bargap=0.35,
            xaxis=charts.axis("AP, and AP50 in grey (%)", range=[0, 100]),
            yaxis=charts.names_axis(),
        ),
        config=charts.CONFIG,
        on_click=panel.on_class_bar,
    )
    panels.table(content, COLUMNS, on_click_cell=panel.on_table)


def samples_of_row(ctx, evaluation, row: int) -> tuple[Any, str]:
    """The samples of a row of the table, and a caption."""
    return samples_of_class(ctx, evaluation, _rows(ctx, evaluation)[row]["class"])


def samples_of_class(ctx, evaluation, name: str) -> tuple[Any, str]:
    """The samples of a class, or of all novel ones, and a caption."""
    names = [name] if name in evaluation.classes else evaluation.config["classes"]
    return evaluation.samples_with(ctx.dataset, names), name


def order_by(ctx, column: int) -> None:
    """Sort the table by a column, the largest first; the same column again reverses it."""
    key = list(COLUMNS)[column]
    earlier, descending = ctx.panel.get_state("sort") or (None, False)
    ctx.panel.set_state("sort", [key, not descending if key == earlier else key != "class"])


def _rows(ctx, evaluation) -> list[dict[str, Any]]:
    """Rows of the table: all novel classes first, then each, in the chosen order."""
    kind, order = iou_type(ctx), ctx.panel.get_state("sort")
    rows = _ordered([_row(evaluation, kind, name) for name in evaluation.classes], order)
    total = {name: sum(row[name] for row in rows if row["novel"]) for name in ("objects", "predictions")}
    return [{"class": ALL, **evaluation.summary(kind), **total}, *rows]


def _ordered(rows: list[dict[str, Any]], order: Sequence | None) -> list[dict[str, Any]]:
    if order is None:
        return rows
    key, descending = order
    known = sorted((row for row in rows if row[key] is not None), key=lambda row: row[key], reverse=descending)
    return known + [row for row in rows if row[key] is None]


def _row(evaluation, kind: str, name: str) -> dict[str, Any]:
    counts = {"objects": evaluation.objects(name), "predictions": evaluation.predictions(name)}
    novel = name in evaluation.config["classes"]
    return {"class": name, "novel": novel, **evaluation.summary(kind, name), **counts}


def _printed(row: dict[str, Any]) -> dict[str, str]:
    figures = {key: percent(row[key]) for key in ("ap", "ap50", "ap75", "ar_100")}
    name = row["class"] if row.get("novel", True) else f"{row['class']} (base)"
    return {"class": name, **figures, "objects": str(row["objects"]), "predictions": str(row["predictions"])}
