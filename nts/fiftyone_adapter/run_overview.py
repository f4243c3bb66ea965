"""All runs of a dataset with their status, for the list in the panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import runs
from .runs import Collection, RunKind
from .words import percent, plural


@dataclass(frozen=True)
class RunStatus:
    """One line in the list of runs.

    Attributes:
        kind: noun of a kind in :data:`.runs.RUN_KINDS`, such as ``"memory"``.
        key: name of the run.
        status: ``"complete"``, ``"incomplete"``, ``"running"``, ``"interrupted"``, ``"failed: why"`` or
            ``"made by another version"``; of heat maps, which can be stopped and resumed at any image, the number of
            fields that they fill.
        details: a short description.
        created: UTC.
    """

    kind: str
    key: str
    status: str
    details: str
    created: str


def run_statuses(view: Collection) -> list[RunStatus]:
    """Runs of every kind in a dataset with their status, unfinished ones included, the newest first."""
    lines = [
        RunStatus(kind.noun, key, _status(kind, made), _DETAILS[kind](made), runs.created(view, key))
        for kind in runs.RUN_KINDS
        for key, made in runs.list_runs(view, kind).items()
    ]
    for kind, details in _DRAFT_DETAILS.items():
        for key, made in runs.list_drafts(view, kind).items():
            status = f"failed: {made['error']}" if made["status"] == "failed" else made["status"]
            lines.append(RunStatus(kind.noun, key, status, details(made), runs.created(view, key, draft=True)))
    return sorted(lines, key=lambda line: line.created, reverse=True)


def _status(kind: RunKind, made: Mapping[str, Any]) -> str:
    if kind is runs.HEATMAPS:
        return f"{len(made['fields'])} {plural('field', len(made['fields']))}"
    if kind is runs.EVALUATION and made["schema"] != kind.schema:
        return "made by another version: evaluate again"
    return made.get("status", "complete")


def _memory(made: Mapping[str, Any]) -> str:
    return f"{sum(made['shots'])} references of {len(made['classes'])} classes, encoder {made['encoder']}"


def _segmentation(made: Mapping[str, Any]) -> str:
    details = f"memory {made['memory_key']}, segmenter {made['segmenter']}"
    if "segmented" in made:
        details += f", {made['segmented']} images, {made['instances']} objects, {made['failed']} failed"
    return details


def _class_maps(made: Mapping[str, Any]) -> str:
    details = f"memory {made['memory_key']}, reference prompt {made['reference_prompt']}"
    if "segmented" in made:
        details += f", {made['segmented']} images, {made['failed']} failed"
    return details


def _evaluation(made: Mapping[str, Any]) -> str:
    return f"nAP of masks {percent(made['masks_ap'])}, {made['images']} images, {made['predictions_field']}"


def _heatmaps(made: Mapping[str, Any]) -> str:
    return f"memory {made['memory_key']}: {', '.join(made['classes'])}"


def _prompt(made: Mapping[str, Any]) -> str:
    return f"{len(made['classes'])} classes, encoder {made['encoder']}, segmenter {made['segmenter']}"


_DETAILS: dict[RunKind, Callable[[Mapping[str, Any]], str]] = {
    runs.MEMORY: _memory,
    runs.SEGMENTATION: _segmentation,
    runs.EVALUATION: _evaluation,
    runs.HEATMAPS: _heatmaps,
    runs.PROMPT: _prompt,
    runs.CLASS_MAPS: _class_maps,
}

_DRAFT_DETAILS: dict[RunKind, Callable[[Mapping[str, Any]], str]] = {
    runs.EVALUATION: lambda made: f"{made['predictions_field']} against {made['ground_truth_field']}",
    runs.PROMPT: lambda made: f"{made['label_field']}, {made['steps']} steps",
}
"""Kinds of run that are listed before they are complete."""
