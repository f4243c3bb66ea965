"""Stored evaluations as they are looked at: figures, curves, counts above a confidence, comparisons, and the samples.

Everything is read from what :func:`.evaluating.evaluation_job` stored; nothing is matched again.
"""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F

from ..metrics.average_precision import RECALL_THRESHOLDS
from ..metrics.bootstrap import Interval, paired_bootstrap
from ..metrics.matches import IouType, Matches
from . import runs
from .checks import InputError
from .runs import Collection

Outcome = Literal["tp", "fp", "fn"]
COMPARED_FIGURES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ar_100": "AR100"}
"""Figures that are compared, and their names."""
COUNTED_IOU = 0.5
MOST_LABELS = 2000
"""So many labels a view names one by one, at most."""

_MOST_COMPARISONS = 32
_DRAWS, _FEWER_DRAWS, _MANY_PREDICTIONS = 1000, 200, 20_000


@dataclass(frozen=True)
class Counted:
    """What a threshold on the confidence leaves, at an IoU of 0.5.

    Attributes:
        right, wrong: predictions at or above the threshold.
        missed: objects that none of them finds.
    """

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """In ``[0, 1]``; ``nan`` where nothing is predicted."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else math.nan

    @property
    def recall(self) -> float:
        """In ``[0, 1]``; ``nan`` where there is nothing to find."""
        return self.right / (self.right + self.missed) if self.right + self.missed else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        total = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / total if total else math.nan


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """One evaluation of a dataset, complete.

    Attributes:
        key: its name.
        config: how it was made, and the most important numbers; see :func:`.runs.list_evaluations`.
        content: everything else that was stored.
    """

    key: str
    config: dict[str, Any]
    content: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Names of all evaluated classes, novel ones first."""
        return [*self.config["classes"], *self.config["base_classes"]]

    @property
    def protocol(self) -> str:
        """What the figures are figures of, in one line."""
        novel, base, images = (len(self.config["classes"]), len(self.config["base_classes"]), self.config["images"])
        parts = [f"{novel} novel {_plural('class', novel)}", f"{images} {_plural('image', images)}"]
        if base:
            parts.insert(1, f"{base} base {_plural('class', base)}")
        parts += ["IoU .50:.95", f"max {self.config['max_detections']} per image and class", "equal to pycocotools"]
        if self.config["left_out_references"]:
            parts.append(f"{self.config['left_out_references']} reference samples left out")
        return " · ".join(parts)

    @property
    def shots(self) -> int | None:
        """References per class, where it is the same number for all novel classes."""
        shots = set(self.config["shots"] or ())
        return shots.pop() if len(shots) == 1 else None

    def summary(self, iou_type: IouType, name: str | None = None) -> dict[str, float | None]:
        """The twelve figures of COCO over the novel classes, or of one class."""
        precision = self.content["result"][iou_type]
        return precision["novel"] if name is None else precision["per_class"][name]

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What tells it from every other evaluation, one of the same name too."""
        return self.key, *(self.config.get(name) for name in ("created", "model_evaluation", "token"))

    def objects(self, name: str) -> int:
        """How many objects of a class there are to find."""
        return self.content["confidence"]["masks"]["ground_truth"][self._rows[name]]

    def predictions(self, name: str) -> int:
        """How many predictions of a class were counted."""
        return self._predictions[self._rows[name]]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.matches("masks").classes)}

    @cached_property
    def _predictions(self) -> list[int]:
        return np.bincount(self.matches("masks").label, minlength=len(self._rows)).tolist()

    def matches(self, iou_type: IouType) -> Matches:
        """The matches that all figures come from."""
        return self._matches[iou_type]

    @cached_property
    def _matches(self) -> dict[str, Matches]:
        return {kind: Matches.from_bytes(base64.b64decode(text)) for kind, text in self.content["matches"].items()}

    def curve(self, iou_type: IouType, iou: str, name: str | None = None) -> tuple[list[float], list[float]] | None:
        """Recall and precision at ``"mean"``, ``"0.5"`` or ``"0.75"``, of a class or as the mean over the novel ones.

        ``None`` where there is no ground truth.
        """
        curves = np.array(self.content["curves"][iou_type][iou])
        names = [name] if name is not None else self.config["classes"]
        chosen = curves[[self._rows[each] for each in names]]
        chosen = chosen[chosen[:, 0] > -1]
        if not len(chosen):
            return None
        return RECALL_THRESHOLDS.round(2).tolist(), chosen.mean(0).round(4).tolist()

    def confidences(self, iou_type: IouType) -> list[float]:
        """The thresholds for which right and wrong predictions are counted, ascending."""
        return self.content["confidence"][iou_type]["thresholds"]

    def counted(self, iou_type: IouType, threshold: float, name: str | None = None) -> Counted:
        """What a threshold leaves of a class, or of all novel classes together."""
        matches = self.matches(iou_type)
        names = [name] if name is not None else self.config["classes"]
        of_class = np.isin(matches.label, [self._rows[each] for each in names])
        above, all_sizes = of_class & (matches.score >= threshold), matches.areas.index("all")
        at_half = int(np.flatnonzero(np.isclose(matches.iou_thresholds, COUNTED_IOU))[0])
        right, wrong = (
            int(np.count_nonzero(chosen[all_sizes, at_half] & above))
            for chosen in (matches.true_positives(), matches.false_positives())
        )
        return Counted(right, wrong, sum(map(self.objects, names)) - right)

    def all_counted(self, iou_type: IouType, name: str | None = None) -> list[Counted]:
        """:meth:`counted` for all of :meth:`confidences`."""
        counts = self.content["confidence"][iou_type]
        names = [name] if name is not None else self.config["classes"]
        rows = [self._rows[each] for each in names]
        objects = sum(counts["ground_truth"][row] for row in rows)
        right, wrong = (np.sum([counts[kind][row] for row in rows], axis=0).tolist() for kind in ("tp", "fp"))
        return [Counted(tp, fp, objects - tp) for tp, fp in zip(right, wrong, strict=True)]

    def best_threshold(self, iou_type: IouType) -> float:
        """Where F1 over the novel classes is largest."""
        scores = [0.0 if math.isnan(counted.f1) else counted.f1 for counted in self.all_counted(iou_type)]
        return self.confidences(iou_type)[int(np.argmax(scores))]

    @property
    def diagnostics(self) -> dict[str, Any]:
        """:meth:`nts.metrics.error_types.Diagnostics.to_dict`, of masks."""
        return self.content["diagnostics"]

    # ---- samples -----------------------------------------------------------------------------------------------------

    def samples(self, dataset: fo.Dataset) -> fo.DatasetView:
        """The samples that were evaluated, whatever became of their tags and fields since.

        Raises:
            InputError: if the predictions or the ground truth were deleted since.
        """
        fields = self.config["predictions_field"], self.config["ground_truth_field"]
        if gone := [repr(name) for name in fields if not dataset.has_field(name)]:
            raise InputError(f"there is nothing to see: {' and '.join(gone)} was deleted since this evaluation")
        try:
            view = dataset.load_run_view(self.key)
            same = view.count() == self.config["images"]
        except ValueError:  # the view asks for a field that is there no more
            same = False
        return view if same else runs.all_images(dataset).select(self.matches("masks").image_ids)

    def samples_with(self, dataset: fo.Dataset, names: Sequence[str]) -> fo.DatasetView:
        """The samples with objects or predictions of some classes, and no other labels of the two fields."""
        wanted = F("label").is_in(list(names))
        return self._filtered(self.samples(dataset), wanted, wanted)

    def samples_where(
        self, dataset: fo.Dataset, outcome: Outcome, *, names: Sequence[str] | None = None, threshold: float = 0.0
    ) -> fo.DatasetView:
        """The samples with right (``tp``), wrong (``fp``) or missed (``fn``) objects, and these labels alone.

        By IoU of masks; of boxes it is not kept.

        Args:
            dataset: of the evaluation.
            outcome: which.
            names: of these classes; of the novel ones where ``None``.
            threshold: predictions of a smaller confidence count as if they were not there.

        Raises:
            InputError: if what came of each object was deleted since.
        """
        samples = self.samples(dataset)
        if not runs.feeds_model_evaluation(dataset, self.key):
            raise InputError(
                f"what came of each object in {self.key!r} is in the dataset no more (deleted in the Model Evaluation "
                "panel, or by an evaluation that was to replace it and failed): evaluate again"
            )
        of_class = F("label").is_in(list(self.config["classes"] if names is None else names))
        above = F("confidence") >= threshold
        predictions, truth = self.config["predictions_field"], self.config["ground_truth_field"]
        if outcome == "fp":
            return samples.filter_labels(predictions, of_class & (F(self.key) == "fp") & above)
        # Objects whose prediction is not confident enough, found in the sample itself: a view that lists them grows.
        below = F(f"${predictions}.detections").filter(of_class & (F(self.key) == "tp") & ~above)
        found_below = fo.ViewExpression({"$ifNull": [below.map(F(f"{self.key}_id")), []]})
        lost = fo.ViewExpression({"$in": [F("_id").to_string(), found_below]})
        if outcome == "fn":
            missed = of_class & ((F(self.key) == "fn") | lost)
            return samples.filter_labels(truth, missed)
        right = of_class & (F(self.key) == "tp")
        return self._filtered(samples, right & above, right & ~lost)

    def samples_with_error(self, dataset: fo.Dataset, kind: str, threshold: float | None = None) -> fo.DatasetView:
        """The samples with wrong predictions of one of ``ERROR_KINDS``, and these labels alone.

        Args:
            dataset: of the evaluation.
            kind: which.
            threshold: only predictions of at least this confidence.

        Raises:
            InputError: if what came of each object was deleted since.
        """
        samples = self.samples(dataset)
        field = self.config["predictions_field"]
        if not dataset.has_field(runs.error_attribute(field, self.key)):
            raise InputError(f"what the predictions in {field!r} got wrong was deleted: evaluate again")
        wrong = F(f"{self.key}_error") == kind.replace("_", " ")
        if threshold is not None:
            wrong &= F("confidence") >= threshold
        return samples.filter_labels(field, wrong)

    def samples_confused(self, dataset: fo.Dataset, row: int, column: int) -> fo.DatasetView:
        """The samples behind a count of the confusion, with these predictions and objects alone.

        Of more than ``MOST_LABELS`` the first.
        """
        cells = self.diagnostics["cells"]
        at = zip(cells["row"], cells["column"], strict=True)
        here = [number for number, cell in enumerate(at) if cell == (row, column)][:MOST_LABELS]
        predictions, objects = (
            [cells[name][number] for number in here if cells[name][number] is not None]
            for name in ("prediction_id", "object_id")
        )
        samples = self.samples(dataset)
        if "sample_id" in cells:  # an earlier version did not keep them; without, all samples are searched
            samples = samples.select(list(dict.fromkeys(cells["sample_id"][number] for number in here)))
        label_id = F("_id").to_string()
        return self._filtered(samples, label_id.is_in(predictions), label_id.is_in(objects))

    def _filtered(self, samples: fo.DatasetView, predictions_filter, truth_filter) -> fo.DatasetView:
        predictions, truth = self.config["predictions_field"], self.config["ground_truth_field"]
        view = samples.filter_labels(truth, truth_filter, only_matches=False)
        view = view.filter_labels(predictions, predictions_filter, only_matches=False)
        either = (F(f"{truth}.detections").length() > 0) | (F(f"{predictions}.detections").length() > 0)
        return view.match(either)


def list_unfinished_evaluations(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of evaluations that are running or have failed, and what they were to evaluate."""
    return runs.drafts(view, runs.EVALUATION)


