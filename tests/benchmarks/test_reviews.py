"""The simulated reviewer: decides by the truth, teaches what it decides, and is not shown the same again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import reviews
from benchmarks.ablation import encode
from benchmarks.worlds import World
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT

TINY = World("tiny", (50_000, 50_002), (60_000, 60_001), (191, 192))


@pytest.fixture(scope="module")
def encoded(small_encoder, small_segmenter):
    return encode(TINY, 4, 2, small_encoder, small_segmenter, clean=False)


def session(encoded, errors: float = 0.0):
    memory = encoded.memory(DEFAULT, 1, 0, complete=False)
    return reviews.Review(encoded, memory, np.random.default_rng(0), errors)


def engine_of(review, small_segmenter) -> ReferenceSegmenter:
    return ReferenceSegmenter(review.memory, review.encoded.encoder, small_segmenter, DEFAULT)


def test_the_truth_about_a_mask(encoded):
    scene = encoded.scenes[0]
    for number, species in enumerate(scene.species.tolist()):
        mask = torch.from_numpy(scene.masks[number])
        assert reviews._truth(mask, scene, encoded.classes) == (species, pytest.approx(1.0))


def test_decisions_teach_and_do_not_come_back(encoded, small_segmenter):
    review = session(encoded)
    before = len(review.memory), len(review.memory.negatives)
    predictions = review.predictions(engine_of(review, small_segmenter))
    taught = 0
    for prediction in predictions:
        species, iou = reviews._truth(prediction.mask, encoded.scenes[prediction.image], encoded.classes)
        right = species in encoded.classes and iou >= reviews.RIGHT_IOU
        taught += right or iou < reviews.ELSEWHERE_IOU or species not in encoded.classes
        review.decide(prediction)
    assert review.count == len(predictions) > 0
    assert len(review.memory) + len(review.memory.negatives) == sum(before) + taught
    again = review.predictions(engine_of(review, small_segmenter))
    for each in again:
        for prediction in predictions:
            if (each.image, each.label) == (prediction.image, prediction.label):
                both = (each.mask & prediction.mask).sum() / (each.mask | prediction.mask).sum()
                assert both < 0.6  # proposals are compared, outlines are voted afterwards


def test_wrong_decisions_are_the_opposite(encoded, small_segmenter):
    right, wrong = session(encoded), session(encoded, errors=1.0)
    predictions = right.predictions(engine_of(right, small_segmenter))
    sure = [
        each
        for each in predictions
        if reviews._truth(each.mask, encoded.scenes[each.image], encoded.classes)[1] >= reviews.RIGHT_IOU
    ]
    assert sure
    for each in sure:
        right.decide(each)
        wrong.decide(each)
    accepted = [len(review.memory) - len(encoded.memory(DEFAULT, 1, 0, complete=False)) for review in (right, wrong)]
    assert sum(accepted) == len(sure)


@pytest.mark.parametrize("order", reviews.ORDERS)
def test_figures_after_every_number_of_decisions(encoded, small_segmenter, order):
    rows = reviews.review(encoded, small_segmenter, 1, 0, reviews.ORDERS[order], 0.1, (0, 3))
    assert [row.decisions for row in rows] == [0, 3]
    assert all(0 <= value <= 100 for row in rows for value in (row.ap, row.f1))
    assert order in reviews.table({order: [rows]})
