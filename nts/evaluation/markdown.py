"""Markdown of a run's report and of the comparison of two runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SEED_OF_THE_TABLES = 33
"""Seed of the published headline figures, see :mod:`nts.datasets.protocols`."""

MAX_CLASSES = 100
"""Largest number of classes for which the Markdown has a table of classes."""

_SHORT = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
    "ap_rare": "APr",
    "ap_common": "APc",
    "ap_frequent": "APf",
    "ar_small": "ARs",
    "ar_medium": "ARm",
    "ar_large": "ARl",
    "iou": "IoU",
    "miou": "mIoU",
    "fb-iou": "FB-IoU",
}
_ORACLES = ("ap", "ap_if_labels_perfect", "ap_if_masks_perfect")
_ERRORS = ("right", "wrong_class", "duplicate", "poor_localisation", "distractor", "background", "missed")


def markdown(numbers: Mapping[str, Any]) -> str:
    """Render the report of a run; ``numbers`` as :func:`nts.evaluation.runner.run` returns them."""
    title = f"# {numbers['title']}"
    if numbers["deviations"]:
        title += f": {', '.join(numbers['deviations'])}"
    sections = [
        title,
        _headline(numbers),
        _published(numbers),
        _figures(numbers),
        _per_class(numbers),
        _confidence(numbers["draws"]),
        _diagnostics(numbers["diagnostics"]),
        _errors(numbers["errors"]),
        _setting(numbers),
        _skipped(numbers),
        numbers["description"].strip().replace("### ", "## Protocol: ", 1),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def comparison_markdown(
    a: str, b: str, rows: Sequence[Mapping[str, Any]], settings: Sequence[tuple[str, Any, Any]] = ()
) -> str:
    """Render the comparison of two runs.

    Args:
        a, b: names of the runs.
        rows: of :func:`nts.evaluation.comparison.compare_runs`.
        settings: differing settings, of :func:`nts.utils.run_folder.differing_settings`.
    """
    header = ["shots", "seed", "figure", "A", "B", "B - A", "95 % interval", "better in", "samples of"]
    cells = [
        [
            row["shots"],
            "fixed" if row["seed"] is None else row["seed"],
            figure_name(row["figure"]),
            _percent(row["a"]),
            _percent(row["b"]),
            _signed(row["difference"]),
            f"{_signed(row['low'])} to {_signed(row['high'])}",
            "–" if row["p_better"] is None else f"{100 * row['p_better']:.0f} %",
            row["samples"],
        ]
        for row in rows
    ]
    note = (
        "Percent. Intervals are of the bootstrap over images (or episodes), with the same samples for both runs. They "
        "do not cover the choice of references. *Better in*: share of the samples in which B is better."
    )
    parts = [f"A is `{a}`, B is `{b}`.", table(header, cells, "rrlrrrrrr"), note]
    if settings:
        parts += ["They differ in", table(["setting", "A", "B"], settings, "lll")]
    return "\n\n".join(parts) + "\n"


def _headline(numbers: Mapping[str, Any]) -> str:
    """One row per number of shots: the headline figure over the seeds."""
    name = numbers["headline"]
    of_tables = {d["shots"]: d["figures"][name] for d in numbers["draws"] if d["seed"] == SEED_OF_THE_TABLES}
    header = ["shots", "seeds", f"{figure_name(name)}", "range"]
    if of_tables:
        header.append(f"seed {SEED_OF_THE_TABLES}")
    rows = []
    for row in numbers["summary"]:
        figure = row["figures"][name]
        spread = f"{_percent(figure['min'])} to {_percent(figure['max'])}" if figure["seeds"] > 1 else ""
        cells = [row["shots"], _seeds(row["seeds"]), f"**{_mean_std(figure)}**", spread]
        rows.append(cells + ([_percent(of_tables.get(row["shots"]))] if of_tables else []))
    note = "Percent; mean ± standard deviation (of the sample, n - 1) over the seeds."
    return f"{note}\n\n{table(header, rows, 'rlrrr')}"


def _published(numbers: Mapping[str, Any]) -> str:
    comparison = numbers["comparison"]
    if numbers["deviations"]:
        why = ", ".join(numbers["deviations"])
        return f"Not compared with published figures, since the run deviates from the protocol ({why})."
    if not comparison:
        return "No figure of exactly this protocol and these numbers of shots was published."
    sources = list(dict.fromkeys(row["source"] for row in comparison))
    header = [
        "shots",
        "figure",
        "ours",
        "ours: seeds",
        "published",
        "published: seeds",
        "difference",
        "method",
        "source",
    ]
    rows = [
        [
            row["shots"],
            figure_name(row["figure"]),
            _percent(row["ours"]),
            row["ours_of"],
            _mean_std({"mean": row["published"], "std": row["published_std"]}),
            f"seed {row['published_of']}" if row["published_of"].isdigit() else row["published_of"],
            _signed(row["difference"]),
            row["method"],
            f"[{sources.index(row['source']) + 1}]",
        ]
        for row in comparison
    ]
    listed = "\n".join(f"{i}. {source}" for i, source in enumerate(sources, start=1))
    return f"## Comparison with published figures\n\n{table(header, rows, 'rlrlrlrll')}\n\n{listed}"


def _figures(numbers: Mapping[str, Any]) -> str:
    """All figures: a column for each, a row for every number of shots and kind of IoU."""
    parts = []
    for group in ("ap", "ar"):
        names = [name for name in numbers["summary"][0]["figures"] if _field(name).startswith(group)]
        kinds = list(dict.fromkeys(_kind(name) for name in names))
        fields = list(dict.fromkeys(_field(name) for name in names))
        rows = [
            [row["shots"], kind, *(_mean_std(row["figures"].get(f"{kind} {field}")) for field in fields)]
            for row in numbers["summary"]
            for kind in kinds
        ]
        if rows:
            parts.append(table(["shots", "IoU of", *map(_short, fields)], rows, "rl" + "r" * len(fields)))
    others = [name for name in numbers["summary"][0]["figures"] if not _field(name).startswith(("ap", "ar"))]
    if others:
        rows = [[row["shots"], *(_mean_std(row["figures"][name]) for name in others)] for row in numbers["summary"]]
        parts.append(table(["shots", *map(_short, others)], rows, "r" * (1 + len(others))))
    return "## All figures\n\n" + "\n\n".join(parts)


def _per_class(numbers: Mapping[str, Any]) -> str:
    """Mean over seeds of every class, a column for each number of shots and figure."""
    if len(numbers["classes"]) > MAX_CLASSES:
        return f"## Per class\n\nThe figures of all {len(numbers['classes'])} classes are in `report.json`."
    columns = [(row["shots"], name) for row in numbers["summary"] for name in numbers["per_class_figures"]]
    header = ["class", *(f"{shots}: {figure_name(name)}" for shots, name in columns)]
    rows = []
    for label in numbers["classes"]:
        cells = []
        for shots, name in columns:
            values = [d["per_class"][label][name] for d in numbers["draws"] if d["shots"] == shots]
            values = [value for value in values if value is not None]
            cells.append(_percent(statistics.fmean(values) if values else None))
        rows.append([label, *cells])
    return f"## Per class\n\nMean over seeds.\n\n{table(header, rows, 'l' + 'r' * len(columns))}"


def _confidence(draws: Sequence[Mapping[str, Any]]) -> str:
    """One row per draw with a calibration."""
    calibrated = [(draw, draw["calibration"]) for draw in draws if draw.get("calibration")]
    if not calibrated:
        return ""
    header = ["shots", "seed", "score", "instances", "expected precision", "recall", "measured precision", "recall"]
    header += ["F1", "calibration error", "references", "negatives"]
    keys = ("expected_precision", "expected_recall", "precision", "recall", "f1", "calibration_error")
    rows = []
    for draw, numbers in calibrated:
        score = "–" if numbers["score"] is None else f"{numbers['score']:.3f}"
        cells = [draw["shots"], "fixed" if draw["seed"] is None else draw["seed"], score, numbers["instances"]]
        rows.append(cells + [_percent(numbers[key]) for key in keys] + [numbers["references"], numbers["negatives"]])
    note = (
        "The recommended threshold on the score, from the references and without any label of a target; the precision "
        "and recall expected there, and those measured at an IoU of 0.5, in percent. Where every class has one "
        "reference, nothing is expected. Last, what the calibration rests on."
    )
    return f"## Confidence\n\n{note}\n\n{table(header, rows, 'r' * len(header))}"


def _diagnostics(diagnostics: Mapping[str, Any] | None) -> str:
    if not diagnostics:
        return ""
    header = ["area", "objects", "IoU 0.50", "IoU 0.75", "mean best IoU"]
    keys = ("recall_50", "recall_75", "mean")
    recall = [[row["area"], row["objects"], *(_percent(row[key]) for key in keys)] for row in diagnostics["recall"]]
    accuracy = [
        [row["shots"], row["objects"], _mean_std(row["accuracy"])] for row in diagnostics["accuracy_on_true_masks"]
    ]
    return "\n\n".join(
        [
            "## Models",
            "Recall of the proposals, regardless of class, in percent of the objects:",
            table(header, recall, "lrrrr"),
            "Accuracy of the encoder on true masks, in percent of the objects:",
            table(["shots", "objects", "right"], accuracy, "rrr"),
        ]
    )


def _errors(errors: Sequence[Mapping[str, Any]]) -> str:
    """Means over the seeds."""
    if not errors:
        return ""
    header = ["shots", "IoU of", "AP", "labels perfect", "masks perfect", *(name.replace("_", " ") for name in _ERRORS)]
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in errors:
        groups.setdefault((row["shots"], row["iou_type"]), []).append(row)
    rows = []
    for (shots, iou_type), same in groups.items():
        aps = [[row[key] for row in same if row[key] is not None] for key in _ORACLES]
        counts = [statistics.fmean(row["errors_above"]["total"][name] for row in same) for name in _ERRORS]
        cells = [_percent(100 * statistics.fmean(values) if values else None) for values in aps]
        rows.append([shots, iou_type, *cells, *(f"{count:.1f}" for count in counts)])
    note = (
        "AP, and AP if all labels or all masks were right; then predictions and objects by type of error, at an IoU "
        "of 0.5 and the confidence with the best F1. Mean over seeds."
    )
    return f"## Error types\n\n{note}\n\n{table(header, rows, 'rl' + 'r' * 10)}"


def _setting(numbers: Mapping[str, Any]) -> str:
    config, time = numbers["config"], numbers["time"]
    phases = ""
    if "encode_seconds" in time:
        phases = f" ({time['encode_seconds']:.0f} s both models, {time['match_seconds']:.0f} s matching and counting)"
    if time.get("from_cache"):
        phases += f"; {time['from_cache']} images came from the cache"
    objects = "" if numbers["objects"] is None else f", {numbers['objects']} objects"
    rows = {
        "data": f"{numbers['images']} {numbers['unit']}{objects} of {len(numbers['classes'])} classes evaluated",
        "encoder": _model(config["encoder"]),
        "segmenter": _model(config["segmenter"]) + f", {config['points_per_side']}² points",
        "preset": f"`{config['preset']['name']}`",
        **numbers["conventions"],
        "computed": f"on {config['device']}, in {config['precision']}",
        "time": f"{time['seconds']:.0f} s, {time['images_per_second']:.2f} images/s{phases}",
        "code": f"`{config['code'][:12]}`",
    }
    lines = table(["", ""], [[name, value] for name, value in rows.items()], "ll")
    notes = "".join(f"\n* {note}" for note in numbers["notes"])
    return f"## Setting\n\n{lines}" + (f"\n{notes}" if notes else "")


def _model(model: Mapping[str, Any]) -> str:
    return f"`{model['name']}` (weights {model['fingerprint'][:12]}), {model['input_size']} px"


def _skipped(numbers: Mapping[str, Any]) -> str:
    parts, unit = [], numbers["unit"]
    for key, words in (
        ("skipped", f"{unit} could not be used, and count as {unit} without predictions"),
        ("skipped_references", "references could not be used and were left out"),
        ("skipped_background", "background images could not be used and were left out"),
    ):
        if numbers.get(key):
            parts.append(f"{len(numbers[key])} {words}:\n\n" + "\n".join(f"* {line}" for line in numbers[key]))
    missing = [draw for draw in numbers["draws"] if draw["without_reference"]]
    parts += [f"{_draw_name(draw)}: no reference of {', '.join(draw['without_reference'])}" for draw in missing]
    for draw in numbers["draws"]:
        if few := draw.get("few_references"):
            listed = ", ".join(f"{name} ({count})" for name, count in few.items())
            parts.append(f"{_draw_name(draw)}: classes with fewer references than shots: {listed}")
    return "## Skipped\n\n" + "\n\n".join(parts) if parts else ""


def _draw_name(draw: Mapping[str, Any]) -> str:
    return f"{draw['shots']} shots" + ("" if draw["seed"] is None else f", seed {draw['seed']}")


def _seeds(seeds: Sequence[int | None]) -> str:
    return "fixed" if seeds == [None] else ", ".join(map(str, seeds))


# ----------------------------------------------------------------------------------------------------------------------
# Cells


def table(header: Sequence[object], rows: Sequence[Sequence[object]], align: str) -> str:
    """Render a Markdown table; ``align`` has ``l`` or ``r`` for every column."""
    bars = ["---:" if side == "r" else "---" for side in align[: len(header)]]
    lines = [header, bars, *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    """Escape a value for a cell; names may hold anything."""
    return " ".join(str(value).split("\n")).replace("|", "\\|").replace("\r", " ")


def figure_name(name: str) -> str:
    """``"boxes ap50"`` as ``"box AP50"``."""
    kind = {"boxes": "box ", "masks": "mask "}.get(_kind(name), "")
    return kind + _short(_field(name))


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]


def _field(name: str) -> str:
    return name.rpartition(" ")[2]


def _short(field: str) -> str:
    return _SHORT.get(field, field.upper().replace("_", "@"))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _mean_std(figure: Mapping[str, float | None] | None) -> str:
    if figure is None or figure["mean"] is None:
        return "–"
    return _percent(figure["mean"]) + ("" if figure["std"] is None else f" ± {figure['std']:.1f}")
