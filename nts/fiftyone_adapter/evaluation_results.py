"""Reading stored evaluations: figures, curves, counts above a confidence, and the samples.

Everything comes from the results that :func:`.nap_evaluation.evaluation_job` stored; nothing is matched again.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F

from ..metrics.average_precision import RECALL_THRESHOLDS
from ..metrics.matches import IouType, Matches
from ..metrics.reliability import Reliability, reliability_of_matches
from . import runs
from .checks import InputError
from .runs import Collection
from .words import plural

Outcome = Literal["tp", "fp", "fn"]
COUNTED_IOU = 0.5
MAX_LABELS = 2000
"""Maximum number of labels that a view selects by id."""


@dataclass(frozen=True)
class Counted:
    """Counts at a confidence threshold and an IoU of 0.5.

    Attributes:
        right, wrong: predictions at or above the threshold.
        missed: objects that none of them finds.
    """

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """In ``[0, 1]``; ``nan`` if nothing is predicted."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else math.nan

    @property
    def recall(self) -> float:
        """In ``[0, 1]``; ``nan`` if there is nothing to find."""
        return self.right / (self.right + self.missed) if self.right + self.missed else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / total if total else math.nan


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """One complete evaluation of a dataset.

    Attributes:
        key: its name.
        config: configuration of its run: settings and the most important numbers.
        content: results of its run.
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
        """Classes, images and limits behind the figures, in one line."""
        novel, base, images = (len(self.config["classes"]), len(self.config["base_classes"]), self.config["images"])
        parts = [f"{novel} novel {plural('class', novel)}", f"{images} {plural('image', images)}"]
        if base:
            parts.insert(1, f"{base} base {plural('class', base)}")
        parts += ["IoU .50:.95", f"max {self.config['max_detections']} per image and class", "equal to pycocotools"]
        if self.config["left_out_references"]:
            parts.append(f"{self.config['left_out_references']} reference samples left out")
        return " · ".join(parts)

    @property
    def shots(self) -> int | None:
        """References per class, if it is the same number for all novel classes."""
        shots = set(self.config["shots"] or ())
        return shots.pop() if len(shots) == 1 else None

    def summary(self, iou_type: IouType, name: str | None = None) -> dict[str, float | None]:
        """The twelve figures of COCO over the novel classes, or of one class."""
        precision = self.content["result"][iou_type]
        return precision["novel"] if name is None else precision["per_class"][name]

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Key and stamps: different for every evaluation, even of the same name."""
        return self.key, *(self.config.get(name) for name in ("created", "model_evaluation", "token"))

    def objects(self, name: str) -> int:
        """Number of objects of a class to find."""
        return self.content["confidence"]["masks"]["ground_truth"][self._rows[name]]

    def predictions(self, name: str) -> int:
        """Number of counted predictions of a class."""
        return self._predictions[self._rows[name]]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.matches("masks").classes)}

    @cached_property
    def _predictions(self) -> list[int]:
        return np.bincount(self.matches("masks").label, minlength=len(self._rows)).tolist()

    def matches(self, iou_type: IouType) -> Matches:
        """Matches from which all figures were computed."""
        return self._matches[iou_type]

    @cached_property
    def _matches(self) -> dict[str, Matches]:
        return {kind: Matches.from_bytes(base64.b64decode(text)) for kind, text in self.content["matches"].items()}

    def curve(self, iou_type: IouType, iou: str, name: str | None = None) -> tuple[list[float], list[float]] | None:
        """Recall and precision at ``"mean"``, ``"0.5"`` or ``"0.75"``, of a class or as the mean over the novel ones.

        ``None`` if there is no ground truth.
        """
        curves = np.array(self.content["curves"][iou_type][iou])
        names = [name] if name is not None else self.config["classes"]
        chosen = curves[[self._rows[each] for each in names]]
        chosen = chosen[chosen[:, 0] > -1]
        if not len(chosen):
            return None
        return RECALL_THRESHOLDS.round(2).tolist(), chosen.mean(0).round(4).tolist()

    def confidences(self, iou_type: IouType) -> list[float]:
        """Thresholds with stored counts of right and wrong predictions, ascending."""
        return self.content["confidence"][iou_type]["thresholds"]

    def counted(self, iou_type: IouType, threshold: float, name: str | None = None) -> Counted:
        """Counts at a threshold for a class, or for all novel classes together."""
        matches = self.matches(iou_type)
        names = [name] if name is not None else self.config["classes"]
        above, all_sizes = self._of_classes(matches, name) & (matches.score >= threshold), matches.areas.index("all")
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
        """Threshold with the largest F1 over the novel classes."""
        scores = [0.0 if math.isnan(counted.f1) else counted.f1 for counted in self.all_counted(iou_type)]
        return self.confidences(iou_type)[int(np.argmax(scores))]

    @property
    def recommendation(self) -> dict[str, Any] | None:
        """The confidence that the segmentation recommended, with what it expected there, as plain values.

        See :class:`~nts.recommendation.Recommendation`, and ``words``. ``None`` if there was none.
        """
        return self.config.get("recommendation")

    def reliability(self, iou_type: IouType, name: str | None = None) -> Reliability | None:
        """Reliability of the confidences of a class, or of all novel classes together.

        ``None`` if no predictions count, or their confidences reach beyond ``[0, 1]``: these are no probabilities.
        """
        matches = self.matches(iou_type)
        chosen = self._of_classes(matches, name)
        if ((matches.score[chosen] < 0) | (matches.score[chosen] > 1)).any():
            return None
        reliability = reliability_of_matches(matches, COUNTED_IOU, chosen=chosen)
        return reliability if reliability.count.any() else None

    def _of_classes(self, matches: Matches, name: str | None) -> np.ndarray:
        """The predictions of a class, or of all novel classes, bool ``[n]``."""
        names = [name] if name is not None else self.config["classes"]
        return np.isin(matches.label, [self._rows[each] for each in names])

    @property
    def diagnostics(self) -> dict[str, Any]:
        """The stored :class:`~nts.metrics.error_types.Diagnostics` of masks, as plain values."""
        return self.content["diagnostics"]

    # ---- samples -----------------------------------------------------------------------------------------------------

    def samples(self, dataset: fo.Dataset) -> fo.DatasetView:
        """The evaluated samples, even if their tags and fields have changed since.

        Raises:
            InputError: if the predictions or the ground truth were deleted since.
        """
        fields = self.config["predictions_field"], self.config["ground_truth_field"]
        if gone := [repr(name) for name in fields if not dataset.has_field(name)]:
            raise InputError(f"there is nothing to show: {' and '.join(gone)} was deleted since this evaluation")
        try:
            view = dataset.load_run_view(self.key)
            same = view.count() == self.config["images"]
        except ValueError:  # the view asks for a field that was deleted
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

        By IoU of masks; outcomes by boxes are not stored.

        Args:
            dataset: of the evaluation.
            outcome: of the labels to show.
            names: classes; default the novel ones.
            threshold: ignore predictions of a lower confidence.

        Raises:
            InputError: if the outcomes were deleted since.
        """
        samples = self.samples(dataset)
        if not runs.has_native_evaluation(dataset, self.key):
            raise InputError(
                f"the outcome of each object in {self.key!r} is not in the dataset any more (deleted in the Model "
                "Evaluation panel, or by an evaluation that was to replace it and failed): evaluate again"
            )
        of_class = F("label").is_in(list(self.config["classes"] if names is None else names))
        above = F("confidence") >= threshold
        predictions, truth = self.config["predictions_field"], self.config["ground_truth_field"]
        if outcome == "fp":
            return samples.filter_labels(predictions, of_class & (F(self.key) == "fp") & above)
        # Objects whose prediction is below the threshold are found in the sample: listing their ids would not scale.
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
            kind: type of the errors.
            threshold: only predictions of at least this confidence.

        Raises:
            InputError: if the error types were deleted since.
        """
        samples = self.samples(dataset)
        field = self.config["predictions_field"]
        if not dataset.has_field(runs.error_attribute(field, self.key)):
            raise InputError(f"the error types of the predictions in {field!r} were deleted: evaluate again")
        wrong = F(f"{self.key}_error") == kind.replace("_", " ")
        if threshold is not None:
            wrong &= F("confidence") >= threshold
        return samples.filter_labels(field, wrong)

    def samples_confused(self, dataset: fo.Dataset, row: int, column: int) -> fo.DatasetView:
        """The samples of one cell of the confusion matrix, with its predictions and objects alone.

        At most the first ``MAX_LABELS``.
        """
        cells = self.diagnostics["cells"]
        at = zip(cells["row"], cells["column"], strict=True)
        here = [number for number, cell in enumerate(at) if cell == (row, column)][:MAX_LABELS]
        predictions, objects = (
            [cells[name][number] for number in here if cells[name][number] is not None]
            for name in ("prediction_id", "object_id")
        )
        samples = self.samples(dataset)
        if "sample_id" in cells:  # an earlier version did not store them: then all samples are searched
            samples = samples.select(list(dict.fromkeys(cells["sample_id"][number] for number in here)))
        label_id = F("_id").to_string()
        return self._filtered(samples, label_id.is_in(predictions), label_id.is_in(objects))

    def _filtered(self, samples: fo.DatasetView, predictions_filter, truth_filter) -> fo.DatasetView:
        predictions, truth = self.config["predictions_field"], self.config["ground_truth_field"]
        view = samples.filter_labels(truth, truth_filter, only_matches=False)
        view = view.filter_labels(predictions, predictions_filter, only_matches=False)
        either = (F(f"{truth}.detections").length() > 0) | (F(f"{predictions}.detections").length() > 0)
        return view.match(either)


