"""What a person has chosen in the panel, and what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence

ALL = "All novel"
IOU_TYPES = {"masks": "Masks", "boxes": "Boxes"}


def iou_type(ctx) -> str:
    """Whether figures are of masks or of boxes."""
    chosen = ctx.panel.get_state("header.iou_type")
    return chosen if chosen in IOU_TYPES else "masks"


def class_name(ctx, path: str) -> str | None:
    """The class chosen at a path of the state; ``None`` for all novel ones."""
    name = ctx.panel.get_state(path)
    return None if name in (None, ALL) else name


def forget_other_classes(ctx, path: str, classes: Sequence[str]) -> None:
    """Classes that were chosen for an evaluation of other classes are chosen no more."""
    chosen = ctx.panel.get_state(path)
    if isinstance(chosen, list):
        ctx.panel.set_state(path, [name for name in chosen if name in classes])
    elif chosen is not None and chosen not in classes:
        ctx.panel.set_state(path, ALL)


def evaluations(dataset) -> dict[str, str]:
    """Complete evaluations, the newest first, with time and status in words."""
    from ...nts.fiftyone_adapter import list_runs

    found = [run for run in list_runs(dataset) if run.kind == "evaluation"]
    return {
        run.key: f"{run.created.replace('T', ' ')[:16]}   {run.status}"
        for run in found
        if run.status == "complete" or run.status.startswith("made by")
    }


def next_step(dataset) -> tuple[str, str, str]:
    """The operator to run next, the label of its button, and what to say."""
    from ...nts.fiftyone_adapter import list_memories, list_segmentations

    if not list_memories(dataset):
        text = "First label a few objects of each class, and build a reference memory from them."
        return "build_reference_memory", "Build reference memory", text
    if not list_segmentations(dataset):
        text = "There is a reference memory. Next, segment the samples that have ground truth with it."
        return "auto_segment_view", "Auto-segment view", text
    text = "There is a segmentation. Evaluate it against the ground truth, and its average precision is shown here."
    return "evaluate_nap", "Evaluate nAP", text
