"""Bootstrap: each draw equals pycocotools on copied images, and intervals have their stated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from coco_cases import copy_images, draw_case, oracle

from nts.metrics.average_precision import accumulate, summarise
from nts.metrics.bootstrap import FIGURES, bootstrap, pair, paired_bootstrap, restrict
from nts.metrics.matches import match

SEED = 17  # a case without equal scores, whose order copies would change
DRAWS = 12


def drawn_counts(images: int, draws: int, seed: int) -> list[np.ndarray]:
    """Draws of the bootstrap, in sequence from one generator."""
    rng = np.random.default_rng(seed)
    return [np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(draws)]


def figures_of_draws(ground_truth, results, iou_type, draws, seed) -> dict[str, np.ndarray]:
    """Every metric of every draw, by copying the images and running pycocotools."""
    image_ids = sorted(image["id"] for image in ground_truth["images"])
    found = []
    for counts in drawn_counts(len(image_ids), draws, seed):
        copies = copy_images(ground_truth, results, dict(zip(image_ids, counts.tolist(), strict=True)))
        found.append(oracle(*copies, iou_type).stats)
    stats = np.array(found)
    return dict(zip(FIGURES, np.where(stats == -1, np.nan, stats).T, strict=True))


def half_of(results) -> list[dict]:
    """A second, worse run: every third result missing, scores in another order."""
    kept = [dict(result) for i, result in enumerate(results) if i % 3]
    for i, result in enumerate(kept):
        result["score"] = (result["score"] * 7919 + i / 1000) % 1
    return kept


@pytest.mark.parametrize("iou_type", ["boxes", "masks"])
def test_draws_equal_pycocotools_on_copied_images(iou_type):
    ground_truth, results = draw_case(SEED)
    slow = figures_of_draws(ground_truth, results, iou_type, DRAWS, seed=3)
    matches = match(ground_truth, results, iou_type=iou_type)
    for figure in FIGURES:
        fast = bootstrap(matches, figure=figure, draws=DRAWS, seed=3)
        known = slow[figure][~np.isnan(slow[figure])]
        assert fast.value == pytest.approx(getattr(summarise(accumulate(matches)), figure), abs=1e-12)
        assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(known, [0.025, 0.975])), abs=1e-12)


def test_pairs_equal_pycocotools_on_copied_images():
    ground_truth, results = draw_case(SEED)
    worse = half_of(results)
    for figure in ("ap", "ap50", "ar_10"):
        a, b = (figures_of_draws(ground_truth, r, "boxes", DRAWS, 5)[figure] for r in (worse, results))
        found = paired_bootstrap(
            match(ground_truth, worse, iou_type="boxes"),
            match(ground_truth, results, iou_type="boxes"),
            figure=figure,
            draws=DRAWS,
            seed=5,
        )
        a, b = a[~np.isnan(a)], b[~np.isnan(b)]  # a draw without ground truth has no AP
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(b - a, [0.025, 0.975])), abs=1e-12)
        assert found.p_better == pytest.approx(np.mean((b > a) + 0.5 * (b == a)))


@pytest.mark.parametrize("seed", [0, 1, 4, 9, 11])
def test_draws_equal_a_weighted_evaluation_in_odd_cases_too(seed):
    """Crowds, equal scores, more than a hundred results, for some of the classes."""
    matches = match(*draw_case(seed), iou_type="masks")
    counts = drawn_counts(len(matches.image_ids), 1, seed)[0]
    curves = accumulate(matches, image_counts=counts)
    for figure in FIGURES:
        found = bootstrap(matches, figure=figure, classes=["class 3", "class 90"], draws=1, seed=seed)
        expected = getattr(summarise(curves, [0, 2]), figure)
        assert found.low == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_run_compared_with_itself_has_no_difference():
    matches = match(*draw_case(SEED))
    found = paired_bootstrap(matches, matches, draws=20)
    assert (found.difference, found.low, found.high, found.p_better) == (0, 0, 0, 0.5)
    assert (found.images, found.left_out) == (len(matches.image_ids), 0)


def test_only_images_of_both_runs_count():
    ground_truth, results = draw_case(SEED)
    fewer = {**ground_truth, "images": ground_truth["images"][1:]}
    whole, part = match(ground_truth, results), match(fewer, results)
    found = paired_bootstrap(whole, part, draws=20)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert (found.images, found.left_out) == (len(fewer["images"]), 1)
    restricted = restrict(whole, part.image_ids)
    np.testing.assert_array_equal(accumulate(restricted).precision, accumulate(part).precision)
    np.testing.assert_array_equal(restricted.result, part.result)


def test_runs_on_the_same_images_are_paired_as_they_are():
    runs = match(*draw_case(SEED)), match(*draw_case(SEED))
    assert all(paired is given for paired, given in zip(pair(*runs), runs, strict=True))


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Single objects, found at random: AR is the fraction found, whose interval is known."""
    rng = np.random.default_rng(0)
    covered, repeats, images, chance = 0, 60, 80, 0.6
    for _ in range(repeats):
        box = {"category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
        ground_truth = {
            "images": [{"id": i} for i in range(images)],
            "annotations": [box | {"id": i + 1, "image_id": i} for i in range(images)],
            "categories": [{"id": 1, "name": "a"}],
        }
        results = [box | {"image_id": i, "score": 0.5} for i in np.flatnonzero(rng.random(images) < chance).tolist()]
        found = bootstrap(match(ground_truth, results, iou_type="boxes"), figure="ar_100", draws=200)
        covered += found.low <= chance <= found.high
    assert 0.85 <= covered / repeats <= 1


def test_no_ground_truth_gives_nan():
    ground_truth, results = draw_case(29)
    matches = match(ground_truth, results)
    alone = bootstrap(matches, draws=5)
    pair = paired_bootstrap(matches, matches, draws=5)
    for value in (alone.value, alone.low, alone.high, pair.difference, pair.low, pair.high, pair.p_better):
        assert math.isnan(value)


def test_runs_that_cannot_be_compared_are_refused():
    ground_truth, results = draw_case(SEED)
    matches = match(ground_truth, results)
    with pytest.raises(ValueError, match="IoU of masks and of boxes"):
        paired_bootstrap(matches, match(ground_truth, results, iou_type="boxes"))
    with pytest.raises(ValueError, match=r"different classes: they differ in \['class 3'\]"):
        paired_bootstrap(matches, match(ground_truth, results, [17, 90]))
    with pytest.raises(ValueError, match="different ground truth"):
        paired_bootstrap(matches, match({**ground_truth, "annotations": ground_truth["annotations"][1:]}, results))
    elsewhere = {**ground_truth, "images": [{"id": "nowhere"}]}
    with pytest.raises(ValueError, match="no image in common"):
        paired_bootstrap(matches, match(elsewhere, []))
    with pytest.raises(ValueError, match="unknown figure 'mAP'"):
        bootstrap(matches, figure="mAP")
    with pytest.raises(ValueError, match=r"unknown classes \['cat'\]"):
        bootstrap(matches, classes=["cat"])
    with pytest.raises(ValueError, match="at least one draw"):
        bootstrap(matches, draws=0)
    with pytest.raises(ValueError, match="no image to draw"):
        bootstrap(restrict(matches, []))
