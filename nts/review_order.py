"""The order in which predictions teach most when a person reviews them.

Confident predictions teach little: they resemble the references. Unsure ones are mostly background. What teaches is
what is likely right and yet unlike all that is known, and unlike the others in the queue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def most_instructive(scores: Tensor, features: Tensor, known: Tensor, most: int) -> Tensor:
    """Queue by ``score (1 - greatest cosine to what is known and to the queue itself)``.

    Args:
        scores: ``[n]`` in ``[0, 1]``, of the predictions.
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
    scores = scores.to(units)
    waiting = torch.ones(len(units), dtype=torch.bool)
    queue: list[int] = []
    while len(queue) < min(most, len(units)):
        value = (scores * (1 - resemblance)).masked_fill(~waiting, -torch.inf)
        chosen = int(value.argmax())
        queue.append(chosen)
        waiting[chosen] = False
        resemblance = torch.maximum(resemblance, units @ units[chosen])
    return torch.tensor(queue, dtype=torch.int64)
