"""All runs of a dataset with their status, for the list in the panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import runs
from .runs import Collection, RunKind
from .words import percent, plural


@dataclass(frozen=True)
class RunStatus:
    """One line in the list of runs.

    Attributes:
        kind: ``"memory"``, ``"segmentation"``, ``"evaluation"`` or ``"set of heat maps"``.
        key: name of the run.
        status: ``"complete"``, ``"incomplete"``, ``"running"``, ``"failed: why"`` or ``"made by another version"``;
            of heat maps, which can be stopped and resumed at any image, the number of fields that they fill.
        details: a short description.
        created: UTC.
    """

    kind: str
    key: str
    status: str
    details: str
    created: str


def run_statuses(view: Collection) -> list[RunStatus]:
    """Memories, segmentations, evaluations and heat maps of a dataset with their status, the newest first."""
    lines = [
        RunStatus(kind.noun, key, *_described(kind, made), runs.created(view, key))
        for kind in (runs.MEMORY, runs.SEGMENTATION, runs.EVALUATION, runs.HEATMAPS)
        for key, made in runs.list_runs(view, kind).items()
    ]
    for key, made in runs.list_drafts(view, runs.EVALUATION).items():
        status = f"failed: {made['error']}" if made["status"] == "failed" else made["status"]
        details = f"{made['predictions_field']} against {made['ground_truth_field']}"
        created = runs.created(view, key, draft=True)
        lines.append(RunStatus(runs.EVALUATION.noun, key, status, details, created))
    return sorted(lines, key=lambda line: line.created, reverse=True)


def _described(kind: RunKind, made: dict[str, Any]) -> tuple[str, str]:
    """Status and details of a complete run."""
    if kind is runs.MEMORY:
        return (
            "complete",
            f"{sum(made['shots'])} references of {len(made['classes'])} classes, encoder {made['encoder']}",
        )
    if kind is runs.SEGMENTATION:
        details = f"memory {made['memory_key']}, segmenter {made['segmenter']}"
        if "segmented" in made:
            details += f", {made['segmented']} images, {made['instances']} objects, {made['failed']} failed"
        return made["status"], details
    if kind is runs.EVALUATION:
        status = "complete" if made["schema"] == kind.schema else "made by another version: evaluate again"
        details = f"nAP of masks {percent(made['masks_ap'])}, {made['images']} images, {made['predictions_field']}"
        return status, details
    fields = len(made["fields"])
    return f"{fields} {plural('field', fields)}", f"memory {made['memory_key']}: {', '.join(made['classes'])}"
