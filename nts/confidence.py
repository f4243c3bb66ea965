"""Rank and confidence of instances from similarity, predicted IoU, and the resemblance to negatives."""

from __future__ import annotations

from torch import Tensor

from .method import Rank

EXPONENT = 0.375
"""Exponent of the predicted IoU in the confidence; 0.2 to 0.4 do as well."""
EXPONENT_WITH_NEGATIVES = 0.75


def combined_rank(similarity: Tensor, predicted_iou: Tensor) -> Tensor:
    """Order of NMS and merging, ``q (max_k s_k)^2``.

    Args:
        similarity: ``[n]``, greatest class similarity of each proposal.
        predicted_iou: ``[n]``.
    """
    return predicted_iou.clamp(min=0) * similarity.square()


def confidence(
    similarity: Tensor, predicted_iou: Tensor, background: Tensor | None, slope: float, rank: Rank = "combined"
) -> Tensor:
    """Confidence before the decay of merging, ``M q^gamma``.

    Without negatives ``M = s``; with them ``M = s sigmoid(slope (s - n))``.

    Args:
        similarity: ``[n]``, ``s``, to the class of each proposal.
        predicted_iou: ``[n]``, ``q``.
        background: ``[n]``, similarity to the negatives; ``None`` without negatives.
        slope: of the logistic function.
        rank: ``"predicted-iou"`` leaves ``q`` to the rank, as published.

    Returns:
        ``[n]`` in ``[0, 1]``.
    """
    matched = similarity if background is None else similarity * (slope * (similarity - background)).sigmoid()
    if rank == "predicted-iou":
        return matched
    return matched * predicted_iou.clamp(0, 1) ** (EXPONENT if background is None else EXPONENT_WITH_NEGATIVES)
