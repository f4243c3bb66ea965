"""Run lengths of many masks at once, against pycocotools, one mask at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from nts.run_lengths import run_lengths


def one_by_one(masks: torch.Tensor) -> tuple[list[list[int]], list[bytes]]:
    """Boxes, and run lengths of the transposed crops."""
    boxes, runs = [], []
    for mask in masks.numpy():
        ys, xs = mask.nonzero()
        if len(ys) == 0:
            boxes.append([0, 0, 0, 0])
            runs.append(b"")
            continue
        x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        boxes.append([x1, y1, x2, y2])
        crop = np.ascontiguousarray(mask[y1:y2, x1:x2]).view(np.uint8)
        runs.append(coco_mask.encode(crop.T)["counts"])
    return boxes, runs


def check(masks: torch.Tensor) -> None:
    found = run_lengths(masks)
    boxes, runs = one_by_one(masks)
    assert found.boxes.tolist() == boxes
    assert found.lengths.tolist() == [len(of_mask) for of_mask in runs]
    assert found.runs.tobytes() == b"".join(runs)
    assert found.runs.dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (40, 64)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 1.0])
def test_noise_of_any_density_is_encoded_to_the_bit(size, share):
    generator = torch.Generator().manual_seed(1)
    check(torch.rand(23, *size, generator=generator) < share)


def test_runs_go_on_in_the_next_row_of_the_box():
    masks = torch.zeros(4, 6, 8, dtype=torch.bool)
    masks[0, 1:5, 2:6] = True  # a box that is full is a single run
    masks[1, 1:5, 2:6] = True
    masks[1, 2, 3] = False
    masks[2, 0, 7], masks[2, 1, 0] = True, True  # the end of a row and the begin of the next
    masks[3, 5, 7] = True
    check(masks)
    assert run_lengths(masks).lengths[0] == 3  # no background, then 16 pixels, in two characters


@pytest.mark.parametrize("count", [0, 1, 5])
def test_masks_may_be_empty_or_absent(count):
    masks = torch.zeros(count, 4, 5, dtype=torch.bool)
    check(masks)
    if count == 5:
        masks[2, 1:3, 1:4] = True
        check(masks)


def test_long_runs_take_several_characters():
    """Differences of runs, positive and negative, of up to five characters."""
    masks = torch.zeros(3, 700, 900, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, -1, -1] = True
    masks[1, 100:400] = True
    masks[1, 250, 450] = False
    masks[2, ::7, ::450] = True
    masks[2, 300:500] = True
    check(masks)


def test_any_layout_in_memory_is_read():
    masks = (torch.rand(30, 20, 11, generator=torch.Generator().manual_seed(2)) < 0.5).permute(2, 1, 0)
    check(masks)
