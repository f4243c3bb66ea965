"""Simulated annotations: inside the mask, non-empty, of the requested number, and reproducible by seed."""

from __future__ import annotations

import numpy as np
import pytest

from nts.datasets.annotations import (
    EVALUATION,
    LARGE_BRUSH,
    SMALL_BRUSH,
    TRAINING,
    Brush,
    Simulation,
    simulate,
    simulate_reference,
)
from nts.references import KINDS, Reference


def random_masks(count: int):
    """Blobs and specks of many sizes in images of many sizes, including single pixels and full images."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = rng.integers(1, 90, 2)
        mask = rng.random((height, width)) < rng.choice([0.01, 0.3, 1.0])
        mask[rng.integers(height), rng.integers(width)] = True
        if number % 3 == 0:
            mask = np.repeat(np.repeat(mask, 3, 0), 3, 1)
        yield mask


@pytest.mark.parametrize("settings", [TRAINING, EVALUATION])
@pytest.mark.parametrize("kind", KINDS)
def test_no_annotation_is_empty_and_points_and_scribbles_stay_inside_the_mask(kind, settings):
    for number, mask in enumerate(random_masks(120)):
        marked = simulate(mask, kind, np.random.default_rng(number), settings)
        assert marked.dtype == bool
        assert marked.shape == mask.shape
        assert marked.any()
        if kind == "box":
            assert (marked | ~mask).all()
        else:
            assert not (marked & ~mask).any()


def test_a_mask_is_itself_and_not_the_same_array():
    mask = np.eye(5, dtype=bool)
    marked = simulate(mask, "mask", np.random.default_rng(0))
    assert np.array_equal(marked, mask)
    marked[:] = False
    assert mask.any()


def test_a_box_is_tight_around_all_parts_of_the_mask():
    mask = np.zeros((20, 30), bool)
    mask[3, 4] = mask[11, 25] = True
    expected = np.zeros_like(mask)
    expected[3:12, 4:26] = True
    assert np.array_equal(simulate(mask, "box", np.random.default_rng(0)), expected)


def test_there_are_as_many_points_as_asked_or_as_there_are_pixels():
    mask = np.zeros((40, 40), bool)
    mask[5:30, 5:30] = True
    for count in (1, 7, 20, 625, 900):
        assert simulate(mask, "point", np.random.default_rng(1), points=count).sum() == min(count, 625)
    assert simulate(mask, "point", np.random.default_rng(1), EVALUATION).sum() == 20
    drawn = [simulate(mask, "point", np.random.default_rng(seed), TRAINING).sum() for seed in range(400)]
    assert set(drawn) == set(range(1, 21))


def test_every_pixel_is_as_likely_to_be_clicked():
    mask = np.zeros((4, 4), bool)
    mask[1:3, :] = True
    rng = np.random.default_rng(0)
    clicks = sum(simulate(mask, "point", rng, points=1).astype(int) for _ in range(4000))
    assert np.abs(clicks[mask] - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_equal_seeds_give_equal_annotations_and_others_do_not(kind):
    mask = np.ones((64, 80), bool)
    first, again, other = (simulate(mask, kind, np.random.default_rng([3, seed])) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_annotations_are_stable():
    mask = np.ones((6, 9), bool)
    points = simulate(mask, "point", np.random.default_rng(5), points=4)
    assert [tuple(map(int, yx)) for yx in np.argwhere(points)] == [(0, 7), (3, 2), (3, 4), (5, 3)]
    scribble = simulate(np.ones((512, 512), bool), "scribble", np.random.default_rng(5), EVALUATION)
    assert int(scribble.sum()) == 9549


def test_a_stroke_is_as_wide_as_its_brush_and_grows_with_the_image():
    dot = Simulation((1, 1), (1, 1), (Brush((1, 1), 20, 15, (9, 9)),))
    for side, across in ((512, 9), (1024, 19), (64, 1)):
        marked = simulate(np.ones((side, side), bool), "scribble", np.random.default_rng(2), dot)
        ys, xs = marked.nonzero()
        assert np.ptp(xs) + 1 == np.ptp(ys) + 1 == across


@pytest.mark.parametrize("brush", [LARGE_BRUSH, SMALL_BRUSH])
def test_a_stroke_is_in_one_piece_and_no_longer_than_its_vertices_and_speed_allow(brush):
    one = Simulation((1, 1), (1, 1), (brush,))
    longest = (brush.vertices[1] - 1) * brush.speed + brush.width[1]
    lengths = []
    for seed in range(60):
        marked = simulate(np.ones((1024, 1024), bool), "scribble", np.random.default_rng(seed), one)
        ys, xs = marked.nonzero()
        if min(xs.min(), ys.min()) > 0 and max(xs.max(), ys.max()) < 1023:  # those that leave the image may re-enter
            lengths.append(np.hypot(np.ptp(xs), np.ptp(ys)))
            assert pieces(marked) == 1
    assert len(lengths) > 20
    assert max(lengths) <= 2 * longest  # at twice the side of 512 every length doubles
    assert np.median(lengths) > 2 * brush.speed


def pieces(mask: np.ndarray) -> int:
    """Number of connected components of a mask, with diagonal neighbours."""
    left, count = {tuple(yx) for yx in np.argwhere(mask).tolist()}, 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            for neighbour in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    front.append(neighbour)
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_has_no_annotation(kind):
    with pytest.raises(ValueError, match="the mask is empty"):
        simulate(np.zeros((4, 4), bool), kind, np.random.default_rng(0))


def test_invalid_masks_kinds_and_points_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"must be bool \[H, W\], got uint8 \[4, 4\]"):
        simulate(np.ones((4, 4), np.uint8), "point", rng)
    with pytest.raises(ValueError, match="unknown kind of annotation 'line'; there are mask, box, point, scribble"):
        simulate(np.ones((4, 4), bool), "line", rng)
    with pytest.raises(ValueError, match="at least one point, got 0"):
        simulate(np.ones((4, 4), bool), "point", rng, points=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_keeps_all_but_what_is_marked(kind):
    mask = np.zeros((30, 40), bool)
    mask[5:20, 8:25] = True
    whole = Reference(np.zeros((30, 40, 3), np.uint8), "cup", mask, (8, 5, 17, 15), sample_id="s", label_id="l")
    weak = simulate_reference(whole, kind, np.random.default_rng(0), EVALUATION, points=3)
    assert (weak.class_name, weak.sample_id, weak.label_id, weak.kind) == ("cup", "s", "l", kind)
    assert weak.image is whole.image
    assert weak.box == (whole.box if kind == "mask" else None)
    assert np.array_equal(weak.mask, simulate(mask, kind, np.random.default_rng(0), EVALUATION, points=3))
    if kind != "mask":
        with pytest.raises(ValueError, match=f"and this reference is a {kind}"):
            simulate_reference(weak, "point", np.random.default_rng(0))
