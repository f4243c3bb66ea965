"""References of every kind: no annotated pixel is lost, and contradictory references are skipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nts.building import build_memory
from nts.presets import DEFAULT, PAPER
from nts.references import InvalidReference, Reference, by_image, contradictions, prepare_reference

SIZES = [(1, 1), (1, 400), (3, 5), (28, 28), (97, 61), (2048, 3)]


def reference(mask: np.ndarray, kind: str = "point", name: str = "a", image: np.ndarray | None = None, **more):
    image = np.zeros((*mask.shape, 3), np.uint8) if image is None else image
    return Reference(image, name, mask, kind=kind, **more)


def prepare(one: Reference, preset=DEFAULT, grid: tuple[int, int] = (7, 9)) -> torch.Tensor:
    return prepare_reference(one, 126, grid, antialias=preset.antialias, patch_weights=preset.patch_weights)[1]


@pytest.mark.parametrize("preset", [DEFAULT, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize("size", SIZES)
def test_a_point_at_any_pixel_marks_the_patches_that_it_reaches_into(size, preset):
    height, width = size
    corners = [(y, x) for y in (0, height - 1) for x in (0, width - 1)]
    for y, x in [*corners, *np.random.default_rng(0).integers(0, size, (30, 2)).tolist()]:
        mask = np.zeros(size, bool)
        mask[y, x] = True
        weights = prepare(reference(mask), preset)
        expected = torch.zeros(7, 9)
        for row in range(7):
            for column in range(9):
                # The open intervals of pixel and patch overlap, in integers.
                in_row = row * height < (y + 1) * 7 and y * 7 < (row + 1) * height
                in_column = column * width < (x + 1) * 9 and x * 9 < (column + 1) * width
                expected[row, column] = float(in_row and in_column)
        assert expected.sum() > 0
        assert torch.equal(weights, expected)


@pytest.mark.parametrize("preset", [DEFAULT, PAPER], ids=["default", "paper"])
def test_every_pixel_of_a_stroke_is_kept_as_fully_as_the_others(preset):
    mask = np.eye(90, dtype=bool)
    weights = prepare(reference(mask, "scribble"), preset, grid=(9, 9))
    assert torch.equal(weights, torch.eye(9))


def test_points_show_the_whole_image_and_masks_boxes_and_promoted_ones_their_surroundings():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:30, 40:50] = True
    whole = prepare_reference(reference(np.ones_like(mask), "mask", image=image), 126, (9, 9))[0]
    around = prepare_reference(reference(mask, "mask", image=image), 126, (9, 9))
    assert torch.equal(prepare_reference(reference(mask, "point", image=image), 126, (9, 9))[0], whole)
    assert torch.equal(prepare_reference(reference(mask, "scribble", image=image), 126, (9, 9))[0], whole)
    for kind, promoted in (("box", False), ("box", True), ("point", True), ("scribble", True)):
        found = prepare_reference(reference(mask, kind, image=image, promoted=promoted), 126, (9, 9))
        assert torch.equal(found[0], around[0])
        assert torch.equal(found[1], around[1])
    assert not torch.equal(around[0], whole)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(InvalidReference, match="one of mask, box, point, scribble, not 'star'"):
        reference(np.ones((2, 2), bool), "star")


def test_references_are_gathered_by_their_image_array():
    one, two = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    masks = [reference(np.ones((4, 4), bool), image=image) for image in (one, one, two, one)]
    assert [len(of_image) for of_image in by_image(masks)] == [2, 1, 1]
    assert list(by_image([])) == []


def pixels(*marked: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((6, 6), bool)
    for y, x in marked:
        mask[y, x] = True
    return mask


@pytest.mark.parametrize(
    ("one", "other", "contradict"),
    [
        (("point", "a", pixels((1, 1), (2, 2))), ("point", "b", pixels((2, 2), (3, 3))), True),
        (("point", "a", pixels((1, 1))), ("point", "a", pixels((1, 1))), False),
        (("point", "a", pixels((1, 1))), ("point", "b", pixels((1, 2))), False),
        (("mask", "a", pixels((1, 1), (1, 2))), ("box", "b", pixels((1, 1), (1, 2))), True),
        (("mask", "a", pixels((1, 1), (1, 2))), ("mask", "b", pixels((1, 2))), False),
        (("point", "a", pixels((1, 1))), ("mask", "b", pixels((1, 1), (1, 2))), False),
        (("scribble", "a", pixels((1, 1), (1, 2))), ("scribble", "b", pixels((1, 2), (1, 3))), False),
    ],
)
def test_marks_of_two_classes_contradict_each_other(one, other, contradict):
    references = [reference(mask, kind, name, label_id=name * 3) for kind, name, mask in (one, other)]
    found = contradictions(references)
    assert set(found) == ({0, 1} if contradict else set())
    if contradict:
        assert found[0] == "it marks the same pixels as the label 'bbb' of the class 'b': one of them is wrong"
        assert found[1].startswith("it marks the same pixels as the label 'aaa' of the class 'a'")


def test_a_memory_takes_neither_of_two_that_contradict_each_other(small_encoder):
    image = np.zeros((6, 6, 3), np.uint8)
    three = [
        reference(pixels((1, 1)), "point", "a", image, label_id="1"),
        reference(pixels((1, 1)), "point", "b", image, label_id="2"),
        reference(pixels((4, 4)), "point", "b", image, label_id="3"),
    ]
    memory, skipped = build_memory(three, small_encoder)
    assert [entry.label_id for entry in memory.entries] == ["3"]
    assert memory.entries[0].kind == "point"
    assert [item.label_id for item in skipped] == ["1", "2"]
    # In another image the same pixel is a different one.
    others = [three[0], reference(pixels((1, 1)), "point", "b", image.copy(), label_id="2")]
    assert build_memory(others, small_encoder)[1] == []


def test_mask_of_the_wrong_size_is_refused_by_the_reference_itself():
    with pytest.raises(InvalidReference, match="the mask has size 3 x 2, but its image has 5 x 4"):
        Reference(np.zeros((4, 5, 3), np.uint8), "a", np.ones((2, 3), bool))
