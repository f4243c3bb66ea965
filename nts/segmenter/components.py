"""Masks cut to the piece that was clicked.

A click denotes one object. A small segmenter that meets several objects of the same look marks their pieces in one
mask, and its box then spans all of them. What is not connected with the click is taken off.

On a CPU, OpenCV floods one mask after the other. A GPU floods all masks at once, by sweeps along rows and columns, with
eight masks in the bits of a byte, so that the masks need not be copied to the host and back.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.devices import to_device

_FILLED = 2

_SWEEPS = 4
"""Sweeps after which the host asks which masks still grow: most pieces are reached by then."""
_MOST_SWEEPS = 32
"""Masks that still grow after this many, such as long spirals, are flooded on the host."""
_PER_BYTE = 8


def keep_clicked(logits: Tensor, cells: Tensor) -> Tensor:
    """Take off what is not connected with the click, by the four neighbours of a cell.

    Args:
        logits: ``[n, k, S, S]``, ``k`` masks of each click, positive inside.
        cells: int64 ``[n, 2]``, column and row of the click, in ``[0, S)``.

    Returns:
        the logits, with 0 in what is taken off. A mask that does not hold its click stays as it is.
    """
    inside, clicks = (logits > 0).flatten(0, 1), cells.repeat_interleave(logits.shape[1], 0)
    if logits.device.type != "cpu" and len(inside):
        return logits.masked_fill(apart_by_sweeps(inside, clicks).view_as(logits), 0.0)
    taken_off = apart_by_flooding(inside, clicks)
    return logits.masked_fill(taken_off.view_as(logits), 0.0) if taken_off.any() else logits


def apart_by_flooding(inside: Tensor, cells: Tensor) -> Tensor:
    """Pixels of masks that are not connected with the click, one mask at a time.

    Args:
        inside: bool ``[m, S, S]``, on the CPU.
        cells: int64 ``[m, 2]``, column and row of the click of each.

    Returns:
        bool ``[m, S, S]``; nothing of a mask that does not hold its click.
    """
    masks = inside.byte().numpy()
    apart = np.zeros_like(masks, bool)
    for mask, off, click in zip(masks, apart, cells.tolist(), strict=True):
        if not mask[click[1], click[0]]:
            continue
        size = np.count_nonzero(mask)
        filled, *_ = cv2.floodFill(mask, None, click, _FILLED, flags=4)
        if filled < size:
            off[:] = mask == 1
    return torch.from_numpy(apart)


def apart_by_sweeps(inside: Tensor, cells: Tensor) -> Tensor:
    """The result of :func:`apart_by_flooding` on any device, all masks at once; at least one mask."""
    count, device = len(inside), inside.device
    every = torch.arange(count, device=device)
    column, row = cells.T
    held = inside[every, row, column]
    clicked = torch.zeros_like(inside)
    clicked[every, row, column] = held
    # A mask that does not hold its click stays as it is: it is reached everywhere from the start.
    reached, within = _packed(clicked | (inside & ~held[:, None, None])), _packed(inside)
    growing = torch.arange(len(within), device=device)
    for _ in range(0, _MOST_SWEEPS, _SWEEPS):
        some = reached[growing]
        runs = [_run_ends(within[growing], dim) for dim in (1, 2)]
        for _ in range(_SWEEPS):
            before = some.clone()
            for dim, ends in zip((1, 2), runs, strict=True):
                _fill_runs(some, ends, dim)
        reached[growing] = some
        growing = growing[(some != before).flatten(1).any(1)]  # the host waits here for their number
        if len(growing) == 0:
            break
    apart = inside & ~_unpacked(reached)[:count]
    if len(growing):
        left = (growing[:, None] * _PER_BYTE + torch.arange(_PER_BYTE, device=device)).flatten()
        left = left[left < count]
        apart[left] = to_device(apart_by_flooding(inside[left].cpu(), cells[left].cpu()), device)
    return apart


def _packed(masks: Tensor) -> Tensor:
    """Bool ``[m, S, S]`` to uint8 ``[ceil(m / 8), S, S]``, a mask per bit."""
    groups = F.pad(masks, (0, 0, 0, 0, 0, -len(masks) % _PER_BYTE)).unflatten(0, (-1, _PER_BYTE))
    return (groups * _bits(masks.device)).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor) -> Tensor:
    """Inverse of :func:`_packed`, with the masks that fill the last byte."""
    return (packed[:, None] & _bits(packed.device)).ne(0).flatten(0, 1)


def _bits(device: torch.device) -> Tensor:
    return (1 << torch.arange(_PER_BYTE, device=device)).byte()[:, None, None]


def _run_ends(within: Tensor, dim: int) -> list[Tensor]:
    """For 1, 2, 4, ... cells, up to the side: the cells at which a run of at least as many along ``dim`` ends."""
    ends, side = [within], within.shape[dim]
    while 2 ** len(ends) < side:
        length = 2 ** (len(ends) - 1)
        twice = torch.zeros_like(within)
        later, earlier = (ends[-1].narrow(dim, begin, side - length) for begin in (length, 0))
        twice.narrow(dim, length, side - length).copy_(later & earlier)
        ends.append(twice)
    return ends


def _fill_runs(reached: Tensor, ends: list[Tensor], dim: int) -> None:
    """Reach all cells of every run along ``dim`` that is reached anywhere, in place.

    Each step doubles the distance: a cell is reached from one 1, 2, 4, ... cells away if all between are inside.
    """
    side = reached.shape[dim]
    for k, end in enumerate(ends):
        step = 2**k
        earlier, later = (reached.narrow(dim, begin, side - step) for begin in (0, step))
        later |= earlier & end.narrow(dim, step, side - step)
    for k, end in enumerate(ends):
        step = 2**k
        earlier, later = (reached.narrow(dim, begin, side - step) for begin in (0, step))
        earlier |= later & end.narrow(dim, step - 1, side - step)
