"""Transduction: which predictions join the references."""

from __future__ import annotations

import pytest
import torch

from nts.instances import Instances
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry, Negative
from nts.transduction import LEAST_SCORE, MOST_PER_CLASS, ConfidentPredictions

DIM = 4


@pytest.fixture
def memory() -> MemoryBank:
    bank = MemoryBank(EncoderInfo("encoder", "fingerprint", 28, DIM), "default")
    for name in ("a", "b"):
        bank.add(MemoryEntry(name, torch.ones(DIM), "sample", f"label {name}"))
    bank.add_negative(Negative(torch.ones(DIM), "background image", sure=True))
    return bank


def instances(scores: list[float], labels: list[int]) -> Instances:
    count = len(scores)
    features = torch.arange(count * DIM).float().reshape(count, DIM) + 1
    return Instances.of_masks(
        torch.ones(count, 3, 3, dtype=torch.bool),
        labels=torch.tensor(labels),
        scores=torch.tensor(scores),
        similarities=torch.ones(count),
        margins=torch.ones(count),
        predicted_iou=torch.ones(count),
        features=features,
        proposals=torch.arange(count),
        references=torch.zeros(count, dtype=torch.int64),
        compared=-features,
    )


def test_confident_predictions_of_each_class_join_with_both_features(memory):
    confident = ConfidentPredictions(memory)
    confident.add(instances([0.9, LEAST_SCORE, 0.49], [1, 0, 1]))
    joined = confident.joined()
    assert joined.shots == {"a": 2, "b": 2}
    assert [entry.label_id for entry in joined.entries] == ["label a", "label b", "", ""]
    of_a, of_b = joined.entries[2:]
    assert of_b.prototype.tolist() == [-1, -2, -3, -4]
    assert of_b.whole_prototype.tolist() == [1, 2, 3, 4]
    assert of_a.prototype.tolist() == [-5, -6, -7, -8]
    assert len(joined.negatives) == 1
    assert len(memory) == 2


def test_only_the_best_of_a_class_join_whatever_the_order_of_the_images(memory):
    scores = [0.5 + k / 100 for k in range(MOST_PER_CLASS + 5)]
    images = [instances([score], [0]) for score in scores]
    for order in (images, images[::-1]):
        confident = ConfidentPredictions(memory)
        for image in order:
            confident.add(image)
        kept = sorted(score for score, _ in confident._best["a"])
        assert kept == pytest.approx(scores[-MOST_PER_CLASS:])
        assert confident.joined().shots == {"a": 1 + MOST_PER_CLASS, "b": 1}


def test_without_confident_predictions_the_memory_stays_as_it_is(memory):
    joined = ConfidentPredictions(memory).joined()
    assert torch.equal(joined.instance_prototypes(), memory.instance_prototypes())
    assert joined.classes == memory.classes
