"""Masks of the proposals of one image, in two forms.

:class:`LogitMasks` holds the logits of SAM2 and draws only the masks that the matching asks for.
:class:`RunLengthMasks` holds every mask drawn, in few bytes, and is what the cache stores. Drawing all of several
hundred proposals takes longer than matching them, so an image that the models have just seen is matched by its logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from .masks import boxes_of_masks, draw_crops, draw_together, each_crop, overlaps_of_masks
from .merging import Overlaps
from .run_lengths import run_lengths


class ProposalMasks(Protocol):
    """Masks of ``n`` proposals of one image.

    Attributes:
        image_size: ``(H, W)`` of the image in pixels.
        boxes: integer ``[n, 4]`` inclusive boxes of the masks at the size of their logits; zeros for an empty one.
        empty: bool ``[n]``, of the same masks.
    """

    @property
    def image_size(self) -> tuple[int, int]: ...

    @property
    def boxes(self) -> Tensor: ...

    @property
    def empty(self) -> Tensor: ...

    def overlaps(self, which: Tensor, labels: Tensor) -> Overlaps:
        """Return the pixels that proposals share at the image's size.

        Args:
            which: int64 ``[k]`` distinct proposals, by falling rank.
            labels: int64 ``[k]`` their classes.
        """
        ...

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return masks at the image's size, each cut to its box, and those boxes.

        Args:
            which: int64 ``[k]`` proposals.

        Returns:
            bool ``[h, w]`` each, on the CPU, and int64 ``[k, 4]`` half-open boxes; see :func:`nts.masks.draw_crops`.
        """
        ...


@dataclass(frozen=True)
class LogitMasks:
    """Masks as SAM2 gives them.

    Attributes:
        logits: ``[n, S, S]``, positive inside.
        image_size: ``(H, W)`` of the image in pixels.
    """

    logits: Tensor
    image_size: tuple[int, int]

    @cached_property
    def boxes(self) -> Tensor:
        return boxes_of_masks(self.logits > 0)

    @cached_property
    def empty(self) -> Tensor:
        return ~(self.logits > 0).flatten(1).any(1)

    def overlaps(self, which: Tensor, labels: Tensor) -> Overlaps:
        """See :meth:`ProposalMasks.overlaps`."""
        return Overlaps.of_matrix(overlaps_of_masks(self.logits[which], self.image_size), labels)

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """See :meth:`ProposalMasks.crops`."""
        return draw_crops(self.logits[which], self.image_size)


