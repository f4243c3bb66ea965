"""Numbers and classes as the tabs show them."""

from __future__ import annotations

import math

from .. import charts

MAX_BARS = 40


def percent(value: float | None) -> str:
    """``0.4`` as ``"40.0"``; a dash for no number."""
    from ...nts.fiftyone_adapter.words import percent

    return percent(value)


def signed(value: float) -> str:
    """A difference in points, with its sign."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def number(value: float) -> float | None:
    """A value for JSON: ``None`` for nan."""
    return None if math.isnan(value) else value


def colour(iou_type: str) -> str:
    """The colour of masks or of boxes."""
    return charts.MASKS if iou_type == "masks" else charts.BOXES


def by_ap(evaluation, iou_type: str) -> list[str]:
    """Classes with an AP, by falling AP; only the best and the worst of very many."""
    aps = {name: evaluation.summary(iou_type, name)["ap"] for name in evaluation.classes}
    return ends(sorted((name for name in aps if aps[name] is not None), key=lambda name: -aps[name]))


def ends(names: list[str]) -> list[str]:
    """The first and the last of very many names."""
    return names if len(names) <= MAX_BARS else names[: MAX_BARS // 2] + names[-MAX_BARS // 2 :]
