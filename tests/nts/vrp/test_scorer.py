"""Proposal scores by a reference prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from novel_references import novel_references

from nts.building import build_memory
from nts.cache import TensorCache
from nts.cache.targets import PROMPT_SCORES, TARGET, read_prompt_scores, write_prompt_scores
from nts.cached_segmenter import CachedSegmenter, Segmented
from nts.encoder import Encoder
from nts.instances import Instances
from nts.memory import MemoryBank
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.prompt_scores import PromptScores
from nts.scorers import PROMPTED, make_scorer
from nts.segmenter import Segmenter
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.prompt import PromptMismatch
from nts.vrp.scorer import SURROUNDINGS, VRPScorer, score_proposals
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


NAMES = ("boxes", "labels", "scores", "similarities", "margins", "predicted_iou", "proposals", "references", "masks")


def run(memory, models, scorer, cache) -> Segmented:
    cached = CachedSegmenter(ReferenceSegmenter(memory, *models, scorer=scorer), cache)
    found = cached.segment(cached.fetch(target_scenes(1)[0].image))
    cached.store(found)
    return found


def no_model(*_, **__):
    raise AssertionError("a model ran")


@pytest.mark.parametrize("name", PROMPTED)
def test_a_second_run_runs_no_model(prompt, memory, small_encoder, small_segmenter, tmp_path, monkeypatch, name):
    models, cache = (small_encoder, small_segmenter), TensorCache(tmp_path, 10**9)
    scorer = make_scorer(name, memory, *models, prompt)
    expected = ReferenceSegmenter(memory, *models, scorer=scorer).segment(target_scenes(1)[0].image)
    first = run(memory, models, scorer, cache)
    assert not first.from_cache
    assert (cache.count(TARGET), cache.count(PROMPT_SCORES)) == (1, 1)
    for model, method in ((Encoder, "encode"), (Segmenter, "embed"), (Segmenter, "propose"), (Segmenter, "decode")):
        monkeypatch.setattr(model, method, no_model)
    second = run(memory, models, scorer, cache)
    assert second.from_cache
    assert len(expected) > 0
    for found in (first, second):
        for attribute in NAMES:
            assert torch.equal(getattr(found.instances, attribute), getattr(expected, attribute)), attribute


def without(memory: MemoryBank, *label_ids: str) -> MemoryBank:
    bank = MemoryBank(memory.encoder)
    for entry in memory.entries:
        if entry.label_id not in label_ids:
            bank.add(entry)
    return bank


def test_only_classes_with_other_references_are_scored_again(
    prompt, memory, small_encoder, small_segmenter, tmp_path, monkeypatch
):
    models, cache = (small_encoder, small_segmenter), TensorCache(tmp_path, 10**9)
    second_reference, other_class = memory.entries[1].label_id, memory.entries[-1].label_id
    assert memory.entries[0].class_name == memory.entries[1].class_name
    fewer = without(memory, second_reference, other_class)
    assert len(fewer.classes) == len(memory.classes) - 1
    run(fewer, models, make_scorer("vrp", fewer, *models, prompt), cache)
    monkeypatch.setattr(Segmenter, "propose", no_model)
    decoded, decode = [], Segmenter.decode

    def counted(self, embedding, sparse, dense=None):
        decoded.append(len(sparse))
        return decode(self, embedding, sparse, dense)

    monkeypatch.setattr(Segmenter, "decode", counted)
    scorer = make_scorer("vrp", memory, *models, prompt)
    found = run(memory, models, scorer, cache)
    assert decoded == [2], "the class with one more reference, and the new one"
    assert found.target.prompted.new == 2
    monkeypatch.undo()
    expected = ReferenceSegmenter(memory, *models, scorer=scorer).segment(target_scenes(1)[0].image)
    assert torch.equal(found.instances.labels, expected.labels)
    assert torch.equal(found.instances.masks, expected.masks)
    assert torch.allclose(found.instances.scores, expected.scores, atol=1e-5)

    with monkeypatch.context() as patched:  # the scores of the smaller memory are still there
        patched.setattr(Segmenter, "embed", no_model)
        run(fewer, models, make_scorer("vrp", fewer, *models, prompt), cache)
    other_prompt = replace(prompt, about={"training": {"absent_share": 0.2}})
    assert run(fewer, models, make_scorer("vrp", fewer, *models, other_prompt), cache).target.prompted.new > 0


def test_old_scores_leave_the_cache_but_never_those_of_the_last_run(tmp_path, monkeypatch):
    monkeypatch.setattr("nts.cache.targets._MOST_CLASSES", 2)
    cache, asked = TensorCache(tmp_path, 10**9), []

    def score(tokens, embedding, masks, classes):
        asked.append(list(classes))
        return torch.rand(len(masks), len(classes))

    def scores_of(names: str, used: int) -> torch.Tensor:
        known = read_prompt_scores(cache, "key")
        prompted = PromptScores(lambda: torch.ones(3, 4, 4, dtype=torch.bool), lambda: (None, None), known)
        found = prompted.of(names.split(), score)
        assert prompted.used == used
        if prompted.new:
            write_prompt_scores(cache, "key", prompted.scores, prompted.used)
        return found

    first = scores_of("a b c d", 4)
    assert torch.equal(scores_of("d b", 2), first[:, [3, 1]])
    assert torch.equal(scores_of("b b", 1), first[:, [1, 1]])
    scores_of("e", 1)
    assert list(read_prompt_scores(cache, "key")) == ["c", "d", "e"]
    assert asked == [[0, 1, 2, 3], [0]]
    assert torch.equal(scores_of("d c", 2), first[:, [3, 2]])


def test_a_scorer_that_cannot_score_cached_targets_uses_no_cache(
    prompt, memory, small_encoder, small_segmenter, tmp_path
):
    class NeedsTokens(VRPScorer):
        scores_cached_targets = False

    models, cache = (small_encoder, small_segmenter), TensorCache(tmp_path, 10**9)
    mapper = ClassMapper(prompt, *models, whole_images(memory))
    run(memory, models, NeedsTokens(mapper), cache)
    assert cache.count() == 0
