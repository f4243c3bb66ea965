"""Which predictions to review first, so that few decisions teach the memory most."""

from __future__ import annotations

import numpy as np
import torch

from ..memory import MemoryBank
from ..review_order import centred, most_instructive, teaching_values
from . import runs
from .runs import Collection

BATCH = 10
"""Predictions to review before the memory is taught again."""


def review_queue(view: Collection, field: str, most: int = BATCH) -> list[str]:
    """Ids of the most instructive undecided predictions of a view, see :mod:`nts.review_order`.

    Args:
        view: dataset or view, possibly with some of the labels only.
        field: field of a segmentation.
        most: number of predictions.

    Returns:
        at most ``most`` label ids. Predictions of earlier versions, without a feature, are ranked by their score.

    Raises:
        RunNotFound: if there is no such segmentation, or its memory is gone.
    """
    bank = runs.load_memory(view, runs.config(view, field, runs.SEGMENTATION)["memory_key"])
    ids, values, features = _undecided(view, field, bank)
    queue = most_instructive(values, *centred(features, _known(bank)), most)
    return [ids[k] for k in queue.tolist()]


def _known(bank: MemoryBank) -> torch.Tensor:
    """``[m, C]``: references and negatives."""
    return torch.stack([each.prototype for each in (*bank.entries, *bank.negatives)])


def _undecided(view: Collection, field: str, bank: MemoryBank) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Ids, values and features ``[n, C]`` of the undecided predictions, zeros where there is no usable feature."""
    names = ["id", "confidence", "score", "predicted_iou", runs.DECISION]
    if view._root_dataset.get_field(f"{field}.detections.feature") is not None:
        names.append("feature")
    ids, scores, predicted_ious, features = [], [], [], []
    for of_image in zip(*view.values([f"{field}.detections.{name}" for name in names]), strict=True):
        columns = zip(*(values or () for values in of_image), strict=True)
        for label_id, confidence, score, predicted_iou, decision, *feature in columns:
            if decision is None and confidence is not None and predicted_iou is not None:
                ids.append(label_id)
                # Probabilities span orders of magnitude: they would outweigh how new a prediction is.
                scores.append(confidence if score is None else score)
                predicted_ious.append(predicted_iou)
                fits = feature and np.shape(feature[0]) == (bank.encoder.dim,)
                features.append(feature[0] if fits else np.zeros(bank.encoder.dim))
    stacked = np.array(features, np.float32).reshape(-1, bank.encoder.dim)
    score, there = torch.tensor(scores, dtype=torch.float32), torch.from_numpy(stacked.any(1))
    values = teaching_values(score, torch.tensor(predicted_ious, dtype=torch.float32))
    return ids, torch.where(there, values, score), torch.from_numpy(stacked)
