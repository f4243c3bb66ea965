"""The tab of errors: oracles, error types, the confusion matrix, and the errors of each model."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

from .. import charts, panels
from .figures import percent

REPAIRS = {
    "ap_if_masks_perfect": "With perfect masks",
    "ap_if_labels_perfect": "With perfect labels",
    "ap": "Measured",
}
KINDS = {
    "wrong_class": ("Wrong class", "on an object of another class"),
    "poor_localisation": ("Poor localisation", "on an object of its class, IoU below .50"),
    "duplicate": ("Duplicate", "the object is found by a better one"),
    "distractor": ("Distractor", "on an object of a class that is not evaluated"),
    "background": ("Background", "on nothing that is labelled"),
}
MISSED_OBJECT, DISTRACTOR, BACKGROUND = "(missed)", "(distractor)", "(background)"

_MAX_CONFUSED = 25


def draw(ctx, evaluation) -> None:
    found = evaluation.diagnostics
    values = [None if found[name] is None else 100 * found[name] for name in REPAIRS]
    colours = [charts.MUTED, charts.MUTED, charts.MASKS]
    oracles = charts.bars(list(REPAIRS.values()), {"AP": (values, charts.MASKS)}, colours=colours)
    panels.send(ctx, "errors.oracles", oracles)
    counts = {
        "All predictions": ([found["errors"]["total"][kind] for kind in KINDS], charts.MUTED),
        f"Confidence {found['confidence']:.2f} and above": (
            [found["errors_above"]["total"][kind] for kind in KINDS],
            charts.WRONG,
        ),
    }
    panels.send(ctx, "errors.kinds", charts.bars([name for name, _ in KINDS.values()], counts, unit="%{x}"))
    if evaluation.content["models"] is not None:
        panels.send(ctx, "errors.proposals", _proposal_bars(evaluation.content["models"]["recall"]))
    rows, columns = _confusion_names(evaluation)
    shown_rows, shown_columns = _most_confused(evaluation)
    heat = charts.heat(
        [columns[column] for column in shown_columns],
        [rows[row] for row in shown_rows],
        [[found["confusion"][row][column] for row in shown_rows] for column in shown_columns],
        "ground truth %{y}<br>prediction %{x}<br>%{z}<extra></extra>",
    )
    panels.send(ctx, "errors.confusion", heat)


def render(panel, ctx, evaluation, content: types.Object) -> None:
    _render_kinds(panel, evaluation, content)
    _render_confusion(panel, evaluation, content)
    _render_models(evaluation, content)


def _render_kinds(panel, evaluation, content: types.Object) -> None:
    over = "novel and base classes" if evaluation.config["base_classes"] else "novel classes"
    caption = f"AP of masks over {over}, with one type of error corrected"
    panels.heading(content, "oracles_title", "Where precision is lost", caption)
    content.plot(
        "oracles",
        layout=charts.layout(170, bargap=0.35, xaxis=charts.axis("AP (%)", range=[0, 100])),
        config=charts.CONFIG,
    )
    caption = "Click a bar to see its samples."
    panels.heading(content, "kinds_title", "Wrong predictions by type", caption)
    content.plot(
        "kinds",
        layout=charts.layout(250, barmode="overlay", bargap=0.35, showlegend=True, xaxis=charts.axis("Predictions")),
        config=charts.CONFIG,
        on_click=panel.on_error_bar,
    )
    meanings = [f"{label}: {meaning}" for label, meaning in KINDS.values()]
    panels.caption(content, "kinds_meaning", " · ".join(meanings))


def _render_confusion(panel, evaluation, content: types.Object) -> None:
    _, columns = _most_confused(evaluation)
    confidence = evaluation.diagnostics["confidence"]
    text = f"Predictions of confidence {confidence:.2f} and above, where F1 is largest. Click a cell."
    if len(columns) < len(evaluation.classes) + 2:
        text += f" The {_MAX_CONFUSED} classes with most confusions."
    panels.heading(content, "confusion_title", "Confusion matrix", text)
    content.plot(
        "confusion",
        layout=charts.layout(
            150 + 24 * len(columns),
            xaxis=charts.names_axis("Prediction", side="bottom", tickangle=-45, showgrid=False),
            yaxis=charts.names_axis("Ground truth", autorange="reversed", showgrid=False),
        ),
        config=charts.CONFIG,
        on_click=panel.on_confusion_cell,
    )


def _render_models(evaluation, content: types.Object) -> None:
    panels.heading(content, "models_title", "Errors of the models", "Both models beside the ground truth")
    models = evaluation.content["models"]
    if models is None:
        text = "Not measured: switch on 'Diagnose the models' when you evaluate. It takes as long as the segmentation."
        panels.caption(content, "models_none", text)
        return
    recall = models["recall"][0]
    panels.tiles(
        content,
        {
            "Objects proposed": (percent(recall["recall_50"]), f"of {recall['objects']}, IoU .50 or more"),
            "Proposed well": (percent(recall["recall_75"]), "IoU .75 or more"),
            "Classes found": (percent(models["accuracy"]), f"of {models['objects']} true masks, by the encoder"),
        },
    )
    content.plot(
        "proposals",
        layout=charts.layout(
            260,
            barmode="overlay",
            bargap=0.35,
            showlegend=True,
            xaxis=charts.axis("Objects that some proposal covers (%)", range=[0, 100]),
        ),
        config=charts.CONFIG,
    )


def samples_of_kind(ctx, evaluation, label: str, *, above: bool) -> tuple[Any, str]:
    """Wrong predictions of a type, all or those above the best confidence, and a caption."""
    kind = next(kind for kind, (name, _) in KINDS.items() if name == label)
    threshold = evaluation.diagnostics["confidence"] if above else None
    return evaluation.samples_with_error(ctx.dataset, kind, threshold), f"predictions {KINDS[kind][1]}"


def samples_of_cell(ctx, evaluation, predicted: str, true: str) -> tuple[Any, str]:
    """Objects and predictions of a cell, and a caption."""
    from ...nts.fiftyone_adapter.evaluation_results import MAX_LABELS

    rows, columns = _confusion_names(evaluation)
    row, column = rows.index(predicted), columns.index(true)
    count = evaluation.diagnostics["confusion"][row][column]
    limit = f", the first {MAX_LABELS} of {count}" if count > MAX_LABELS else ""
    view = evaluation.samples_confused(ctx.dataset, row, column)
    if predicted == MISSED_OBJECT:
        return view, f"{true} missed{limit}"
    return view, f"{true} found{limit}" if true == predicted else f"{true} taken for {predicted}{limit}"


def _proposal_bars(recall: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [row for row in recall if row["objects"]]
    values = {at: [100 * row[f"recall_{at}"] for row in known] for at in (50, 75)}
    series = {"IoU .50 or more": (values[50], charts.MUTED), "IoU .75 or more": (values[75], charts.RIGHT)}
    return charts.bars([f"{row['area']} ({row['objects']})" for row in known], series)


def _confusion_names(evaluation) -> tuple[list[str], list[str]]:
    """Names of the rows (predicted) and columns (true) of the confusion matrix."""
    classes = evaluation.diagnostics["classes"]
    return [*classes, MISSED_OBJECT], [*classes, DISTRACTOR, BACKGROUND]


def _most_confused(evaluation) -> tuple[list[int], list[int]]:
    """Rows and columns to show: all, or those of the classes with most confusions."""
    confusion, classes = evaluation.diagnostics["confusion"], len(evaluation.diagnostics["classes"])
    errors = [sum(confusion[k]) + sum(row[k] for row in confusion) - 2 * confusion[k][k] for k in range(classes)]
    most = sorted(sorted(range(classes), key=lambda k: -errors[k])[:_MAX_CONFUSED])
    return [*most, classes], [*most, classes, classes + 1]
