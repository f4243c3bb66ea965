"""The order in which predictions teach most when a person reviews them.

Confident predictions teach little: they resemble the references. Unsure ones are mostly background. What teaches is a
likely object that is unlike all that is known, and unlike the others in the queue. It need not be of a class: if it is
not, it becomes a negative. A prediction with a wrong outline teaches nothing, so the predicted IoU counts strongly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OUTLINE_EXPONENT = 4
"""Exponent of the predicted IoU, beside its part in the score; 2 to 6 do nearly as well."""


def teaching_values(scores: Tensor, predicted_iou: Tensor) -> Tensor:
    """Values for :func:`most_instructive`: ``score q^4``.

    Args:
        scores: ``[n]`` in ``[0, 1]``, before they become probabilities.
        predicted_iou: ``[n]``, ``q``.

    Returns:
        ``[n]`` in ``[0, 1]``.
    """
    return scores.clamp(min=0) * predicted_iou.clamp(0, 1) ** OUTLINE_EXPONENT


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
