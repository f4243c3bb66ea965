"""Where an image is alike to a class: the cosine of every patch with the class prototype, as a map.

It is what the matching sees before any mask is proposed, and so it tells two failures apart: where the map is bright on
an object that was not found, the proposals missed it; where it is dark, the encoder does not know the class.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def similarity_maps(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine similarity of every patch with every class.

    Args:
        tokens: ``[h, w, C]`` patch tokens of an image.
        prototypes: ``[K, C]`` class prototypes.

    Returns:
        float ``[K, h, w]`` in ``[-1, 1]``.

    Raises:
        ValueError: if tokens and prototypes do not have the same length ``C``.
    """
    if tokens.ndim != 3 or prototypes.ndim != 2 or tokens.shape[2] != prototypes.shape[1]:
        raise ValueError(
            "tokens must be [h, w, C] and prototypes [K, C] of the same C, "
            f"got {tuple(tokens.shape)} and {tuple(prototypes.shape)}"
        )
    cosine = F.normalize(tokens.float(), dim=2) @ F.normalize(prototypes.float(), dim=1).T
    return cosine.permute(2, 0, 1).clamp(min=-1, max=1)


def enlarge(maps: Tensor, image_size: tuple[int, int], longest: int) -> Tensor:
    """Enlarge maps bilinearly to the shape of their image.

    The encoder sees the image stretched to a square, so its grid has another aspect ratio than the image.

    Args:
        maps: ``[K, h, w]``.
        image_size: ``(H, W)`` of the image in pixels.
        longest: the longer side of the result, in pixels; an image that is smaller than that keeps its size.

    Returns:
        ``[K, H', W']``, with ``H' : W'`` that of the image.
    """
    scale = min(1.0, longest / max(image_size))
    height, width = (max(1, round(side * scale)) for side in image_size)
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
