"""Scores of an image's proposals by a trained reference prompt, class by class.

A class is scored by its own references alone. With the scores of earlier classes at hand, a memory that gained a class,
or a reference, needs SAM2's embedding of the image, and the scores of that class; the proposals stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .segmenter import ImageEmbedding

Score = Callable[[Tensor, ImageEmbedding, Tensor, Sequence[int]], Tensor]
"""From patch tokens ``[h, w, C]``, SAM2's embedding, masks bool ``[n, S, S]`` and the indices of ``k`` classes to the
scores ``[n, k]`` of these classes."""


class PromptScores:
    """Scores of an image's ``n`` proposals, computed when they are first asked for.

    Args:
        masks: returns the proposals, bool ``[n, S, S]``.
        encode: returns the patch tokens ``[h, w, C]`` of the image and SAM2's embedding with its "no memory" embedding.
            Both are called only if a score is missing.
        known: scores ``[n]`` by class, computed before.

    Attributes:
        scores: all scores ``[n]`` by class, on the CPU; those that were asked for last come last.
        used: number of classes asked for last.
        new: number of classes scored here.
    """

    def __init__(
        self,
        masks: Callable[[], Tensor],
        encode: Callable[[], tuple[Tensor, ImageEmbedding]],
        known: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._masks, self._encode = masks, encode
        self.scores: dict[str, Tensor] = dict(known or {})
        self.used = self.new = 0

    def of(self, classes: Sequence[str], score: Score) -> Tensor:
        """Scores of all proposals for some classes.

        Args:
            classes: for each of ``K >= 1`` classes a key that names everything its scores depend on.
            score: computes the scores of some of them.

        Returns:
            float32 ``[n, K]`` on the CPU.
        """
        missing = [k for k, name in enumerate(classes) if name not in self.scores]
        if missing:
            found = score(*self._encode(), self._masks(), missing).float().cpu()
            self.scores |= {classes[k]: of_class.clone() for k, of_class in zip(missing, found.T, strict=True)}
            self.new += len(missing)
        last = dict.fromkeys(classes)
        self.scores |= {name: self.scores.pop(name) for name in last}
        self.used = len(last)
        return torch.stack([self.scores[name] for name in classes], 1)
