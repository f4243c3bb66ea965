"""Class-agnostic encoding of a target image: encode it once, match it with any classes.

Neither model depends on the classes, and nor do the pooled features of the proposals, their masks and the overlaps of
these. An :class:`EncodedTarget` is the output of the models; a :class:`Target` is the small part of it that matching
against prototypes needs, and that the cache stores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from .consensus import Voters, consensus_logits
from .crops import TargetCrops
from .images import PreparedImage
from .masks import draw_crops
from .matching import pool_tokens
from .prompt_scores import PromptScores
from .proposal_masks import DrawnMasks, LogitMasks, ProposalMasks, RunLengthMasks
from .segmenter import ImageEmbedding, Proposals
from .tiles import pool_tiles
from .utils.devices import own_stream
from .utils.threads import in_one_thread

Part = TypeVar("Part")


@dataclass(frozen=True)
class Target:
    """The ``n`` proposals of an image, ready to be matched; on the CPU.

    Attributes:
        features: float32 ``[n, C]``, L2-normalised means of the patch tokens over the masks. Half precision would halve
            the size and move scores by up to 4e-4.
        predicted_iou: float32 ``[n]``.
        masks: those of the proposals.
        voted: outlines of the proposals by consensus; ``None`` if none were drawn.
        of_tiles: float32 ``[n, C]``, features of the proposals from tiles; ``None`` if there were none.
        as_scored: masks of the proposals at the size of their logits, for scorers that prompt SAM2; else ``None``.
        embedded: features of the proposals from their crops; ``None`` if the image is not at hand.
        prompted: scores of the proposals by a reference prompt; ``None`` without ``as_scored``, or without the image.
    """

    features: Tensor
    predicted_iou: Tensor
    masks: RunLengthMasks
    voted: DrawnMasks | None = None
    of_tiles: Tensor | None = None
    as_scored: DrawnMasks | None = None
    embedded: TargetCrops | None = None
    prompted: PromptScores | None = None

    def __len__(self) -> int:
        return len(self.predicted_iou)

    @property
    def crops(self) -> TargetCrops:
        """Features from crops; raises ``ValueError`` if the image is not at hand."""
        return _present(self.embedded, "its image, from which crops are cut")

    @property
    def tile_features(self) -> Tensor:
        """Features from tiles; raises ``ValueError`` if there are none."""
        return _present(self.of_tiles, "the features of its tiles")

    @property
    def outlines(self) -> Outlines:
        """Outlines by consensus; raises ``ValueError`` if none were drawn."""
        return Outlines(_present(self.voted, "the masks that vote on outlines"), self.masks)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.masks.image_size

    def compact(self) -> Target:
        """The target itself, see :meth:`EncodedTarget.compact`."""
        return self

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as they are stored."""
        tensors = {"features": self.features, "predicted_iou": self.predicted_iou, **self.masks.tensors}
        if self.of_tiles is not None:
            tensors["tile_features"] = self.of_tiles
        for prefix, drawn in ((_VOTED, self.voted), (_SCORED, self.as_scored)):
            if drawn is not None:
                tensors |= {f"{prefix}{name}": value for name, value in drawn.tensors.items()}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], image_size: tuple[int, int]) -> Target:
        """Inverse of :attr:`tensors`, with the size ``(H, W)`` of the image."""

        def drawn(prefix: str) -> DrawnMasks | None:
            found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            return DrawnMasks(**found) if found else None

        return cls(
            tensors["features"],
            tensors["predicted_iou"],
            RunLengthMasks.from_tensors(tensors, image_size),
            drawn(_VOTED),
            tensors.get("tile_features"),
            drawn(_SCORED),
        )


_VOTED, _SCORED = "voted_", "scored_"


@dataclass(frozen=True)
class EncodedImage:
    """An image that both image encoders have seen, but not yet SAM2's decoder.

    Attributes:
        prepared: the image.
        tokens: ``[h, w, C]`` patch tokens.
        embedding: SAM2's.
    """

    prepared: PreparedImage
    tokens: Tensor
    embedding: ImageEmbedding

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.prepared.image_size


