"""Semantic metrics, compared with hand-computed confusions and with a direct implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nts.instances import Instances
from nts.metrics.bootstrap import percentiles, share_better
from nts.metrics.miou import PixelCounts, bootstrap_episodes, count_pixels, paint, summarise_episodes


def test_samples_without_a_pixel_are_unknown_and_no_warning(recwarn):
    drawn = bootstrap_episodes([1, 2], np.zeros((2, 4)), np.zeros((2, 4)), draws=5)
    for values in drawn.values():
        assert np.isnan(values).all()
        assert np.isnan([*percentiles(values), share_better(values)]).all()
    assert not recwarn.list


def instances_of(masks: list[np.ndarray], labels: list[int], scores: list[float]) -> Instances:
    n = len(masks)
    return Instances.of_masks(
        torch.from_numpy(np.stack(masks)),
        labels=torch.tensor(labels),
        scores=torch.tensor(scores),
        similarities=torch.tensor(scores),
        margins=torch.tensor(scores),
        predicted_iou=torch.ones(n),
        features=torch.zeros(n, 2),
        proposals=torch.arange(n),
        references=torch.full((n,), -1),
    )


def strip(start: int, stop: int, length: int = 10) -> np.ndarray:
    mask = np.zeros((1, length), bool)
    mask[:, start:stop] = True
    return mask


def test_where_instances_overlap_the_higher_score_is_seen_whatever_their_order():
    masks, labels, scores = [strip(0, 6), strip(4, 8), strip(7, 10)], [0, 1, 0], [0.9, 0.7, 0.6]
    expected = [1, 1, 1, 1, 1, 1, 2, 2, 1, 1]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        instances = instances_of(*([values[i] for i in order] for values in (masks, labels, scores)))
        assert paint(instances, 0.5)[0].tolist() == expected


def test_of_equal_scores_the_first_is_seen_and_low_scores_are_not_painted():
    instances = instances_of([strip(0, 6), strip(4, 8), strip(0, 10)], [0, 1, 2], [0.5, 0.5, 0.499])
    assert paint(instances, 0.5)[0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 0, 0]


def test_counts_by_hand():
    assert count_pixels(strip(0, 4), strip(2, 8)) == PixelCounts(2, 8, 2, 8)
    assert count_pixels(strip(0, 4), strip(2, 8), ignored=strip(3, 5)) == PixelCounts(1, 6, 2, 7)
    assert count_pixels(strip(0, 0), strip(0, 10)) == PixelCounts(0, 10, 0, 10)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        count_pixels(strip(0, 4), strip(0, 4, length=11))
    with pytest.raises(ValueError, match="one shape"):
        count_pixels(strip(0, 4), strip(0, 4), ignored=strip(0, 4, length=11))


def test_figures_by_hand():
    counts = np.array([[1, 4, 6, 9], [3, 4, 6, 7], [5, 10, 0, 5]])
    found = summarise_episodes([7, 7, 9], counts, {7: "cat", 9: "dog", 11: "cow"})
    assert found.per_class["cat"] == 4 / 8  # micro within the class: a ratio of sums, not the mean of ratios
    assert found.per_class["dog"] == 5 / 10
    assert math.isnan(found.per_class["cow"])
    assert found.miou == 0.5
    assert found.fb_iou == pytest.approx((9 / 18 + 12 / 21) / 2)
    assert found.without_episodes == ("cow",)


def test_equal_to_the_slow_version_on_random_masks():
    rng = np.random.default_rng(3)
    class_ids = rng.choice([2, 5, 6], 40).tolist()
    predicted, truth, ignored = (rng.random((40, 9, 11)) < share for share in (0.4, 0.5, 0.1))
    counts = np.array(
        [list(vars(count_pixels(p, t, i)).values()) for p, t, i in zip(predicted, truth, ignored, strict=True)]
    )
    found = summarise_episodes(class_ids, counts, {2: "a", 5: "b", 6: "c"})

    sums = {c: [0, 0] for c in (2, 5, 6)}
    foreground, background = [0, 0], [0, 0]
    for class_id, p, t, i in zip(class_ids, predicted, truth, ignored, strict=True):
        for y in range(9):
            for x in range(11):
                if i[y, x]:
                    continue
                inside = [int(p[y, x] and t[y, x]), int(p[y, x] or t[y, x])]
                outside = [int(not p[y, x] and not t[y, x]), int(not p[y, x] or not t[y, x])]
                for k in (0, 1):
                    sums[class_id][k] += inside[k]
                    foreground[k] += inside[k]
                    background[k] += outside[k]
    assert found.miou == pytest.approx(np.mean([a / b for a, b in sums.values()]))
    assert found.fb_iou == pytest.approx((foreground[0] / foreground[1] + background[0] / background[1]) / 2)


def test_no_episode_is_no_figure():
    found = summarise_episodes([], np.zeros((0, 4)), {1: "cat"})
    assert math.isnan(found.miou)
    assert math.isnan(found.fb_iou)
    with pytest.raises(ValueError, match=r"unknown classes \[2\]"):
        summarise_episodes([2], np.ones((1, 4)), {1: "cat"})


def test_bootstrap_of_one_predictor_with_itself_is_zero_and_of_a_better_one_above():
    rng = np.random.default_rng(0)
    class_ids = rng.choice([4, 8], 200)
    worse = np.stack([rng.integers(20, 60, 200), np.full(200, 100), np.full(200, 300), np.full(200, 340)], 1)
    better = worse + np.array([10, 0, 0, 0])
    same = bootstrap_episodes(class_ids, worse, worse, draws=50)
    assert all((values == 0).all() for values in same.values())
    apart = bootstrap_episodes(class_ids, worse, better, draws=50)
    assert apart["miou"] == pytest.approx(0.1)  # every episode gains 10 of 100 pixels, so every sample does
    assert (apart["fb-iou"] > 0).all()


def test_bootstrap_spreads_as_the_mean_of_samples_does():
    rng = np.random.default_rng(1)
    gain = rng.integers(-30, 50, 400)
    a = np.stack([np.full(400, 40), np.full(400, 100), np.full(400, 10), np.full(400, 20)], 1)
    b = a + gain[:, None] * np.array([1, 0, 0, 0])
    differences = bootstrap_episodes(np.ones(400, int), a, b, draws=2000, seed=5)["miou"]
    assert differences.mean() == pytest.approx(gain.mean() / 100, abs=0.003)
    assert differences.std() == pytest.approx(gain.std() / 100 / 20, rel=0.1)
