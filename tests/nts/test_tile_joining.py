"""Joining the proposals of tiles: against masks of the whole image, drawn and compared pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nts.masks import WindowDrawer, draw_masks
from nts.proposal_masks import DrawnMasks, RunLengthMasks
from nts.segmenter import Proposals
from nts.targets import EncodedTarget, Target
from nts.tile_joining import Tile, join_tiles, large_proposals
from nts.tiling import windows

SIZE = (240, 320)
CELL = 5  # pixels of the image for a pixel of the whole image's logits
TILES = windows(SIZE, (2, 2))  # of 138 x 183 pixels
CHANNELS = 6


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return (rows - y).square() + (columns - x).square() <= radius**2


def bar(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@dataclass
class Made:
    target: Target
    masks: torch.Tensor


def target_of(masks: list[torch.Tensor], features: list[torch.Tensor], predicted_iou: list[float]) -> Target:
    """Target with these masks, bool ``[h, w]``."""
    size = tuple(masks[0].shape)
    crops, boxes = [], []
    for mask in masks:
        ys, xs = mask.nonzero().T
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        crops.append(mask[box[1] : box[3], box[0] : box[2]])
        boxes.append(box)
    drawn = DrawnMasks.of_crops(crops, boxes)
    return Target(torch.stack(features), torch.tensor(predicted_iou), RunLengthMasks.of_drawn(drawn, size), voted=drawn)


def as_logits(mask: torch.Tensor) -> torch.Tensor:
    """Logits of a mask, sampled once in every cell."""
    return mask[CELL // 2 :: CELL, CELL // 2 :: CELL].float() - 0.5


def feature(k: int) -> torch.Tensor:
    return F.normalize(torch.eye(CHANNELS)[k % CHANNELS] + 0.1, dim=0)


def join(objects: list[torch.Tensor], *, in_whole: list[int] = ()) -> Made:
    """Join tiles that each propose what they see of every object, and a whole image that proposes some."""
    tiles = []
    for left, top, right, bottom in TILES:
        seen = [(k, mask[top:bottom, left:right]) for k, mask in enumerate(objects)]
        seen = [(k, mask) for k, mask in seen if mask.any()]
        if seen:
            own = [(mask, feature(k), 0.5 + 0.01 * k) for k, mask in seen]
            tiles.append(Tile((left, top, right, bottom), target_of(*map(list, zip(*own, strict=True)))))
    if in_whole:
        logits = torch.stack([as_logits(objects[k]) for k in in_whole])
        drawn = draw_masks(logits, SIZE)
        whole = target_of(list(drawn), [feature(k) for k in in_whole], [0.9] * len(in_whole))
    else:
        logits = torch.zeros(0, SIZE[0] // CELL, SIZE[1] // CELL)
        none = RunLengthMasks.of_logits(logits, SIZE)
        whole = Target(torch.zeros(0, CHANNELS), torch.zeros(0), none, voted=none.drawn)
    target = join_tiles(whole, logits, tiles)
    return Made(target, drawn_at_full_size(target))


def drawn_at_full_size(target: Target) -> torch.Tensor:
    masks = torch.zeros(len(target), *target.image_size, dtype=torch.bool)
    crops, boxes = target.masks.crops(torch.arange(len(target)))
    for mask, crop, (x1, y1, x2, y2) in zip(masks, crops, boxes.tolist(), strict=True):
        mask[y1:y2, x1:x2] = crop
    return masks


def check(made: Made) -> None:
    """The overlaps, areas and boxes of a joined target are those of its masks."""
    target, masks = made.target, made.masks
    flat = masks.flatten(1).long()
    expected = flat @ flat.T
    assert target.masks.areas.tolist() == expected.diagonal().tolist()
    found = torch.zeros_like(expected)
    i, j = target.masks.pairs.long()
    found[i, j] += target.masks.shared.long()
    found[j, i] += target.masks.shared.long()
    assert torch.equal(found, expected - torch.diag(expected.diagonal()))
    voted, boxes = target.outlines.crops(torch.arange(len(target)))
    for mask, crop, (x1, y1, x2, y2) in zip(masks, voted, boxes.tolist(), strict=True):
        assert torch.equal(mask[y1:y2, x1:x2], crop)
        assert int(crop.sum()) == int(mask.sum())


def test_an_object_inside_a_tile_is_itself():
    object_ = disc(40, 40, 15)
    made = join([object_])
    assert torch.equal(made.masks, object_[None])
    assert made.target.predicted_iou.tolist() == [0.5]
    check(made)


def test_a_part_is_dropped_where_a_neighbour_has_the_object_entire():
    right = TILES[0][2]
    object_ = disc(right, 50, 12)  # cut by the first tile, inside the second one
    assert object_[:, right:].any()
    made = join([object_])
    assert torch.equal(made.masks, object_[None])
    check(made)


def test_parts_of_an_object_that_is_entire_nowhere_are_joined():
    object_ = bar(20, 60, 300, 80)
    made = join([object_])
    assert torch.equal(made.masks, object_[None])
    assert made.target.features.norm(dim=1).tolist() == pytest.approx([1])
    torch.testing.assert_close(made.target.features[0], feature(0))
    check(made)


def test_an_object_in_all_four_tiles_is_joined_once():
    object_ = bar(20, 20, 300, 220)
    made = join([object_])
    assert torch.equal(made.masks, object_[None])
    check(made)


def test_of_a_large_object_the_whole_image_has_the_entire_mask():
    object_ = bar(20, 20, 300, 220)
    made = join([object_], in_whole=[0])
    assert len(made.target) == 1
    assert made.target.predicted_iou.tolist() == pytest.approx([0.9])
    check(made)


def test_what_only_one_tile_proposes_stays_as_it_is():
    _, _, right, bottom = TILES[0]
    object_ = bar(right - 30, 40, right, 60)  # ends at the border, where the neighbour proposes nothing
    tile = Tile(TILES[0], target_of([object_[:bottom, :right]], [feature(0)], [0.5]))
    logits = torch.zeros(0, 48, 64)
    none = RunLengthMasks.of_logits(logits, SIZE)
    joined = join_tiles(Target(torch.zeros(0, CHANNELS), torch.zeros(0), none, voted=none.drawn), logits, [tile])
    assert torch.equal(drawn_at_full_size(joined), object_[None])


def test_objects_that_touch_at_a_border_are_not_joined():
    right_of_first, left_of_second = TILES[0][2], TILES[1][0]
    first, second = bar(60, 20, right_of_first, 50), bar(left_of_second, 55, 260, 85)
    made = join([first, second])
    found = {tuple(mask.nonzero().amin(0).tolist()) for mask in made.masks}
    assert (20, 60) in found
    assert not any((mask & first).any() and (mask & second).any() for mask in made.masks)


def test_many_objects_in_any_place_are_found_once_each():
    rng = np.random.default_rng(3)
    objects = [disc(rng.uniform(20, 300), rng.uniform(20, 220), rng.uniform(4, 18)) for _ in range(40)]
    made = join(objects)
    check(made)
    flat, truth = made.masks.flatten(1).float(), torch.stack(objects).flatten(1).float()
    shared = truth @ flat.T
    iou = shared / (truth.sum(1)[:, None] + flat.sum(1) - shared)
    assert (iou.amax(1) == 1).all()


def test_repeated_parts_are_joined_once():
    object_ = bar(20, 60, 300, 80)
    made = join([object_, object_ | bar(20, 60, 300, 81)])
    assert len(made.target) == 1
    check(made)


def test_only_large_proposals_of_the_whole_image_count():
    right = TILES[0][2]
    masks = [bar(10, 10, 10 + round(0.4 * right), 40), bar(10, 10, 10 + round(0.6 * right), 40), bar(0, 10, 10, 110)]
    logits = torch.stack([*map(as_logits, masks), -torch.ones(48, 64)])
    whole = EncodedTarget(
        torch.zeros(2, 2, 3), Proposals(logits, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.zeros(4, 2)), SIZE
    )
    kept = large_proposals(whole, TILES).proposals
    assert kept.predicted_iou.tolist() == pytest.approx([0.2, 0.3])
    assert torch.equal(kept.mask_logits, logits[1:3])


def test_a_window_is_drawn_as_the_whole():
    logits = torch.randn(5, 16, 20, generator=torch.Generator().manual_seed(1))
    full = draw_masks(logits, (90, 130))
    for window in ((0, 0, 130, 90), (17, 3, 60, 41), (100, 80, 130, 90)):
        left, top, right, bottom = window
        drawn = WindowDrawer(logits, (90, 130)).draw(window, torch.tensor([3, 0]))
        assert torch.equal(drawn, full[[3, 0], top:bottom, left:right])


def test_drawn_masks_are_moved_chosen_and_concatenated():
    masks = [disc(30, 30, 9), disc(80, 60, 14)]
    drawn = target_of(masks, [feature(0)] * 2, [0.5] * 2).masks.drawn
    vanished = DrawnMasks.of_crops([torch.zeros(0, 0, dtype=torch.bool)], [(0, 0, 0, 0)])
    both = DrawnMasks.concatenated([drawn.shifted(torch.tensor([1]), (5, 7)), vanished, drawn])
    crops, boxes = both.crops(torch.arange(4))
    assert boxes.tolist() == [[71, 53, 100, 82], [0, 0, 0, 0], [21, 21, 40, 40], [66, 46, 95, 75]]
    assert [int(crop.sum()) for crop in crops] == [int(masks[1].sum()), 0, int(masks[0].sum()), int(masks[1].sum())]
    assert torch.equal(crops[0], crops[3])
