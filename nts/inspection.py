"""Looking into a memory: which classes are alike, which references disagree with their class, and what they show.

A memory is right or wrong before any image is segmented: two prototypes that point the same way cannot be told apart,
and a reference that is more like another class than like its own drags its class's prototype there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from .memory import MemoryBank
from .pictures import Colour
from .references import crop_window

_DIMMED = 0.6
_OUTLINE = 3  # pixels


@dataclass(frozen=True)
class LeaveOneOut:
    """One reference, classified by all the others.

    Attributes:
        entry: its place in :attr:`MemoryBank.entries`.
        class_name: its own class.
        similarity: cosine to the prototype that its class would have without it; NaN where it is the only one of its
            class, and there would be none.
        other: the most similar other class; ``None`` where there is no other.
        other_similarity: cosine to that class's prototype; NaN where there is no other.
    """

    entry: int
    class_name: str
    similarity: float
    other: str | None
    other_similarity: float

    @property
    def margin(self) -> float:
        """How much more it is like its own class than like any other; NaN where either is missing."""
        return self.similarity - self.other_similarity

    @property
    def agrees(self) -> bool | None:
        """Whether the others would give it its own class; ``None`` where nothing can be said: it is the only one."""
        if math.isnan(self.similarity):
            return None
        return self.other is None or self.margin > 0


def prototype_similarities(memory: MemoryBank) -> Tensor:
    """How alike the classes are: cosine between their prototypes, float ``[K, K]``, in the order of the classes."""
    if len(memory) == 0:
        return torch.zeros(0, 0)
    prototypes = memory.prototypes()
    return prototypes @ prototypes.T


def leave_one_out(memory: MemoryBank) -> list[LeaveOneOut]:
    """Classify every reference by the others, in the order of :attr:`MemoryBank.entries`.

    The class prototype is the normalised mean of its instances, so the one without a certain instance points along the
    sum of the class minus that instance: all of them are had at once, without building a memory for each.
    """
    if len(memory) == 0:
        return []
    classes, labels = memory.classes, memory.entry_labels()
    instances = memory.instance_prototypes()
    # The difference of a sum and one of its terms loses digits that single precision does not have to spare.
    sums = torch.zeros(len(classes), instances.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, instances.double())
    without = F.normalize(sums[labels] - instances.double(), dim=1).float()
    alone = torch.bincount(labels, minlength=len(classes))[labels] == 1

    directions = F.normalize(instances, dim=1)
    own = (directions * without).sum(1).masked_fill(alone, math.nan)
    others = directions @ memory.prototypes().T
    others.scatter_(1, labels[:, None], -math.inf)
    best, which = others.max(1)
    if len(classes) == 1:
        best = torch.full_like(best, math.nan)
    return [
        LeaveOneOut(entry, classes[label], similarity, classes[other] if len(classes) > 1 else None, other_similarity)
        for entry, (label, similarity, other, other_similarity) in enumerate(
            zip(labels.tolist(), own.tolist(), which.tolist(), best.tolist(), strict=True)
        )
    ]


def draw_reference(
    image: np.ndarray, mask: np.ndarray, colour: Colour, size: int = 160, *, whole: bool = False
) -> Image.Image:
    """A reference, cut out with its context as the encoder gets it: the object outlined, what is around it dimmed.

    Args:
        image: uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]``, not empty.
        colour: of the outline.
        size: the picture fits into a square of this side, in pixels.
        whole: for points and strokes, whose box says little: the whole image, and a dot or a line that can be seen
            wherever a pixel is marked.
    """
    ys, xs = mask.nonzero()
    box = (xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min())
    window = (0, 0, mask.shape[1], mask.shape[0]) if whole else crop_window(box, mask.shape)
    width, height = window[2] - window[0], window[3] - window[1]
    scale = size / max(width, height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))

    crop = Image.fromarray(image).resize(fitted, Image.Resampling.BICUBIC, box=window)
    if whole:
        hit = F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), (fitted[1], fitted[0]))[0].numpy() > 0
        inside = Image.fromarray(hit).convert("L").filter(ImageFilter.MaxFilter(3))
    else:
        inside = Image.fromarray(mask).convert("L").resize(fitted, Image.Resampling.BILINEAR, box=window)
        inside = inside.point(lambda value: 255 if value > 127 else 0)
    around = inside.filter(ImageFilter.MaxFilter(2 * _OUTLINE + 1))
    picture = crop.point(lambda value: round(_DIMMED * value))
    picture.paste(colour, mask=around)
    picture.paste(crop, mask=inside)
    return picture
