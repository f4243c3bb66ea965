"""SAM2: encode an image once, then propose masks from a grid of points, or draw those of given boxes and points.

The decoder is run in two steps. SAM2's predicted IoU comes from a token, before any mask is drawn, so all prompts are
*scored* first, and only one mask is *drawn* for each prompt that survives the threshold. What the prompts on an image
share is computed once, see :mod:`nts.segmenter.decoder`. The masks are the same as those of the whole decoder, within
rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from ..utils.devices import autocast
from ..utils.threads import in_one_thread, is_small, map_chunks
from .decoder import Prompted, SharedDecoder, SharedImage
from .guidance import Guidance

Chunk = TypeVar("Chunk")

logger = logging.getLogger(__name__)

_CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
"""Bytes that the image tokens of a chunk of prompts would take, if every prompt had its own."""

_LEAST_PROMPTS = 4
"""Prompts in a chunk, however large an image's tokens: matrices of fewer rows multiply slowly."""

_DRAWN_POSITIONS = {"cpu": 1024, "cuda": 1 << 18}
"""Image tokens, of one prompt or several, from which masks are drawn at a time."""


@dataclass(frozen=True)
class ProposalConfig:
    """How masks are proposed; the defaults are the published ones.

    Attributes:
        points_per_side: the grid has ``points_per_side ** 2`` points; the segmenter's own default where ``None``
            (32 for SAM2, as published).
        iou_threshold: a mask is kept if its predicted IoU is *above* this.
        add_no_mem_embed: add SAM2's "no memory" embedding to the image's features, as its image predictor does. The
            publication leaves it out.
        guidance: spend fewer prompts, where the prototypes say; every point of the grid where ``None``.
        prompts_per_chunk: prompts decoded at a time; chosen by the device where ``None``. Changes no result.
    """

    points_per_side: int | None = None
    iou_threshold: float = 0.4
    add_no_mem_embed: bool = True
    guidance: Guidance | None = None
    prompts_per_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.points_per_side is not None and self.points_per_side < 1:
            raise ValueError(f"points_per_side must be at least 1, got {self.points_per_side}")
        if not 0 <= self.iou_threshold <= 1:
            raise ValueError(f"iou_threshold must lie in [0, 1], got {self.iou_threshold}")
        if self.prompts_per_chunk is not None and self.prompts_per_chunk < 1:
            raise ValueError(f"prompts_per_chunk must be at least 1, got {self.prompts_per_chunk}")


@dataclass(frozen=True)
class SegmenterInfo:
    """Which SAM2 it is.

    Attributes:
        name: as given by the user.
        fingerprint: hash of the weights.
        input_size: side of its square input in pixels.
        prompt_dim: length of a prompt token.
    """

    name: str
    fingerprint: str
    input_size: int
    prompt_dim: int


@dataclass(frozen=True)
class ImageEmbedding:
    """What the decoder needs of an image: ``features`` ``[1, C, e, e]``, and the two finer levels of the pyramid.

    Several images may be stacked along the first dimension of all three.
    """

    features: Tensor
    high_resolution: tuple[Tensor, ...]


