"""Masks cut to the piece that was clicked, against a flood fill; and which presets do so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nts.images import normalise, stretch
from nts.presets import DEFAULT, FAST, PAPER
from nts.segmenter.components import apart_by_flooding, apart_by_sweeps, keep_clicked
from synthetic.scenes import NOVEL_SPECIES, draw_scene


def flood(inside: np.ndarray, column: int, row: int) -> np.ndarray:
    """The cells that can be reached from one, step by step."""
    reached, waiting = np.zeros_like(inside), [(row, column)]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < inside.shape[0] and 0 <= x < inside.shape[1] and inside[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached


def test_it_is_a_flood_fill_from_the_click():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, 24, 24, generator=generator) + 0.3
    cells = torch.randint(24, (20, 2), generator=generator)
    found = keep_clicked(logits, cells)
    cut = 0
    for clicked, (column, row), masks in zip(found, cells.tolist(), logits, strict=True):
        for after, before in zip(clicked, masks, strict=True):
            reached = flood((before > 0).numpy(), column, row)
            expected = reached if before[row, column] > 0 else (before > 0).numpy()
            assert ((after > 0).numpy() == expected).all()
            assert (after[torch.from_numpy(expected)] == before[torch.from_numpy(expected)]).all()
            assert (after[before <= 0] == before[before <= 0]).all()
            cut += int((expected != (before > 0).numpy()).any())
    assert cut > 10


def spiral(side: int) -> torch.Tensor:
    """A path one cell wide that winds from the border to the middle, with a wall of one cell beside it."""
    path, (y, x), (dy, dx) = torch.zeros(side, side, dtype=torch.bool), (0, 0), (0, 1)
    path[y, x] = True
    turns = 0
    while turns < 2:
        ahead = [(y + k * dy, x + k * dx) for k in (1, 2)]
        free = [0 <= v < side and 0 <= u < side and not path[v, u] for v, u in ahead]
        if free[0] and (free[1] or not (0 <= ahead[1][0] < side and 0 <= ahead[1][1] < side)):
            (y, x), turns = ahead[0], 0
            path[y, x] = True
        else:
            (dy, dx), turns = (dx, -dy), turns + 1
    return path


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.7, 0.95, 1.0])
@pytest.mark.parametrize(("count", "side"), [(1, 24), (19, 33), (8, 64)])
def test_sweeps_along_rows_and_columns_reach_what_a_flood_reaches(share, count, side):
    generator = torch.Generator().manual_seed(count)
    inside = torch.rand(count, side, side, generator=generator) < share
    cells = torch.randint(side, (count, 2), generator=generator)
    inside[0, cells[0, 1], cells[0, 0]] = True
    found = apart_by_sweeps(inside, cells)
    assert torch.equal(found, apart_by_flooding(inside, cells))
    assert found.any() or share > 0.9


def test_masks_that_no_number_of_sweeps_reaches_are_flooded_on_the_host():
    path = spiral(120)  # 60 sweeps long
    assert path.sum() > 120 * 120 / 3
    apart = path.clone()
    apart[60, :] = False  # cut through the windings
    inside = torch.stack([torch.zeros_like(path), path, apart, torch.ones_like(path)] * 5)
    cells = torch.zeros(20, 2, dtype=torch.int64)
    found = apart_by_sweeps(inside, cells)
    assert torch.equal(found, apart_by_flooding(inside, cells))
    assert not found[1].any()
    assert found[2].any()


def test_pieces_that_touch_at_a_corner_are_apart():
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[0, 0, :2, :2] = logits[0, 0, 2:, 2:] = 1.0
    found = keep_clicked(logits, torch.tensor([[0, 0]]))
    assert (found > 0).sum() == 4
    assert (found[0, 0, 2:, 2:] == 0).all()


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_no_masks_are_no_masks(shape):
    assert keep_clicked(torch.zeros(shape), torch.zeros(shape[0], 2, dtype=torch.int64)).shape == shape


@pytest.mark.parametrize("extent", [1.0, 0.5])
@pytest.mark.parametrize("voters", [False, True])
def test_proposals_hold_one_piece_each(small_segmenter, extent, voters):
    scene = draw_scene(11, NOVEL_SPECIES)
    pixels = normalise(stretch(scene.image, small_segmenter.input_size))
    embedding = small_segmenter.embed(pixels)
    config = replace(DEFAULT.proposals, voters=voters)
    whole = small_segmenter.propose(embedding, replace(config, connected=False), extent=extent)
    found = small_segmenter.propose(embedding, config, extent=extent)
    side = small_segmenter.mask_side
    cells = (found.points * side / small_segmenter.input_size).long()
    assert len(found) == len(whole) > 0
    assert found.mask_logits.is_inference()
    for mask, before, (column, row) in zip(found.mask_logits, whole.mask_logits, cells.tolist(), strict=True):
        inside = (before > 0).numpy()
        expected = flood(inside, column, row) if inside[row, column] else inside
        assert ((mask > 0).numpy() == expected).all()


def test_published_proposals_are_not_cut():
    assert DEFAULT.proposals.connected
    assert FAST.proposals.connected
    assert not PAPER.proposals.connected
