"""The person's choices in the panel, and the evaluations to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ALL = "All novel"
IOU_TYPES = {"masks": "Masks", "boxes": "Boxes"}


def iou_type(ctx) -> str:
    """``"masks"`` or ``"boxes"``: the IoU behind the figures."""
    chosen = ctx.panel.get_state("header.iou_type")
    return chosen if chosen in IOU_TYPES else "masks"


def class_name(ctx, path: str) -> str | None:
    """The class chosen at a path of the state; ``None`` for all novel ones."""
    name = ctx.panel.get_state(path)
    return None if name in (None, ALL) else name


def forget_other_classes(ctx, path: str, classes: Sequence[str]) -> None:
    """Drop a choice of classes that the evaluation does not have."""
    chosen = ctx.panel.get_state(path)
    if isinstance(chosen, list):
        ctx.panel.set_state(path, [name for name in chosen if name in classes])
    elif chosen is not None and chosen not in classes:
        ctx.panel.set_state(path, ALL)


def evaluations(dataset) -> dict[str, str]:
    """Complete evaluations, the newest first, in words: name, nAP of masks in percent, and time."""
    from ...nts.fiftyone_adapter.run_overview import run_statuses
    from ...nts.fiftyone_adapter.runs import EVALUATION, list_runs
    from ...nts.fiftyone_adapter.words import percent

    made, words = list_runs(dataset, EVALUATION), {}
    for run in run_statuses(dataset):
        if run.kind == "evaluation" and run.key in made:
            score = percent(made[run.key]["masks_ap"]) if run.status == "complete" else run.status
            words[run.key] = f"{run.key} · {score} · {run.created.replace('T', ' ')[:16]}"
    return words


def newest(found: Mapping[str, str]) -> str:
    """The newest of :func:`evaluations` in words, which tell it from an earlier one of its name; empty if none."""
    return next(iter(found.values()), "")


def next_step(dataset) -> tuple[str, str, str]:
    """The operator to run next, the label of its button, and an explanation."""
    from ...nts.fiftyone_adapter.runs import MEMORY, SEGMENTATION, list_runs

    if not list_runs(dataset, MEMORY):
        text = "First label a few objects of each class, and build a reference memory from them."
        return "build_reference_memory", "Build reference memory", text
    if not list_runs(dataset, SEGMENTATION):
        text = "There is a reference memory. Next, segment the samples that have ground truth with it."
        return "auto_segment_view", "Auto-segment view", text
    text = "There is a segmentation. Evaluate it against the ground truth, and its average precision is shown here."
    return "evaluate_nap", "Evaluate nAP", text
