"""Confidence of a draw: what its calibration recommends and expects, beside what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..calibration import Calibration
from ..metrics.average_precision import objects_to_find
from ..metrics.matches import Matches
from ..metrics.reliability import reliability_of_matches
from ..recommendation import recommend

_IOU = 0.5


def calibration_numbers(calibration: Calibration | None, matches: Matches) -> dict[str, Any] | None:
    """Recommended threshold, expected and measured precision and recall, and the expected calibration error.

    Args:
        calibration: of the memory of a draw; ``None`` if its scores have none.
        matches: of all predictions of the draw, with their raw scores.

    Returns:
        Percent, but for the threshold on the score, ``score``: the lowest that is recommended, ``None`` if there is
        none. ``None`` in place of all numbers if there is no calibration.
    """
    if calibration is None or calibration.basis == "none":
        return None
    scores = torch.from_numpy(matches.score)
    shifted = calibration.shifted(scores)
    probabilities = shifted.probabilities(scores)
    recommended = recommend(shifted, scores)
    chosen = (probabilities >= recommended.threshold).numpy()
    t = int(np.flatnonzero(np.isclose(matches.iou_thresholds, _IOU))[0])
    area = matches.areas.index("all")
    right = int(matches.true_positives()[area, t][chosen].sum())
    wrong = int(matches.false_positives()[area, t][chosen].sum())
    objects = int(objects_to_find(matches, np.ones(len(matches.image_ids), np.int64))[area].sum())
    calibrated = reliability_of_matches(replace(matches, score=probabilities.numpy()))
    return {
        "basis": calibration.basis,
        "references": calibration.references,
        "negatives": calibration.negatives,
        "score": float(scores[chosen].min()) if chosen.any() else None,
        "instances": recommended.instances,
        "expected_precision": _percent(recommended.precision),
        "expected_recall": _percent(recommended.recall),
        "precision": _ratio(right, right + wrong),
        "recall": _ratio(right, objects),
        "f1": _ratio(2 * right, right + wrong + objects),
        "calibration_error": _percent(calibrated.error),
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _ratio(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
