"""Rasterised polygons, strokes and points, compared with direct implementations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from nts.rasters import draw_strokes, fill_polygons, mark_points


def is_inside(x: float, y: float, shapes: list[np.ndarray]) -> bool:
    """Even-odd rule: a ray from the point to the right crosses the outlines an odd number of times."""
    crossed = 0
    for shape in shapes:
        for (x1, y1), (x2, y2) in zip(shape, np.roll(shape, -1, axis=0), strict=True):
            if (y1 <= y) != (y2 <= y) and x1 + (y - y1) * (x2 - x1) / (y2 - y1) > x:
                crossed += 1
    return crossed % 2 == 1


def test_polygons_hold_the_pixels_whose_middle_lies_inside():
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 20, 2)
        shapes = [rng.uniform(-5, 25, (rng.integers(1, 7), 2)) for _ in range(rng.integers(1, 4))]
        expected = [[is_inside(x + 0.5, y + 0.5, shapes) for x in range(width)] for y in range(height)]
        assert np.array_equal(fill_polygons(shapes, (height, width)), np.array(expected))


def test_a_square_in_whole_pixels_is_exactly_that_and_a_square_in_it_is_a_hole():
    square, hole = [(2, 1), (8, 1), (8, 7), (2, 7)], [(4, 3), (6, 3), (6, 5), (4, 5)]
    filled = fill_polygons([square], (9, 10))
    assert filled[1:7, 2:8].all()
    assert filled.sum() == 36
    assert fill_polygons([square, hole], (9, 10)).sum() == 32


def test_strokes_mark_the_pixels_along_their_lines_without_a_gap():
    rng = np.random.default_rng(1)
    for _ in range(60):
        height, width = rng.integers(2, 30, 2)
        vertices = rng.uniform(-10, 40, (rng.integers(2, 5), 2))
        dense = np.concatenate([a + np.linspace(0, 1, 5000)[:, None] * (b - a) for a, b in pairwise(vertices)])
        touched = mark_points(dense, (height, width))
        drawn = draw_strokes([vertices], (height, width))
        assert (drawn & ~touched).sum() <= 1  # a corner between two samples even of the dense line
        # Except for corners that a line only clips, every pixel on the line is at most one away from a drawn one.
        padded = np.pad(drawn, 1)
        near = np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
        assert not (touched & ~near).any()


def test_a_stroke_far_beyond_the_image_is_cut_at_its_border_at_once():
    drawn = draw_strokes([[(-1e12, 2.5), (1e12, 2.5)]], (5, 8))
    assert drawn[2].all()
    assert drawn.sum() == 8
    assert not draw_strokes([[(-5, 9), (20, 9)]], (5, 8)).any()


@pytest.mark.parametrize(
    ("point", "pixel"),
    [
        ((0, 0), (0, 0)),
        ((7.99, 4.99), (4, 7)),
        ((8, 5), (4, 7)),
        ((3, 5), (4, 3)),
        ((8.01, 2), None),
        ((-0.1, 2), None),
    ],
)
def test_a_point_on_the_border_counts_as_the_last_pixel_and_one_beyond_it_as_none(point, pixel):
    assert [tuple(found) for found in np.argwhere(mark_points([point], (5, 8)))] == ([pixel] if pixel else [])