def open_evaluation(dataset: fo.Dataset, key: str) -> StoredEvaluation:
    """A stored evaluation, ready to be looked at.

    Raises:
        RunNotFound: if there is none.
        InputError: if an earlier version of the plugin stored it, without what is needed, or it is damaged.
    """
    config = runs.config(dataset, key, runs.EVALUATION)
    if config["schema"] != runs.SCHEMAS[runs.EVALUATION]:
        raise InputError(f"another version of the plugin made {key!r}, and kept less (or more) of it: evaluate again")
    return _opened(dataset.name, key, config["created"], config["model_evaluation"])


@lru_cache(maxsize=2)
def _opened(dataset_name: str, key: str, _created: str, _stamp: str) -> StoredEvaluation:
    """Read once: a slider is moved many times. An evaluation of the same name made later has another stamp."""
    dataset = fo.load_dataset(dataset_name)
    config = runs.config(dataset, key, runs.EVALUATION)
    content = runs.results(dataset, key, runs.EVALUATION)
    if missing := [
        name for name in ("result", "curves", "confidence", "diagnostics", "matches") if name not in content
    ]:
        raise InputError(
            f"the evaluation {key!r} is damaged, its {missing[0]} is missing: delete it and evaluate again"
        )
    return StoredEvaluation(key, config, content)