@dataclass(frozen=True)
class Proposals:
    """Masks proposed for one image, in the order of their points.

    Attributes:
        mask_logits: ``[n, S, S]``, positive inside.
        predicted_iou: ``[n]`` in ``[0, 1]``.
        points: ``[n, 2]``, ``x, y`` in the segmenter's input frame.
    """

    mask_logits: Tensor
    predicted_iou: Tensor
    points: Tensor

    def __len__(self) -> int:
        return len(self.predicted_iou)


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of sets of prompt tokens: one mask for each.

    Attributes:
        mask_logits: ``[B, S, S]``, positive inside; those of the single-mask token.
        object_score: ``[B]`` logits: is what is asked for there at all? Zeros, for a SAM2 that does not say.
    """

    mask_logits: Tensor
    object_score: Tensor


def point_grid(points_per_side: int, input_size: int) -> Tensor:
    """The published grid of prompts: ``[points_per_side ** 2, 2]``, ``x`` the slow axis.

    ``linspace(0, input_size - 1, points_per_side) + 0.5``: it touches the borders of the image, unlike SAM's own.
    """
    line = torch.linspace(0, input_size - 1, points_per_side) + 0.5
    return torch.cartesian_prod(line, line).reshape(-1, 2)


class Segmenter:
    """A loaded SAM2, used for images only.

    Attributes:
        name: as given by the user.
        fingerprint: hash of the weights.
        input_size: side of its square input in pixels.
        points_per_side: the grid of points that suits it.
        device: where it runs.
        precision: that it computes in, as torch calls it.
        is_small: its image encoder runs with one intra-op thread on a CPU, see :mod:`nts.utils.threads`.
    """

    def __init__(
        self,
        model: SAM2Base,
        name: str,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.input_size: int = model.image_size
        # A prompt every eight pixels of the low-resolution mask is the published density; half as far for small masks.
        self.points_per_side = 32 if model.image_size >= 512 else 16
        self.device = device
        self._most_prompts = 256
        self._dtype = dtype
        self.precision = str(dtype).removeprefix("torch.")
        self._model = model.float().to(device).eval().requires_grad_(False)
        self._decoder = SharedDecoder(self._model, dtype)
        self._compiled = compiled
        if compiled:
            self._decoder.compile()
        # A GPU is given one chunk after the other; what is compiled runs in the threads that torch gives it.
        self._parallel = device.type == "cpu" and not compiled
        self.is_small = is_small(model)
        self._iou_token = int(self._model.sam_mask_decoder.pred_obj_scores)

    @torch.inference_mode()
    def embed(self, pixels: Tensor, *, add_no_mem_embed: bool = True) -> ImageEmbedding:
        """Encode one image.

        Args:
            pixels: ``[3, s, s]`` ImageNet-normalised, ``s = input_size``.
            add_no_mem_embed: see :class:`ProposalConfig`.
        """

        def embed() -> ImageEmbedding:
            with autocast(self.device, self._dtype):
                *high_resolution, features = self._model.forward_image(pixels[None].to(self.device))["backbone_fpn"]
                if add_no_mem_embed:
                    features = self._add_no_mem_embed(features)
            return ImageEmbedding(features, tuple(high_resolution))

        return in_one_thread(embed, self.device) if self.is_small else embed()

    @torch.inference_mode()
    def with_no_mem_embed(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """An embedding that was made without SAM2's "no memory" embedding, with it."""
        return replace(embedding, features=self._add_no_mem_embed(embedding.features))

    def _add_no_mem_embed(self, features: Tensor) -> Tensor:
        if not self._model.directly_add_no_mem_embed:
            return features
        return features + self._model.no_mem_embed.reshape(1, -1, 1, 1)

    @torch.inference_mode()
    def propose(
        self, embedding: ImageEmbedding, config: ProposalConfig | None = None, which: Tensor | None = None
    ) -> Proposals:
        """Decode one positive point at a time over the whole grid, and keep the best mask of each.

        Of the three masks of a prompt that of the highest predicted IoU is taken; the single-mask token is ignored.
        Every point of the grid is evaluated, whatever the chunks, or those that ``which``, int64 indices, names.
        """
        config = config or ProposalConfig()
        points = point_grid(config.points_per_side or self.points_per_side, self.input_size).to(self.device)
        points = points if which is None else points[which]
        chunk = config.prompts_per_chunk or self._chunk_size(embedding)
        while True:
            try:
                return self._propose(embedding, points, config.iou_threshold, chunk)
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise
            chunk = self._most_prompts = chunk // 2
            logger.warning("the device has not the memory for so many prompts: %d are decoded at a time", chunk)

    def _propose(self, embedding: ImageEmbedding, points: Tensor, iou_threshold: float, chunk: int) -> Proposals:
        shared = self._look(embedding)

        def decode(prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            labels = torch.ones(len(prompts), 1, device=self.device)
            prompted = self._prompt(shared, self._embed_points(prompts[:, None], labels), chunk)
            predicted_iou, best = self._predicted_iou(shared, prompted)[:, 1:].max(1)
            keep = (predicted_iou > iou_threshold).nonzero()[:, 0]
            return self._draw(shared, prompted[keep], 1 + best[keep]), predicted_iou[keep], prompts[keep]

        return Proposals(*self._in_chunks(decode, points.split(chunk)))

    def _in_chunks(self, function: Callable[[Chunk], tuple[Tensor, ...]], chunks: Sequence[Chunk]) -> list[Tensor]:
        """What a function gives for chunks of prompts, joined; on a CPU several chunks are decoded at the same time."""

        def decode(chunk: Chunk) -> tuple[Tensor, ...]:
            with torch.inference_mode(), autocast(self.device, self._dtype):
                return function(chunk)

        parts = map_chunks(decode, chunks) if self._parallel else [decode(chunk) for chunk in chunks]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    @torch.inference_mode()
    def predict_boxes(self, embedding: ImageEmbedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The mask of the object in each box, as SAM2's image predictor draws it.

        A box says what is meant, so there is one mask for each: that of the single-mask token. SAM2's exchange of an
        unstable mask for one of the three others, which its builder switches on, is not made.

        Args:
            embedding: of the image, with the "no memory" embedding, which SAM2's decoder learned image prompts with.
            boxes: ``[m, 4]``, ``x1, y1, x2, y2`` in the segmenter's input frame.

        Returns:
            mask logits ``[m, S, S]``, positive inside, and predicted IoU ``[m]``.
        """
        if len(boxes) == 0:
            return torch.zeros(0, self.mask_side, self.mask_side, device=self.device), boxes.new_zeros(0)
        boxes = boxes.to(self.device, torch.float32)
        shared = self._look(embedding)

        def decode(prompts: Tensor) -> tuple[Tensor, Tensor]:
            prompted = self._prompt(shared, self._embed_boxes(prompts))
            single = torch.zeros(len(prompts), dtype=torch.int64, device=self.device)
            return self._draw(shared, prompted, single), self._predicted_iou(shared, prompted)[:, 0]

        logits, predicted = self._in_chunks(decode, boxes.split(self._chunk_size(embedding)))
        return logits, predicted

    def decode(self, embedding: ImageEmbedding, sparse: Tensor, dense: Tensor | None = None) -> Decoded:
        """Decode prompts that something else than SAM2's prompt encoder made. Gradients reach the prompts.

        SAM2's exchange of an unstable mask for another, which its builder switches on, is not made: it would give other
        masks in use than in training.

        Args:
            embedding: of one image for all sets of prompts, or of as many images as there are sets.
            sparse: ``[B, n, C]`` sets of prompt tokens; within a set their order means nothing.
            dense: ``[B, C, h, w]`` of any size, added to the embedding of "no mask".
        """
        with autocast(self.device, self._dtype):
            tokens, image_tokens = self._transform(embedding, sparse.to(self.device), dense)
            weights = self._model.sam_mask_decoder.output_hypernetworks_mlps[0](tokens[:, self._iou_token + 1])
            logits = torch.einsum("nc,nchw->nhw", weights, self._upscale(embedding, image_tokens)).float()
            object_score = logits.new_zeros(len(sparse))
            if self._model.sam_mask_decoder.pred_obj_scores:
                object_score = self._model.sam_mask_decoder.pred_obj_score_head(tokens[:, 0])[:, 0].float()
        return Decoded(logits, object_score)

    @property
    def mask_side(self) -> int:
        """``S``, side of the mask logits: a quarter of the input."""
        return self.input_size // 4

    @property
    def info(self) -> SegmenterInfo:
        """Which SAM2 this is, for what is made with it and kept."""
        return SegmenterInfo(self.name, self.fingerprint, self.input_size, self._model.sam_prompt_encoder.embed_dim)

    @torch.inference_mode()
    def predict_points(
        self, embedding: ImageEmbedding, points: Tensor, labels: Tensor | None = None, *, multimask: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The masks of prompts of several points each, as SAM2's image predictor draws them.

        Args:
            embedding: as for :meth:`predict_boxes`.
            points: ``[m, p, 2]``, ``x, y`` in the segmenter's input frame.
            labels: ``[m, p]``, 1 on the object and 0 beside it; all on it without.
            multimask: three masks, for a click may mean a part or a whole; else one, as for boxes.

        Returns:
            mask logits ``[m, c, S, S]``, positive inside, and predicted IoU ``[m, c]``; ``c`` is 3 or 1.
        """
        points = points.to(self.device, torch.float32)
        labels = torch.ones(points.shape[:2]) if labels is None else labels
        drawn = (1, 2, 3) if multimask else (0,)
        shared, chunk = self._look(embedding), self._chunk_size(embedding)

        def decode(chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            prompted = self._prompt(shared, self._embed_points(*chunk))
            of_token = [torch.full((len(prompted),), token, device=self.device) for token in drawn]
            masks = torch.stack([self._draw(shared, prompted, chosen) for chosen in of_token], 1)
            return masks, self._predicted_iou(shared, prompted)[:, list(drawn)]

        chunks = list(zip(points.split(chunk), labels.to(self.device).split(chunk), strict=True))
        logits, predicted = self._in_chunks(decode, chunks)
        return logits, predicted

    def _chunk_size(self, embedding: ImageEmbedding) -> int:
        """Prompts whose intermediates stay in the cache of a CPU, or fill a GPU without exhausting it."""
        bytes_per_prompt = embedding.features.numel() * 4
        fitting = _CHUNK_BYTES.get(self.device.type, 32 << 20) // bytes_per_prompt
        return min(self._most_prompts, max(_LEAST_PROMPTS, fitting))

    def _look(self, embedding: ImageEmbedding) -> SharedImage:
        no_mask = self._model.sam_prompt_encoder.no_mask_embed.weight[0, :, None, None]
        levels = embedding.high_resolution if self._model.sam_mask_decoder.use_high_res_features else ()
        with autocast(self.device, self._dtype):
            return self._decoder.look(embedding.features[0] + no_mask, levels)

    def _prompt(self, shared: SharedImage, sparse: Tensor, chunk: int | None = None) -> Prompted:
        """What has been compiled is given full chunks only: for another number it would be compiled again."""
        if not self._compiled or chunk is None or len(sparse) == chunk:
            return self._decoder.prompt(shared, self._tokens(sparse))
        return self._decoder.prompt(shared, self._tokens(sparse[_filled(len(sparse), chunk)]))[: len(sparse)]

    def _predicted_iou(self, shared: SharedImage, prompted: Prompted) -> Tensor:
        """Of the masks of all four tokens, the single-mask token first: float ``[B, 4]``."""
        which = torch.full((len(prompted), 1), self._iou_token, device=self.device)
        token = self._decoder.output(shared, prompted, which)[:, 0]
        return self._model.sam_mask_decoder.iou_prediction_head(token).float()

    def _draw(self, shared: SharedImage, prompted: Prompted, chosen: Tensor) -> Tensor:
        """One mask per prompt, that of the mask token ``chosen`` ``[B]``: float ``[B, S, S]`` logits."""
        if len(prompted) == 0:
            return torch.zeros(0, self.mask_side, self.mask_side, device=self.device)
        token = self._decoder.output(shared, prompted, self._iou_token + 1 + chosen[:, None])[:, 0]
        networks = self._model.sam_mask_decoder.output_hypernetworks_mlps
        weights = torch.stack([network(token) for network in networks])[chosen, torch.arange(len(chosen))]
        positions = _DRAWN_POSITIONS.get(self.device.type, 1 << 14)
        at_a_time = max(1, positions // shared.upscaled.shape[1])
        parts: list[slice | Tensor] = [slice(begin, begin + at_a_time) for begin in range(0, len(prompted), at_a_time)]
        if self._compiled and len(prompted) % at_a_time:
            first = (len(parts) - 1) * at_a_time
            parts[-1] = first + _filled(len(prompted) - first, at_a_time)
        drawn = [self._decoder.draw(shared, prompted[part], weights[part], positions) for part in parts]
        return torch.cat(drawn)[: len(prompted)]

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points ``[B, p, 2]``, labelled 1 or 0 in ``[B, p]``."""
        sparse, _ = self._model.sam_prompt_encoder(points=(points, labels.int()), boxes=None, masks=None)
        return sparse

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """A box is two points, labelled upper left and lower right, as SAM2's image predictor gives it."""
        labels = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes.device).expand(len(boxes), 2)
        sparse, _ = self._model.sam_prompt_encoder(points=(boxes.reshape(-1, 2, 2), labels), boxes=None, masks=None)
        return sparse

    def _transform(
        self, embedding: ImageEmbedding, sparse: Tensor, dense: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The decoder's transformer: prompts ``[B, t, C]`` to output tokens and image tokens ``[B, e*e, C]``."""
        decoder, prompt_encoder = self._model.sam_mask_decoder, self._model.sam_prompt_encoder
        tokens, batch = self._tokens(sparse), len(sparse)
        image = embedding.features + prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if dense is not None:
            side = embedding.features.shape[-2:]
            image = image + F.interpolate(dense, size=side, mode="bilinear", align_corners=False, antialias=True)
        image = image.expand(batch, -1, -1, -1)
        position = prompt_encoder.get_dense_pe().expand(batch, -1, -1, -1)
        tokens, image_tokens = decoder.transformer(image, position, tokens)
        return tokens, image_tokens

    def _tokens(self, sparse: Tensor) -> Tensor:
        """The decoder's output tokens, before those of prompts ``[B, t, C]``."""
        decoder = self._model.sam_mask_decoder
        output_tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            output_tokens.insert(0, decoder.obj_score_token.weight)
        return torch.cat([torch.cat(output_tokens).expand(len(sparse), -1, -1), sparse], 1)

    def _upscale(self, embedding: ImageEmbedding, image_tokens: Tensor) -> Tensor:
        """Image tokens ``[B, e*e, C]`` to the size of masks, ``[B, c / 2, S, S]``."""
        decoder = self._model.sam_mask_decoder
        side = embedding.features.shape[-1]
        image = image_tokens.transpose(1, 2).unflatten(2, (side, side))
        if not decoder.use_high_res_features:
            return decoder.output_upscaling(image)
        up1, norm, act1, up2, act2 = decoder.output_upscaling
        fine, coarse = embedding.high_resolution
        return act2(up2(act1(norm(up1(image) + coarse))) + fine)


def _filled(count: int, chunk: int) -> Tensor:
    """Indices of ``count`` things, the last of them repeated until they are ``chunk``."""
    return torch.arange(chunk).clamp(max=count - 1)
