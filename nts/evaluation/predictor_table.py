"""Table of predictors: mIoU and FB-IoU of each, by kind of annotation, number of references and group of classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .markdown import table

FIGURES = {"miou": "mIoU", "fb-iou": "FB-IoU"}


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, in percent; ``None`` where there was no pixel to count."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """Difference from the compared row, and the share of samples in which it is positive (ties count half)."""

    p_better: float | None


@dataclass(frozen=True)
class Cell:
    """Figures of one row for one kind of annotation, number of references and group of classes.

    Attributes:
        row, annotation, shots, group: position in the table.
        episodes: number of episodes.
        figures: ``"miou"`` and ``"fb-iou"``.
        differences: of the figures from those of the compared row; empty for that row itself.
        per_class: IoU of every class in percent; ``None`` for one without episodes.
    """

    row: str
    annotation: str
    shots: int
    group: str
    episodes: int
    figures: dict[str, Estimate]
    differences: dict[str, Difference]
    per_class: dict[str, float | None]


@dataclass(frozen=True)
class PredictorTable:
    """Table of predictors.

    Attributes:
        cells: of every row, annotation, number of references and group.
        against: the row that the others are compared with; empty for none.
        seconds: run time of every row, including the preparation of its references.
        skipped: episodes with an unusable image, which count as empty predictions.
        not_promoted: number of references that SAM2 could not promote, by annotation. They were shown as annotated.
        about: settings and notes of the table, as plain values.
    """

    cells: tuple[Cell, ...]
    against: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    not_promoted: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def cell(self, row: str, annotation: str, shots: int, group: str) -> Cell:
        """Return a cell.

        Raises:
            KeyError: if there is none of this position.
        """
        for cell in self.cells:
            if (cell.row, cell.annotation, cell.shots, cell.group) == (row, annotation, shots, group):
                return cell
        raise KeyError((row, annotation, shots, group))

    def to_json(self) -> str:
        """Serialise the table for :meth:`from_json`."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PredictorTable:
        """Read a table from its JSON.

        Raises:
            ValueError: if the text is not a table.
        """
        try:
            content = json.loads(text)
            cells = []
            for cell in content.pop("cells"):
                figures = {name: Estimate(**value) for name, value in cell.pop("figures").items()}
                differences = {name: Difference(**value) for name, value in cell.pop("differences").items()}
                cells.append(Cell(**cell, figures=figures, differences=differences))
            return cls(tuple(cells), **content | {"skipped": tuple(content["skipped"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is not a table of predictors: {type(error).__name__}: {error}") from error

    def to_markdown(self) -> str:
        """Render a table per figure, group and number of references: rows are predictors, columns annotations."""
        parts = ["Percent, with 95 % intervals of the bootstrap over episodes."]
        if self.against:
            parts[0] += f" *Δ*: mIoU less that of *{self.against}* on the same samples of episodes."
        for group, shots in dict.fromkeys((cell.group, cell.shots) for cell in self.cells):
            cells = [cell for cell in self.cells if (cell.group, cell.shots) == (group, shots)]
            title = f"### {group} classes, {shots} {'reference' if shots == 1 else 'references'}"
            parts.append(f"{title} ({cells[0].episodes} episodes)")
            shown = [("mIoU", lambda c: _interval(c.figures["miou"]))]
            if self.against:
                shown.append(("Δ mIoU", lambda c: _interval(c.differences.get("miou"), signed=True)))
            shown.append(("FB-IoU", lambda c: _interval(c.figures["fb-iou"])))
            parts += [_by_annotation(figure, cells, words) for figure, words in shown]
        parts += self._notes()
        return "\n\n".join(parts) + "\n"

    def _notes(self) -> list[str]:
        notes = []
        for group, shots in dict.fromkeys((cell.group, cell.shots) for cell in self.cells):
            cell = next(cell for cell in self.cells if (cell.group, cell.shots) == (group, shots))
            if without := [name for name, value in cell.per_class.items() if value is None]:
                notes.append(f"No episode, {group}, {shots} shots: {', '.join(without)}.")
        notes += [
            f"SAM2 predicted no mask for {count} references: {name}." for name, count in self.not_promoted.items()
        ]
        if self.seconds:
            notes.append("Seconds: " + ", ".join(f"{row} {seconds:.0f}" for row, seconds in self.seconds.items()) + ".")
        notes += self.about.get("notes", ())
        if self.skipped:
            listed = "\n".join(f"* {line}" for line in self.skipped)
            notes.append(f"{len(self.skipped)} episodes could not be used, and count as empty predictions:\n\n{listed}")
        return notes


def _by_annotation(figure: str, cells: Sequence[Cell], words: Callable[[Cell], str]) -> str:
    annotations = list(dict.fromkeys(cell.annotation for cell in cells))
    found = {(cell.row, cell.annotation): words(cell) for cell in cells}
    rows = [[row, *(found[row, name] for name in annotations)] for row in dict.fromkeys(cell.row for cell in cells)]
    return table([figure, *annotations], rows, "l" + "r" * len(annotations))


def _interval(estimate: Estimate | None, *, signed: bool = False) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{estimate.value:{sign}.1f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low:{sign}.1f} to {estimate.high:{sign}.1f})"
