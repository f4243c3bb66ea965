"""Class-agnostic encoding of a target image: encode it once, match it with any classes.

Neither model depends on the classes, and nor do the pooled features of the proposals, their masks and the overlaps of
these. An :class:`EncodedTarget` is the output of the models; a :class:`Target` is the small part of it that matching
against prototypes needs, and that the cache stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from .matching import pool_tokens
from .proposal_masks import LogitMasks, RunLengthMasks
from .segmenter import ImageEmbedding, Proposals
from .utils.threads import in_one_thread


@dataclass(frozen=True)
class Target:
    """The ``n`` proposals of an image, ready to be matched; on the CPU.

    Attributes:
        features: float32 ``[n, C]``, L2-normalised means of the patch tokens over the masks. Half precision would halve
            the size and move scores by up to 4e-4.
        predicted_iou: float32 ``[n]``.
        masks: those of the proposals.
    """

    features: Tensor
    predicted_iou: Tensor
    masks: RunLengthMasks

    def __len__(self) -> int:
        return len(self.predicted_iou)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.masks.image_size

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as they are stored."""
        return {"features": self.features, "predicted_iou": self.predicted_iou, **self.masks.tensors}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], image_size: tuple[int, int]) -> Target:
        """Inverse of :attr:`tensors`, with the size ``(H, W)`` of the image."""
        masks = RunLengthMasks.from_tensors(tensors, image_size)
        return cls(tensors["features"], tensors["predicted_iou"], masks)


@dataclass(frozen=True)
class EncodedTarget:
    """Output of both models for an image.

    Attributes:
        tokens: ``[h, w, C]`` patch tokens.
        proposals: the ``n`` masks that SAM2 proposes.
        image_size: ``(H, W)`` in pixels.
        embedding: SAM2's, with its "no memory" embedding, for scorers that prompt the decoder; ``None`` otherwise.
    """

    tokens: Tensor
    proposals: Proposals
    image_size: tuple[int, int]
    embedding: ImageEmbedding | None = None

    @cached_property
    def features(self) -> Tensor:
        """Pooled features of the proposals: float ``[n, C]``, L2-normalised.

        Raises:
            ValueError: if the tokens are not finite.
        """
        if not self.tokens.isfinite().all():
            raise ValueError("the patch tokens of the target hold NaN or infinity")
        return pool_tokens(self.tokens, self.proposals.mask_logits > 0)

    @property
    def predicted_iou(self) -> Tensor:
        """``[n]``."""
        return self.proposals.predicted_iou

    @cached_property
    def masks(self) -> LogitMasks:
        """Masks of the proposals."""
        return LogitMasks(self.proposals.mask_logits, self.image_size)

    def compact(self) -> Target:
        """Draw all masks and drop everything that matching against prototypes does not need."""
        device = self.proposals.mask_logits.device
        return in_one_thread(lambda: make_target(self.features, self.proposals, self.image_size), device)


def make_target(features: Tensor, proposals: Proposals, image_size: tuple[int, int]) -> Target:
    """Draw the proposals of an image, for the cache.

    Args:
        features: ``[n, C]`` of the proposals, from :func:`nts.matching.pool_tokens`.
        proposals: ``n`` of them.
        image_size: ``(H, W)`` in pixels.
    """
    return Target(
        features.float().cpu(),
        proposals.predicted_iou.float().cpu(),
        RunLengthMasks.of_logits(proposals.mask_logits, image_size),
    )
