"""Features of proposals from crops, prepared as references are.

In the features of a whole image an object covers a few patches; in its crop it fills the encoder's input. Comparing
crops with the crops of references compares objects at one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import Encoder
from .images import normalise, stretch
from .memory import instance_prototype
from .proposal_masks import ProposalMasks
from .references import area_weights, crop_window
from .utils.devices import halving
from .utils.threads import map_chunks

CROP_PATCHES = 16
"""Side of the encoder's input for a crop, in patches. The released encoders see references at 37; 16 cost a fifth."""


class TargetCrops:
    """Crop features of an image's proposals, embedded when they are first asked for.

    Args:
        image: returns the image, uint8 ``[H, W, 3]``; called at most once, and only if a crop is missing.
        encoder: that of the references.
        known: features ``[C]`` by proposal, embedded before.

    Attributes:
        features: all features ``[C]`` by proposal, on the CPU.
        new: number of features embedded here.
    """

    def __init__(
        self, image: Callable[[], np.ndarray], encoder: Encoder, known: Mapping[int, Tensor] | None = None
    ) -> None:
        self._read, self._encoder = image, encoder
        self._image: np.ndarray | None = None
        self.features: dict[int, Tensor] = dict(known or {})
        self.new = 0

    def of(self, masks: ProposalMasks, which: Tensor) -> Tensor:
        """Features of proposals from their crops.

        Args:
            masks: of the image's proposals.
            which: int64 ``[k]`` proposals, none of them empty at the image's size.

        Returns:
            float ``[k, C]``, L2-normalised, on the device of ``which``.
        """
        missing = [proposal for proposal in which.tolist() if proposal not in self.features]
        if missing:
            if self._image is None:
                self._image = self._read()
            crops, boxes = masks.crops(torch.tensor(missing, device=which.device))
            found = embed_crops(self._image, crops, boxes, self._encoder)
            self.features |= dict(zip(missing, found, strict=True))
            self.new += len(missing)
        if len(which) == 0:
            return torch.zeros(0, self._encoder.info.dim, device=which.device)
        return torch.stack([self.features[proposal] for proposal in which.tolist()]).to(which.device)


def embed_crops(image: np.ndarray, masks: Sequence[Tensor], boxes: Tensor, encoder: Encoder) -> Tensor:
    """Features of objects in an image, each from its own crop with the context of a reference (paper, Sec. 3.2).

    Args:
        image: uint8 ``[H, W, 3]``.
        masks: bool, each of the size of its box, not empty.
        boxes: integer ``[k, 4]``, half-open.
        encoder: a loaded encoder.

    Returns:
        float ``[k, C]``, L2-normalised, on the CPU.
    """
    if len(masks) == 0:
        return torch.zeros(0, encoder.info.dim)
    inputs = [_prepare(image, mask, box, encoder) for mask, box in zip(masks, boxes.tolist(), strict=True)]
    pixels, weights = torch.stack([crop for crop, _ in inputs]), [weight for _, weight in inputs]

    def embed(batch: Tensor) -> list[Tensor]:
        return list(halving(encoder.encode, batch).cpu())

    if encoder.is_small and encoder.device.type == "cpu":
        tokens = [of_crop for batch in map_chunks(embed, pixels.split(_per_thread(len(pixels)))) for of_crop in batch]
    else:
        tokens = embed(pixels)
    prototypes = [instance_prototype(t.flatten(0, 1), w.flatten()) for t, w in zip(tokens, weights, strict=True)]
    return F.normalize(torch.stack(prototypes), dim=1)


def _per_thread(count: int) -> int:
    return max(1, -(-count // torch.get_num_threads()))


def _prepare(image: np.ndarray, mask: Tensor, box: Sequence[int], encoder: Encoder) -> tuple[Tensor, Tensor]:
    x1, y1, x2, y2 = box
    left, top, right, bottom = window = crop_window((x1, y1, x2 - x1, y2 - y1), image.shape[:2])
    inside = np.zeros((bottom - top, right - left), np.float32)
    rows, columns = slice(max(y1, top), min(y2, bottom)), slice(max(x1, left), min(x2, right))
    inside[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = mask[
        rows.start - y1 : rows.stop - y1, columns.start - x1 : columns.stop - x1
    ].cpu()
    pixels = normalise(stretch(image, CROP_PATCHES * encoder.patch_size, window))
    return pixels, area_weights(inside, (CROP_PATCHES, CROP_PATCHES))
