"""Opening a panel beside the grid."""

from __future__ import annotations

from typing import Any

import fiftyone as fo


def open_panel(ctx, name: str, state: dict[str, Any] | None = None):
    """Open a panel beside the grid: as a tab of an existing column of panels, or else in a new column.

    FiftyOne's own operator would split the grid's column once more for every panel.

    Args:
        ctx: the execution context.
        name: of the panel. If it is open, it comes to the front.
        state: its initial state.

    Returns:
        the message to the App.
    """
    spaces = ctx.spaces
    beside = _column_beside(spaces)
    if beside is None or _has(spaces, name):
        return ctx.ops.open_panel(name, layout="horizontal", is_active=True, state=state)
    panel = fo.Panel(type=name, state=state or {})
    beside.children.append(panel)
    beside.active_child = panel.component_id
    return ctx.ops.set_spaces(spaces)


def _column_beside(spaces):
    """The last container of panels, if it is not that of the grid."""
    if spaces is None:
        return None
    containers = [space for space in _spaces(spaces) if any(not hasattr(child, "children") for child in space.children)]
    if len(containers) < 2:
        return None
    return containers[-1]


def _spaces(space):
    yield space
    for child in space.children:
        if hasattr(child, "children"):
            yield from _spaces(child)


def _has(space, name: str) -> bool:
    return any(getattr(child, "type", None) == name for each in _spaces(space) for child in each.children)
