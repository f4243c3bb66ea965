"""Parts of panels: headings, captions, empty states, tables that can be clicked, and views shown in the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fiftyone.operators.types as types

TABLE: dict[str, Any] = {
    "table": {"sx": {"minWidth": 0}},
    "tableBodyRow": {"hover": True, "sx": {"cursor": "pointer", "&:last-child td": {"border": 0}}},
    "tableHeadCell": {"sx": {"fontSize": "0.85rem", "px": 1.25}},
    "tableBodyCell": {"sx": {"fontSize": "0.9rem", "px": 1.25}},
}
"""Looks of a table whose rows can be clicked."""


FITTING: dict[str, Any] = {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}}
"""For a vertical stack: as wide as the panel, and no wider, whatever is in it."""


def columns(template: str) -> dict[str, Any]:
    """Widths of the columns of a horizontal stack, as in CSS."""
    return {"grid": {"sx": {"gridTemplateColumns": template}}}


def text(content: types.Object, name: str, words: str, **looks: Any) -> None:
    """A line of text."""
    view = {"color": "text.secondary", "font_size": "0.9rem", "padding": 0, **looks}
    content.view(name, types.TextView(title=words, **view))


def heading(content: types.Object, name: str, title: str, caption: str = "") -> None:
    """A title, and beneath it in small what one can do here."""
    stack = content.v_stack(name, gap=0.5, componentsProps=FITTING)
    text(stack, "title", title, color="text.primary", font_size="1.05rem", bold=True)
    if caption:
        text(stack, "caption", caption, color="text.tertiary", font_size="0.8rem")


def empty(content: types.Object, title: str, words: str, button: str = "", on_click: Callable | None = None) -> None:
    """What stands where there is nothing to show: why, what to do, and a button that does it."""
    stack = content.v_stack("empty", gap=1, align_x="center", pad_y=6)
    text(stack, "title", title, color="text.primary", font_size="1.3rem", bold=True, align="center")
    text(stack, "text", words, font_size="1rem", align="center")
    if button:
        centred = {"item": {"sx": {"width": "auto", "justifySelf": "center", "pt": 2}}}
        stack.btn("button", button, on_click=on_click, variant="contained", componentsProps=centred)


def send(ctx, path: str, value: Any) -> None:
    """Send data of the panel.

    The App keeps what it shows in the state, too, and lays new data over it element by element: without this, a shorter
    list would keep the end of a longer one.
    """
    ctx.panel.set_state(path, None)
    ctx.panel.set_data(path, value)


def show(ctx, view, what: str) -> None:
    """Show a view in the grid, or say that there is nothing in it."""
    count = view.count()
    if count:
        ctx.ops.set_view(view)
    ctx.ops.notify(f"{count} samples with {what}" if count else f"No samples with {what} in this dataset")
