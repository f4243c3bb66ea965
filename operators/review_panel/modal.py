"""The panel beside an open sample: decisions about the labels that are selected in it."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import panels
from . import choices

STATE = "in_modal"
"""State of the panel: whether it stands beside an open sample, and not beside the grid."""


def read_selection(ctx) -> None:
    """Read how many labels are selected; if they are predictions, their field is the one to decide about."""
    labels = ctx.selected_labels or []
    fields = {label["field"] for label in labels}
    made = fields & set(choices.segmentations(ctx))
    ctx.panel.set_state("selected", len(labels))
    ctx.panel.set_state("decidable", len(fields) == 1 and bool(made))
    if len(made) == 1:
        ctx.panel.set_state(choices.FIELD, next(iter(made)))
        ctx.panel.set_state(choices.UNDO, choices.last_decision(ctx))


def render(panel, ctx, content: types.Object) -> None:
    """Lay out the buttons for the selected labels."""
    count = ctx.panel.get_state("selected") or 0
    if not count:
        panels.text(content, "none", "Select labels in the image: then accept, reject or correct them here.")
        return
    panels.text(content, "count", f"{count} selected", color="text.primary", bold=True)
    template = panels.wrapping(130)
    if ctx.panel.get_state("decidable"):
        row = content.h_stack("decide", gap=1, componentsProps=template)
        for name, (label, icon, decision, words) in choices.BUTTONS.items():
            row.btn(
                name,
                label,
                icon=icon,
                on_click=panel.on_decide,
                params={"decision": decision},
                variant="contained" if name == "accept" else "outlined",
                title=words,
            )
        row.btn("change", "Change class…", icon="label", on_click=panel.on_change_class, variant="outlined")
        if not ctx.view._is_generated:
            row.btn("edit", "Edit outline", icon="edit", on_click=panel.on_edit, variant="outlined")
        choices.undo_button(ctx, row, panel.on_undo)
    row = content.h_stack("use", gap=1, componentsProps=template)
    for use, label, icon in (
        ("reference", "Use as reference…", "add_photo_alternate"),
        ("negative", "Not this class…", "block"),
    ):
        row.btn(use, label, icon=icon, on_click=panel.on_use, params={"use_as": use}, variant="outlined")
