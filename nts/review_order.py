"""The order in which predictions teach most when a person reviews them.

Confident predictions teach little: they resemble the references. What teaches is an object that is unlike all that is
known, and unlike the others in the queue, whether it is of a class or not: if it is not, it becomes a negative. A
prediction with a wrong outline teaches nothing, so the predicted IoU counts, and the score does not, which is the
resemblance to the references once more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_CONFIDENCE = 0.05
"""Below it, predictions are mostly background, and come after all others. 0.15 does as well."""
_LAST = 1e-3


def object_values(confidences: Tensor, predicted_iou: Tensor) -> Tensor:
    """Values for :func:`most_instructive`: the square of the predicted IoU, and next to nothing for what is unlikely.

    Args:
        confidences: ``[n]`` in ``[0, 1]``, probabilities of being right.
        predicted_iou: ``[n]``.

    Returns:
        ``[n]`` in ``[0, 1]``.
    """
    values = predicted_iou.clamp(0, 1).square()
    return torch.where(confidences >= LEAST_CONFIDENCE, values, _LAST * values)


def most_instructive(values: Tensor, features: Tensor, known: Tensor, most: int) -> Tensor:
    """Queue by ``value (1 - greatest cosine to what is known and to the queue itself)``.

    Args:
        values: ``[n]``, at least 0, of the predictions.
        features: ``[n, C]``, of any length; a prediction without a feature has zeros, and counts as wholly new.
        known: ``[m, C]``, references and negatives; ``m`` may be 0.
        most: length of the queue.

    Returns:
        int64 indices of at most ``most`` predictions, the most instructive first.
    """
    units = F.normalize(features.float(), dim=1)
    resemblance = units.new_zeros(len(units))
    if len(known):
        resemblance = (units @ F.normalize(known.float(), dim=1).T).amax(1).clamp(min=0)
    values = values.to(units)
    waiting = torch.ones(len(units), dtype=torch.bool)
    queue: list[int] = []
    while len(queue) < min(most, len(units)):
        worth = (values * (1 - resemblance)).masked_fill(~waiting, -torch.inf)
        chosen = int(worth.argmax())
        queue.append(chosen)
        waiting[chosen] = False
        resemblance = torch.maximum(resemblance, units @ units[chosen])
    return torch.tensor(queue, dtype=torch.int64)


def centred(features: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Features relative to their common mean: cosines of an encoder's tokens are all high, and tell little apart.

    Args:
        features: ``[n, C]`` of the predictions; zeros stand for no feature, and stay zeros.
        known: ``[m, C]``, references and negatives.

    Returns:
        both as unit vectors less the mean of all of them.
    """
    units, others = F.normalize(features.float(), dim=1), F.normalize(known.float(), dim=1)
    there = units.any(1, keepdim=True)
    everything = torch.cat([units[there[:, 0]], others])
    if len(everything) == 0:
        return units, others
    mean = everything.mean(0)
    return torch.where(there, units - mean, units), others - mean
