"""Proposal scores by a reference prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from novel_references import novel_references

from nts.building import build_memory
from nts.cache import TensorCache
from nts.cached_segmenter import CachedSegmenter
from nts.instances import Instances
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.scorers import SCORERS, make_scorer
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.prompt import PromptMismatch
from nts.vrp.scorer import SURROUNDINGS, score_proposals
from synthetic.scenes import target_scenes


def slow_score(probability: np.ndarray, mask: np.ndarray) -> float:
    if not mask.any():
        return 0.0
    ys, xs = mask.nonzero()
    side = max(np.ptp(ys), np.ptp(xs)) + 1
    margin = int(np.ceil(SURROUNDINGS * side))
    rows = slice(max(0, ys.min() - margin), ys.max() + 1 + margin)
    columns = slice(max(0, xs.min() - margin), xs.max() + 1 + margin)
    inside = probability[mask].sum()
    return inside / mask.sum() * inside / max(probability[rows, columns].sum(), 1e-6)


def test_scores_are_those_of_the_slow_way():
    rng = np.random.default_rng(0)
    probabilities = rng.random((3, 20, 20)) ** 3
    masks = np.zeros((12, 20, 20), bool)
    for mask in masks[1:]:
        y, x = rng.integers(0, 18, 2)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
        mask &= rng.random((20, 20)) > 0.2
        mask[y, x] = True
    scores = score_proposals(torch.from_numpy(probabilities).float(), torch.from_numpy(masks))
    expected = [[slow_score(p, mask) for p in probabilities] for mask in masks]
    assert np.allclose(scores.numpy(), expected, atol=1e-5)


def test_a_whole_beats_its_part_and_what_lies_beside_it():
    probability = torch.full((1, 32, 32), 0.01)
    probability[0, 8:20, 8:20] = 0.95
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    masks[0, 8:20, 8:20] = True  # the object
    masks[1, 8:14, 8:14] = True  # a part of it
    masks[2, 4:24, 4:24] = True  # more than it
    masks[3, 24:30, 24:30] = True  # something else
    whole, part, more, other = score_proposals(probability, masks)[:, 0].tolist()
    assert whole > part > other
    assert whole > more > other
    assert whole > 0.85


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_prompt_scores_take_the_place_of_similarities(prompt, memory, small_encoder, small_segmenter, scorer):
    models = (small_encoder, small_segmenter)
    segmenter = ReferenceSegmenter(memory, *models, scorer=make_scorer(scorer, memory, *models, prompt))
    target = segmenter.encode(target_scenes(1)[0].image)
    instances = segmenter.match(target)
    assert isinstance(instances, Instances)
    masks = target.proposals.mask_logits > 0
    maps = ClassMapper(prompt, *models, whole_images(memory)).maps(target.tokens, target.embedding)
    scores = score_proposals(maps.probabilities, masks)
    if scorer == "both":
        plain = ReferenceSegmenter(memory, *models, preset=segmenter.preset)  # the published method
        assert len(plain.match(target)) > 0
        cosine = torch.stack([_cosine(target, masks, p) for p in memory.prototypes()], 1)
        scores = cosine * scores.sqrt()
    best, labels = scores.max(1)
    assert torch.allclose(instances.similarities, best[instances.proposals], atol=1e-5)
    assert torch.equal(instances.labels, labels[instances.proposals])


def _cosine(target, masks, prototype):
    from nts.matching import pool_tokens

    return (pool_tokens(target.tokens, masks) @ prototype).clamp(0, 1)


def test_a_scorer_without_what_it_needs_is_refused(prompt, memory, small_encoder, small_segmenter):
    models = (small_encoder, small_segmenter)
    with pytest.raises(ValueError, match="the scorer 'vrp' needs a trained reference prompt"):
        make_scorer("vrp", memory, *models)
    with pytest.raises(ValueError, match="the scorer must be one of prototype, vrp, both, got 'best'"):
        make_scorer("best", memory, *models, prompt)
    plain, _ = build_memory(novel_references(1, shots=1), small_encoder)
    with pytest.raises(PromptMismatch, match="build the memory again, with whole images"):
        make_scorer("both", plain, *models, prompt)


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_an_image_without_its_embedding_is_refused(prompt, memory, small_encoder, small_segmenter, scorer):
    models = (small_encoder, small_segmenter)
    target = encode_target(target_scenes(1)[0].image, *models)
    segmenter = ReferenceSegmenter(memory, *models, scorer=make_scorer(scorer, memory, *models, prompt))
    for without in (target, target.compact()):
        with pytest.raises(ValueError, match="encoded without its embedding"):
            segmenter.match(without)


def test_a_scorer_that_needs_the_embedding_uses_no_cache(prompt, memory, small_encoder, small_segmenter, tmp_path):
    models = (small_encoder, small_segmenter)
    cache = TensorCache(tmp_path, 10**9)
    for name in SCORERS:
        engine = ReferenceSegmenter(memory, *models, scorer=make_scorer(name, memory, *models, prompt))
        cached = CachedSegmenter(engine, cache)
        cached.store(cached.segment(cached.fetch(target_scenes(1)[0].image)))
        assert (cache.count() > 0) == (name == "prototype")
        cache.clear()
