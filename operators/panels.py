"""Parts of panels: headings, tiles, empty states, tabs, tables that can be clicked, and views shown in the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import fiftyone.operators.types as types

from .base import PluginOperator, grid_button
from .panels_beside import open_panel

PLUGIN = "@nts/reference-segmentation"

FITTING: dict[str, Any] = {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}}
"""Makes a vertical stack as wide as the panel, regardless of its content."""


def columns(template: str) -> dict[str, Any]:
    """Widths of the columns of a horizontal stack, as in CSS."""
    return {"grid": {"sx": {"gridTemplateColumns": template}}}


def wrapping(width: int) -> dict[str, Any]:
    """Columns of a horizontal stack that go on in the next row: as many as fit, each at least `width` pixels wide."""
    sx = {"gridTemplateColumns": f"repeat(auto-fit, minmax({width}px, 1fr))", "gridAutoFlow": "row"}
    return {"grid": {"sx": sx}}


def root() -> types.GridView:
    """View of a panel's outermost object: a vertical stack."""
    return types.GridView(orientation="vertical", gap=2, pad=2, componentsProps=FITTING)


def text(content: types.Object, name: str, words: str, **looks: Any) -> None:
    """A line of text."""
    view = {"color": "text.secondary", "font_size": "0.9rem", "padding": 0, **looks}
    content.view(name, types.TextView(title=words, **view))


def caption(content: types.Object, name: str, words: str) -> None:
    """A line of small text."""
    text(content, name, words, color="text.tertiary", font_size="0.8rem")


def heading(content: types.Object, name: str, title: str, words: str = "") -> None:
    """A title with a small line below it."""
    stack = content.v_stack(name, gap=0.5, componentsProps=FITTING)
    text(stack, "title", title, color="text.primary", font_size="1.05rem", bold=True)
    if words:
        caption(stack, "caption", words)


def tiles(content: types.Object, figures: Mapping[str, tuple[str, str]]) -> None:
    """Large numbers side by side, each between its name and a caption: ``{name: (number, caption)}``."""
    row = content.h_stack("tiles", gap=1, align_y="stretch", componentsProps=wrapping(104))
    for number, (label, (value, words)) in enumerate(figures.items()):
        tile = row.v_stack(f"tile{number}", gap=0, variant="outline", pad=1.5)
        text(tile, "label", label, font_size="0.85rem")
        text(tile, "value", value, color="text.primary", font_size="1.9rem", bold=True)
        text(tile, "caption", words, color="text.tertiary", font_size="0.75rem")


def tabs(content: types.Object, name: str, labels: Mapping[str, str], default: str, on_change: Callable) -> None:
    """A row of tabs: ``{value: label}``."""
    sx = {"minWidth": 0, "minHeight": 44, "px": 1.25, "fontSize": "0.9rem"}
    view = types.TabsView(componentsProps={"tab": {"sx": sx}})
    for value, label in labels.items():
        view.add_choice(value, label=label)
    content.enum(name, view.values(), default=default, view=view, on_change=on_change)


def table(
    content: types.Object,
    headings: Mapping[str, str],
    actions: Mapping[str, tuple[Callable, str]] = MappingProxyType({}),
    **events: Any,
) -> None:
    """A table whose data is ``table``; the pointer is a hand over clickable cells.

    Args:
        content: the object to put it in.
        headings: ``{key in the data: heading}``.
        actions: buttons in every row, ``{icon: (on_click, tooltip)}``.
        events: ``on_click_row``, or ``on_click_cell``, which includes headings; and other arguments of ``TableView``.
    """
    cells = {"cursor": "pointer"} if "on_click_cell" in events else {}
    rows = cells or ({"cursor": "pointer"} if "on_click_row" in events else {})
    looks = {
        "table": {"sx": {"minWidth": 0}},
        "tableBodyRow": {"hover": bool(rows), "sx": {**rows, "&:last-child td": {"border": 0}}},
        "tableHeadCell": {"sx": {**cells, "fontSize": "0.85rem", "whiteSpace": "nowrap", "px": 0.75}},
        "tableBodyCell": {"sx": {"fontSize": "0.9rem", "px": 0.75}},
        "tableContainer": {"sx": {"overflowX": "auto"}},
    }
    view = types.TableView(componentsProps=looks, **events)
    for key, label in headings.items():
        view.add_column(key, label=label)
    for icon, (on_click, tooltip) in actions.items():
        view.add_row_action(icon, on_click, icon=icon, tooltip=tooltip)
    content.list("table", types.Object(), view=view)


def empty(content: types.Object, title: str, words: str, button: str = "", on_click: Callable | None = None) -> None:
    """An empty state: the reason, the next step, and a button for it."""
    stack = content.v_stack("empty", gap=1, align_x="center", pad_y=6)
    text(stack, "title", title, color="text.primary", font_size="1.3rem", bold=True, align="center")
    text(stack, "text", words, font_size="1rem", align="center")
    if button:
        centred = {"item": {"sx": {"width": "auto", "justifySelf": "center", "pt": 2}}}
        stack.btn("button", button, on_click=on_click, variant="contained", componentsProps=centred)


def send(ctx, path: str, value: Any) -> None:
    """Send data of the panel.

    The App also holds data in the state, and merges new data into it element by element: without a reset, a shorter
    list would end with elements of a longer one.
    """
    ctx.panel.set_state(path, None)
    ctx.panel.set_data(path, value)


def show(ctx, view, content: str, where: str = "in this dataset", fields: Sequence[str] | None = None) -> None:
    """Show a view in the grid, with the labels of some fields only if they are given, or notify that it is empty."""
    count = view.count()
    if count:
        ctx.ops.set_view(view)
        if fields is not None:
            ctx.ops.set_active_fields(list(fields))
    samples = "1 sample" if count == 1 else f"{count} samples"
    ctx.ops.notify(f"{samples} with {content}" if count else f"No samples with {content} {where}")


class PanelButton(PluginOperator):
    """An operator that opens a panel beside the grid: a button above it."""

    in_grid = True
    panel: str
    """Name of the panel."""

    def button(self, label: str, description: str, icon: str):
        """The configuration of the operator ``open_<panel>``."""
        name = f"open_{self.panel}"
        return self.settings(name, label, description, risk_level="LOW", icon=icon, view_target=False, unlisted=True)

    def resolve_input(self, ctx) -> None:
        """No form: the panel opens at once."""

    def resolve_placement(self, ctx):
        return grid_button(self.config, prompt=False)

    def execute(self, ctx) -> None:
        open_panel(ctx, self.panel)
