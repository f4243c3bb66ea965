"""The list of the runs that the plugin stores in the dataset."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import panels
from ..words import sentence

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

EXPORTING = {
    "memory": ("export_memory", "memory_key"),
    "reference prompt": ("export_reference_prompt", "prompt_key"),
}
"""The same for the operator that writes it to a file, where there is one."""

PANELS = {
    "memory": ("memory_panel", "memory"),
    "segmentation": ("review_panel", "field"),
    "evaluation": ("nap_panel", "run"),
}
"""For each kind of run the panel that shows it, and the name of its choice in the panel's header."""


def draw(ctx) -> None:
    runs = there_are(ctx)
    ctx.panel.set_state("listed", [[run.kind, run.key] for run in runs])
    panels.send(ctx, "stored.table", [_printed(run) for run in runs])


def render(panel, content: types.Object) -> None:
    panels.heading(content, "title", "Stored in this dataset", "Click a row to open it.")
    actions = {"download": (panel.on_export, "Export …"), "delete": (panel.on_delete, "Delete …")}
    panels.table(content, COLUMNS, actions, on_click_row=panel.on_open, actions_label=" ")


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
