"""SAM2 for images: encode an image once, then propose masks from a grid of points or predict them from prompts.

The decoder runs in two steps. SAM2's predicted IoU comes from a token, before any mask is computed. All prompts are
*scored* first, and a single mask is *drawn* for each prompt above the threshold. Terms that all prompts of an image
share are computed once, see :mod:`nts.segmenter.decoder`. The masks equal those of the full decoder within rounding.
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

from ..consensus import VOTER_PREDICTED_IOU, Voters, as_votes
from ..utils.devices import autocast, to_device
from ..utils.threads import in_one_thread, is_small, map_chunks
from .components import keep_clicked
from .decoder import Prompted, SharedDecoder, SharedImage
from .guidance import Guidance

Chunk = TypeVar("Chunk")

logger = logging.getLogger(__name__)

_CHUNKS_SCORED = 16
"""Chunks of prompts that a GPU scores before it draws any mask."""

_LEAST_PROMPTS = 4
"""Minimal number of prompts in a chunk: products of matrices with fewer rows are slow."""

_DRAWN_POSITIONS = {"cpu": 1024, "cuda": 1 << 18}
"""Number of image tokens, over all prompts, from which masks are drawn at a time."""


@dataclass(frozen=True)
class ProposalConfig:
    """Settings of mask proposals; the defaults are the published ones (paper, Sec. 3.3).

    Attributes:
        points_per_side: side of the point grid; ``None`` for the segmenter's default (32 for SAM2, as published).
        iou_threshold: proposals must have a predicted IoU *above* this; ``None`` for the segmenter's default (0.4 for
            SAM2, as published).
        add_no_mem_embed: add SAM2's "no memory" embedding to the image features, as its image predictor does. The
            published code does not.
        guidance: prompt a subset of the grid selected by the prototypes; ``None`` for the whole grid.
        voters: also draw all masks that may vote on outlines, see :mod:`nts.consensus`.
        connected: cut every mask to the piece that was clicked, see :mod:`nts.segmenter.components`.
        scales: sides of shrunken copies of the image that are prompted too, in ``(0, 1)``, see
            :mod:`nts.segmenter.scales`.
        prompts_per_chunk: prompts decoded at a time; ``None`` to choose by device. Does not change the result.

    Raises:
        ValueError: if a value is out of range.
    """

    points_per_side: int | None = None
    iou_threshold: float | None = 0.4
    add_no_mem_embed: bool = True
    guidance: Guidance | None = None
    voters: bool = False
    connected: bool = False
    scales: tuple[float, ...] = ()
    prompts_per_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.points_per_side is not None and self.points_per_side < 1:
            raise ValueError(f"points_per_side must be at least 1, got {self.points_per_side}")
        if self.iou_threshold is not None and not 0 <= self.iou_threshold <= 1:
            raise ValueError(f"iou_threshold must lie in [0, 1], got {self.iou_threshold}")
        if not all(0 < scale < 1 for scale in self.scales):
            raise ValueError(f"scales must lie between 0 and 1, got {self.scales}")
        if self.prompts_per_chunk is not None and self.prompts_per_chunk < 1:
            raise ValueError(f"prompts_per_chunk must be at least 1, got {self.prompts_per_chunk}")


@dataclass(frozen=True)
class SegmenterInfo:
    """Identity of a SAM2 model.

    Attributes:
        name: as given by the user.
        fingerprint: hash of the weights.
        input_size: side of the square input in pixels.
        prompt_dim: length of a prompt token.
    """

    name: str
    fingerprint: str
    input_size: int
    prompt_dim: int


@dataclass(frozen=True)
class ImageEmbedding:
    """SAM2's embedding of an image.

    Attributes:
        features: ``[1, C, e, e]``.
        high_resolution: the two finer levels of the feature pyramid, ``[1, C / 8, 4e, 4e]`` and ``[1, C / 4, 2e, 2e]``.

    Several images may be stacked along the first dimension of all tensors.
    """

    features: Tensor
    high_resolution: tuple[Tensor, ...]

    def of(self, image: int) -> ImageEmbedding:
        """Embedding of one of several images."""
        one = slice(image, image + 1)
        return ImageEmbedding(self.features[one], tuple(level[one] for level in self.high_resolution))


@dataclass(frozen=True)
class Proposals:
    """Mask proposals of an image, in the order of their prompts.

    Attributes:
        mask_logits: ``[n, S, S]``, positive inside.
        predicted_iou: ``[n]`` in ``[0, 1]``.
        points: ``[n, 2]``, prompts ``x, y`` in pixels of the segmenter's input.
        voters: masks of all prompts that may vote on outlines; ``None`` unless asked for.
    """

    mask_logits: Tensor
    predicted_iou: Tensor
    points: Tensor
    voters: Voters | None = None

    def __len__(self) -> int:
        return len(self.predicted_iou)

    def and_also(self, others: Proposals) -> Proposals:
        """These proposals, then others of the same image."""
        voters = self.voters
        if voters is not None and others.voters is not None:
            voters = voters.and_also(others.voters)
        return Proposals(
            torch.cat([self.mask_logits, others.mask_logits]),
            torch.cat([self.predicted_iou, others.predicted_iou]),
            torch.cat([self.points, others.points]),
            voters,
        )


@dataclass(frozen=True)
class Decoded:
    """Decoder output for ``B`` sets of prompt tokens.

    Attributes:
        mask_logits: ``[B, S, S]`` of the single-mask token, positive inside.
        object_score: ``[B]`` logits that the object is present; zeros if the model has no object score.
    """

    mask_logits: Tensor
    object_score: Tensor


def point_grid(points_per_side: int, input_size: int) -> Tensor:
    """Grid of point prompts as published: ``[points_per_side ** 2, 2]``, ``x`` varies slowest.

    ``linspace(0, input_size - 1, points_per_side) + 0.5`` per axis. Unlike SAM's own grid it touches the image's
    borders.
    """
    line = torch.linspace(0, input_size - 1, points_per_side) + 0.5
    return torch.cartesian_prod(line, line).reshape(-1, 2)


class Segmenter:
    """A SAM2 model, for images.

    Attributes:
        name: as given by the user.
        fingerprint: hash of the weights.
        input_size: side of the square input in pixels.
        points_per_side: default side of the point grid.
        iou_threshold: default threshold on the predicted IoU.
        device: device of the model.
        precision: name of the dtype that it computes in, as in torch.
        is_small: the image encoder runs with one intra-op thread on a CPU, see :mod:`nts.utils.threads`.
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
        # The published density is one prompt per eight pixels of the low-resolution mask; small models use four.
        self.points_per_side = 32 if model.image_size >= 512 else 16
        # A small model, trained on few photographs, is less sure of good masks.
        self.iou_threshold = 0.4 if model.image_size >= 512 else 0.3
        self.device = device
        self._most_prompts = 256
        self._chunk_bytes = _chunk_bytes(device)
        # The host decides which masks are drawn, so it waits for the scores. A GPU scores many chunks before that.
        self._chunks_scored = 1 if device.type == "cpu" else _CHUNKS_SCORED
        self._dtype = dtype
        self.precision = str(dtype).removeprefix("torch.")
        self._model = model.float().to(device).eval().requires_grad_(False)
        self._decoder = SharedDecoder(self._model, dtype)
        self._compiled = compiled
        if compiled:
            self._decoder.compile()
        # A GPU takes one chunk after another; compiled code runs in torch's own threads.
        self._parallel = device.type == "cpu" and not compiled
        self.is_small = is_small(model)
        self._iou_token = int(self._model.sam_mask_decoder.pred_obj_scores)

    @torch.inference_mode()
    def embed(self, pixels: Tensor, *, add_no_mem_embed: bool = True) -> ImageEmbedding:
        """Encode an image, or several at once.

        Args:
            pixels: ``[3, s, s]`` or ``[B, 3, s, s]`` ImageNet-normalised, ``s = input_size``.
            add_no_mem_embed: see :class:`ProposalConfig`.
        """

        def embed() -> ImageEmbedding:
            with autocast(self.device, self._dtype):
                images = to_device(pixels if pixels.ndim == 4 else pixels[None], self.device)
                *high_resolution, features = self._model.forward_image(images)["backbone_fpn"]
                if add_no_mem_embed:
                    features = self._add_no_mem_embed(features)
            return ImageEmbedding(features, tuple(high_resolution))

        return in_one_thread(embed, self.device) if self.is_small else embed()

    @torch.inference_mode()
    def with_no_mem_embed(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """Add SAM2's "no memory" embedding to an embedding computed without it."""
        return replace(embedding, features=self._add_no_mem_embed(embedding.features))

    def _add_no_mem_embed(self, features: Tensor) -> Tensor:
        if not self._model.directly_add_no_mem_embed:
            return features
        return features + self._model.no_mem_embed.reshape(1, -1, 1, 1)

    def threshold(self, config: ProposalConfig) -> float:
        """The threshold on the predicted IoU that a configuration means."""
        return self.iou_threshold if config.iou_threshold is None else config.iou_threshold

    @torch.inference_mode()
    def propose(
        self,
        embedding: ImageEmbedding,
        config: ProposalConfig | None = None,
        which: Tensor | None = None,
        *,
        extent: float = 1.0,
    ) -> Proposals:
        """Propose masks from a grid of points, one positive point per prompt (paper, Sec. 3.3).

        Each prompt yields the mask with the highest predicted IoU among SAM2's three; the single-mask token is ignored.

        Args:
            embedding: of the image.
            config: settings; ``None`` for the defaults.
            which: int64 indices of the grid points to prompt; ``None`` for all.
            extent: part of both sides that the image takes, from the upper left corner. The grid has this part of the
                points; masks are cut to it and enlarged.
        """
        config = config or ProposalConfig()
        cells = round(extent * self.mask_side)
        per_side = max(1, round(extent * (config.points_per_side or self.points_per_side)))
        points = to_device(point_grid(per_side, cells * self.input_size // self.mask_side), self.device)
        points = points if which is None else points[which]
        chunk = config.prompts_per_chunk or self._chunk_size(embedding)
        while True:
            try:
                return self._propose(embedding, points, config, chunk, cells)
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise
            chunk = self._most_prompts = chunk // 2
            logger.warning("out of memory on the device: decoding %d prompts at a time", chunk)

    def _propose(
        self, embedding: ImageEmbedding, points: Tensor, config: ProposalConfig, chunk: int, cells: int
    ) -> Proposals:
        shared = self._look(embedding)
        threshold = self.threshold(config)

        def draw(prompted: Prompted, which: Tensor, masks: Tensor, prompts: Tensor) -> Tensor:
            parts = [
                self._draw(shared, prompted[some], of_some)
                for some, of_some in zip(which.split(chunk), masks.split(chunk), strict=True)
            ]
            logits = parts[0] if len(parts) == 1 else torch.cat(parts)
            side = self.mask_side
            if cells != side and len(logits):
                logits = F.interpolate(logits[..., :cells, :cells], size=(side, side), mode="bilinear")
            if not config.connected:
                return logits
            clicked = prompts[which] * (side / self.input_size) * (side / cells)
            return keep_clicked(logits, clicked.long().clamp(0, side - 1))

        def decode(prompts: Tensor) -> tuple[Tensor, ...]:
            of_tokens, prompted = self._score(shared, prompts, chunk)
            of_tokens = of_tokens.cpu()  # the host waits here; everything that it decides is copied back before drawing
            predicted_iou, best = of_tokens.max(1)
            keep = (predicted_iou > threshold).nonzero()[:, 0]
            own_iou, own_best, own = (to_device(t, self.device) for t in (predicted_iou[keep], best[keep], keep))
            if not config.voters:
                return draw(prompted, own, 1 + own_best[:, None], prompts)[:, 0], own_iou, prompts[own]
            # A prompt with any voter is drawn with all three masks: they share nearly all of the work.
            voting = (predicted_iou > min(threshold, VOTER_PREDICTED_IOU)).nonzero()[:, 0]
            proposed = torch.isin(voting, keep).nonzero()[:, 0]
            row, column = (of_tokens[voting] > VOTER_PREDICTED_IOU).nonzero(as_tuple=True)
            votes_iou = of_tokens[voting[row], column]
            voting, proposed, row, column, votes_iou = (
                to_device(t, self.device) for t in (voting, proposed, row, column, votes_iou)
            )
            three = torch.arange(1, 4, device=self.device).expand(len(voting), 3)
            drawn = draw(prompted, voting, three, prompts)
            return drawn[proposed, own_best], own_iou, prompts[own], as_votes(drawn[row, column]), votes_iou

        logits, predicted_iou, prompts, *of_voters = self._in_chunks(decode, points.split(chunk * self._chunks_scored))
        # The grid of a copy, in pixels of the whole image.
        prompts = prompts * (self.mask_side / cells)
        return Proposals(logits, predicted_iou, prompts, Voters(*of_voters) if of_voters else None)

    def _score(self, shared: SharedImage, prompts: Tensor, chunk: int) -> tuple[Tensor, Prompted]:
        """Predicted IoU of the three masks of every point ``[B, 2]``, float ``[B, 3]``, and the prompts, to be drawn.

        The prompts of several chunks are kept in one buffer. In half precision, and with the 4096 image tokens of the
        released models, one takes 1 MiB (64 coefficients per token and layer): 1 GiB for the published grid. Keeping
        it costs a copy when it is scored and another when it is drawn. Running the prompt again would cost 0.4 GFLOP
        and dozens of passes over as much memory.
        """
        scores, kept = [], None
        for number, points in enumerate(prompts.split(chunk)):
            labels = torch.ones(len(points), 1, device=self.device)
            prompted = self._prompt(shared, self._embed_points(points[:, None], labels), chunk)
            scores.append(self._predicted_iou(shared, prompted)[:, 1:])
            if len(points) == len(prompts):
                return scores[0], prompted
            if kept is None:
                kept = prompted.room_for(len(prompts))
            kept[number * chunk : (number + 1) * chunk] = prompted
        assert kept is not None
        return torch.cat(scores), kept

    def _in_chunks(self, function: Callable[[Chunk], tuple[Tensor, ...]], chunks: Sequence[Chunk]) -> list[Tensor]:
        """Concatenated results of a function over chunks of prompts; on a CPU, chunks run in parallel."""

        def decode(chunk: Chunk) -> tuple[Tensor, ...]:
            with torch.inference_mode(), autocast(self.device, self._dtype):
                return function(chunk)

        parts = map_chunks(decode, chunks) if self._parallel else [decode(chunk) for chunk in chunks]
        return list(parts[0]) if len(parts) == 1 else [torch.cat(part) for part in zip(*parts, strict=True)]

    @torch.inference_mode()
    def predict_boxes(self, embedding: ImageEmbedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the mask of the object in each box, as SAM2's image predictor does.

        A box is unambiguous, so each gets the mask of the single-mask token. SAM2's builder enables a fallback that
        replaces an unstable mask by one of the three others; it is not used here.

        Args:
            embedding: of the image, with the "no memory" embedding that SAM2's decoder was trained with on images.
            boxes: ``[m, 4]``, ``x1, y1, x2, y2`` in pixels of the segmenter's input.

        Returns:
            mask logits ``[m, S, S]``, positive inside, and predicted IoU ``[m]``.
        """
        if len(boxes) == 0:
            return torch.zeros(0, self.mask_side, self.mask_side, device=self.device), boxes.new_zeros(0)
        boxes = boxes.to(self.device, torch.float32)
        shared = self._look(embedding)

        def decode(prompts: Tensor) -> tuple[Tensor, Tensor]:
            prompted = self._prompt(shared, self._embed_boxes(prompts))
            single = torch.zeros(len(prompts), 1, dtype=torch.int64, device=self.device)
            return self._draw(shared, prompted, single)[:, 0], self._predicted_iou(shared, prompted)[:, 0]

        logits, predicted = self._in_chunks(decode, boxes.split(self._chunk_size(embedding)))
        return logits, predicted

    def decode(self, embedding: ImageEmbedding, sparse: Tensor, dense: Tensor | None = None) -> Decoded:
        """Decode prompt tokens that do not come from SAM2's prompt encoder. Gradients flow to the prompts.

        SAM2's fallback for unstable masks, which its builder enables, is not used: it acts in evaluation mode only, so
        training and inference would differ.

        Args:
            embedding: of one image for all sets of prompts, or of one image per set.
            sparse: ``[B, n, C]`` sets of prompt tokens, in any order within a set.
            dense: ``[B, C, h, w]`` of any size, added to the "no mask" embedding.
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
        """``S``, side of the mask logits: a quarter of the input's side."""
        return self.input_size // 4

    @property
    def info(self) -> SegmenterInfo:
        """Identity of the model, stored with results."""
        return SegmenterInfo(self.name, self.fingerprint, self.input_size, self._model.sam_prompt_encoder.embed_dim)

    @torch.inference_mode()
    def predict_points(
        self, embedding: ImageEmbedding, points: Tensor, labels: Tensor | None = None, *, multimask: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Predict masks from prompts of ``p`` points each, as SAM2's image predictor does.

        Args:
            embedding: as for :meth:`predict_boxes`.
            points: ``[m, p, 2]``, ``x, y`` in pixels of the segmenter's input.
            labels: ``[m, p]``, 1 for points on the object, 0 for background; ``None`` for all 1.
            multimask: predict three masks, as a click may denote a part or the whole; else one, as for boxes.

        Returns:
            mask logits ``[m, c, S, S]``, positive inside, and predicted IoU ``[m, c]``; ``c`` is 3 or 1.
        """
        points = points.to(self.device, torch.float32)
        labels = torch.ones(points.shape[:2]) if labels is None else labels
        drawn = (1, 2, 3) if multimask else (0,)
        shared, chunk = self._look(embedding), self._chunk_size(embedding)

        def decode(chunk: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            prompted = self._prompt(shared, self._embed_points(*chunk))
            masks = self._draw(shared, prompted, torch.tensor(drawn, device=self.device).expand(len(prompted), -1))
            return masks, self._predicted_iou(shared, prompted)[:, list(drawn)]

        chunks = list(zip(points.split(chunk), labels.to(self.device).split(chunk), strict=True))
        logits, predicted = self._in_chunks(decode, chunks)
        return logits, predicted

    def _chunk_size(self, embedding: ImageEmbedding) -> int:
        """Number of prompts whose activations fit the CPU's cache, or the GPU's memory."""
        bytes_per_prompt = embedding.features.numel() * 4
        return min(self._most_prompts, max(_LEAST_PROMPTS, self._chunk_bytes // bytes_per_prompt))

    def _look(self, embedding: ImageEmbedding) -> SharedImage:
        no_mask = self._model.sam_prompt_encoder.no_mask_embed.weight[0, :, None, None]
        levels = embedding.high_resolution if self._model.sam_mask_decoder.use_high_res_features else ()
        with autocast(self.device, self._dtype):
            return self._decoder.look(embedding.features[0] + no_mask, levels)

    def _prompt(self, shared: SharedImage, sparse: Tensor, chunk: int | None = None) -> Prompted:
        """Run prompts through the decoder's layers; compiled code gets full chunks only, to avoid recompilation."""
        if not self._compiled or chunk is None or len(sparse) == chunk:
            return self._decoder.prompt(shared, self._tokens(sparse))
        filled = sparse[_filled(len(sparse), chunk, self.device)]
        return self._decoder.prompt(shared, self._tokens(filled))[: len(sparse)]

    def _predicted_iou(self, shared: SharedImage, prompted: Prompted) -> Tensor:
        """Predicted IoU of the masks of all four tokens, the single-mask token first: float ``[B, 4]``."""
        which = torch.full((len(prompted), 1), self._iou_token, device=self.device)
        token = self._decoder.output(shared, prompted, which)[:, 0]
        return self._model.sam_mask_decoder.iou_prediction_head(token).float()

    def _draw(self, shared: SharedImage, prompted: Prompted, chosen: Tensor) -> Tensor:
        """Logits ``[B, k, S, S]`` of the mask tokens ``chosen`` ``[B, k]`` of every prompt."""
        if len(prompted) == 0:
            return torch.zeros(0, chosen.shape[1], self.mask_side, self.mask_side, device=self.device)
        tokens = self._decoder.output(shared, prompted, self._iou_token + 1 + chosen)
        networks = self._model.sam_mask_decoder.output_hypernetworks_mlps
        weights = torch.stack([network(tokens.flatten(0, 1)) for network in networks])
        weights = weights[chosen.flatten(), torch.arange(chosen.numel())].unflatten(0, chosen.shape)
        positions = _DRAWN_POSITIONS.get(self.device.type, 1 << 14)
        at_a_time = max(1, positions // shared.upscaled.shape[1])
        parts: list[slice | Tensor] = [slice(begin, begin + at_a_time) for begin in range(0, len(prompted), at_a_time)]
        if self._compiled and len(prompted) % at_a_time:
            first = (len(parts) - 1) * at_a_time
            parts[-1] = first + _filled(len(prompted) - first, at_a_time, self.device)
        drawn = [self._decoder.draw(shared, prompted[part], weights[part], positions) for part in parts]
        return torch.cat(drawn)[: len(prompted)]

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Prompt tokens of points ``[B, p, 2]`` with labels ``[B, p]``, 1 or 0."""
        sparse, _ = self._model.sam_prompt_encoder(points=(points, labels.int()), boxes=None, masks=None)
        return sparse

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """Prompt tokens of boxes ``[B, 4]``: two points labelled as upper left and lower right corner, as in SAM2."""
        labels = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes.device).expand(len(boxes), 2)
        sparse, _ = self._model.sam_prompt_encoder(points=(boxes.reshape(-1, 2, 2), labels), boxes=None, masks=None)
        return sparse

    def _transform(
        self, embedding: ImageEmbedding, sparse: Tensor, dense: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder's transformer: prompts ``[B, t, C]`` to output tokens and image tokens ``[B, e*e, C]``."""
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
        """The decoder's output tokens, followed by prompt tokens ``[B, t, C]``."""
        decoder = self._model.sam_mask_decoder
        output_tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            output_tokens.insert(0, decoder.obj_score_token.weight)
        return torch.cat([torch.cat(output_tokens).expand(len(sparse), -1, -1), sparse], 1)

    def _upscale(self, embedding: ImageEmbedding, image_tokens: Tensor) -> Tensor:
        """Upscale image tokens ``[B, e*e, C]`` to the size of masks, ``[B, c / 2, S, S]``."""
        decoder = self._model.sam_mask_decoder
        side = embedding.features.shape[-1]
        image = image_tokens.transpose(1, 2).unflatten(2, (side, side))
        if not decoder.use_high_res_features:
            return decoder.output_upscaling(image)
        up1, norm, act1, up2, act2 = decoder.output_upscaling
        fine, coarse = embedding.high_resolution
        return act2(up2(act1(norm(up1(image) + coarse))) + fine)


def _filled(count: int, chunk: int, device: torch.device) -> Tensor:
    """Indices ``0 .. count - 1``, the last one repeated up to a length of ``chunk``."""
    return torch.arange(chunk, device=device).clamp(max=count - 1)


def _chunk_bytes(device: torch.device) -> int:
    """Size of a chunk of prompts in bytes, if each prompt had its own copy of the image tokens.

    It keeps a chunk in a CPU's cache. On a GPU a chunk takes about four times as much, a 32nd of the memory, and all
    chunks that are scored together an eighth.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 128
    return 2 << 20 if device.type == "cpu" else 32 << 20
