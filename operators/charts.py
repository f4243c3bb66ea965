"""Plotly traces and layouts of the plugin's panels.

They have no background and no font colour, so the App's theme shows, dark or light. Colours mean the same everywhere,
and stand out on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

MASKS, BOXES, MUTED = "#f4772e", "#4c8df6", "#8b93a1"
RIGHT, WRONG, MISSED = "#35a96b", "#e5534b", "#d9a514"
SERIES = ("#f4772e", "#4c8df6", "#35a96b", "#b16ce8", "#d9a514", "#23a8b8", "#e5534b", "#d6609b", "#7d8fa9", "#8fae2f")
CONFIG = {"displayModeBar": False, "scrollZoom": False, "responsive": True}

_CLEAR = "rgba(0,0,0,0)"
_GRID = "rgba(139,147,161,0.25)"
_HEAT = [[0, "#fad4bc"], [1, "#e4590c"]]  # opaque: Plotly chooses black or white for the numbers by it
_MARKER_LINE = {"color": MUTED, "width": 1, "dash": "dot"}


def layout(height: int, **more: Any) -> dict[str, Any]:
    """A layout without background; ``more`` as in Plotly, axes are completed."""
    common = {"gridcolor": _GRID, "zeroline": False, "ticksuffix": " "}
    axes = {name: {**common, **more.pop(name, {})} for name in ("xaxis", "yaxis")}
    return {
        "height": height,
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "font": {"size": 12},
        "margin": {"t": 12, "r": 16, "b": 44, "l": 56},
        "legend": {"bgcolor": _CLEAR, "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"font": {"size": 12}},
        **axes,
        **more,
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title, "font": {"size": 12}, "standoff": 12}, **more}


def names_axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis of names. Without the type, Plotly would take a class "1" for a number, and "2020-01" for a date."""
    return axis(title, type="category", **more)


def bars(
    names: Sequence[str],
    series: Mapping[str, tuple[Sequence[float | None], str]],
    *,
    unit: str = "%{x:.1f}",
    colours: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Horizontal bars, the first name on top; of several series the last is in front.

    Args:
        names: one bar each.
        series: ``{name: (values, colour)}``.
        unit: format of a value below the pointer.
        colours: of each bar, in place of the series' own.
    """
    return [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(reversed(names)),
            "x": list(reversed(values)),
            "marker": {"color": list(reversed(colours)) if colours else colour},
            "hovertemplate": f"%{{y}}: {unit}<extra>{name}</extra>",
        }
        for name, (values, colour) in series.items()
    ]


def line(
    name: str, x: Sequence[float], y: Sequence[float | None], colour: str, *, width: float = 2.0, hover: str = ""
) -> dict[str, Any]:
    """A line."""
    trace = {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y)}
    return {**trace, "line": {"color": colour, "width": width}, "hovertemplate": hover or "%{y:.3f}"}


def columns(
    edges: Sequence[float], heights: Sequence[float | None], colour: str, details: Sequence[Sequence], hover: str
) -> dict[str, Any]:
    """Vertical bars between edges.

    Args:
        edges: one more than bars, ascending.
        heights: ``None`` for no bar.
        colour: of the bars.
        details: of each bar, ``%{customdata[0]}`` and so on in the text below the pointer.
        hover: this text.
    """
    pairs = list(pairwise(edges))
    return {
        "type": "bar",
        "x": [(low + high) / 2 for low, high in pairs],
        "width": [high - low for low, high in pairs],
        "y": list(heights),
        "marker": {"color": colour, "opacity": 0.75},
        "customdata": [list(each) for each in details],
        "hovertemplate": f"{hover}<extra></extra>",
    }


def upright(x: float) -> dict[str, Any]:
    """A vertical dotted line."""
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": _MARKER_LINE}


def upright_label(x: float, text: str) -> dict[str, Any]:
    """A label at the lower end of a vertical line."""
    return {
        "x": x,
        "y": 0,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "left",
        "text": text,
        "showarrow": False,
        "font": {"size": 11, "color": MUTED},
    }


def diagonal() -> dict[str, Any]:
    """A dotted line from 0, 0 to 1, 1."""
    return {"type": "line", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "line": _MARKER_LINE}


def heat(
    rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], hover: str
) -> list[dict[str, Any]]:
    """A table of counts as colours, the first row on top; cells without a count are clear."""
    return [
        {
            "type": "heatmap",
            "x": list(columns),
            "y": list(rows),
            "z": [[count or None for count in row] for row in counts],
            "colorscale": _HEAT,
            "showscale": False,
            "hoverongaps": False,
            "hovertemplate": hover,
            "texttemplate": "%{z}",
            "xgap": 1,
            "ygap": 1,
        }
    ]
