"""Segment images by a memory: encode, score, match (paper, Sec. 3.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cache.targets import target_key, target_settings
from .calibration import Calibration, calibrate
from .crops import TargetCrops
from .encoder import Encoder
from .images import PreparedImage, prepare_target
from .instances import Instances
from .matching import choose_instances, nearest_references
from .memory import MemoryBank
from .method import PUBLISHED
from .models import load_encoder, load_segmenter
from .presets import Preset, get_preset
from .scoring import ExemplarScorer, Scorer, make_prototype_scorer
from .segmenter import ImageEmbedding, Proposals, Segmenter
from .segmenter.guidance import guided_points
from .segmenter.scales import propose_at_scales
from .settled import Settled, blocked_classes
from .targets import EncodedImage, EncodedTarget, Target
from .tile_joining import Tile, join_tiles, large_proposals
from .tiles import encode_tiles
from .tiling import ObjectSize, TiledImage, Tiling, windows
from .two_pass import match_target
from .utils.devices import images_per_batch, pinned, to_device
from .utils.threads import in_one_thread, side_by_side

logger = logging.getLogger(__name__)


def prepare_image(
    image: np.ndarray, encoder: Encoder, segmenter: Segmenter, preset: str | Preset = "default"
) -> PreparedImage:
    """Resize and normalise an image, uint8 ``[H, W, 3]``, for both models; no model is run."""
    of_encoder, of_segmenter = prepare_target(
        image, encoder.info.input_size, segmenter.input_size, antialias=get_preset(preset).antialias
    )
    return PreparedImage(pinned(of_encoder, encoder.device), pinned(of_segmenter, segmenter.device), image)


def encode_image(
    image: np.ndarray | PreparedImage, encoder: Encoder, segmenter: Segmenter, preset: str | Preset = "default"
) -> tuple[Tensor, ImageEmbedding]:
    """Return the patch tokens ``[h, w, C]`` and the SAM2 embedding of an image, uint8 ``[H, W, 3]`` or prepared."""
    preset = get_preset(preset)
    inputs = prepare_image(image, encoder, segmenter, preset) if isinstance(image, np.ndarray) else image

    def encode() -> Tensor:
        return encoder.encode(inputs.encoder_input[None])[0]

    def embed() -> ImageEmbedding:
        return segmenter.embed(inputs.segmenter_input, add_no_mem_embed=preset.proposals.add_no_mem_embed)

    if encoder.is_small and segmenter.is_small and encoder.device.type == segmenter.device.type == "cpu":
        return side_by_side(encode, embed)
    return encode(), embed()


def encode_together(
    images: Sequence[PreparedImage], encoder: Encoder, segmenter: Segmenter, preset: str | Preset = "default"
) -> list[EncodedImage]:
    """Run both image encoders on several images at once; on fewer at a time where the memory does not suffice."""
    if len(images) < 2:
        return [EncodedImage(image, *encode_image(image, encoder, segmenter, preset)) for image in images]
    with_no_mem_embed = get_preset(preset).proposals.add_no_mem_embed
    try:
        # Stacked on the device: the copies of single images overlap with its work.
        tokens = encoder.encode(torch.stack([to_device(image.encoder_input, encoder.device) for image in images]))
        pixels = torch.stack([to_device(image.segmenter_input, segmenter.device) for image in images])
        embedding = segmenter.embed(pixels, add_no_mem_embed=with_no_mem_embed)
        return [EncodedImage(image, tokens[k], embedding.of(k)) for k, image in enumerate(images)]
    except torch.OutOfMemoryError:
        logger.warning("out of memory on the device for a batch of %d images: halving it", len(images))
    # After the except block: only now has the failed call released its memory.
    middle = len(images) // 2
    return [
        image
        for half in (images[:middle], images[middle:])
        for image in encode_together(half, encoder, segmenter, preset)
    ]


def embedding_for_prompts(
    embedding: ImageEmbedding, segmenter: Segmenter, preset: str | Preset = "default"
) -> ImageEmbedding:
    """Return an embedding of :func:`encode_image` with SAM2's "no memory" embedding.

    The decoder was trained with it, so prompts need it even where the proposals of a preset do without.
    """
    return embedding if get_preset(preset).proposals.add_no_mem_embed else segmenter.with_no_mem_embed(embedding)


def encode_target(
    image: np.ndarray | PreparedImage | EncodedImage,
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    *,
    keep_embedding: bool = False,
    prototypes: Tensor | None = None,
) -> EncodedTarget:
    """Run both models on an image and propose masks (paper, Sec. 3.3).

    Args:
        image: uint8 ``[H, W, 3]``, or prepared by :func:`prepare_image`, or encoded by :func:`encode_together`.
        encoder, segmenter: the models.
        preset: decides how the image is resized, and which masks are proposed.
        keep_embedding: store SAM2's embedding, for scorers that need it.
        prototypes: ``[K, C]``, for presets that choose points by similarity to the prototypes. By default, every point
            of the grid is a prompt.
    """
    preset = get_preset(preset)
    if isinstance(image, np.ndarray):
        image = prepare_image(image, encoder, segmenter, preset)
    if isinstance(image, EncodedImage):
        tokens, embedding, image = image.tokens, image.embedding, image.prepared
    else:
        tokens, embedding = encode_image(image, encoder, segmenter, preset)
    points = None
    if preset.proposals.guidance is not None and prototypes is not None:
        side = preset.proposals.points_per_side or segmenter.points_per_side
        points = guided_points(tokens, prototypes, side, preset.proposals.guidance)
    proposals = propose_at_scales(segmenter, image.segmenter_input, embedding, preset.asked_proposals, points)
    pixels = image.image
    if preset.method.mirrored:
        proposals = _with_mirrored_voters(proposals, image, segmenter, preset)
    return EncodedTarget(
        tokens,
        proposals,
        image.image_size,
        embedding_for_prompts(embedding, segmenter, preset) if keep_embedding else None,
        encode_tiles(image.image, encoder) if preset.method.tiles else None,
        TargetCrops(lambda: pixels, encoder) if preset.method.crops else None,
    )


def _with_mirrored_voters(
    proposals: Proposals, image: PreparedImage, segmenter: Segmenter, preset: Preset
) -> Proposals:
    """Proposals with the voters of the mirrored image added to their own."""
    mirrored = segmenter.embed(image.segmenter_input.flip(2), add_no_mem_embed=preset.proposals.add_no_mem_embed)
    others = segmenter.propose(mirrored, preset.asked_proposals).voters
    assert proposals.voters is not None
    assert others is not None
    return replace(proposals, voters=proposals.voters.and_also(others.mirrored()))


def encode_tiled(
    image: TiledImage,
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    *,
    prototypes: Tensor | None = None,
) -> Target:
    """Encode a large image by its tiles and as a whole, and join what they propose, see :mod:`nts.tile_joining`.

    Args:
        image: and its tiles.
        encoder, segmenter, preset, prototypes: see :func:`encode_target`.
    """
    preset = get_preset(preset)
    whole = large_proposals(
        encode_target(image.image, encoder, segmenter, preset, prototypes=prototypes), image.windows
    )
    logits, compact = whole.proposals.mask_logits, whole.compact()
    del whole  # with the masks that vote
    tiles = []
    at_once = images_per_batch(segmenter.device)
    for begin in range(0, len(image.windows), at_once):
        some = image.windows[begin : begin + at_once]
        pixels = [np.ascontiguousarray(image.image[top:bottom, left:right]) for left, top, right, bottom in some]
        prepared = [prepare_image(tile, encoder, segmenter, preset) for tile in pixels]
        for window, encoded in zip(some, encode_together(prepared, encoder, segmenter, preset), strict=True):
            target = encode_target(encoded, encoder, segmenter, preset, prototypes=prototypes).compact()
            tiles.append(Tile(window, replace(target, embedded=None)))  # crops are cut from the image
    joined = in_one_thread(lambda: join_tiles(compact, logits, tiles), torch.device("cpu"))
    return replace(joined, embedded=compact.embedded)


class TargetEncoder:
    """Encodes images for the matching, cut into tiles where the references are small on theirs.

    Args:
        encoder, segmenter: loaded models.
        preset: decides how images are read, cut and resized, and which masks are proposed.
        prototypes: ``[K, C]``, see :func:`encode_target`.
        sizes: of the references on their images, which decide on tiles.
        for_prompts: keep what scorers need that prompt SAM2.
    """

    def __init__(
        self,
        encoder: Encoder,
        segmenter: Segmenter,
        preset: Preset,
        *,
        prototypes: Tensor | None = None,
        sizes: Sequence[ObjectSize] = (),
        for_prompts: bool = False,
    ) -> None:
        self.encoder, self.segmenter, self.preset = encoder, segmenter, preset
        self.for_prompts = for_prompts
        self._prototypes, self._sizes = prototypes, list(sizes)

    @property
    def makes_tiles(self) -> bool:
        """Whether any image may be cut into tiles."""
        return self.preset.tiling.makes_tiles(self._sizes)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the tiles of an image ``(H, W)``; ``(1, 1)`` if it is seen whole only."""
        return self.preset.tiling.grid_for(image_size, self._sizes, self.segmenter.input_size)

    def prepare(self, image: np.ndarray) -> PreparedImage | TiledImage:
        """Prepare an image, uint8 ``[H, W, 3]``, for :meth:`encode`, for example in another thread."""
        grid = self.grid(image.shape[:2])
        if grid != (1, 1):
            return TiledImage(image, windows(image.shape[:2], grid, self.preset.tiling.overlap))
        return prepare_image(image, self.encoder, self.segmenter, self.preset)

    @property
    def images_per_batch(self) -> int:
        """Number of images that :meth:`encode_together` is best called with; 1 on a CPU."""
        return min(images_per_batch(self.encoder.device), images_per_batch(self.segmenter.device))

    def encode_together(self, images: Sequence[PreparedImage]) -> list[EncodedImage]:
        """Run both image encoders on several images at once, for :meth:`encode`."""
        return encode_together(images, self.encoder, self.segmenter, self.preset)

    def encode(self, image: np.ndarray | PreparedImage | EncodedImage | TiledImage) -> EncodedTarget | Target:
        """Run both models on an image, and on its tiles if it needs any.

        Args:
            image: uint8 ``[H, W, 3]``, or from :meth:`prepare`, or from :meth:`encode_together`.
        """
        if isinstance(image, np.ndarray):
            image = self.prepare(image)
        if isinstance(image, TiledImage):
            return encode_tiled(image, self.encoder, self.segmenter, self.preset, prototypes=self._prototypes)
        return encode_target(
            image,
            self.encoder,
            self.segmenter,
            self.preset,
            keep_embedding=self.for_prompts,
            prototypes=self._prototypes,
        )

    def encode_for_prompts(self, image: np.ndarray) -> tuple[Tensor, ImageEmbedding]:
        """Patch tokens ``[h, w, C]`` and SAM2's embedding of an image, as its target had them; nothing is proposed."""
        tokens, embedding = encode_image(image, self.encoder, self.segmenter, self.preset)
        return tokens, embedding_for_prompts(embedding, self.segmenter, self.preset)

    def key(self, content: str, image_size: tuple[int, int] | None = None) -> str:
        """Key of the target of an image in a cache, see :func:`nts.cache.targets.target_key`.

        Args:
            content: digest of the image.
            image_size: ``(H, W)`` in pixels; ``None`` for an image without tiles.
        """
        grid = (1, 1) if image_size is None else self.grid(image_size)
        tiles = {} if grid == (1, 1) else {"tile_grid": list(grid), "tile_overlap": self.preset.tiling.overlap}
        return target_key(content, self._settings | tiles)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return target_settings(
            self.encoder, self.segmenter, self.preset, self._prototypes, for_prompts=self.for_prompts
        )


