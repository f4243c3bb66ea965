"""Grids of tiles: when images get any, and what they cover."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from nts.presets import DEFAULT, FAST, PAPER, preset_fingerprint, stored_settings
from nts.tiling import MOST_TILES, ObjectSize, Tiling, windows


def grid(image_size, *sides: float, image_side: float = 4000, input_size: int = 256) -> tuple[int, int]:
    return Tiling().grid_for(image_size, [ObjectSize(side, image_side) for side in sides], input_size)


def test_small_references_call_for_tiles_and_large_ones_do_not():
    rows, columns = grid((3000, 4000), 40)
    assert rows > 4
    assert columns > rows
    assert grid((3000, 4000), 900) == (1, 1)
    assert grid((3000, 4000)) == (1, 1)  # of unknown size


def test_the_smaller_references_decide_and_a_single_outlier_does_not():
    small = grid((3000, 4000), 60, 60, 400, 400)
    assert small != (1, 1)
    assert grid((3000, 4000), 10, *[400] * 9) == grid((3000, 4000), 400)


def test_a_reference_of_nearly_the_same_size_changes_no_tiles():
    assert len({grid((3000, 4000), side) for side in range(45, 60)}) == 1


def test_tiles_are_no_smaller_than_the_input_of_the_model():
    rows, columns = grid((3000, 4000), 4, input_size=1024)
    for left, top, right, bottom in windows((3000, 4000), (rows, columns)):
        assert right - left >= 0.75 * 1024
        assert bottom - top >= 0.75 * 1024
    assert grid((200, 256), 5, image_side=256) == (1, 1)


def test_objects_are_taken_to_shrink_with_the_image():
    assert grid((750, 1000), 160) == grid((750, 1000), 40, image_side=1000) != (1, 1)
    # The same camera, cut to a detail: objects keep their pixels in the larger target.
    assert grid((3000, 4000), 60, image_side=300) == grid((3000, 4000), 60)


def test_automatic_tiles_are_limited():
    rows, columns = grid((40_000, 40_000), 20, image_side=40_000)
    assert 200 <= rows * columns <= MOST_TILES


@pytest.mark.parametrize("image_size", [(1536, 2048), (100, 101), (7, 300)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_cover_the_image_and_overlap(image_size, shape, overlap):
    height, width = image_size
    found = windows(image_size, shape, overlap)
    assert len(found) == shape[0] * shape[1]
    for axis, side in ((0, width), (1, height)):
        spans = sorted({(window[axis], window[axis + 2]) for window in found})
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        assert len({end - begin for begin, end in spans}) == 1
        for (begin, end), (following, _) in pairwise(spans):
            assert end - following >= int(overlap * (end - begin)) - 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [("auto", "auto"), ("off", "off"), ("3x4", "3x4"), (" 3 × 4 ", "3x4"), ((3, 4), "3x4"), ([3, 4], "3x4")],
)
def test_grids_are_read_from_words(words, expected):
    assert str(Tiling.parse(words)) == expected
    assert Tiling.parse(str(Tiling.parse(words))) == Tiling.parse(words)


@pytest.mark.parametrize("words", ["4", "0x4", "automatic", (1, 2, 3), (0, 1)])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="tiles"):
        Tiling.parse(words)


def test_explicit_grids_do_not_ask_for_sizes():
    assert Tiling((3, 4)).grid_for((10, 10), [], 256) == (3, 4)
    with pytest.raises(ValueError, match="overlap"):
        Tiling("auto", overlap=0.6)


def test_presets_are_stored_as_before_unless_their_tiles_are_chosen():
    assert (DEFAULT.tiling.grid, FAST.tiling.grid, PAPER.tiling.grid) == ("auto", "auto", "off")
    assert all("tiling" not in stored_settings(preset) for preset in (DEFAULT, FAST, PAPER))
    other = replace(DEFAULT, tiling=Tiling((2, 2)))
    assert stored_settings(other)["tiling"] == {"grid": (2, 2), "overlap": 0.25}
    assert preset_fingerprint(other) == preset_fingerprint(DEFAULT)
