"""Inspection of a memory, and similarity maps: closed forms compared with direct computations."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nts.heatmaps import enlarge, similarity_maps
from nts.inspection import draw_reference, leave_one_out, prototype_similarities
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry, class_prototype


def random_memory(shots: list[int], dim: int = 12, seed: int = 0, noise: float = 1.0) -> MemoryBank:
    """Memory of classes `class 0`, `class 1`, … with given numbers of references, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(len(shots), dim, generator=generator)
    labels = torch.tensor([k for k, count in enumerate(shots) for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    vectors = centers[labels] + noise * torch.randn(len(labels), dim, generator=generator)
    bank = MemoryBank(EncoderInfo("some", "f", 28, dim))
    for number, (label, vector) in enumerate(zip(labels.tolist(), vectors, strict=True)):
        bank.add(MemoryEntry(f"class {label}", vector, f"sample {number}", f"label {number}"))
    return bank


def without(memory: MemoryBank, entry: MemoryEntry) -> MemoryBank:
    rest = MemoryBank.from_bytes(memory.to_bytes())
    rest.remove(label_ids=[entry.label_id])
    return rest


@pytest.mark.parametrize("shots", [[3, 2, 5], [2, 2], [1, 4, 1], [6], [1], [1, 1]])
@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_equals_building_the_memory_again_without_each(shots, seed):
    memory = random_memory(shots, seed=seed, noise=1.5)
    checks = leave_one_out(memory)
    assert [check.entry for check in checks] == list(range(len(memory)))
    for check, entry in zip(checks, memory.entries, strict=True):
        assert check.class_name == entry.class_name
        rest = without(memory, entry)
        cosine = {
            name: float(F.cosine_similarity(entry.prototype, prototype, dim=0))
            for name, prototype in zip(rest.classes, rest.prototypes() if len(rest) else [], strict=True)
        }
        own = cosine.pop(entry.class_name, math.nan)
        other = max(cosine, key=cosine.__getitem__, default=None)
        assert check.similarity == pytest.approx(own, abs=1e-5, nan_ok=True)
        assert check.other == other
        assert check.other_similarity == pytest.approx(cosine.get(other, math.nan), abs=1e-5, nan_ok=True)
        assert check.margin == pytest.approx(own - cosine.get(other, math.nan), abs=1e-5, nan_ok=True)
        if math.isnan(own):
            assert check.agrees is None
        else:
            assert check.agrees is (other is None or own > cosine[other])


def test_reference_with_the_wrong_label_disagrees_and_the_others_do_not():
    memory = random_memory([4, 4], noise=0.1)
    stranger = next(entry for entry in memory.entries if entry.class_name == "class 1")
    memory.add(MemoryEntry("class 0", stranger.prototype, "sample", "mislabelled"))
    disagreeing = [check for check in leave_one_out(memory) if not check.agrees]
    assert [memory.entries[check.entry].label_id for check in disagreeing] == ["mislabelled"]
    assert (disagreeing[0].class_name, disagreeing[0].other) == ("class 0", "class 1")


def test_similarities_of_prototypes_are_their_cosines():
    memory = random_memory([2, 3, 1])
    found = prototype_similarities(memory)
    by_class = [[e.prototype for e in memory.entries if e.class_name == name] for name in memory.classes]
    expected = [
        [float(class_prototype(torch.stack(a)) @ class_prototype(torch.stack(b))) for a in by_class] for b in by_class
    ]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    assert found.diagonal().allclose(torch.ones(3))


def test_empty_memory_has_nothing_to_look_at():
    memory = MemoryBank(EncoderInfo("some", "f", 28, 4))
    assert leave_one_out(memory) == []
    assert prototype_similarities(memory).shape == (0, 0)


def test_large_memory_is_checked_in_seconds():
    memory = random_memory([10] * 1203, dim=64)
    begin = time.thread_time()  # other processes do not count
    assert len(leave_one_out(memory)) == 12030
    assert prototype_similarities(memory).shape == (1203, 1203)
    assert time.thread_time() - begin < 20


def test_similarity_maps_are_the_cosines_of_every_patch():
    tokens, prototypes = torch.randn(4, 5, 7), torch.randn(3, 7)
    maps = similarity_maps(tokens, prototypes)
    assert maps.shape == (3, 4, 5)
    for k in range(3):
        for y in range(4):
            for x in range(5):
                expected = F.cosine_similarity(tokens[y, x], prototypes[k], dim=0)
                assert float(maps[k, y, x]) == pytest.approx(float(expected), abs=1e-6)


def test_similarity_maps_refuse_prototypes_of_another_encoder():
    with pytest.raises(ValueError, match=r"of the same C, got \(4, 5, 7\) and \(3, 8\)"):
        similarity_maps(torch.zeros(4, 5, 7), torch.zeros(3, 8))


@pytest.mark.parametrize(
    ("image_size", "expected"), [((480, 640), (96, 128)), ((100, 50), (100, 50)), ((5000, 1), (128, 1))]
)
def test_enlarged_maps_have_the_shape_of_the_image(image_size, expected):
    maps = torch.rand(2, 4, 4)
    large = enlarge(maps, image_size, 128)
    assert large.shape == (2, *expected)
    assert large.min() >= maps.min()
    assert large.max() <= maps.max()


@pytest.mark.parametrize("rows", [slice(20, 40), slice(0, 60), slice(59, 60)])
def test_reference_is_drawn_with_its_outline_and_what_is_around_it_dimmed(rows):
    image = np.full((60, 80, 3), 200, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[rows, 30:50] = True
    picture = np.asarray(draw_reference(image, mask, (255, 0, 0), size=100))
    assert max(picture.shape[:2]) == 100
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert colours == {(200, 200, 200), (120, 120, 120), (255, 0, 0)}


@pytest.mark.parametrize("size", [(60, 80), (3000, 4000), (5, 4)])
def test_a_point_is_seen_on_the_picture_of_its_whole_image(size):
    image = np.full((*size, 3), 200, np.uint8)
    mask = np.zeros(size, bool)
    mask[size[0] // 2, size[1] // 4] = True
    picture = np.asarray(draw_reference(image, mask, (255, 0, 0), size=100, whole=True))
    height, width = picture.shape[:2]
    assert (max(height, width), round(100 * min(size) / max(size))) == (100, min(height, width))
    ys, xs = (picture == (255, 0, 0)).all(2).nonzero()
    assert len(ys) > 10
    assert abs(ys.mean() / height - (size[0] // 2 + 0.5) / size[0]) < 0.03
    assert abs(xs.mean() / width - (size[1] // 4 + 0.5) / size[1]) < 0.03