def open_evaluation(dataset: fo.Dataset, key: str) -> StoredEvaluation:
    """Open a stored evaluation.

    Raises:
        RunNotFound: if there is none.
        InputError: if another version of the plugin stored it, or it is damaged.
    """
    config = runs.config(dataset, key, runs.EVALUATION)
    if config["schema"] != runs.EVALUATION.schema:
        raise InputError(f"another version of the plugin made {key!r}, in another format: evaluate again")
    return _opened(dataset.name, key, config["created"], config["model_evaluation"])


def load_evaluation(view: Collection, key: str) -> dict[str, Any]:
    """A stored :class:`.nap_evaluation.EvaluationReport` as plain values.

    Raises:
        RunNotFound: if there is none.
        InputError: if it is damaged.
    """
    names = ("eval_key", "result", "left_out_references", "without_predictions", "notes")
    content = _content(view, key, names)
    return {name: content[name] for name in names}


@lru_cache(maxsize=2)
def _opened(dataset_name: str, key: str, _created: str, _stamp: str) -> StoredEvaluation:
    """Cached, as a slider is moved many times. A later evaluation of the same name has another stamp."""
    dataset = fo.load_dataset(dataset_name)
    content = _content(dataset, key, ("result", "curves", "confidence", "diagnostics", "matches"))
    return StoredEvaluation(key, runs.config(dataset, key, runs.EVALUATION), content)


def _content(view: Collection, key: str, names: Sequence[str]) -> dict[str, Any]:
    """Stored results of an evaluation, with all of some values."""
    content = runs.results(view, key, runs.EVALUATION)
    if missing := [name for name in names if name not in content]:
        raise InputError(
            f"the evaluation {key!r} is damaged, its {missing[0]} is missing: delete it and evaluate again"
        )
    return content