class ReferenceSegmenter:
    """Finds the objects of a memory's classes in images.

    >>> segmenter = ReferenceSegmenter(memory)
    >>> instances = segmenter.segment(image)
    >>> names = [segmenter.classes[label] for label in instances.labels]

    Args:
        memory: the reference memory; it must hold at least one reference, made by the same encoder.
        encoder: a loaded encoder, or a name for :func:`nts.models.load_encoder`.
        segmenter: a loaded segmenter, or a name for :func:`nts.models.load_segmenter`.
        preset: ``"default"``, ``"paper"``, ``"fast"``, or a :class:`~nts.presets.Preset`.
        scorer: scores proposals for the memory's classes, see :func:`nts.scorers.make_scorer`; by default, similarity
            to the class prototypes, as published.

    Raises:
        EncoderMismatch: if another encoder made the memory.
        ValueError: if the memory is empty.
    """

    def __init__(
        self,
        memory: MemoryBank,
        encoder: Encoder | str = "small",
        segmenter: Segmenter | str = "small",
        preset: str | Preset = "default",
        *,
        scorer: Scorer | None = None,
    ) -> None:
        self.preset = get_preset(preset)
        precision = self.preset.precision_for("auto")
        self.encoder = load_encoder(encoder, precision=precision) if isinstance(encoder, str) else encoder
        self.segmenter = load_segmenter(segmenter, precision=precision) if isinstance(segmenter, str) else segmenter
        self.memory = memory
        memory.check_encoder(self.encoder.info)
        device = self.encoder.device
        self._references, self._reference_labels = (
            memory.instance_prototypes().to(device),
            memory.entry_labels().to(device),
        )
        self.scorer = make_prototype_scorer(memory, self.preset.method, device) if scorer is None else scorer
        if not isinstance(self.scorer, ExemplarScorer):  # the parts beyond the paper compare exemplars
            self.preset = replace(self.preset, method=PUBLISHED)
        if self.scorer.needs_embedding or not self.scorer.scores_cached_targets:  # of the image as a whole
            self.preset = replace(self.preset, tiling=Tiling("off"))
        self.targets = TargetEncoder(
            self.encoder,
            self.segmenter,
            self.preset,
            prototypes=memory.prototypes().to(device),
            sizes=[entry.size for entry in memory.entries if entry.size is not None],
            for_prompts=self.scorer.needs_embedding,
        )

    @cached_property
    def calibration(self) -> Calibration | None:
        """Map from scores to probabilities; ``None`` where the score is that of the paper or of a prompt."""
        if not isinstance(self.scorer, ExemplarScorer):
            return None
        return calibrate(self.memory, self.scorer.exemplars(torch.device("cpu")), self.preset.method)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the instances' labels."""
        return self.memory.classes

    def segment(self, image: np.ndarray) -> Instances:
        """Find instances in an image, uint8 ``[H, W, 3]``; possibly none."""
        return self.match(self.encode(image))

    def prepare(self, image: np.ndarray) -> PreparedImage | TiledImage:
        """See :meth:`TargetEncoder.prepare`."""
        return self.targets.prepare(image)

    def encode(self, image: np.ndarray | PreparedImage | EncodedImage | TiledImage) -> EncodedTarget | Target:
        """See :meth:`TargetEncoder.encode`."""
        return self.targets.encode(image)

    @torch.inference_mode()
    def match(self, target: EncodedTarget | Target, settled: Settled | None = None) -> Instances:
        """Find instances in an image that was encoded before, for this memory or another; they are on the CPU.

        Args:
            target: the image.
            settled: objects that a person has decided about, which are not found again.

        Raises:
            ValueError: if the target lacks something that the scorer needs, or its tokens are not finite.
        """
        class_scores = self.scorer.scores(target)
        return in_one_thread(lambda: self._match(target, class_scores, settled), target.predicted_iou.device)

    def _match(self, target: EncodedTarget | Target, class_scores: Tensor, settled: Settled | None) -> Instances:
        config = self.preset.matching
        blocked = None if settled is None else blocked_classes(target.masks, settled)
        if isinstance(self.scorer, ExemplarScorer):
            exemplars = self.scorer.exemplars(target.predicted_iou.device)
            instances = match_target(target, class_scores, exemplars, config, self.preset.method, blocked)
        else:
            instances = choose_instances(
                target.masks, target.features, target.predicted_iou, class_scores, config, blocked
            )
        # There are few instances and possibly many references, so the instances go where the references are.
        device = self._references.device
        found = nearest_references(
            instances.compared.to(device), instances.labels.to(device), self._references, self._reference_labels
        )
        return replace(instances, references=found.to(instances.labels.device)).cpu()
