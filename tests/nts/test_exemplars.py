"""Exemplars and the soft maximum over them, against loops over numbers, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from statistics import stdev

import pytest
import torch
import torch.nn.functional as F
from made_up_memories import CHANNELS, made_up_memory, units

from nts.exemplars import Exemplars, Scale, leave_one_out, scale_of_negatives, soft_maximum, soft_maximum_of_all
from nts.matching import similarity
from nts.memory import MemoryBank, Negative
from nts.method import PUBLISHED
from nts.presets import DEFAULT

METHOD = DEFAULT.method


def slow_soft_maximum(cosines: list[float], tau: float) -> float:
    """Soft maximum of one row over the exemplars of one class, in double precision."""
    used = [cosine for cosine in cosines if cosine > -math.inf]
    if not used:
        return 0.0
    mean = sum(math.exp(tau * cosine) for cosine in used) / len(used)
    return min(max(math.log(mean) / tau, 0.0), 1.0)


@pytest.mark.parametrize("tau", [0.5, 10, 20, 100])
def test_soft_maximum_equals_a_loop(tau):
    generator = torch.Generator().manual_seed(1)
    cosines = 2 * torch.rand(30, 12, generator=generator) - 1
    cosines[torch.rand(30, 12, generator=generator) < 0.2] = -torch.inf
    cosines[4, :7] = -torch.inf
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 3, 3, 3, 3, 3])
    expected = [
        [
            slow_soft_maximum([c for c, label in zip(row, labels.tolist(), strict=True) if label == k], tau)
            for k in range(4)
        ]
        for row in cosines.tolist()
    ]
    found = soft_maximum(cosines, labels, 4, tau)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)
    assert (found[:, 2] == 0).all(), "a class without an exemplar"
    assert (found[4, :2] == 0).all(), "a class whose exemplars are all left out"


def test_soft_maximum_lies_between_mean_and_maximum():
    cosines = torch.rand(50, 6, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(6, dtype=torch.int64)
    found = [soft_maximum(cosines, labels, 1, tau)[:, 0] for tau in (1e-2, 5, 20, 1000)]
    assert torch.allclose(found[0], cosines.mean(1), atol=2e-3)
    assert torch.allclose(found[-1], cosines.amax(1), atol=2e-3)
    for softer, sharper in pairwise(found):
        assert (softer <= sharper + 1e-5).all()


@pytest.mark.parametrize("tau", [6.7, 20, 100])
def test_soft_maximum_is_exact_at_the_ends_of_the_cosines(tau):
    ends = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    found = soft_maximum_of_all(ends, tau)
    assert found.tolist() == pytest.approx([1, 0, 1 - math.log(2) / tau], abs=1e-6)


def slow_exemplar(memory: MemoryBank, row: int, *, whole: bool) -> torch.Tensor:
    entry = memory.entries[row]
    crop = entry.prototype / entry.prototype.norm()
    if not whole:
        return crop
    both = crop + entry.whole_prototype / entry.whole_prototype.norm()
    return both / both.norm()


def slow_similarity(memory: MemoryBank, feature: torch.Tensor, tau: float, *, whole: bool) -> list[float]:
    return [
        slow_soft_maximum(
            [
                float(feature @ slow_exemplar(memory, row, whole=whole))
                for row, entry in enumerate(memory.entries)
                if entry.class_name == name
            ],
            tau,
        )
        for name in memory.classes
    ]


def test_similarities_equal_loops_over_the_references():
    memory, features = made_up_memory({"a": 3, "c": 1, "b": 2}), units(20)
    exemplars = Exemplars.of_memory(memory, METHOD)
    for found, whole in ((exemplars.whole_similarity(features), True), (exemplars.crop_similarity(features), False)):
        expected = [slow_similarity(memory, feature, 20.0, whole=whole) for feature in features]
        assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


def test_a_reference_without_its_whole_image_is_its_crop_alone():
    """Memories of earlier versions have no prototype of the whole image."""
    old = MemoryBank(made_up_memory({}).encoder)
    for entry in made_up_memory({"a": 2, "b": 2}).entries:
        old.add(replace(entry, whole_prototype=None))
    exemplars = Exemplars.of_memory(old, METHOD)
    assert torch.allclose(exemplars.wholes, exemplars.crops, atol=1e-6)


def test_the_mean_of_references_is_compared_as_published():
    memory, features = made_up_memory({"a": 3, "b": 2}, negatives=20), units(20)
    exemplars = Exemplars.of_memory(memory, PUBLISHED)
    assert torch.equal(exemplars.whole_similarity(features), similarity(features, exemplars.prototypes))
    assert torch.allclose(exemplars.prototypes, memory.prototypes(), atol=1e-6)
    assert exemplars.background(features) is None


def similarities(memory: MemoryBank) -> tuple[torch.Tensor, ...]:
    exemplars, features = Exemplars.of_memory(memory, METHOD), units(40)
    background = exemplars.background(features)
    assert background is not None
    return exemplars.whole_similarity(features), exemplars.crop_similarity(features), background


def test_the_order_of_references_does_not_matter():
    shots = {"a": 3, "b": 2, "c": 2}
    one = similarities(made_up_memory(shots, negatives=30))
    two = similarities(made_up_memory(shots, negatives=30, order=[6, 2, 0, 5, 3, 1, 4]))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True))


def test_duplicates_of_all_references_do_not_matter():
    shots = {"a": 3, "b": 2, "c": 2}
    one = similarities(made_up_memory(shots, negatives=30))
    three = similarities(made_up_memory(shots, negatives=30, copies=3))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, three, strict=True))


def test_renamed_classes_are_permuted_and_nothing_else():
    shots = {"a": 3, "b": 2, "c": 2}
    whole, crop, background = similarities(made_up_memory(shots, negatives=30))
    renamed = similarities(made_up_memory(shots, negatives=30, names={"a": "z", "c": "b", "b": "y"}))
    order = [2, 1, 0]  # b (was c), y (was b), z (was a)
    assert torch.allclose(renamed[0], whole[:, order], atol=1e-6)
    assert torch.allclose(renamed[1], crop[:, order], atol=1e-6)
    assert torch.allclose(renamed[2], background, atol=1e-6)


def test_a_wrong_reference_spoils_the_mean_more_than_the_soft_maximum():
    memory = made_up_memory({"right": 2, "wrong": 1}, noise=0.3)
    spoilt = MemoryBank(memory.encoder)
    for entry in memory.entries:
        spoilt.add(replace(entry, class_name="right"))
    feature = F.normalize(memory.entries[0].prototype, dim=0)[None]

    def loss(method):
        clean, wrong = Exemplars.of_memory(memory, method), Exemplars.of_memory(spoilt, method)
        return float(clean.crop_similarity(feature)[0, 0] - wrong.crop_similarity(feature)[0, 0])

    assert 0 < loss(METHOD) < loss(PUBLISHED) / 2


def test_leave_one_out_equals_a_loop():
    crops, labels = units(9), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3])
    found = leave_one_out(crops, labels, 4, 20.0)
    for row in range(9):
        others = [j for j in range(9) if j != row and labels[j] == labels[row]]
        if others:
            expected = slow_soft_maximum([float(crops[row] @ crops[j]) for j in others], 20.0)
            assert float(found[row]) == pytest.approx(expected, abs=1e-5)
        else:
            assert found[row].isnan()


def test_background_equals_a_loop_over_the_negatives():
    memory, features = made_up_memory({"a": 2, "b": 2}, negatives=25), units(20)
    exemplars = Exemplars.of_memory(memory, METHOD)
    negatives = [negative.prototype / negative.prototype.norm() for negative in memory.negatives]
    expected = [
        slow_soft_maximum([float(feature @ negative) for negative in negatives], exemplars.scale.tau_negatives)
        for feature in features
    ]
    assert exemplars.background(features).tolist() == pytest.approx(expected, abs=1e-5)
    assert exemplars.trusted.tolist() == list(range(25))


def test_doubtful_negatives_that_resemble_a_class_are_not_used():
    memory = made_up_memory({"a": 4}, noise=0.3)
    like = memory.entries[0].prototype
    for prototype, sure in ((like, False), (like, True), (-like, False)):
        memory.add_negative(Negative(prototype, "reference image", sure))
    assert Exemplars.of_memory(memory, METHOD).trusted.tolist() == [1, 2]


def test_at_one_shot_only_sure_negatives_are_used():
    memory = made_up_memory({"a": 1, "b": 1}, negatives=5, sure=False)
    assert len(Exemplars.of_memory(memory, METHOD).trusted) == 0
    assert Exemplars.of_memory(memory, METHOD).background(units(3)) is None
    memory.add_negative(Negative(torch.ones(CHANNELS), "background image", True))
    assert Exemplars.of_memory(memory, METHOD).trusted.tolist() == [5]


def test_constants_follow_the_spread_of_the_negatives():
    memory = made_up_memory({"a": 2, "b": 3}, negatives=40)
    prototypes = F.normalize(memory.prototypes(), dim=1)
    greatest = [
        max(float(negative.prototype / negative.prototype.norm() @ prototype) for prototype in prototypes)
        for negative in memory.negatives
    ]
    spread = stdev(greatest)
    scale = scale_of_negatives(memory, prototypes)
    assert (scale.tau, scale.tau_negatives, scale.slope) == pytest.approx(
        (2 / spread, 3 / spread, 1 / spread), rel=1e-4
    )


def test_constants_are_those_of_the_small_encoder_where_negatives_are_few_or_chosen():
    assert Scale.of_spread(0.1) == Scale() == Scale(20, 30, 10)
    memory = made_up_memory({"a": 2}, negatives=9)
    assert scale_of_negatives(memory, F.normalize(memory.prototypes(), dim=1)) == Scale()
    memory = made_up_memory({"a": 2}, negatives=40, source="rejected")
    assert scale_of_negatives(memory, F.normalize(memory.prototypes(), dim=1)) == Scale()


@pytest.mark.parametrize(("spread", "used"), [(0.0, 0.02), (1e-9, 0.02), (0.2, 0.2), (0.9, 0.3)])
def test_an_implausible_spread_is_clipped(spread, used):
    assert Scale.of_spread(spread) == Scale(2 / used, 3 / used, 1 / used)


def test_an_empty_memory_has_no_exemplars():
    with pytest.raises(ValueError, match="the memory is empty"):
        Exemplars.of_memory(made_up_memory({}), METHOD)
