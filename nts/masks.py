"""Masks, boxes and overlaps at image size from low-resolution mask logits.

SAM2 returns ``[n, S, S]`` logits for an image of ``H x W`` pixels. A mask at full size is the bilinear enlargement of
its logits, thresholded at 0 (paper, Sec. 3.3). Bilinear resizing is linear and separable, ``Z -> R_y Z R_x^T``, so any
rectangle of the full-size logits depends on a few low-resolution logits. All functions work on such tiles: full-size
float masks are never materialised, and the memory does not grow with the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from .utils.devices import to_device

TILE = 96
"""Side of a tile in pixels: small enough that most masks miss most tiles, large enough for efficient products."""

_CELLS = 1 << 23

_CELLS_ON_GPU = 1 << 27
"""Pixels of masks that a GPU computes at a time, 512 MiB in single precision: few large steps keep it busy."""
_LARGEST_TILE = 1024
_EXACT_IN_HALF = 2048
"""Whole numbers up to this are exact in half precision."""


def resize_matrix(source: int, target: int, *, antialias: bool = True, like: Tensor | None = None) -> Tensor:
    """Matrix ``R`` ``[target, source]`` of a 1-D bilinear resize with half-pixel centres: ``resized = R @ signal``.

    Device and dtype are those of ``like``.
    """
    like = torch.empty(0) if like is None else like
    identity = torch.eye(source, dtype=like.dtype, device=like.device)[None, None]
    resized = F.interpolate(
        identity, size=(target, source), mode="bilinear", align_corners=False, antialias=antialias and target < source
    )
    return resized[0, 0]


def boxes_of_masks(masks: Tensor) -> Tensor:
    """Inclusive boxes ``x1, y1, x2, y2`` of masks: bool ``[n, H, W]`` to int64 ``[n, 4]``; zeros for empty masks."""
    n, height, width = masks.shape
    if n == 0:
        return torch.zeros(0, 4, dtype=torch.int64, device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    x1, y1 = columns.int().argmax(1), rows.int().argmax(1)
    x2 = width - 1 - columns.flip(1).int().argmax(1)
    y2 = height - 1 - rows.flip(1).int().argmax(1)
    boxes = torch.stack([x1, y1, x2, y2], 1)
    return torch.where(columns.any(1)[:, None], boxes, torch.zeros_like(boxes))


def draw_masks(logits: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Masks at the image's size: logits ``[n, S, S]`` to bool ``[n, H, W]``, positive after bilinear resizing."""
    height, width = image_size
    masks = torch.zeros(len(logits), height, width, dtype=torch.bool, device=logits.device)
    for rows, columns, members, tile in _tiles(logits, image_size):
        masks[members, rows, columns] = tile > 0
    return masks


class WindowDrawer:
    """Draws masks ``[n, S, S]``, given as logits, in windows of their image of ``(H, W)`` pixels."""

    def __init__(self, logits: Tensor, image_size: tuple[int, int]) -> None:
        self._logits = logits.float()
        self._resize_y = resize_matrix(logits.shape[1], image_size[0], like=self._logits)
        self._resize_x = resize_matrix(logits.shape[2], image_size[1], like=self._logits)

    def draw(self, window: tuple[int, int, int, int], which: Tensor) -> Tensor:
        """Some of the masks, int64 ``[k]``, in a window ``left, top, right, bottom``: bool ``[k, h, w]``."""
        left, top, right, bottom = window
        resize_y, resize_x = self._resize_y[top:bottom], self._resize_x[left:right]
        rows, columns = _support(resize_y), _support(resize_x)
        low = self._logits[which, rows, columns]
        return resize_y[:, rows] @ low @ resize_x[:, columns].T > 0


