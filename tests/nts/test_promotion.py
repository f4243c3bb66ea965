"""Promotion of boxes, points and scribbles to masks by SAM2, on the reference image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nts.cache import TensorCache
from nts.datasets.annotations import EVALUATION, simulate_reference
from nts.promotion import promote, promote_boxes, spread_points
from nts.references import Reference, box_of_mask
from synthetic.scenes import NOVEL_SPECIES, reference_scenes


@pytest.fixture(scope="module")
def masks() -> list[Reference]:
    """One object of every novel class."""
    scenes = [reference_scenes(number, 1)[0] for number in NOVEL_SPECIES]
    return [Reference(scene.image, str(k), scene.masks[0], label_id=str(k)) for k, scene in enumerate(scenes)]


def iou(one: Reference, other: Reference) -> float:
    return (one.mask & other.mask).sum() / (one.mask | other.mask).sum()


@pytest.mark.parametrize(
    ("kind", "points", "least"), [("box", None, 0.7), ("scribble", None, 0.65), ("point", 20, 0.65), ("point", 1, 0.5)]
)
def test_promoted_masks_are_those_of_the_objects(small_segmenter, masks, kind, points, least):
    weak = [
        simulate_reference(reference, kind, np.random.default_rng([1, k]), EVALUATION, points=points)
        for k, reference in enumerate(masks)
    ]
    promoted = list(promote(weak, small_segmenter))
    assert [(each.class_name, each.label_id, each.kind, each.promoted) for each in promoted] == [
        (each.class_name, each.label_id, kind, True) for each in masks
    ]
    assert all((drawn.mask & marked.mask).any() for drawn, marked in zip(promoted, weak, strict=True))
    found = np.mean([iou(drawn, truth) for drawn, truth in zip(promoted, masks, strict=True)])
    assert found > least
    assert found > np.mean([iou(marked, truth) for marked, truth in zip(weak, masks, strict=True)])


def test_masks_and_promoted_references_pass_through_and_need_no_embedding(masks):
    class NeverAsked:
        input_size = 256

        def embed(self, *_):
            raise AssertionError

    promoted = Reference(masks[0].image, "a", masks[0].mask, kind="point", promoted=True)
    references = [*masks, promoted]
    assert [a is b for a, b in zip(promote(references, NeverAsked()), references, strict=True)] == [True] * 11


def test_an_image_is_embedded_once_for_all_that_is_marked_in_it(small_segmenter, masks, monkeypatch):
    embedded = []
    embed = small_segmenter.embed
    monkeypatch.setattr(small_segmenter, "embed", lambda *args: embedded.append(args) or embed(*args))
    marked = [simulate_reference(masks[k], "point", np.random.default_rng(j)) for k in (0, 1) for j in range(3)]
    assert len(list(promote(marked, small_segmenter))) == 6
    assert len(embedded) == 2


@pytest.mark.parametrize("kind", ["box", "point", "scribble"])
@pytest.mark.parametrize("drawn", ["nothing", "elsewhere"])
def test_a_reference_without_a_drawn_mask_is_returned_unchanged(small_segmenter, kind, drawn):
    class Elsewhere:
        input_size, embed = 256, small_segmenter.embed

        def _logits(self, count: int) -> torch.Tensor:
            logits = torch.full((count, 64, 64), -1.0)
            if drawn == "elsewhere":
                logits[:, 50:] = 1
            return logits

        def predict_boxes(self, embedding, boxes):
            return self._logits(len(boxes)), torch.ones(len(boxes))

        def predict_points(self, embedding, points):
            return self._logits(3 * len(points)).unflatten(0, (-1, 3)), torch.ones(len(points), 3)

    mask = np.zeros((60, 80), bool)
    mask[5:9, 10:20] = True
    weak = Reference(np.zeros((60, 80, 3), np.uint8), "a", mask, kind=kind)
    (same,) = promote([weak], Elsewhere())
    assert same is weak


def test_points_are_spread_and_the_same_every_time():
    mask = np.zeros((20, 30), bool)
    mask[10, 2:29] = True
    points = spread_points(mask, 3)
    assert points.tolist() == [[15.5, 10.5], [2.5, 10.5], [28.5, 10.5]]
    assert np.array_equal(spread_points(mask, 8), spread_points(mask, 8))
    assert len(np.unique(spread_points(mask, 8), axis=0)) == 8
    assert len(spread_points(mask, 100)) == 27


def test_in_an_image_of_other_proportions_the_same_points_mean_the_same_object(small_segmenter, masks):
    mark = simulate_reference(masks[3], "point", np.random.default_rng(0), points=5)
    wide = Reference(np.repeat(mark.image, 2, axis=1), "a", np.repeat(mark.mask, 2, axis=1), kind="point")
    one, other = promote([mark, wide], small_segmenter)
    assert (one.mask == other.mask[:, ::2]).mean() > 0.97


def test_what_is_cached_is_drawn_by_no_model(small_segmenter, masks, tmp_path, monkeypatch):
    cache = TensorCache(tmp_path, 10**9)
    kinds = ("box", "point", "scribble")
    marked = [simulate_reference(masks[0], kind, np.random.default_rng(k)) for k, kind in enumerate(kinds)]
    nothing = np.zeros_like(masks[0].mask)
    nothing[:1, :1] = True
    corner = Reference(masks[0].image, "a", nothing, box=(0, 0, 0.5, 0.5), kind="box")
    expected = list(promote([*marked, corner], small_segmenter))
    first = list(promote([*marked, corner], small_segmenter, cache))
    embedded, embed = [], small_segmenter.embed
    monkeypatch.setattr(small_segmenter, "embed", lambda *args: embedded.append(args) or embed(*args))
    second = list(promote([*marked, corner], small_segmenter, cache))
    assert embedded == []
    assert [each.promoted for each in expected] == [True, True, True, expected[3].promoted]
    for found in (first, second):
        assert [each.promoted for each in found] == [each.promoted for each in expected]
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(found, expected, strict=True))

    another = simulate_reference(masks[1], "box", np.random.default_rng(9))
    moved = replace(marked[0], box=tuple(side + 3 for side in box_of_mask(marked[0].mask)))
    drawn = list(promote([*marked, moved, another], small_segmenter, cache))
    assert len(embedded) == 2, "one for the other box of the image, one for the new image"
    assert not np.array_equal(drawn[3].mask, drawn[0].mask)


def test_boxes_of_an_image_are_cached_one_by_one(small_segmenter, masks, tmp_path, monkeypatch):
    cache, image = TensorCache(tmp_path, 10**9), masks[0].image
    boxes = np.array([[20, 30, 90, 80], [-10, -10, 5, 4], [100, 90, 60, 120.5]])
    expected = promote_boxes(image, boxes, small_segmenter)
    prompted, predict = [], small_segmenter.predict_boxes
    monkeypatch.setattr(small_segmenter, "predict_boxes", lambda e, b: prompted.append(len(b)) or predict(e, b))
    promote_boxes(image, boxes[:2], small_segmenter, cache)
    for _ in range(2):
        found = promote_boxes(image, boxes, small_segmenter, cache)
        assert np.array_equal(found.masks, expected.masks)
        assert np.array_equal(found.filled, expected.filled)
        assert np.allclose(found.predicted_iou, expected.predicted_iou, atol=1e-6)
    assert prompted == [2, 1]