@dataclass(frozen=True)
class EncodedTarget:
    """Output of both models for an image.

    Attributes:
        tokens: ``[h, w, C]`` patch tokens.
        proposals: the ``n`` masks that SAM2 proposes.
        image_size: ``(H, W)`` in pixels.
        embedding: SAM2's, with its "no memory" embedding, for scorers that prompt the decoder; ``None`` otherwise.
        tiles: patch tokens of the image's tiles, see :mod:`nts.tiles`; ``None`` if the method uses none.
        embedded: features of the proposals from their crops; ``None`` if the method uses none.
    """

    tokens: Tensor
    proposals: Proposals
    image_size: tuple[int, int]
    embedding: ImageEmbedding | None = None
    tiles: Tensor | None = None
    embedded: TargetCrops | None = None

    @cached_property
    def prompted(self) -> PromptScores | None:
        """See :attr:`Target.prompted`; ``None`` without SAM2's embedding."""
        embedding = self.embedding
        if embedding is None:
            return None
        return PromptScores(lambda: self.proposals.mask_logits > 0, lambda: (self.tokens, embedding))

    @property
    def crops(self) -> TargetCrops:
        """See :attr:`Target.crops`."""
        return _present(self.embedded, "its image, from which crops are cut")

    @cached_property
    def tile_features(self) -> Tensor:
        """See :attr:`Target.tile_features`."""
        return pool_tiles(_present(self.tiles, "the features of its tiles"), self.proposals.mask_logits > 0)

    @property
    def outlines(self) -> Outlines:
        """See :attr:`Target.outlines`."""
        voters = _present(self.proposals.voters, "the masks that vote on outlines")
        return Outlines(VotedMasks(self.proposals.mask_logits, voters, self.image_size), self.masks)

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
        with own_stream(device):
            return in_one_thread(self._compact, device)

    def _compact(self) -> Target:
        target = make_target(self.features, self.proposals, self.image_size)
        logits, voted, as_scored = self.proposals.mask_logits, None, None
        if self.proposals.voters is not None:
            voted = DrawnMasks.of_logits(consensus_logits(logits, self.proposals.voters), self.image_size)
        if self.embedding is not None:
            as_scored = DrawnMasks.of_logits(logits, (logits.shape[1], logits.shape[2]))
        of_tiles = None if self.tiles is None else self.tile_features.float().cpu()
        return replace(
            target,
            voted=voted,
            of_tiles=of_tiles,
            as_scored=as_scored,
            embedded=self.embedded,
            prompted=self.prompted,
        )


@dataclass(frozen=True)
class VotedMasks:
    """Outlines of proposals by consensus, drawn when they are asked for.

    Attributes:
        logits: ``[n, S, S]``, of the proposals.
        voters: masks that vote.
        image_size: ``(H, W)`` of the image in pixels.
    """

    logits: Tensor
    voters: Voters
    image_size: tuple[int, int]

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """See :meth:`nts.proposal_masks.ProposalMasks.crops`."""
        return draw_crops(consensus_logits(self.logits[which], self.voters), self.image_size)


@dataclass(frozen=True)
class Outlines:
    """Outlines by consensus; those that vanish at the image's size are replaced by the proposals' own masks.

    Attributes:
        voted: the outlines.
        own: masks of the proposals.
    """

    voted: VotedMasks | DrawnMasks
    own: ProposalMasks

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """See :meth:`nts.proposal_masks.ProposalMasks.crops`."""
        crops, boxes = self.voted.crops(which)
        vanished = [row for row, crop in enumerate(crops) if not crop.numel()]
        if vanished:
            own, boxes[vanished] = self.own.crops(which[vanished])
            for row, crop in zip(vanished, own, strict=True):
                crops[row] = crop
        return crops, boxes


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


def _present(value: Part | None, what: str) -> Part:
    if value is None:
        raise ValueError(f"the target was encoded without {what}: encode it with the preset that it is matched with")
    return value
