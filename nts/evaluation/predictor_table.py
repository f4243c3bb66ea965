"""One table for all heads: mIoU and FB-IoU of each, by kind of annotation, number of references, and novel and base.

Every row is asked the same episodes, and is shown the same annotation of the same reference image. Intervals are of the
bootstrap over episodes, 95 %; the differences from one chosen row are taken on the same samples, so that what makes an
episode hard for both cancels out.

A control is a row like any other: the same head, shown references of a wrong class, or a head that looks at none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..datasets.annotated_images import AnnotatedImages, Annotation
from ..datasets.episodes import (
    EPISODES_PER_FOLD,
    Episode,
    EpisodeImages,
    Predictor,
    draw_episodes,
    evaluate_episodes,
    read_episodes,
    show_wrong_class,
    write_episodes,
)
from ..metrics.bootstrap import percentiles, share_better
from ..metrics.coco import without_nan
from ..metrics.miou import bootstrap_accuracy, summarise_episodes
from ..segmenter import Segmenter
from .report import table

FIGURES = {"miou": "mIoU", "fb-iou": "FB-IoU"}


@dataclass(frozen=True)
class EpisodeList:
    """The episodes of one number of references and one group of classes.

    Attributes:
        group: of classes: ``"novel"``, ``"base"``.
        shots: references per episode.
        episodes: drawn once, for every row.
    """

    group: str
    shots: int
    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        head: what is asked.
        shown: references of the episode's class, or of a wrong one: see
            :func:`~nts.datasets.episodes.show_wrong_class`.
    """

    head: Predictor
    shown: Literal["right class", "wrong class"] = "right class"


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, in percent; ``None`` where there was no pixel to count."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """How much better than the compared row, and in what share of the samples that is so (ties count half)."""

    p_better: float | None


@dataclass(frozen=True)
class Cell:
    """What one row reached with one annotation, number of references and group of classes.

    Attributes:
        row, annotation, shots, group: which.
        episodes: how many.
        figures: ``"miou"`` and ``"fb-iou"``.
        differences: of the same from the compared row; empty for that row itself.
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
class HeadTable:
    """The whole table.

    Attributes:
        cells: every row, annotation, number of references and group.
        against: the row that the others are compared with; empty where there is none.
        seconds: how long every row took, with the reading of its references.
        skipped: episodes in which something could not be used: they count as episodes in which nothing was found.
        not_promoted: of how many references SAM2 drew nothing, by annotation: they were shown as annotated.
        about: whatever else a reader must know, as plain values.
    """

    cells: tuple[Cell, ...]
    against: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    not_promoted: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def cell(self, row: str, annotation: str, shots: int, group: str) -> Cell:
        """One of the cells.

        Raises:
            KeyError: if there is none.
        """
        for cell in self.cells:
            if (cell.row, cell.annotation, cell.shots, cell.group) == (row, annotation, shots, group):
                return cell
        raise KeyError((row, annotation, shots, group))

    def to_json(self) -> str:
        """As JSON, which :meth:`from_json` reads."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> HeadTable:
        """A table from its JSON.

        Raises:
            ValueError: if it is none.
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
            raise ValueError(f"this is no table of heads: {type(error).__name__}: {error}") from error

    def to_markdown(self) -> str:
        """A table for every figure, group and number of references: rows are heads, columns annotations."""
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
            parts += [_by_annotation(head, cells, words) for head, words in shown]
        parts += self._notes()
        return "\n\n".join(parts) + "\n"

    def _notes(self) -> list[str]:
        notes = []
        for group, shots in dict.fromkeys((cell.group, cell.shots) for cell in self.cells):
            cell = next(cell for cell in self.cells if (cell.group, cell.shots) == (group, shots))
            if without := [name for name, value in cell.per_class.items() if value is None]:
                notes.append(f"No episode, {group}, {shots} shots: {', '.join(without)}.")
        notes += [f"SAM2 drew nothing of {count} references: {name}." for name, count in self.not_promoted.items()]
        if self.seconds:
            notes.append("Seconds: " + ", ".join(f"{row} {seconds:.0f}" for row, seconds in self.seconds.items()) + ".")
        notes += self.about.get("notes", ())
        if self.skipped:
            listed = "\n".join(f"* {line}" for line in self.skipped)
            notes.append(f"{len(self.skipped)} episodes could not be used, and count as nothing found:\n\n{listed}")
        return notes


