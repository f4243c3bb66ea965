"""COCO's run lengths of many masks at once.

``pycocotools`` encodes one mask at a time, from the host's memory. Here the borders of all runs are found on the device
of the masks, with one kernel, and only these are copied to the host; NumPy then encodes all masks together. The bytes
are those of ``pycocotools``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RunLengths:
    """Masks cut to their boxes, as compressed run lengths along the rows.

    Attributes:
        boxes: int64 ``[n, 4]`` half-open, ``x1, y1, x2, y2``; zeros for an empty mask.
        runs: uint8, run lengths of all masks, concatenated; none of an empty mask.
        lengths: int64 ``[n]``, bytes of each mask in ``runs``.
    """

    boxes: np.ndarray
    runs: np.ndarray
    lengths: np.ndarray


def run_lengths(masks: Tensor) -> RunLengths:
    """Run lengths of masks, bool ``[n, H, W]``, on any device.

    COCO's run lengths go down the columns, so these are those of the transposed crops. ``n (H + 1) (W + 1)`` must be
    below 2**31.
    """
    count, height, width = masks.shape
    padded = F.pad(masks, (1, 1))
    borders = (padded[..., 1:] != padded[..., :-1]).flatten().nonzero()[:, 0]
    # In every row, begins and ends of runs alternate.
    begins, ends = borders.int().cpu().numpy().astype(np.int64).reshape(-1, 2).T
    lines, x = np.divmod(begins, width + 1)
    of_mask, y = np.divmod(lines, height)
    x_end = x + ends - begins

    first = np.searchsorted(of_mask, np.arange(count + 1))
    there = np.flatnonzero(np.diff(first))  # masks that are not empty
    boxes = np.zeros((count, 4), np.int64)
    if len(there):
        begin, end = first[there], first[there + 1]
        boxes[there, 0], boxes[there, 1] = np.minimum.reduceat(x, begin), y[begin]
        boxes[there, 2], boxes[there, 3] = np.maximum.reduceat(x_end, begin), y[end - 1] + 1
    left, top, right, bottom = boxes.T
    start = (y - top[of_mask]) * (right - left)[of_mask] - left[of_mask]  # of the row, in the pixels of the crop
    return _encoded(of_mask, start + x, start + x_end, (right - left) * (bottom - top), boxes)


def _encoded(
    of_mask: np.ndarray, begins: np.ndarray, ends: np.ndarray, areas: np.ndarray, boxes: np.ndarray
) -> RunLengths:
    """Encode runs of foreground, sorted, ``[r]`` each: their masks, and begins and ends in the pixels of the crops.

    ``areas`` ``[n]`` are those of the crops.
    """
    # A run that reaches the end of its row goes on in the next one if that begins with foreground.
    goes_on = (ends[:-1] == begins[1:]) & (of_mask[:-1] == of_mask[1:])
    is_begin, is_end = np.append(True, ~goes_on)[: len(begins)], np.append(~goes_on, True)[: len(ends)]
    begins, ends, of_mask = begins[is_begin], ends[is_end], of_mask[is_begin]

    # Counts of background and foreground in turn, and of the background after the last run, unless it is 0.
    last = np.append(of_mask[1:] != of_mask[:-1], True)[: len(of_mask)]
    first = np.roll(last, 1)
    before = np.where(first, 0, np.roll(ends, 1))
    counts = np.stack([begins - before, ends - begins, areas[of_mask] - ends], 1)
    is_count = np.ones_like(counts, bool)
    is_count[:, 2] = last & (counts[:, 2] > 0)
    of_count = np.repeat(of_mask, is_count.sum(1))
    counts = counts[is_count]

    number = np.arange(len(counts)) - np.searchsorted(of_count, of_count)  # within its mask
    values = counts - np.where(number > 2, np.roll(counts, 2), 0)
    bytes_, per_value = _as_text(values)
    lengths = np.bincount(of_count, per_value, minlength=len(boxes)).astype(np.int64)
    return RunLengths(boxes, bytes_, lengths)


def _as_text(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO's text: five bits per character, the lowest first, a sixth if more follow. Also the characters per value."""
    characters, used = [], []
    rest, more = values, np.ones(len(values), bool)
    while more.any():
        low, rest = rest & 0x1F, rest >> 5
        used.append(more)
        more = more & np.where(low & 0x10, rest != -1, rest != 0)
        characters.append((low | more << 5) + 48)
    if not used:
        return np.zeros(0, np.uint8), np.zeros(0, np.int64)
    is_used = np.stack(used, 1)
    return np.stack(characters, 1).astype(np.uint8)[is_used], is_used.sum(1)
