"""The tab that leaves out one reference at a time, and classifies it by the others."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import panels
from .state import number, signed

COLUMNS = {
    "class": "Class",
    "similarity": "To its own",
    "other": "Nearest other",
    "other_similarity": "To that",
    "margin": "Margin",
    "agrees": "Agrees",
}

_MAX_ROWS = 100


def draw(ctx, inspection) -> None:
    panels.send(ctx, "checks.table", [_row(check) for check in inspection.by_margin[:_MAX_ROWS]])


def render(panel, ctx, inspection, content: types.Object) -> None:
    total = len(inspection.checks)
    caption = (
        "Each reference against the prototypes of the others, smallest margin first. Click a row to see its sample."
    )
    if total > _MAX_ROWS:
        caption += f" The first {_MAX_ROWS} of {total}."
    panels.heading(content, "title", "Each reference, classified by the others", caption)
    panels.table(content, COLUMNS, on_click_row=panel.on_row)


def _row(check) -> dict[str, str]:
    return {
        "id": str(check.entry),
        "class": check.class_name,
        "similarity": number(check.similarity),
        "other": check.other or "–",
        "other_similarity": number(check.other_similarity),
        "margin": signed(check.margin),
        "agrees": {True: "yes", False: "no", None: "the only one"}[check.agrees],
    }
