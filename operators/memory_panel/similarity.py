"""The tab with the similarity of the class prototypes to one another."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import charts, panels

_MAX_CLASSES = 60  # 3,600 cells, still wide enough to be clicked


def draw(ctx, inspection) -> None:
    rows = inspection.most_similar_classes(_MAX_CLASSES)
    names = [inspection.classes[row] for row in rows]
    values = inspection.similarities[rows][:, rows].round(3).tolist()
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": values,
        "zmin": min(0.0, *(min(line) for line in values)),
        "zmax": 1.0,
        "colorscale": "Viridis",
        "colorbar": {"thickness": 12, "outlinewidth": 0, "tickfont": {"color": charts.MUTED}},
        "hovertemplate": "%{y} and %{x}: %{z:.2f}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    if len(names) <= 12:
        trace.update(texttemplate="%{z:.2f}", textfont={"size": 11})
    panels.send(ctx, "classes.plot", [trace])


def render(panel, ctx, inspection, content: types.Object) -> None:
    count = min(len(inspection.classes), _MAX_CLASSES)
    if count < 2:
        panels.empty(content, "One class", "There is no other class that it could be mistaken for.")
        return
    caption = "Cosine of class prototypes: the nearer to 1, the harder to tell apart. Click a cell to see both."
    if count < len(inspection.classes):
        caption += f" The {count} classes that are most similar to another one, of {len(inspection.classes)}."
    panels.heading(content, "title", "Similarity of the classes", caption)
    side = max(280, min(760, 160 + 34 * count))
    content.plot(
        "plot",
        layout=charts.layout(
            side,
            margin={"t": 8, "r": 8, "b": 8, "l": 8},
            xaxis={"automargin": True, "showgrid": False, "tickangle": -45, "type": "category"},
            yaxis={"automargin": True, "showgrid": False, "autorange": "reversed", "type": "category"},
        ),
        config=charts.CONFIG,
        on_click=panel.on_cell,
    )
