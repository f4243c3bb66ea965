"""Consensus masks: the outline of an instance, voted by all masks that SAM2 proposes for it.

Many prompts lie on an object, and each of SAM2's three masks for each of them is an outline of the object, of a part,
or of more. Those that overlap an instance vote on its pixels. Only what is drawn changes: suppression, merging and
pooling use the proposal itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

VOTER_IOU = 0.6
"""Masks with more than this IoU with an instance vote on it."""
VOTER_PREDICTED_IOU = 0.3
"""Masks with more than this predicted IoU may vote."""

_CELLS = 1 << 22
_AT_A_TIME = 256
"""Voters in single precision at a time: all of them may overlap an object that fills the image."""


@dataclass(frozen=True)
class Voters:
    """Masks that vote on outlines.

    Attributes:
        votes: half precision ``[V, S, S]`` in ``[-1, 1]``, ``tanh(logit / 2)``: the probability of the pixel, scaled.
        predicted_iou: float ``[V]``.
    """

    votes: Tensor
    predicted_iou: Tensor

    def __len__(self) -> int:
        return len(self.predicted_iou)

    def mirrored(self) -> Voters:
        """The same masks, flipped left to right."""
        return Voters(self.votes.flip(2), self.predicted_iou)

    def and_also(self, others: Voters) -> Voters:
        """Both sets of voters."""
        return Voters(torch.cat([self.votes, others.votes]), torch.cat([self.predicted_iou, others.predicted_iou]))


def as_votes(logits: Tensor) -> Tensor:
    """Votes of masks on every pixel: logits of any shape to half precision in ``[-1, 1]``, of the same sign."""
    return (logits / 2).tanh().half()


def consensus_logits(logits: Tensor, voters: Voters) -> Tensor:
    """Outlines by vote, ``sum_j w_j tanh(logit_j / 2) > 0`` with ``w_j = q_j^2 IoU_ij`` where ``IoU_ij > 0.6``.

    Args:
        logits: ``[n, S, S]``, the instances' own masks, positive inside.
        voters: masks of the same size.

    Returns:
        float ``[n, S, S]``, positive inside: the sum of the votes. An instance that nobody votes on, or whose vote is
        empty, keeps its own logits.
    """
    if logits.device.type != "cpu":
        return votes_together(logits, voters)
    outlines = []
    for own, iou in zip(logits, _overlaps(logits > 0, voters.votes), strict=True):
        chosen = (iou > VOTER_IOU).nonzero()[:, 0]
        weights = voters.predicted_iou[chosen].float().square() * iou[chosen]
        vote = torch.zeros_like(own, dtype=torch.float32)
        for rows, of_rows in zip(chosen.split(_AT_A_TIME), weights.split(_AT_A_TIME), strict=True):
            vote += (of_rows @ voters.votes[rows].flatten(1).float()).unflatten(0, own.shape)
        outlines.append(vote if (vote > 0).any() else own.float())
    return torch.stack(outlines) if outlines else logits.float()


def votes_together(logits: Tensor, voters: Voters) -> Tensor:
    """The result of :func:`consensus_logits`, without looking at single instances: for a GPU, which is slow to ask."""
    if len(logits) == 0:
        return logits.float()
    iou = torch.stack(list(_overlaps(logits > 0, voters.votes)))
    weights = (voters.predicted_iou.float().square() * iou).masked_fill(iou <= VOTER_IOU, 0.0)
    votes = torch.zeros(logits.shape, device=logits.device)
    for of_voters, ballots in zip(weights.split(_AT_A_TIME, 1), voters.votes.split(_AT_A_TIME), strict=True):
        votes += (of_voters @ ballots.flatten(1).float()).unflatten(1, logits.shape[1:])
    return torch.where((votes > 0).flatten(1).any(1)[:, None, None], votes, logits.float())


def _overlaps(masks: Tensor, votes: Tensor) -> Iterator[Tensor]:
    """IoU of every mask with every voter, ``[V]`` each. Rows of pixels are taken in blocks, to bound the memory."""
    if len(masks) == 0:
        return
    flat, voting = masks.flatten(1), votes.flatten(1)
    shared = torch.zeros(len(flat), len(voting), device=masks.device)
    areas, voting_areas = torch.zeros(len(flat), device=masks.device), torch.zeros(len(voting), device=masks.device)
    block = max(1, _CELLS // max(1, len(flat) + len(voting)))
    for begin in range(0, flat.shape[1], block):
        ours = flat[:, begin : begin + block].float()
        theirs = (voting[:, begin : begin + block] > 0).float()
        shared += ours @ theirs.T  # counts below 2**24 are exact
        areas += ours.sum(1)
        voting_areas += theirs.sum(1)
    yield from shared / (areas[:, None] + voting_areas - shared).clamp(min=1)
