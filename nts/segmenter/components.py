"""Masks cut to the piece that was clicked.

A click denotes one object. A small segmenter that meets several objects of the same look marks their pieces in one
mask, and its box then spans all of them. What is not connected with the click is taken off.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

_FILLED = 2


def keep_clicked(logits: Tensor, cells: Tensor) -> Tensor:
    """Take off what is not connected with the click, by the four neighbours of a cell.

    Args:
        logits: ``[n, k, S, S]``, ``k`` masks of each click, positive inside.
        cells: int64 ``[n, 2]``, column and row of the click, in ``[0, S)``.

    Returns:
        the logits, with 0 in what is taken off. A mask that does not hold its click stays as it is.
    """
    inside = (logits > 0).byte().cpu().numpy()
    taken_off = np.zeros_like(inside)
    for masks, of_masks, click in zip(inside, taken_off, cells.tolist(), strict=True):
        for mask, off in zip(masks, of_masks, strict=True):
            if not mask[click[1], click[0]]:
                continue
            size = np.count_nonzero(mask)
            filled, *_ = cv2.floodFill(mask, None, click, _FILLED, flags=4)
            if filled < size:
                off[:] = mask == 1
    if not taken_off.any():
        return logits
    return logits.masked_fill(torch.from_numpy(taken_off).to(logits.device, torch.bool), 0.0)
