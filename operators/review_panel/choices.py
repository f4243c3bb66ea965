"""Which predictions are reviewed: field, class, decision, confidence and order, as chosen in the panel."""

from __future__ import annotations

import math
from typing import Any

ALL = "all classes"
UNDECIDED = "undecided"
DECISIONS = (UNDECIDED, "accepted", "rejected", "corrected")
ORDERS = {"confident": "Most confident", "unsure": "Least sure", "class": "By class"}

FIELD, CLASS, DECISION = "header.field", "choices.class", "choices.decision"
ORDER, THRESHOLD = "choices.order", "threshold"


def segmentations(ctx) -> dict[str, dict[str, Any]]:
    """Segmentations of the open dataset by their field, the newest first."""
    from ...nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

    made = {} if ctx.dataset is None else list_runs(ctx.dataset, SEGMENTATION)
    return {name: made[name] for name in reversed(made) if ctx.dataset.has_sample_field(name)}


def field(ctx) -> str | None:
    """The chosen field."""
    return ctx.panel.get_state(FIELD)


def decision(ctx) -> str:
    """The chosen decision; undecided by default."""
    return ctx.panel.get_state(DECISION) or UNDECIDED


def threshold(ctx) -> float:
    """Least confidence of the predictions that are shown."""
    return float(ctx.panel.get_state(THRESHOLD) or 0.0)


def recommended(ctx) -> float:
    """The recommended confidence of the chosen segmentation; 0 if there is none."""
    about = segmentations(ctx).get(field(ctx) or "", {}).get("recommendation") or {}
    # Rounded up, it would leave out the predictions that have just this confidence.
    return math.floor(1000 * about.get("threshold", 0.0)) / 1000


def labels(ctx, *, above_threshold: bool = True):
    """The predictions to review, as a view of the whole dataset with these labels only."""
    from fiftyone import ViewField as F

    name, of_class, decided = field(ctx), ctx.panel.get_state(CLASS) or ALL, decision(ctx)
    wanted = F("decision") == (None if decided == UNDECIDED else decided)
    if of_class != ALL:
        wanted &= F("label") == of_class
    # A label that a person has drawn has no confidence, and is not hidden by the slider.
    if above_threshold and decided == UNDECIDED:
        wanted &= (F("confidence") == None) | (F("confidence") >= threshold(ctx))  # noqa: E711
    return ctx.dataset.filter_labels(name, wanted)


def patches(ctx):
    """The predictions to review, a patch each, in the chosen order."""
    from fiftyone import ViewField as F

    name = field(ctx)
    view = labels(ctx).to_patches(name)
    order = ctx.panel.get_state(ORDER) or "confident"
    if order == "unsure":
        return view.sort_by((F(f"{name}.confidence") - 0.5).abs())
    if order == "class":
        return view.sort_by(f"{name}.label")
    return view.sort_by(f"{name}.confidence", reverse=True)