@dataclass(frozen=True)
class RunStatus:
    """A line in the list of runs.

    Attributes:
        kind: ``"memory"``, ``"segmentation"``, ``"evaluation"`` or ``"set of heat maps"``.
        key: its name.
        status: ``"complete"``, ``"incomplete"``, ``"running"``, ``"failed: why"`` or ``"made by another version"``;
            of heat maps, which can be stopped and taken up again at any image, how many fields they fill.
        created: UTC.
        details: what it is, in words.
    """

    kind: str
    key: str
    status: str
    created: str
    details: str


def list_runs(view: Collection) -> list[RunStatus]:
    """Memories, segmentations, evaluations and heat maps of a dataset, with their status, the newest first."""
    lines = []
    for key, made in runs.configs(view, runs.MEMORY).items():
        details = f"{sum(made['shots'])} references of {len(made['classes'])} classes, encoder {made['encoder']}"
        lines.append(_line(view, runs.MEMORY, key, "complete", details))
    for key, made in runs.configs(view, runs.SEGMENTATION).items():
        details = f"memory {made['memory_key']}, segmenter {made['segmenter']}"
        if "segmented" in made:
            details += f", {made['segmented']} images, {made['instances']} objects, {made['failed']} failed"
        lines.append(_line(view, runs.SEGMENTATION, key, made["status"], details))
    for key, made in runs.configs(view, runs.EVALUATION).items():
        current = made["schema"] == runs.SCHEMAS[runs.EVALUATION]
        status = "complete" if current else "made by another version: evaluate again"
        details = f"nAP of masks {percent(made['masks_ap'])}, {made['images']} images, {made['predictions_field']}"
        lines.append(_line(view, runs.EVALUATION, key, status, details))
    for key, made in runs.drafts(view, runs.EVALUATION).items():
        status = f"failed: {made['error']}" if made["status"] == "failed" else made["status"]
        details = f"{made['predictions_field']} against {made['ground_truth_field']}"
        lines.append(_line(view, runs.EVALUATION, key, status, details, draft=True))
    for key, made in runs.configs(view, runs.HEATMAPS).items():
        details = f"memory {made['memory_key']}: {', '.join(made['classes'])}"
        fields = len(made["fields"])
        lines.append(_line(view, runs.HEATMAPS, key, f"{fields} {_plural('field', fields)}", details))
    return sorted(lines, key=lambda line: line.created, reverse=True)


