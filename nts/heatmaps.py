"""Similarity heat maps: cosine similarity of each patch to a class prototype.

They separate two causes of a missed object: if the map is high on it, no proposal covered it; if the map is low, the
encoder does not represent the class.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def similarity_maps(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine similarity of each patch to each class prototype.

    Args:
        tokens: ``[h, w, C]`` patch tokens of an image.
        prototypes: ``[K, C]`` class prototypes.

    Returns:
        float ``[K, h, w]`` in ``[-1, 1]``.

    Raises:
        ValueError: if tokens and prototypes differ in length ``C``.
    """
    if tokens.ndim != 3 or prototypes.ndim != 2 or tokens.shape[2] != prototypes.shape[1]:
        raise ValueError(
            "tokens must be [h, w, C] and prototypes [K, C] of the same C, "
            f"got {tuple(tokens.shape)} and {tuple(prototypes.shape)}"
        )
    cosine = F.normalize(tokens.float(), dim=2) @ F.normalize(prototypes.float(), dim=1).T
    return cosine.permute(2, 0, 1).clamp(min=-1, max=1)


def enlarge(maps: Tensor, image_size: tuple[int, int], longest: int) -> Tensor:
    """Resize maps bilinearly to the aspect ratio of their image, as the encoder's grid is square.

    Args:
        maps: ``[K, h, w]``.
        image_size: ``(H, W)`` of the image in pixels.
        longest: maximal longer side of the result in pixels; smaller images are not enlarged.

    Returns:
        ``[K, H', W']`` with the aspect ratio of the image.
    """
    scale = min(1.0, longest / max(image_size))
    height, width = (max(1, round(side * scale)) for side in image_size)
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
