"""The queue of the most instructive predictions, against its definition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nts.review_order import centred, most_instructive, teaching_values


def slowly(scores, features, known, most):
    """One prediction after the other, with every cosine computed again."""
    queue = []
    for _ in range(min(most, len(scores))):
        best, value = -1, -float("inf")
        for i in range(len(scores)):
            if i in queue:
                continue
            others = [*known, *(features[j] for j in queue)]
            resemblance = max((float(F.cosine_similarity(features[i], other, dim=0)) for other in others), default=0.0)
            worth = float(scores[i]) * (1 - max(0.0, resemblance))
            if worth > value + 1e-7:
                best, value = i, worth
        queue.append(best)
    return queue


def test_the_queue_is_the_slow_one():
    generator = torch.Generator().manual_seed(3)
    for known in (0, 4):
        scores = torch.rand(25, generator=generator)
        features = torch.randn(25, 6, generator=generator)
        others = torch.randn(known, 6, generator=generator)
        assert most_instructive(scores, features, others, 12).tolist() == slowly(scores, features, others, 12)


def test_copies_come_last():
    features = torch.eye(3)[[0, 0, 1, 2]]
    queue = most_instructive(torch.tensor([0.9, 0.9, 0.5, 0.4]), features, torch.eye(3)[2:], 4)
    assert queue.tolist() == [0, 2, 1, 3]


def test_outlines_count_more_than_scores():
    scores, predicted_iou = torch.tensor([0.81, 0.25, 0.25, -0.1]), torch.tensor([0.5, 0.8, 1.2, 0.9])
    values = teaching_values(scores, predicted_iou)
    slow = [max(0.0, float(s)) * min(1.0, float(q)) ** 4 for s, q in zip(scores, predicted_iou, strict=True)]
    torch.testing.assert_close(values, torch.tensor(slow))
    assert values.argsort(descending=True).tolist() == [2, 1, 0, 3]


def test_no_predictions_are_no_queue():
    assert most_instructive(torch.zeros(0), torch.zeros(0, 4), torch.zeros(0, 4), 10).tolist() == []


def test_a_prediction_without_a_feature_counts_as_new():
    features = torch.stack([torch.zeros(4), torch.ones(4)])
    assert most_instructive(torch.tensor([0.5, 0.9]), features, torch.ones(1, 4), 2).tolist() == [0, 1]


def test_centred_features_differ_from_what_all_have_in_common():
    generator = torch.Generator().manual_seed(5)
    common = 10 * torch.ones(8)
    features, known = common + torch.randn(20, 8, generator=generator), common + torch.randn(5, 8, generator=generator)
    one, other = centred(features, known)
    torch.testing.assert_close(torch.cat([one, other]).mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    assert F.cosine_similarity(features, known[:1]).min() > 0.9
    assert F.cosine_similarity(one, other[:1]).min() < 0


def test_a_missing_feature_stays_missing():
    features = torch.stack([torch.zeros(4), torch.ones(4)])
    one, _ = centred(features, torch.ones(1, 4))
    assert torch.equal(one[0], torch.zeros(4))
    assert centred(torch.zeros(0, 4), torch.zeros(0, 4))[0].shape == (0, 4)