def draw_crops(logits: Tensor, image_size: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
    """The crops of :func:`each_crop`, on the CPU, and their boxes as int64 ``[n, 4]``, on the device of the logits."""
    if logits.device.type != "cpu":
        crops, boxes = crops_together(logits, image_size)
        return crops, to_device(boxes, logits.device)
    drawn = list(each_crop(logits, image_size))
    boxes = torch.tensor([box for _, box in drawn], dtype=torch.int64)
    return [crop for crop, _ in drawn], boxes.reshape(-1, 4)


def crops_together(logits: Tensor, image_size: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
    """The crops of :func:`each_crop`, and int64 ``[n, 4]`` their boxes, drawn many at a time; both on the CPU."""
    crops, boxes = [], [torch.zeros(0, 4, dtype=torch.int64)]
    for masks in draw_together(logits, image_size):
        of_masks = boxes_of_masks(masks)
        of_masks[:, 2:] += masks.flatten(1).any(1)[:, None]  # half-open
        boxes.append(of_masks.cpu())
        cut = [mask[y1:y2, x1:x2] for mask, (x1, y1, x2, y2) in zip(masks, boxes[-1].tolist(), strict=True)]
        pixels = torch.cat([crop.flatten() for crop in cut]).cpu().split([crop.numel() for crop in cut])
        crops += [of_crop.view(crop.shape) for of_crop, crop in zip(pixels, cut, strict=True)]
    return crops, torch.cat(boxes)


def draw_together(logits: Tensor, image_size: tuple[int, int]) -> Iterator[Tensor]:
    """The masks of :func:`draw_masks` whole, as many at a time as a GPU computes well: bool ``[k, H, W]`` each."""
    height, width = image_size
    logits = logits.float()
    resize_y = resize_matrix(logits.shape[1], height, like=logits)
    resize_x = resize_matrix(logits.shape[2], width, like=logits)
    for part in logits.split(max(1, _CELLS_ON_GPU // (height * width))):
        if len(part):
            yield resize_y @ part @ resize_x.T > 0


def each_crop(logits: Tensor, image_size: tuple[int, int]) -> Iterator[tuple[Tensor, tuple[int, int, int, int]]]:
    """The masks of :func:`draw_masks` one at a time, computed around their objects only and cropped to their boxes.

    Yields:
        a bool ``[height, width]`` crop, and its half-open box ``x1, y1, x2, y2``. A mask that vanishes at this size has
        an empty crop and a box of zeros.
    """
    height, width = image_size
    logits = logits.float()
    resize_y = resize_matrix(logits.shape[1], height, like=logits)
    resize_x = resize_matrix(logits.shape[2], width, like=logits)
    (top_of, bottom_of), (left_of, right_of) = _reach(resize_y), _reach(resize_x)
    for of_mask, (x1, y1, x2, y2) in zip(logits, boxes_of_masks(logits > 0).tolist(), strict=True):
        top, bottom, left, right = top_of[y1], bottom_of[y2], left_of[x1], right_of[x2]
        weights_y, weights_x = resize_y[top:bottom], resize_x[left:right]
        below_y, below_x = _support(weights_y), _support(weights_x)
        below, across = of_mask[below_y, below_x], weights_x[:, below_x].T
        # In strips: single precision for a mask of 100 megapixels would take 400 MB.
        strips = weights_y[:, below_y].split(max(1, _CELLS // (right - left)))
        crop = torch.cat([strip @ below @ across > 0 for strip in strips])
        rows, columns = crop.any(1).nonzero()[:, 0], crop.any(0).nonzero()[:, 0]
        if len(rows) == 0:
            yield crop[:0, :0], (0, 0, 0, 0)
            continue
        y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        yield crop[y1:y2, x1:x2].clone(), (left + x1, top + y1, left + x2, top + y2)


def _reach(weights: Tensor) -> tuple[list[int], list[int]]:
    """First target position that depends on each source position, and the one after the last."""
    used = weights.ne(0)
    positions = torch.arange(len(weights), device=weights.device)[:, None]
    first, last = torch.where(used, positions, len(weights)).amin(0), torch.where(used, positions, -1).amax(0)
    return first.tolist(), (last + 1).tolist()


def draw_class_map(logits: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Class of each pixel: the class of the highest logit, if it is positive after bilinear resizing.

    A positive logit is a probability above one half.

    Args:
        logits: ``[K, S, S]``, one map per class.
        image_size: ``(H, W)`` in pixels.

    Returns:
        int32 ``[H, W]``: ``k + 1`` for the class of row ``k``, 0 for none.
    """
    classes = torch.zeros(image_size, dtype=torch.int32, device=logits.device)
    for rows, columns, members, tile in _tiles(logits, image_size):
        best, which = tile.max(0)
        classes[rows, columns] = torch.where(best > 0, members[which] + 1, 0).int()
    return classes


def overlaps_of_masks(logits: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Pixels shared by each pair of masks at the image's size: ``[n, S, S]`` logits to float64 ``[n, n]``.

    The diagonal has the areas. Counts are exact: products within a tile stay below 2**24, where float32 is exact, and
    tiles are summed in double precision. A tile only involves masks whose boxes reach into it.
    """
    overlaps = torch.zeros(len(logits), len(logits), dtype=torch.float64, device=logits.device)
    for _, _, members, tile in _tiles(logits, image_size):
        overlaps[members[:, None], members[None, :]] += _shared_pixels((tile > 0).flatten(1)).double()
    return overlaps


def _shared_pixels(masks: Tensor) -> Tensor:
    """Pixels shared by each pair of masks, bool ``[k, p]`` with ``p`` below 2**24: float32 ``[k, k]``, exact."""
    if masks.device.type == "cpu":
        pixels = masks.float()
        return pixels @ pixels.T
    return shared_in_half(masks)


def shared_in_half(masks: Tensor) -> Tensor:
    """Pixels shared by each pair of masks, see :func:`_shared_pixels`, by a GPU's units for half precision.

    They are an order of magnitude faster than those for single precision. Blocks of pixels keep the counts exact.
    """
    blocks = F.pad(masks, (0, -masks.shape[1] % _EXACT_IN_HALF)).half()
    blocks = blocks.unflatten(1, (-1, _EXACT_IN_HALF)).transpose(0, 1)
    return (blocks @ blocks.transpose(1, 2)).sum(0, dtype=torch.float32)


def _tiles(
    logits: Tensor, image_size: tuple[int, int], side: int | None = None
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield ``rows, columns, members, logits`` for each tile that a mask may reach into.

    ``members`` are the indices of these masks, ``logits`` their logits in the tile, float ``[k, rows, columns]``. Tiles
    have the given side, by default one that suits the device.
    """
    n, side_y, side_x = logits.shape
    height, width = image_size
    if n == 0:
        return
    side = side or (TILE if logits.device.type == "cpu" else min(max(TILE, isqrt(_CELLS_ON_GPU // n)), _LARGEST_TILE))
    logits = logits.float()
    # The host decides what a tile takes part of, and waits once for the boxes of the masks.
    resize_y, resize_x = resize_matrix(side_y, height), resize_matrix(side_x, width)
    weights_y, weights_x = (to_device(matrix, logits.device) for matrix in (resize_y, resize_x))
    boxes = boxes_of_masks(logits > 0).cpu()
    empty = (~(logits > 0).flatten(1).any(1)).cpu()

    for top in range(0, height, side):
        rows = slice(top, min(top + side, height))
        low_rows = _support(resize_y[rows])
        for left in range(0, width, side):
            columns = slice(left, min(left + side, width))
            low_columns = _support(resize_x[columns])
            # A pixel can be positive only if one of the logits that it is interpolated from is.
            reaches = (
                (boxes[:, 0] < low_columns.stop)
                & (boxes[:, 2] >= low_columns.start)
                & (boxes[:, 1] < low_rows.stop)
                & (boxes[:, 3] >= low_rows.start)
                & ~empty
            )
            members = reaches.nonzero()[:, 0]
            if len(members) == 0:
                continue
            members = to_device(members, logits.device)
            low = logits[members, low_rows, low_columns]
            tile = weights_y[rows, low_rows] @ low @ weights_x[columns, low_columns].T
            yield rows, columns, members, tile


def _support(weights: Tensor) -> slice:
    """Range of source positions that a block of rows of a resize matrix depends on."""
    used = weights.ne(0).any(0).nonzero()[:, 0]
    return slice(int(used[0]), int(used[-1]) + 1)
