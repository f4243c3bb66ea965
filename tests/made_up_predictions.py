"""Synthetic predictions on the drawn scenes: correct, shifted, misclassified, duplicated, and on background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from drawn_dataset import CLASSES

if TYPE_CHECKING:
    import fiftyone


def predict(dataset: fiftyone.Dataset, field: str = "found", seed: int = 0) -> None:
    """Write synthetic predictions to a field."""
    import fiftyone as fo

    rng = np.random.default_rng(seed)
    for sample in dataset.iter_samples(autosave=True):
        found = []
        for label in sample.ground_truth.detections:
            other = CLASSES[1 - CLASSES.index(label.label)]
            x, y, w, h = label.bounding_box
            kind = rng.choice(["right", "right", "moved", "other class", "twice", "missed"])
            if kind == "missed":
                continue
            shift = 0.3 * w if kind == "moved" else 0.02 * w
            name = other if kind == "other class" else label.label
            for _ in range(2 if kind == "twice" else 1):
                box = [min(x + shift, 1 - w), y, w, h]
                found.append(fo.Detection(label=name, bounding_box=box, mask=label.mask, confidence=_score(rng)))
        if rng.random() < 0.7:
            mask = np.ones((9, 9), bool)
            found.append(
                fo.Detection(label=CLASSES[0], bounding_box=[0.0, 0.0, 0.05, 0.05], mask=mask, confidence=_score(rng))
            )
        sample[field] = fo.Detections(detections=found)


def _score(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.05, 0.99))
