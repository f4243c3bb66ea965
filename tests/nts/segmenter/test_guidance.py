"""Guided prompts: their locations, their number, and their effect on the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from novel_references import novel_references

from nts.building import build_memory
from nts.method import PUBLISHED
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.presets import DEFAULT, FAST
from nts.segmenter import point_grid
from nts.segmenter.guidance import Guidance, guided_points, response
from synthetic.scenes import target_scenes


def test_response_is_the_best_cosine_of_a_patch_or_a_neighbour():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 7, 6, generator=generator)
    prototypes = torch.randn(3, 6, generator=generator)
    found = response(tokens, prototypes)
    for y in range(5):
        for x in range(7):
            around = tokens[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].reshape(-1, 6)
            expected = max(float(F.cosine_similarity(t, p, 0)) for t in around for p in prototypes)
            assert float(found[y, x]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("side", [5, 8, 16])
@pytest.mark.parametrize("guidance", [Guidance(), Guidance(3, 0.1), Guidance(2, 0.0), Guidance(2, 1.0), Guidance(1)])
def test_the_floor_is_always_prompted_and_the_number_of_prompts_fixed(side, guidance):
    counts = set()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        which = guided_points(
            torch.randn(9, 9, 4, generator=generator), torch.randn(2, 4, generator=generator), side, guidance
        )
        assert which.tolist() == sorted(set(which.tolist()))
        floor = {
            i * side + j for i in range(0, side, guidance.floor_stride) for j in range(0, side, guidance.floor_stride)
        }
        assert floor <= set(which.tolist())
        counts.add(len(which))
    assert counts == {min(side * side, len(floor) + round(guidance.guided_fraction * side * side))}


def test_prompts_go_where_the_class_is():
    tokens = torch.zeros(16, 16, 2)
    tokens[..., 0] = 1
    tokens[2:5, 10:14] = torch.tensor([0.0, 1.0])  # rows 2-4, columns 10-13: above and right of the middle
    which = guided_points(tokens, torch.tensor([[0.0, 1.0]]), 16, Guidance(4, 0.06))
    led = point_grid(16, 256)[which] / 256 * 16  # x, y in patches
    off_floor = torch.tensor([(i // 16) % 4 != 0 or (i % 16) % 4 != 0 for i in which.tolist()])
    x, y = led[off_floor].T
    assert len(x) == 15
    assert ((x > 8.5) & (x < 15.5) & (y > 0.5) & (y < 6.5)).all()


@pytest.mark.parametrize("bad", [{"floor_stride": 0}, {"guided_fraction": -0.1}, {"guided_fraction": 1.5}])
def test_impossible_guidance_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Guidance(**bad)


@pytest.fixture(scope="module")
def memory(small_encoder):
    references = novel_references(4, shots=2)
    return build_memory(references, small_encoder)[0]


def test_guided_proposals_are_a_subset_of_all(small_encoder, small_segmenter, memory):
    image = target_scenes(1)[0].image
    preset = replace(DEFAULT, proposals=FAST.proposals)
    all_of_them = encode_target(image, small_encoder, small_segmenter, DEFAULT).proposals
    led = encode_target(image, small_encoder, small_segmenter, preset, prototypes=memory.prototypes()).proposals
    assert 0 < len(led) <= len(all_of_them)
    row = {tuple(point): k for k, point in enumerate(all_of_them.points.tolist())}
    same = torch.tensor([row[tuple(point)] for point in led.points.tolist()])
    assert torch.allclose(led.mask_logits, all_of_them.mask_logits[same], atol=1e-3)


def test_without_prototypes_every_point_is_prompted(small_encoder, small_segmenter):
    image = target_scenes(1)[0].image
    preset = replace(DEFAULT, proposals=FAST.proposals)
    led = encode_target(image, small_encoder, small_segmenter, preset)
    assert len(led.proposals) == len(encode_target(image, small_encoder, small_segmenter, DEFAULT).proposals)


def test_guided_prompts_find_the_confident_instances(memory):
    """Of the published method, whose confidence is the similarity alone."""
    engine = ReferenceSegmenter(memory, preset=replace(DEFAULT, method=PUBLISHED))
    fast = ReferenceSegmenter(memory, preset=replace(FAST, method=PUBLISHED))
    found = expected = 0
    for scene in target_scenes(12):
        exact, quick = engine.segment(scene.image), fast.segment(scene.image)
        for k in (exact.scores > 0.7).nonzero()[:, 0].tolist():
            expected += 1
            both = (quick.masks & exact.masks[k]).sum((1, 2)) / (quick.masks | exact.masks[k]).sum((1, 2))
            found += bool((both[quick.labels == exact.labels[k]] > 0.8).any())
    assert expected > 5
    assert found >= 0.9 * expected