def draw_lists(
    references: EpisodeImages,
    targets: EpisodeImages,
    groups: Mapping[str, Sequence[int]],
    *,
    shots: Sequence[int],
    seed: int = 0,
    count: int = EPISODES_PER_FOLD,
) -> list[EpisodeList]:
    """Draw the episodes of a table, see :func:`~nts.datasets.episodes.draw_episodes`.

    Args:
        references: where references are drawn from.
        targets: where targets are drawn from.
        groups: category ids by the name of their group, ``{"novel": ..., "base": ...}``.
        shots: numbers of references.
        seed: of the draw.
        count: how many episodes in each list.

    Raises:
        ValueError: if a group has no class with enough images; the message names it.
    """
    lists = []
    for group, class_ids in groups.items():
        for k in shots:
            try:
                drawn = draw_episodes(references.dataset, targets.dataset, class_ids, shots=k, seed=seed, count=count)
            except ValueError as error:
                raise ValueError(f"the {group} classes: {error}") from error
            lists.append(EpisodeList(group, k, tuple(drawn)))
    return lists


def write_lists(folder: Path, lists: Sequence[EpisodeList]) -> None:
    """Write every list to a file of its own, ``novel-5shot.json``; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for of_list in lists:
        path = folder / f"{of_list.group}-{of_list.shots}shot.json"
        write_episodes(path, of_list.episodes, group=of_list.group, shots=of_list.shots)


def read_lists(folder: Path) -> list[EpisodeList]:
    """Read all lists of a folder that :func:`write_lists` wrote, by group and number of references.

    Raises:
        ValueError: if there is none, or a file is damaged; the message names it.
    """
    lists = []
    for path in folder.glob("*-*shot.json"):
        group, _, shots = path.stem.removesuffix("shot").rpartition("-")
        lists.append(EpisodeList(group, int(shots), tuple(read_episodes(path))))
    if not lists:
        raise ValueError(f"there are no lists of episodes in {folder}")
    return sorted(lists, key=lambda of_list: (of_list.group, of_list.shots))


def evaluate_heads(
    references: EpisodeImages,
    targets: EpisodeImages,
    lists: Sequence[EpisodeList],
    groups: Mapping[str, Sequence[int]],
    rows: Mapping[str, Row],
    *,
    annotations: Sequence[Annotation] = (Annotation(),),
    segmenter: Segmenter | None = None,
    seed: int = 0,
    side: int | None = None,
    against: str = "",
    draws: int = 1000,
    about: Mapping[str, Any] | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> HeadTable:
    """Ask every row every episode, with references annotated in every way.

    Args:
        references: images with the masks that annotations are simulated from.
        targets: images with the truth.
        lists: the episodes, see :func:`draw_lists`.
        groups: category ids by the name of their group. A wrong class is any other of all groups.
        rows: by the names that the table gives them.
        annotations: how references are annotated.
        segmenter: SAM2, where annotations are promoted.
        seed: of the annotations and of the wrong classes.
        side: compare masks at so many pixels squared; at the target's own size where ``None``.
        against: the row that all others are compared with, where they shall be.
        draws: samples of the bootstrap.
        about: kept in the table.
        tick: called after every episode of every list.

    Raises:
        ValueError: if ``against`` is no row, a list has no episode or a class beyond its group, or a control finds no
            other class.
    """
    if against and against not in rows:
        raise ValueError(f"there is no row {against!r} to compare with; there are {', '.join(rows)}")
    for of_list in lists:
        if not of_list.episodes:
            raise ValueError(f"the list of the {of_list.group} classes, {of_list.shots} shots, has no episode")
        beyond = {episode.class_id for episode in of_list.episodes} - set(groups.get(of_list.group, ()))
        if beyond:
            raise ValueError(
                f"the list of the {of_list.group} classes, {of_list.shots} shots, has episodes of categories "
                f"{sorted(beyond)}, which are none of them"
            )
    everything = {class_id for class_ids in groups.values() for class_id in class_ids}
    misled = {}
    if any(row.shown == "wrong class" for row in rows.values()):
        misled = {
            n: show_wrong_class(of_list.episodes, references.dataset, everything, seed=seed)
            for n, of_list in enumerate(lists)
        }
    shown = [AnnotatedImages(references, annotation, seed=seed, segmenter=segmenter) for annotation in annotations]
    counts = {
        (n, annotation, name): np.zeros((len(of_list.episodes), 4), np.int64)
        for n, of_list in enumerate(lists)
        for annotation in annotations
        for name in rows
    }
    seconds, skipped = dict.fromkeys(rows, 0.0), dict[str, None]()
    # All episodes of a target in a row, so that heads encode it once.
    places = [(n, e) for n, of_list in enumerate(lists) for e in range(len(of_list.episodes))]
    for n, e in sorted(places, key=lambda place: str(lists[place[0]].episodes[place[1]].target)):
        episode = lists[n].episodes[e]
        for images in shown:
            for name, row in rows.items():
                instead = [misled[n][e]] if row.shown == "wrong class" else None
                began = time.perf_counter()
                (outcome,) = evaluate_episodes([episode], images, targets, row.head, side=side, shown=instead)
                seconds[name] += time.perf_counter() - began
                counts[n, images.annotation, name][e] = outcome.counts.numbers
                if outcome.error:
                    skipped[f"episode {e} of {lists[n].group}, {lists[n].shots} shots: {outcome.error}"] = None
        tick()
    names = {category["id"]: category["name"] for category in targets.dataset["categories"]}
    cells = []
    for n, of_list in enumerate(lists):
        classes = {class_id: names[class_id] for class_id in sorted(groups[of_list.group])}
        for annotation in annotations:
            of_rows = {name: counts[n, annotation, name] for name in rows}
            cells += _cells(of_list, annotation, of_rows, classes, against, draws)
    return HeadTable(
        tuple(cells),
        against,
        seconds,
        tuple(skipped),
        {str(images.annotation): len(images.not_promoted) for images in shown if images.not_promoted},
        dict(about or {}),
    )


def _cells(
    of_list: EpisodeList,
    annotation: Annotation,
    counts: Mapping[str, np.ndarray],
    classes: Mapping[int, str],
    against: str,
    draws: int,
) -> list[Cell]:
    """The cells of all rows; ``counts`` are int64 ``[E, 4]`` by row."""
    class_ids = [episode.class_id for episode in of_list.episodes]
    samples = dict(zip(counts, bootstrap_accuracy(class_ids, list(counts.values()), draws=draws), strict=True))
    accuracy = {name: summarise_episodes(class_ids, of_row, classes) for name, of_row in counts.items()}
    values = {name: {"miou": found.miou, "fb-iou": found.fb_iou} for name, found in accuracy.items()}
    cells = []
    for name in counts:
        figures: dict[str, Estimate] = {}
        differences: dict[str, Difference] = {}
        for figure in FIGURES:
            figures[figure] = _estimate(values[name][figure], samples[name][figure])
            if against and name != against:
                less = samples[name][figure] - samples[against][figure]
                value = values[name][figure] - values[against][figure]
                estimate = _estimate(value, less)
                better = without_nan(share_better(less))
                differences[figure] = Difference(estimate.value, estimate.low, estimate.high, better)
        per_class = without_nan({label: 100 * value for label, value in accuracy[name].per_class.items()})
        cells.append(
            Cell(
                name,
                str(annotation),
                of_list.shots,
                of_list.group,
                len(class_ids),
                figures,
                differences,
                per_class,
            )
        )
    return cells


def _estimate(value: float, samples: np.ndarray) -> Estimate:
    low, high = percentiles(samples)
    return Estimate(*without_nan([100 * value, 100 * low, 100 * high]))


def _by_annotation(head: str, cells: Sequence[Cell], words: Callable[[Cell], str]) -> str:
    annotations = list(dict.fromkeys(cell.annotation for cell in cells))
    found = {(cell.row, cell.annotation): words(cell) for cell in cells}
    rows = [[row, *(found[row, name] for name in annotations)] for row in dict.fromkeys(cell.row for cell in cells)]
    return table([head, *annotations], rows, "l" + "r" * len(annotations))


def _interval(estimate: Estimate | None, *, signed: bool = False) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    sign = "+" if signed else ""
    text = f"{estimate.value:{sign}.1f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({estimate.low:{sign}.1f} to {estimate.high:{sign}.1f})"
