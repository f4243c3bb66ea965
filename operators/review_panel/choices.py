"""Which predictions are reviewed: field, class, decision, confidence and order, as chosen in the panel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..label_selection import selected_labels
from ..words import sentence

ALL = "all classes"
UNDECIDED = "undecided"
DECISIONS = (UNDECIDED, "accepted", "rejected", "wrong outline", "corrected")
TEACH = "teach"
ORDERS = {TEACH: "Teach me first", "confident": "Most confident", "unsure": "Least sure", "class": "By class"}

BUTTONS = {
    "accept": ("Accept", "check", "accepted", "Right class, good outline"),
    "reject": ("Reject", "close", "rejected", "Not an object of this class"),
    "outline": ("Wrong outline", "gesture", "wrong outline", "Right object, bad outline: teaches nothing"),
}
"""Label, icon, decision and explanation of the buttons that decide."""

BINS = 25  # of the histogram

FIELD, CLASS, DECISION = "header.field", "choices.class", "choices.decision"
ORDER, THRESHOLD = "choices.order", "threshold"
UPDATES = "updates"
"""Number of updates since the panel was opened."""
UNDO = "undo"
"""The decision that *Undo* takes back: its ``id``, and the ``words`` of the button."""
QUEUE = "queue"
"""Ids of the predictions that are reviewed next, if those that teach most come first."""


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


def updates(ctx) -> int:
    """Number of updates since the panel was opened."""
    return int(ctx.panel.get_state(UPDATES) or 0)


def recommended(ctx) -> float:
    """The recommended confidence of the chosen segmentation; 0 if there is none."""
    about = segmentations(ctx).get(field(ctx) or "", {}).get("recommendation") or {}
    # Rounded up, it would leave out the predictions that have just this confidence.
    return math.floor(1000 * about.get("threshold", 0.0)) / 1000


def in_batches(ctx) -> bool:
    """Whether the undecided predictions are reviewed in batches of those that teach most."""
    return ctx.panel.get_state(ORDER) == TEACH and decision(ctx) == UNDECIDED


def labels(ctx):
    """The predictions to review, as a view of the whole dataset with these labels only."""
    view = candidates(ctx)
    return view.select_labels(ids=ctx.panel.get_state(QUEUE) or [], fields=field(ctx)) if in_batches(ctx) else view


def candidates(ctx):
    """The predictions of the chosen class, decision and confidence, as a view with these labels only."""
    from fiftyone import ViewField as F

    name, of_class, decided = field(ctx), ctx.panel.get_state(CLASS) or ALL, decision(ctx)
    wanted = F("decision") == (None if decided == UNDECIDED else decided)
    if of_class != ALL:
        wanted &= F("label") == of_class
    # A label that a person has drawn has no confidence, and is not hidden by the slider.
    if decided == UNDECIDED:
        wanted &= (F("confidence") == None) | (F("confidence") >= threshold(ctx))  # noqa: E711
    if count := updates(ctx):
        # True of all labels. The App draws a view with the same stages as it was before the labels were replaced.
        wanted &= F("confidence") != -count
    return ctx.dataset.filter_labels(name, wanted)


@dataclass(frozen=True)
class Facts:
    """Facts about the predictions that the panel shows, read once per event.

    Attributes:
        decisions: number of labels by decision.
        classes: names of the classes of all labels.
        shown: number of labels to review now.
        precision: expected precision of these; ``None`` if unknown.
        histogram: number of labels to review, by confidence, in :data:`BINS` bins, whatever the threshold.
        new: number of decisions that the memory does not know.
        unteachable: why there is nothing to teach; empty if there is a memory.
    """

    decisions: dict[str, int]
    classes: list[str]
    shown: int
    precision: float | None
    histogram: list[int]
    new: int
    unteachable: str


def read(ctx) -> tuple[Facts, list[str]]:
    """Read all labels of the chosen field, once and without a mask.

    Returns:
        the facts, and the ids of the predictions that are reviewed next, see :data:`QUEUE`.
    """
    name, of_class, decided, least = field(ctx), ctx.panel.get_state(CLASS) or ALL, decision(ctx), threshold(ctx)
    columns = ctx.dataset.values([f"{name}.detections.{each}" for each in ("id", "label", "decision", "confidence")])
    counts, classes, histogram = dict.fromkeys(DECISIONS, 0), set(), [0] * BINS
    shown: dict[str, float | None] = {}
    decided_labels = []
    for of_image in zip(*columns, strict=True):
        for label_id, label, of_label, confidence in zip(*(values or () for values in of_image), strict=True):
            now = of_label or UNDECIDED
            counts[now] = counts.get(now, 0) + 1  # a script may have written any
            classes.update([label] if label else [])
            if of_label is not None:
                decided_labels.append((label_id, label, of_label))
            if now != decided or of_class not in (ALL, label):
                continue
            if confidence is not None and 0 <= confidence <= 1:
                histogram[min(BINS - 1, int(confidence * BINS))] += 1
            if decided != UNDECIDED or confidence is None or confidence >= least:
                shown[label_id] = confidence
    queue = []
    if in_batches(ctx):
        queue = _batch(ctx, shown)
        shown = {each: shown[each] for each in queue}
    known = [confidence for confidence in shown.values() if confidence is not None]
    has_probabilities = decided == UNDECIDED and recommended(ctx) and known
    precision = sum(known) / len(known) if has_probabilities else None
    new, unteachable = _lessons(ctx, name, decided_labels)
    return Facts(counts, sorted(classes), len(shown), precision, histogram, new, unteachable), queue


def _batch(ctx, undecided: dict[str, float | None]) -> list[str]:
    """Those of the queue that are undecided; if there are none left, the next ones."""
    from ...nts.fiftyone_adapter.errors import RunNotFound
    from ...nts.fiftyone_adapter.review_queue import BATCH, review_queue
    from ...nts.memory import MemoryFileError

    queue = [each for each in ctx.panel.get_state(QUEUE) or [] if each in undecided]
    if queue or not undecided:
        return queue
    try:
        queue = [each for each in review_queue(candidates(ctx), field(ctx)) if each in undecided]
    except (RunNotFound, MemoryFileError):  # nothing can be taught
        queue = []
    # Labels that a person has drawn are in no queue.
    return queue or sorted(undecided, key=lambda each: -(undecided[each] or 0.0))[:BATCH]


def _lessons(ctx, name: str, decided: list[tuple[str, str, str]]) -> tuple[int, str]:
    """Number of decisions that the memory does not know, and why it cannot be taught, if it cannot."""
    from ...nts.fiftyone_adapter.errors import RunNotFound
    from ...nts.fiftyone_adapter.teaching import lessons
    from ...nts.memory import MemoryFileError

    try:
        return len(lessons(ctx.dataset, name, decided)), ""
    except RunNotFound:
        memory = segmentations(ctx)[name]["memory_key"]
        return 0, f"The memory {memory} was deleted: decisions are stored, but there is nothing to teach."
    except MemoryFileError as error:
        return 0, f"{sentence(error)}: decisions are stored, but it cannot be taught."


def last_decision(ctx) -> dict[str, str] | None:
    """The last decision about the chosen field, see :data:`UNDO`; ``None`` if none can be taken back."""
    from ...nts.fiftyone_adapter.decisions import last_step

    step = last_step(ctx.dataset, field(ctx))
    return None if step is None else {"id": step.id, "words": f"{step.labels} {step.decision or UNDECIDED}"}


def undo_button(ctx, row, on_click) -> None:
    """The button that takes back the last decision, and names it: another person may have made it."""
    last = ctx.panel.get_state(UNDO)
    label = f"Undo {last['words']}" if last else "Undo"
    row.btn("undo", label, icon="undo", on_click=on_click, variant="outlined", disabled=last is None)


def first_selected(ctx) -> tuple[str, str] | None:
    """Sample and id of the first selected prediction of the chosen field that is still there."""
    name = field(ctx)
    view = ctx.dataset.select_labels(ids=selected_labels(ctx, name) or [], fields=name)
    found = zip(*view.values(["id", f"{name}.detections.id"]), strict=True)
    there = {label_id: sample_id for sample_id, label_ids in found for label_id in label_ids}
    return next(((there[each], each) for each in selected_labels(ctx, name) or [] if each in there), None)


def patches(ctx):
    """The predictions to review, a patch each, in the chosen order."""
    from fiftyone import ViewField as F

    name = field(ctx)
    view = labels(ctx).to_patches(name)
    order = ctx.panel.get_state(ORDER) or "confident"
    if in_batches(ctx):
        there = set(view.values("id"))
        return view.select([each for each in ctx.panel.get_state(QUEUE) or [] if each in there], ordered=True)
    if order == "unsure":
        return view.sort_by((F(f"{name}.confidence") - 0.5).abs())
    if order == "class":
        return view.sort_by(f"{name}.label")
    return view.sort_by(f"{name}.confidence", reverse=True)
