"""Proposals from shrunken copies of an image, so that large objects have the size that a small segmenter knows.

A SAM2 that was trained on small objects, or is too small itself, finds no large ones. On a copy of the image that is
shrunk onto an empty canvas they are small. Masks of a copy are enlarged to those of the image and join its proposals;
they are coarser, since they have fewer pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import ImageEmbedding, ProposalConfig, Proposals, Segmenter


def propose_at_scales(
    segmenter: Segmenter,
    pixels: Tensor,
    embedding: ImageEmbedding,
    config: ProposalConfig,
    which: Tensor | None = None,
) -> Proposals:
    """Proposals of an image, followed by those of its shrunken copies.

    Args:
        segmenter: SAM2.
        pixels: ``[3, s, s]`` ImageNet-normalised, the segmenter's input.
        embedding: of the image.
        config: settings.
        which: int64 indices of the grid points to prompt on the image itself; ``None`` for all.
    """
    proposals = segmenter.propose(embedding, config, which)
    for scale in config.scales:
        copy = segmenter.embed(shrunken(pixels, scale), add_no_mem_embed=config.add_no_mem_embed)
        proposals = proposals.and_also(segmenter.propose(copy, config, extent=scale))
    return proposals


def shrunken(pixels: Tensor, scale: float) -> Tensor:
    """Copy of an image in the upper left corner of a canvas in ImageNet's mean colour.

    Args:
        pixels: ``[3, s, s]`` ImageNet-normalised.
        scale: side of the copy relative to the canvas, rounded to whole cells of the mask logits.
    """
    side = 4 * round(scale * pixels.shape[-1] / 4)
    canvas = torch.zeros_like(pixels)
    copy = F.interpolate(pixels[None], size=(side, side), mode="bilinear", antialias=True)
    canvas[:, :side, :side] = copy[0]
    return canvas