def _line(view: Collection, method: str, key: str, status: str, details: str, *, draft: bool = False) -> RunStatus:
    return RunStatus(runs.KINDS[method], key, status, runs.created(view, key, draft=draft), details)


@dataclass(frozen=True)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        figures: for AP, AP50, AP75 and AR100 over the novel classes, how much better the second is.
        classes: ``{class: AP of the second less AP of the first}``, in ``[-1, 1]``, without classes that lack either.
    """

    figures: dict[str, Interval]
    classes: dict[str, float]


_comparisons: dict[tuple, Comparison] = {}


def compare_evaluations(first: StoredEvaluation, second: StoredEvaluation, iou_type: IouType) -> Comparison:
    """How much better the second evaluation is, on the images that both have, with 95 % intervals.

    Of many predictions fewer draws are made; the figures say how many. The last few comparisons are kept.

    Raises:
        InputError: if the two have no image in common, or differ in classes or ground truth.
    """
    names = first.identity, second.identity, iou_type
    if names not in _comparisons:
        if len(_comparisons) == _MOST_COMPARISONS:
            _comparisons.pop(next(iter(_comparisons)))
        _comparisons[names] = _compare(first, second, iou_type)
    return _comparisons[names]


def _compare(first: StoredEvaluation, second: StoredEvaluation, iou_type: IouType) -> Comparison:
    if first.config["classes"] != second.config["classes"]:
        raise InputError(f"{first.key!r} and {second.key!r} have other novel classes: their nAP cannot be compared")
    novel, (a, b) = first.config["classes"], (first.matches(iou_type), second.matches(iou_type))
    try:
        draws = _DRAWS if len(a) + len(b) <= _MANY_PREDICTIONS else _FEWER_DRAWS
        figures = {
            figure: paired_bootstrap(a, b, figure=figure, classes=novel, draws=draws) for figure in COMPARED_FIGURES
        }
    except ValueError as error:
        raise InputError(str(error)) from error
    before, after = ({name: run.summary(iou_type, name)["ap"] for name in novel} for run in (first, second))
    both = [name for name in novel if before[name] is not None and after[name] is not None]
    return Comparison(figures, {name: after[name] - before[name] for name in both})


@dataclass(frozen=True)
class Shots:
    """Evaluations that differ in the number of references per class.

    Attributes:
        points: ``(shots, nAP in [0, 1], name of the evaluation)``, by shots.
        means: ``(shots, mean, standard deviation)``; the deviation is 0 for a single run.
        left_out: names of evaluations with other classes or ground truth, or with no one number of shots.
    """

    points: list[tuple[int, float, str]]
    means: list[tuple[int, float, float]]
    left_out: list[str]


def against_shots(dataset: fo.Dataset, like: StoredEvaluation, iou_type: IouType) -> Shots:
    """nAP against references per class, over the evaluations of the same classes, ground truth and number of images."""
    points, left_out = [], []
    for key, made in runs.configs(dataset, runs.EVALUATION).items():
        shots, value = set(made.get("shots") or ()), made[f"{iou_type}_ap"]
        same = all(made.get(name) == like.config[name] for name in ("classes", "ground_truth_field", "images"))
        if same and len(shots) == 1 and value is not None:
            points.append((shots.pop(), value, key))
        else:
            left_out.append(key)
    means = []
    for shots in sorted({point[0] for point in points}):
        values = [value for at, value, _ in points if at == shots]
        means.append((shots, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
    return Shots(sorted(points), means, left_out)


def percent(value: float | None) -> str:
    """``0.4`` as ``"40.0"``; a dash where there is no number."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}{'es' if word.endswith('s') else 's'}"
