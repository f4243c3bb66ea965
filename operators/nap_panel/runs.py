"""The tab with the runs that the plugin stores in the dataset."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import panels
from ..base import sentence

COLUMNS = {"key": "Name", "what": "Description", "status": "Status", "created": "Created (UTC)"}
DELETING = {
    "memory": ("delete_memory", "memory_key"),
    "segmentation": ("delete_segmentation", "output_field"),
    "evaluation": ("delete_evaluation", "eval_key"),
    "set of heat maps": ("delete_similarity_heatmaps", "heatmaps_key"),
    "reference prompt": ("delete_reference_prompt", "prompt_key"),
    "set of class maps": ("delete_class_maps", "output_field"),
}
"""For each kind of run the operator that deletes it, and the operator's parameter with its key."""


def draw(ctx) -> None:
    runs = there_are(ctx)
    ctx.panel.set_state("listed", [[run.kind, run.key] for run in runs])
    panels.send(ctx, "runs.table", [_printed(run) for run in runs])


def render(panel, content: types.Object) -> None:
    title = "Memories, reference prompts, segmentations, maps and evaluations"
    panels.heading(content, "title", title, "Click a row to open an evaluation.")
    actions = {"delete": (panel.on_delete_run, "Delete …")}
    panels.table(content, COLUMNS, actions, on_click_row=panel.on_open_run, actions_label=" ")


def there_are(ctx) -> list:
    """All runs of the dataset, the newest first."""
    from ...nts.fiftyone_adapter.run_overview import run_statuses

    return run_statuses(ctx.dataset)


def of_row(ctx, row: int):
    """The run in a row of the list; ``None``, after a notification, if it was deleted since it was listed."""
    kind, key = ctx.panel.get_state("listed")[row]
    run = next((run for run in there_are(ctx) if (run.kind, run.key) == (kind, key)), None)
    if run is None:
        ctx.ops.notify(f"There is no {kind} {key} any more", variant="warning")
    return run


def _printed(run) -> dict[str, str]:
    made = run.created.replace("T", " ")[:16]
    return {"key": run.key, "what": f"{sentence(run.kind)}. {run.details}", "status": run.status, "created": made}
