"""Published pipeline, implemented plainly from the paper: baseline of the speed benchmarks.

The code is vectorised and avoids obvious waste, but pays the costs that the paper's description implies: single
precision, masks of all prompts, features resized to the masks, the masks of all candidates resized to the image, and
merging by products of whole masks. It runs the same SAM2 and DINOv2 modules as the engine, and shares only the
preparation of images with it. Every stage is a function, so that it can be timed.

For comparable results two details differ from the publication: prompts that do not fill the last chunk are decoded too,
and a mask that vanishes at full size is dropped instead of scoring NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torchvision.ops import batched_nms, masks_to_boxes
from transformers import Dinov2Model

from nts.images import prepare_target

PROMPTS_PER_CHUNK = 256
"""Published number of prompts decoded together."""


@dataclass(frozen=True)
class Constants:
    """Constants of the pipeline, by default the published ones.

    Attributes:
        points_per_side: of the grid of prompts.
        iou_threshold: least predicted IoU of a mask, exclusive.
        nms_iou: boxes of a class are suppressed above this IoU.
        max_instances: instances per image; eight times as many candidates enter the merging.
    """

    points_per_side: int = 32
    iou_threshold: float = 0.4
    nms_iou: float = 0.5
    max_instances: int = 100


@dataclass(frozen=True)
class Candidates:
    """Candidates after suppression, by descending predicted IoU.

    Attributes:
        mask_logits: ``[n, S, S]``.
        features: ``[n, C]``, L2-normalised.
        labels: int64 ``[n]``.
        scores: ``[n]``, similarity to the class.
    """

    mask_logits: Tensor
    features: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Found:
    """Masks bool ``[m, H, W]``, labels int64 ``[m]`` and scores ``[m]``, by descending score."""

    masks: Tensor
    labels: Tensor
    scores: Tensor


@torch.inference_mode()
def encode_tokens(model: Dinov2Model, pixels: Tensor) -> Tensor:
    """DINOv2's patch tokens ``[h, w, C]`` of a normalised image ``[3, s, s]``."""
    tokens = model(pixel_values=pixels[None]).last_hidden_state[0, 1:]
    side = round(len(tokens) ** 0.5)
    return tokens.unflatten(0, (side, side))


@torch.inference_mode()
def encode_image(model: SAM2Base, pixels: Tensor) -> list[Tensor]:
    """SAM2's feature pyramid of a normalised image ``[3, s, s]``, finest first.

    The "no memory" embedding is left out, as published.
    """
    return model.forward_image(pixels[None])["backbone_fpn"]


def prompt_grid(points_per_side: int, input_size: int, device: torch.device) -> Tensor:
    """Points ``[points_per_side ** 2, 2]``, ``x, y`` in the input's pixels, ``x`` the slow axis."""
    line = torch.linspace(0, input_size - 1, points_per_side, device=device) + 0.5
    x, y = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


@torch.inference_mode()
def decode_prompts(model: SAM2Base, pyramid: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """All masks of single positive points ``[n, 2]``: logits ``[n, 4, S, S]`` and predicted IoU ``[n, 4]``."""
    *high_resolution, features = pyramid
    labels = torch.ones(len(points), 1, dtype=torch.int32, device=points.device)
    sparse, dense = model.sam_prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    logits, predicted_iou, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=features,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=True,
        high_res_features=high_resolution,
    )
    return logits, predicted_iou


@torch.inference_mode()
def propose(
    model: SAM2Base, pyramid: list[Tensor], points: Tensor, iou_threshold: float, chunk: int = PROMPTS_PER_CHUNK
) -> tuple[Tensor, Tensor]:
    """Propose the best of three masks for every point, above a threshold of predicted IoU.

    Args:
        model: SAM2.
        pyramid: by :func:`encode_image`.
        points: ``[n, 2]``.
        iou_threshold: least predicted IoU of a mask, exclusive.
        chunk: prompts decoded at a time.

    Returns:
        mask logits ``[m, S, S]`` and predicted IoU ``[m]``.
    """
    logits, predicted = [], []
    for prompts in points.split(chunk):
        of_chunk, iou = decode_prompts(model, pyramid, prompts)
        best, index = iou[:, 1:].max(1)
        chosen = of_chunk[torch.arange(len(prompts), device=points.device), 1 + index]
        logits.append(chosen[best > iou_threshold])
        predicted.append(best[best > iou_threshold])
    return torch.cat(logits), torch.cat(predicted)


