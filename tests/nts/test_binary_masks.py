"""Arrays of any kind as masks: interpreted by their values, or refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from nts.rasters import binary_mask

RIGHT = np.zeros((4, 6), bool)
RIGHT[1:3, 2:5] = True
NAN, INFINITY = float("nan"), float("inf")


def where(inside: float, outside: float, dtype: type = np.float32) -> np.ndarray:
    return np.where(RIGHT, inside, outside).astype(dtype)


def colours(inside: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    return np.where(RIGHT[..., None], np.array(inside, np.uint8), np.array(outside, np.uint8))


@pytest.mark.parametrize(
    "values",
    [
        RIGHT,
        *(where(inside, 0, dtype) for inside in (1, 255, 7) for dtype in (np.uint8, np.int64, np.float32)),
        where(1, 0, np.uint16),
        where(1, 0, np.float16),
        where(0.3, 0),
        where(0.9, 0.1),
        where(0.9, 0.1, np.float64),
        where(0.6, 0.4, np.float16),
        where(3, -3),
        where(0.2, -7.5),
        where(1e30, -1e30),
        where(1, -1),
        RIGHT.tolist(),
        where(3, -3)[None],
        where(0.9, 0.1)[None, None],
        RIGHT[None, None, None],
        RIGHT[..., None],
        RIGHT[None, ..., None],
        *(colours(inside, (0, 0, 0)) for inside in ((9, 0, 0), (0, 9, 0), (0, 0, 9), (255, 255, 255))),
        *(colours((*inside, 255), (0, 0, 0, 255)) for inside in ((9, 0, 0), (0, 9, 0), (0, 0, 9))),
        colours((0, 255, 0, 255), (0, 0, 0, 0)),
        colours((0, 9, 0, 0), (0, 0, 0, 0)),
        colours((255, 255, 255, 255), (255, 255, 255, 0)),
        colours((0, 0, 0, 255), (0, 0, 0, 0)),
        colours((0, 0, 0, 128), (0, 0, 0, 0)),
        colours((200, 255), (0, 255)),
        colours((255, 255), (255, 0)),
        colours((255, 255, 255), (0, 0, 0)).astype(np.float32) / 255,
    ],
    ids=lambda values: f"{np.asarray(values).dtype}{list(np.asarray(values).shape)}",
)
def test_the_foreground_is_found_in_any_type(values):
    found = binary_mask(values)
    assert found.dtype == bool
    assert np.array_equal(found, RIGHT)


def test_a_channel_of_an_image_file_is_never_taken_for_a_row():
    row = colours((0, 9, 0), (0, 0, 0))[1:2]
    assert np.array_equal(binary_mask(row, channels_last=True), RIGHT[1:2])
    square = np.zeros((1, 4, 4), np.uint8)
    square[0, 1:3, 1:3] = 1
    assert np.array_equal(binary_mask(square), square[0] == 1)


def test_shades_of_grey_are_cut_at_half_of_the_greatest():
    smooth = np.linspace(0, 200, 101).astype(np.uint8)[None].repeat(3, 0)
    assert np.array_equal(binary_mask(smooth), smooth > 100)
    numbered = np.arange(5, dtype=np.uint8)[None]
    assert np.array_equal(binary_mask(numbered), numbered > 0)
    mask = np.tile(RIGHT, (8, 8))
    ringing = np.where(mask, 240, 0) + np.random.default_rng(0).integers(0, 15, mask.shape)
    assert np.array_equal(binary_mask(ringing.astype(np.uint8)), mask)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (where(1, NAN), "holds NaN or infinity"),
        (where(INFINITY, 0), "holds NaN or infinity"),
        (where(230, 25, np.uint8), "holds integers from 25 to 230 but no 0"),
        (where(2, 1, np.int32), "holds integers from 1 to 2 but no 0"),
        (where(1, -1, np.int8), "holds negative integers"),
        (where(180.5, 3.25), "neither 0 and 1, nor probabilities, nor logits"),
        (where(1, 0).astype("S1"), "not numbers"),
        (where(1, 0).astype(object), "not numbers"),
        (where(1, 0).astype(complex), "not numbers"),
        (np.ones(9, bool), r"has the shape \[9\]"),
        (np.array(1), r"has the shape \[\]"),
        (np.ones((2, 3, 3, 3), bool), r"has the shape \[2, 3, 3, 3\]"),
        (np.ones((3, 8, 9), bool), r"has the shape \[3, 8, 9\]"),
        (np.zeros((0, 4), bool), "is empty"),
        (np.zeros((4, 0, 3), np.uint8), "is empty"),
        (colours((9, 200, 3), (255, 255, 255)), "holds integers from 200 to 255 but no 0"),
    ],
)
def test_invalid_masks_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        binary_mask(values)


def test_an_empty_mask_and_a_full_one_stay_what_they_are():
    for full in (np.ones((3, 4), np.uint8), np.full((3, 4), 0.7), np.full((3, 4, 3), 9, np.uint8)):
        assert binary_mask(full).all()
    for empty in (np.zeros((3, 4)), np.zeros((3, 4, 4), np.uint8), np.full((3, 4), -2.5)):
        assert not binary_mask(empty).any()
