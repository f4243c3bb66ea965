"""Random matching problems: smooth blobs as mask logits, noisy class patterns as features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Matching problem of one image, with the references of its prototypes."""

    reference_tokens: Tensor
    reference_weights: Tensor
    tokens: Tensor
    mask_logits: Tensor
    predicted_iou: Tensor
    image_size: tuple[int, int]


def make_problem(
    seed: int,
    *,
    classes: int = 3,
    shots: int = 2,
    proposals: int = 40,
    grid: int = 8,
    side: int = 32,
    channels: int = 16,
    image_size: tuple[int, int] = (48, 64),
) -> Problem:
    """Draw a problem from its seed."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    patterns = noise(classes, channels)
    reference_tokens = patterns[:, None, None] + 0.8 * noise(classes, shots, grid * grid, channels)
    reference_weights = torch.rand(classes, shots, grid * grid, generator=generator)

    belongs = F.interpolate(noise(1, classes, 3, 3), size=(grid, grid), mode="bilinear")[0].softmax(0)
    tokens = torch.einsum("khw,kc->hwc", belongs, patterns) + 0.3 * noise(grid, grid, channels)

    centers = torch.rand(proposals, 2, 1, 1, generator=generator) * side
    radii = side * (0.05 + 0.25 * torch.rand(proposals, 1, 1, generator=generator))
    ys, xs = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = ((ys - centers[:, 0]) ** 2 + (xs - centers[:, 1]) ** 2).sqrt()
    wobble = F.interpolate(noise(proposals, 1, 5, 5), size=(side, side), mode="bicubic")[:, 0]
    mask_logits = radii - distance + 2 * wobble
    predicted_iou = 0.4 + 0.6 * torch.rand(proposals, generator=generator)
    return Problem(reference_tokens, reference_weights, tokens, mask_logits, predicted_iou, image_size)
