"""Stored format of an evaluation's results; :mod:`.evaluation_results` reads it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ..metrics.average_precision import Curves, counts_by_confidence
from ..metrics.error_types import Diagnostics
from ..metrics.matches import IouType, Matches
from .coco import CocoData

CURVE_IOUS = (0.5, 0.75)
"""IoU thresholds at which precision over recall is stored, beside its mean over all of them."""


def evaluation_content(
    matches: dict[IouType, Matches], curves: dict[IouType, Curves], data: CocoData, diagnostics: Diagnostics
) -> dict[str, Any]:
    """Curves, counts by confidence, diagnostics and matches as plain values."""
    return {
        "curves": {iou_type: _curves(of_type) for iou_type, of_type in curves.items()},
        "confidence": {iou_type: _counts(of_type) for iou_type, of_type in matches.items()},
        "diagnostics": {**diagnostics.to_dict(), "cells": _cells(data, diagnostics)},
        "matches": {
            iou_type: base64.b64encode(of_type.to_bytes()).decode("ascii") for iou_type, of_type in matches.items()
        },
    }


def _curves(curves: Curves) -> dict[str, Any]:
    """Precision ``[K][101]`` at some IoU thresholds and their mean; all areas, the highest limit of predictions.

    -1 where there is no ground truth.
    """
    precision = curves.precision[:, :, :, curves.areas.index("all"), -1]
    at = {"mean": precision.mean(0)}
    for iou in CURVE_IOUS:
        at[f"{iou:g}"] = precision[round((iou - 0.5) / 0.05)]
    return {name: values.T.round(4).tolist() for name, values in at.items()}


def _counts(matches: Matches) -> dict[str, Any]:
    counts = counts_by_confidence(matches)
    return {
        "thresholds": np.round(counts.thresholds, 6).tolist(),
        "tp": counts.tp.tolist(),
        "fp": counts.fp.tolist(),
        "ground_truth": counts.ground_truth.tolist(),
    }


def _cells(data: CocoData, diagnostics: Diagnostics) -> dict[str, list]:
    """Row, column and label ids of every count of the confusion matrix; ``None`` for no label."""
    classes = len(diagnostics.classes)
    cells: dict[str, list] = {"row": [], "column": [], "sample_id": [], "prediction_id": [], "object_id": []}
    for result, annotation in diagnostics.pairs.tolist():
        predicted = None if result < 0 else data.results[result]
        true = None if annotation < 0 else data.ground_truth["annotations"][annotation]
        # Category ids count from 1: evaluated classes first, then distractors.
        cells["row"].append(classes if predicted is None else predicted["category_id"] - 1)
        cells["column"].append(classes + 1 if true is None else min(true["category_id"] - 1, classes))
        cells["sample_id"].append((predicted or true or {}).get("image_id"))
        cells["prediction_id"].append(predicted and predicted["label_id"])
        cells["object_id"].append(true and true["label_id"])
    return cells
