"""Loss of the masks (VRP-SAM, Sec. 3.4)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def mask_loss(logits: Tensor, truth: Tensor, counted: Tensor, which: Literal["both", "bce", "dice"] = "both") -> Tensor:
    """BCE and Dice loss of masks (VRP-SAM, Sec. 3.4), without ignored pixels.

    ``mean BCE(l, y) + mean_b [1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)]`` with ``p = sigmoid(l)``.

    Args:
        logits: ``l``, ``[B, s, s]``.
        truth: ``y``, ``[B, s, s]`` in ``[0, 1]``.
        counted: ``[B, s, s]``: 1 for pixels that count, 0 for ignored ones.
        which: one of the two terms, or their sum.
    """
    probability = logits.sigmoid() * counted
    bce = F.binary_cross_entropy_with_logits(logits, truth, weight=counted, reduction="sum")
    bce = bce / counted.sum().clamp(min=1)
    truth = truth * counted
    overlap = 2 * (probability * truth).sum((1, 2)) + 1
    dice = (1 - overlap / (probability.sum((1, 2)) + truth.sum((1, 2)) + 1)).mean()
    return {"both": bce + dice, "bce": bce, "dice": dice}[which]