@torch.inference_mode()
def pool(tokens: Tensor, masks: Tensor) -> Tensor:
    """Mean over masks bool ``[n, S, S]`` of tokens ``[h, w, C]`` resized to them: L2-normalised ``[n, C]``."""
    enlarged = F.interpolate(
        tokens.permute(2, 0, 1)[None], size=tuple(masks.shape[1:]), mode="bilinear", align_corners=False
    )
    pixels = masks.flatten(1).float()
    sums = pixels @ enlarged[0].flatten(1).T
    return F.normalize(sums / pixels.sum(1, keepdim=True).clamp(min=1), dim=1)


@torch.inference_mode()
def classify_and_suppress(
    tokens: Tensor, mask_logits: Tensor, predicted_iou: Tensor, prototypes: Tensor, constants: Constants
) -> Candidates:
    """Classify every mask, then suppress boxes within each class, by descending predicted IoU."""
    masks = mask_logits > 0
    features = pool(tokens, masks)
    scores, labels = (features @ prototypes.T).clamp(min=0).max(1)
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    drawn = masks.flatten(1).any(1)
    boxes[drawn] = masks_to_boxes(masks[drawn])
    kept = batched_nms(boxes, predicted_iou, labels, constants.nms_iou)[: 8 * constants.max_instances]
    kept = kept[scores[kept] > 0]
    return Candidates(mask_logits[kept], features[kept], labels[kept], scores[kept])


@torch.inference_mode()
def enlarge(mask_logits: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Resize logits ``[n, S, S]`` to masks of full size, bool ``[n, H, W]``."""
    if len(mask_logits) == 0:
        return torch.zeros(0, *image_size, dtype=torch.bool, device=mask_logits.device)
    full = F.interpolate(mask_logits[None], size=image_size, mode="bilinear", align_corners=False, antialias=True)
    return full[0] > 0


@torch.inference_mode()
def merge(candidates: Candidates, masks: Tensor, max_instances: int) -> Found:
    """Semantic-aware soft merging of candidates with masks ``[n, H, W]``, class by class; returns the best."""
    scores = candidates.scores.clone()
    areas = masks.flatten(1).sum(1)
    for label in candidates.labels.unique():
        members = (candidates.labels == label).nonzero()[:, 0]
        pixels = masks[members].flatten(1).float()
        features = candidates.features[members]
        covered = pixels @ pixels.T / areas[members].clamp(min=1)[:, None]
        worst = (covered * (features @ features.T).clamp(min=0)).tril(-1).amax(1)
        scores[members] *= (1 - worst).clamp(min=0) ** 0.5
    order = scores.argsort(descending=True, stable=True)
    order = order[(areas[order] > 0) & (scores[order] > 0)][:max_instances]
    return Found(masks[order], candidates.labels[order], scores[order])


def match(
    tokens: Tensor,
    mask_logits: Tensor,
    predicted_iou: Tensor,
    prototypes: Tensor,
    image_size: tuple[int, int],
    constants: Constants | None = None,
) -> Found:
    """All stages after the models; arguments as in :func:`nts.matching.match_proposals`."""
    constants = constants or Constants()
    candidates = classify_and_suppress(tokens, mask_logits, predicted_iou, prototypes, constants)
    return merge(candidates, enlarge(candidates.mask_logits, image_size), constants.max_instances)


def segment(
    image: np.ndarray, dino: Dinov2Model, sam: SAM2Base, prototypes: Tensor, constants: Constants | None = None
) -> Found:
    """Segment an image, uint8 ``[H, W, 3]``; prototypes ``[K, C]`` are L2-normalised, on the device of the models."""
    constants = constants or Constants()
    encoder_input, segmenter_input = prepare_target(image, dino.config.image_size, sam.image_size, antialias=False)
    tokens = encode_tokens(dino, encoder_input.to(prototypes.device))
    pyramid = encode_image(sam, segmenter_input.to(prototypes.device))
    points = prompt_grid(constants.points_per_side, sam.image_size, prototypes.device)
    mask_logits, predicted_iou = propose(sam, pyramid, points, constants.iou_threshold)
    return match(tokens, mask_logits, predicted_iou, prototypes, image.shape[:2], constants)