@dataclass(frozen=True)
class DrawnMasks:
    """Masks drawn at the image's size, as run lengths; on the CPU.

    Attributes:
        full_boxes: int32 ``[n, 4]`` half-open boxes at the image's size.
        runs: uint8, COCO's run lengths of all masks, each cut to its box and transposed, concatenated. COCO goes down
            the columns, so a transposed mask is decoded row by row.
        runs_end: int32 ``[n]`` end of the run lengths of each mask in ``runs``.
    """

    full_boxes: Tensor
    runs: Tensor
    runs_end: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, image_size: tuple[int, int]) -> DrawnMasks:
        """Draw masks ``[n, S, S]``, given as logits, at the size ``(H, W)`` of their image."""
        if logits.device.type != "cpu":
            return cls.drawn_together(logits, image_size)
        return cls._of_runs((_run_lengths(crop), box) for crop, box in each_crop(logits, image_size))

    @classmethod
    def drawn_together(cls, logits: Tensor, image_size: tuple[int, int]) -> DrawnMasks:
        """As :meth:`of_logits`, on the device of the logits, many masks at a time; only their runs are copied."""
        found = [run_lengths(masks) for masks in draw_together(logits, image_size)]
        boxes = [torch.zeros(0, 4, dtype=torch.int32), *(torch.from_numpy(part.boxes).int() for part in found)]
        lengths = [torch.zeros(0, dtype=torch.int64), *(torch.from_numpy(part.lengths) for part in found)]
        return cls(
            full_boxes=torch.cat(boxes),
            runs=torch.cat([torch.zeros(0, dtype=torch.uint8), *(torch.from_numpy(part.runs) for part in found)]),
            runs_end=torch.cat(lengths).cumsum(0).int(),
        )

    @classmethod
    def of_crops(cls, crops: Sequence[Tensor], boxes: Sequence[Sequence[int]]) -> DrawnMasks:
        """Masks that are drawn already: bool, each of the size of its half-open box."""
        return cls._of_runs(zip(map(_run_lengths, crops), boxes, strict=True))

    @classmethod
    def _of_runs(cls, masks: Iterable[tuple[bytes, Sequence[int]]]) -> DrawnMasks:
        runs, boxes = [], []
        for of_mask, box in masks:
            runs.append(of_mask)
            boxes.append(list(box))
        lengths = torch.tensor([len(of_mask) for of_mask in runs], dtype=torch.int64)
        return cls(
            full_boxes=torch.tensor(boxes, dtype=torch.int32).reshape(-1, 4),
            runs=torch.from_numpy(np.frombuffer(b"".join(runs), np.uint8).copy()),
            runs_end=lengths.cumsum(0).int(),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All attributes by name."""
        return vars(self)

    @property
    def inclusive_boxes(self) -> Tensor:
        """The boxes with their last pixels, int32 ``[n, 4]``."""
        return self.full_boxes - torch.tensor([0, 0, 1, 1], dtype=torch.int32)

    def shifted(self, which: Tensor, offset: tuple[int, int]) -> DrawnMasks:
        """Some of the masks, int64 ``[k]``, in an image in which this one begins at ``(x, y)``."""
        begins = torch.cat([self.runs_end.new_zeros(1), self.runs_end[:-1]])
        spans = zip(begins[which].tolist(), self.runs_end[which].tolist(), strict=True)
        boxes = self.full_boxes[which]
        there = (boxes[:, 2] > boxes[:, 0])[:, None]  # a mask that vanished keeps its box of zeros
        return DrawnMasks(
            full_boxes=boxes + there * torch.tensor(offset, dtype=torch.int32).repeat(2),
            runs=torch.cat([self.runs[:0], *(self.runs[begin:end] for begin, end in spans)]),
            runs_end=(self.runs_end[which] - begins[which]).cumsum(0).int(),
        )

    @classmethod
    def concatenated(cls, parts: Sequence[DrawnMasks]) -> DrawnMasks:
        """Masks of one image after each other."""
        begins = np.cumsum([0, *(len(part.runs) for part in parts[:-1])]).tolist()
        return cls(
            full_boxes=torch.cat([part.full_boxes for part in parts]),
            runs=torch.cat([part.runs for part in parts]),
            runs_end=torch.cat([part.runs_end + begin for part, begin in zip(parts, begins, strict=True)]),
        )

    def filled(self, size: tuple[int, int]) -> Tensor:
        """The masks in their frame ``(H, W)``: bool ``[n, H, W]``."""
        masks = torch.zeros(len(self.full_boxes), *size, dtype=torch.bool)
        crops, boxes = self.crops(torch.arange(len(masks)))
        for mask, crop, (x1, y1, x2, y2) in zip(masks, crops, boxes.tolist(), strict=True):
            mask[y1:y2, x1:x2] = crop
        return masks

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """See :meth:`ProposalMasks.crops`."""
        boxes = self.full_boxes[which].long()
        ends, runs = self.runs_end.tolist(), self.runs.numpy()
        crops = []
        for k, (x1, y1, x2, y2) in zip(which.tolist(), boxes.tolist(), strict=True):
            counts = runs[ends[k - 1] if k else 0 : ends[k]].tobytes()
            if not counts:  # pycocotools cannot decode an empty array
                crops.append(torch.zeros(y2 - y1, x2 - x1, dtype=torch.bool))
                continue
            columns = coco_mask.decode({"size": [x2 - x1, y2 - y1], "counts": counts})
            crops.append(torch.from_numpy(columns.T.view(bool)))
        return crops, boxes


@dataclass(frozen=True)
class RunLengthMasks:
    """Masks drawn at the image's size, as run lengths, with the overlaps of all pairs; on the CPU.

    Attributes:
        image_size: ``(H, W)`` in pixels.
        boxes: integer ``[n, 4]`` inclusive boxes of the masks at the size of their logits; of the image, if they come
            from several tiles of it.
        empty: bool ``[n]``, of the same masks.
        full_boxes, runs, runs_end: see :class:`DrawnMasks`.
        areas: int32 ``[n]`` in pixels of the image.
        pairs: int16 ``[2, p]`` proposals ``i < j`` that share pixels at the image's size; int32 where ``n`` demands it.
        shared: int32 ``[p]`` number of shared pixels of each pair.
    """

    image_size: tuple[int, int]
    boxes: Tensor
    empty: Tensor
    full_boxes: Tensor
    areas: Tensor
    pairs: Tensor
    shared: Tensor
    runs: Tensor
    runs_end: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor, image_size: tuple[int, int]) -> RunLengthMasks:
        """Draw masks ``[n, S, S]``, given as logits, at the size ``(H, W)`` of their image."""
        inside = logits > 0
        overlaps = overlaps_of_masks(logits, image_size)
        first, second = overlaps.triu(1).nonzero(as_tuple=True)
        return cls(
            image_size=image_size,
            boxes=boxes_of_masks(inside).to("cpu", torch.int16),
            empty=~inside.flatten(1).any(1).cpu(),
            areas=overlaps.diagonal().int().cpu(),
            pairs=torch.stack([first, second]).to("cpu", torch.int16 if len(logits) <= 1 << 15 else torch.int32),
            shared=overlaps[first, second].int().cpu(),
            **DrawnMasks.of_logits(logits, image_size).tensors,
        )

    @classmethod
    def of_drawn(cls, drawn: DrawnMasks, image_size: tuple[int, int]) -> RunLengthMasks:
        """Masks that are drawn already; few, since the crops of all are compared."""
        crops, boxes = drawn.crops(torch.arange(len(drawn.full_boxes)))
        areas = torch.tensor([int(crop.sum()) for crop in crops], dtype=torch.int32)
        found = []
        for (i, (x1, y1, x2, y2)), (j, (u1, v1, u2, v2)) in combinations(enumerate(boxes.tolist()), 2):
            a, b, c, d = max(x1, u1), max(y1, v1), min(x2, u2), min(y2, v2)
            if a < c and b < d:
                first, second = crops[i][b - y1 : d - y1, a - x1 : c - x1], crops[j][b - v1 : d - v1, a - u1 : c - u1]
                found.append((i, j, int((first & second).sum())))
        pairs = torch.tensor([each for each in found if each[2]], dtype=torch.int32).reshape(-1, 3)
        return cls(
            image_size=image_size,
            boxes=drawn.inclusive_boxes,
            empty=areas == 0,
            areas=areas,
            pairs=pairs[:, :2].T.contiguous(),
            shared=pairs[:, 2].contiguous(),
            **drawn.tensors,
        )

    @property
    def drawn(self) -> DrawnMasks:
        """The masks alone."""
        return DrawnMasks(self.full_boxes, self.runs, self.runs_end)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], image_size: tuple[int, int]) -> RunLengthMasks:
        """Inverse of :attr:`tensors`; other tensors are ignored."""
        own: dict[str, Any] = {field.name: tensors[field.name] for field in fields(cls) if field.name != "image_size"}
        return cls(image_size=image_size, **own)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All attributes but the image's size, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def overlaps(self, which: Tensor, labels: Tensor) -> Overlaps:
        """See :meth:`ProposalMasks.overlaps`."""
        ranks, classes = torch.zeros((2, len(self.areas)), dtype=torch.int64)
        ranks[which] = torch.arange(len(which))
        classes[which] = labels + 1  # 0 marks the proposals that were not asked for
        first_class, second_class = classes[self.pairs.long()]
        matter = ((first_class == second_class) & (first_class > 0)).nonzero()[:, 0]
        first, second = ranks[self.pairs[:, matter].long()]
        return Overlaps(
            areas=self.areas[which].long(),
            worse=torch.maximum(first, second),
            better=torch.minimum(first, second),
            shared=self.shared[matter].long(),
        )

    def crops(self, which: Tensor) -> tuple[list[Tensor], Tensor]:
        """See :meth:`ProposalMasks.crops`."""
        return self.drawn.crops(which)


def _run_lengths(crop: Tensor) -> bytes:
    # pycocotools cannot encode an empty array.
    return coco_mask.encode(crop.cpu().contiguous().numpy().view(np.uint8).T)["counts"] if crop.numel() else b""
