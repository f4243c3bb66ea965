"""Both passes of the matching, against the specification in loops, and what each part does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_up_memories import CHANNELS, made_up_memory
from problems import Problem, make_problem

from nts.consensus import Voters, as_votes, consensus_logits
from nts.crops import TargetCrops
from nts.exemplars import Exemplars
from nts.instances import Instances
from nts.masks import draw_masks
from nts.matching import MatchingConfig, choose_instances
from nts.memory import MemoryBank, Negative
from nts.merging import Overlaps, diffusion_decay
from nts.method import PUBLISHED, Method
from nts.presets import DEFAULT
from nts.scoring import ExemplarScorer, PrototypeScorer
from nts.segmenter import Proposals
from nts.targets import EncodedTarget
from nts.two_pass import NEAR_BEST, _survivors, match_target
from reference_implementation import published_recipe

METHOD = DEFAULT.method
CONFIG = MatchingConfig()


def no_image() -> np.ndarray:
    raise AssertionError("the image was read")


def make_target(encoder, seed: int = 0, proposals: int = 60) -> tuple[EncodedTarget, Problem]:
    """A target with features of everything: whole image, tiles, and crops, which are known for all proposals."""
    problem = make_problem(seed, proposals=proposals, channels=CHANNELS)
    generator = torch.Generator().manual_seed(1000 + seed)
    voting = problem.mask_logits + 2 * torch.randn(proposals, 1, 1, generator=generator)
    found = Proposals(
        problem.mask_logits,
        problem.predicted_iou,
        torch.zeros(proposals, 2),
        Voters(as_votes(voting), problem.predicted_iou),
    )
    crops = F.normalize(torch.randn(proposals, CHANNELS, generator=generator), dim=1)
    target = EncodedTarget(
        problem.tokens,
        found,
        problem.image_size,
        tiles=torch.randn(4, 5, 5, CHANNELS, generator=generator),
        embedded=TargetCrops(no_image, encoder, dict(enumerate(crops))),
    )
    return target, problem


def make_memory(problem: Problem, negatives: int = 20) -> MemoryBank:
    """References that resemble what is in the target."""
    memory = MemoryBank(made_up_memory({}).encoder)
    template = made_up_memory({"a": 1}).entries[0]
    for k, of_class in enumerate(problem.reference_tokens):
        for tokens in of_class:
            memory.add(
                replace(template, class_name=f"class {k}", prototype=tokens.mean(0), whole_prototype=tokens[:9].mean(0))
            )
    memory.add_negatives(made_up_memory({}, negatives=negatives).negatives)
    return memory


def run(target, memory: MemoryBank, method: Method = METHOD, config: MatchingConfig = CONFIG) -> Instances:
    exemplars = Exemplars.of_memory(memory, method)
    scores = ExemplarScorer(exemplars, tiles=method.tiles).scores(target)
    return match_target(target, scores, exemplars, config, method)


# The specification, in loops


def slow_soft_maximum(cosines: list[float], tau: float) -> float:
    return min(max(math.log(sum(math.exp(tau * c) for c in cosines) / len(cosines)) / tau, 0), 1)


def slow_scores(feature: torch.Tensor, memory: MemoryBank, tau: float, *, whole: bool) -> list[float]:
    answer = []
    for name in memory.classes:
        cosines = []
        for entry in memory.entries:
            if entry.class_name == name:
                exemplar = F.normalize(entry.prototype, dim=0)
                if whole:
                    exemplar = F.normalize(exemplar + F.normalize(entry.whole_prototype, dim=0), dim=0)
                cosines.append(float(feature @ exemplar))
        answer.append(slow_soft_maximum(cosines, tau))
    return answer


def slow_pass(candidates, scores, quality, background, slope, masks, boxes, features) -> list[tuple[int, float]]:
    """NMS, soft merging and confidence among candidates: proposals and scores, best first."""
    best = {i: max(scores[i]) for i in candidates}
    label = {i: scores[i].index(best[i]) for i in candidates}
    order = sorted(candidates, key=lambda i: -quality[i] * best[i] ** 2)
    kept: list[int] = []
    for i in order:
        rivals = [boxes[j] for j in kept if label[i] == label[j]]
        if all(published_recipe.box_iou(boxes[i], rival) <= 0.5 for rival in rivals):
            kept.append(i)
    kept = [i for i in kept if best[i] > 0 and quality[i] > 0]
    found = []
    for rank, i in enumerate(kept):
        covered = [0.0]
        for j in kept[:rank]:
            if label[i] == label[j]:
                share = float((masks[i] & masks[j]).sum()) / float(masks[i].sum())
                covered.append(share * max(0.0, float(features[i] @ features[j])))
        if background is None:
            confidence = best[i] * quality[i] ** 0.375
        else:
            confidence = best[i] / (1 + math.exp(-slope * (best[i] - background[i]))) * quality[i] ** 0.75
        found.append((i, confidence * (1 - max(covered)) ** 0.5))
    return sorted(((i, score) for i, score in found if score > 0), key=lambda pair: -pair[1])


def slow_method(target: EncodedTarget, memory: MemoryBank, method: Method) -> list[tuple[int, float, int]]:
    """Proposal, score and class of every instance: the specification, step by step."""
    scale = Exemplars.of_memory(memory, method).scale
    logits, features = target.proposals.mask_logits, target.features
    masks = draw_masks(logits, target.image_size)
    boxes = [published_recipe.box_of(mask) for mask in logits > 0]
    quality = target.predicted_iou.tolist()
    candidates = [i for i in range(len(logits)) if (logits[i] > 0).any()]
    negatives = [F.normalize(negative.prototype, dim=0) for negative in memory.negatives] if method.negatives else []

    def resemblance(features) -> dict[int, float] | None:
        if not negatives:
            return None
        tau = scale.tau_negatives
        return {i: slow_soft_maximum([float(features[i] @ n) for n in negatives], tau) for i in candidates}

    scores = {i: slow_scores(features[i], memory, scale.tau, whole=True) for i in candidates}
    background = None if method.crops else resemblance(features)
    found = slow_pass(candidates, scores, quality, background, scale.slope, masks, boxes, features)
    if method.crops:
        crops = target.crops.features
        near = NEAR_BEST * found[0][1] if found else 0
        survivors = [i for rank, (i, score) in enumerate(found) if rank < method.survivors or score >= near]
        scores = {i: slow_scores(crops[i], memory, scale.tau, whole=False) for i in survivors}
        found = slow_pass(survivors, scores, quality, resemblance(crops), scale.slope, masks, boxes, features)
    return [(i, score, scores[i].index(max(scores[i]))) for i, score in found]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "method",
    [
        METHOD,
        METHOD.without("negatives"),
        METHOD.without("crops"),
        METHOD.without("crops", "negatives"),
        replace(METHOD, survivors=3),
    ],
    ids=["default", "no negatives", "no crops", "neither", "three survivors"],
)
def test_instances_equal_the_specification_in_loops(small_encoder, seed, method):
    target, problem = make_target(small_encoder, seed)
    memory = make_memory(problem)
    expected = slow_method(target, memory, method)
    found = run(target, memory, method)
    assert found.proposals.tolist() == [proposal for proposal, _, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-4)
    assert found.labels.tolist() == [label for _, _, label in expected]
    assert len(found) > 0


@pytest.mark.parametrize("seed", range(4))
def test_with_all_parts_off_it_is_the_published_matching(small_encoder, seed):
    target, problem = make_target(small_encoder, seed)
    memory = make_memory(problem)
    found = run(target, memory, PUBLISHED)
    scores = PrototypeScorer(memory.prototypes()).scores(target)
    expected = choose_instances(target.masks, target.features, target.predicted_iou, scores, CONFIG)
    assert len(found) == len(expected) > 0
    for name in ("boxes", "labels", "scores", "similarities", "margins", "predicted_iou", "features", "proposals"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.masks, expected.masks)
    assert torch.equal(found.compared, found.features)


def test_only_survivors_are_embedded_and_returned(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    first = run(target, memory, METHOD.without("crops", "negatives"))
    first = first.proposals[: max(5, int((first.scores >= NEAR_BEST * first.scores[0]).sum()))]
    asked: list[int] = []
    crops = target.crops

    class Recorded(TargetCrops):
        def of(self, masks, which):
            asked.extend(which.tolist())
            return super().of(masks, which)

    recorded = replace(target, embedded=Recorded(no_image, small_encoder, crops.features))
    found = run(recorded, memory, replace(METHOD, survivors=5))
    assert asked == first.tolist()
    assert set(found.proposals.tolist()) <= set(asked)
    assert torch.allclose(found.compared, torch.stack([crops.features[i] for i in found.proposals.tolist()]))


def test_a_resemblance_to_negatives_lowers_the_score_and_nothing_else(small_encoder):
    target, problem = make_target(small_encoder)
    # Sure negatives: the guard drops none, and constants are those without negatives, which are too few to scale by.
    memory, without = make_memory(problem, negatives=0), make_memory(problem, negatives=0)
    method = METHOD.without("crops", "rank")
    base = run(target, without, method)
    worst = int(base.proposals[0])
    memory.add_negative(Negative(target.features[worst], "background image", True))
    found = run(target, memory, method)
    before = dict(zip(base.proposals.tolist(), base.scores.tolist(), strict=True))
    after = dict(zip(found.proposals.tolist(), found.scores.tolist(), strict=True))
    assert before.keys() == after.keys()
    assert all(after[i] <= before[i] for i in before)
    assert after[worst] < 0.6 * before[worst]


@pytest.mark.parametrize("part", ["similarity", "rank", "crops", "negatives", "consensus", "merging"])
def test_every_part_changes_the_instances(small_encoder, part):
    target, problem = make_target(small_encoder)
    memory, method = make_memory(problem), replace(METHOD, merging="diffusion")
    everything, without = run(target, memory, method), run(target, memory, method.without(part))
    if part == "consensus":
        assert torch.equal(everything.scores, without.scores)
        assert not torch.equal(everything.masks, without.masks)
    else:
        assert everything.scores.tolist() != without.scores.tolist()


def test_tiles_give_proposals_their_features(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    method = replace(METHOD, crops=False, tiles=True)
    found = run(target, memory, method)
    assert torch.equal(found.compared, target.tile_features[found.proposals])
    expected = Exemplars.of_memory(memory, method).whole_similarity(target.tile_features[found.proposals])
    assert torch.allclose(found.similarities, expected.amax(1), atol=1e-6)


def test_diffusion_replaces_soft_merging(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    method = replace(PUBLISHED, merging="diffusion")
    scores = PrototypeScorer(memory.prototypes()).scores(target)
    similarity, labels = scores.max(1)
    found = run(target, memory, method)
    chosen = found.proposals[found.predicted_iou.argsort(descending=True)]
    pixels = draw_masks(target.proposals.mask_logits[chosen], target.image_size).flatten(1).double()
    decay = diffusion_decay(Overlaps.of_matrix(pixels @ pixels.T, labels[chosen]))
    expected = dict(zip(chosen.tolist(), (similarity[chosen] * decay).tolist(), strict=True))
    for proposal, score in zip(found.proposals.tolist(), found.scores.tolist(), strict=True):
        assert score == pytest.approx(expected[proposal], abs=1e-4)


def test_outlines_are_voted_and_the_rest_is_of_the_proposals(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    voted, own = run(target, memory), run(target, memory, METHOD.without("consensus"))
    expected = draw_masks(
        consensus_logits(target.proposals.mask_logits[voted.proposals], target.proposals.voters), target.image_size
    )
    assert torch.equal(voted.masks, expected)
    assert torch.equal(voted.scores, own.scores)
    assert torch.equal(voted.features, own.features)


@pytest.mark.parametrize(
    "method",
    [METHOD, replace(METHOD, crops=False, tiles=True), METHOD.without("crops")],
    ids=["crops", "tiles", "none"],
)
def test_a_target_from_the_cache_gives_the_same_instances(small_encoder, method):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    direct, stored = run(target, memory, method), run(target.compact(), memory, method)
    assert len(direct) > 0
    for name in ("boxes", "labels", "scores", "similarities", "margins", "predicted_iou", "proposals", "compared"):
        assert torch.equal(getattr(direct, name), getattr(stored, name)), name
    assert torch.equal(direct.masks, stored.masks)


# Invariance


def figures(found: Instances) -> tuple:
    return found.proposals.tolist(), pytest.approx(found.scores.tolist(), abs=1e-5)


def test_order_and_duplicates_of_references_do_not_matter(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    expected = figures(run(target, memory))
    for entries in (memory.entries[::-1], memory.entries * 2):
        other = MemoryBank(memory.encoder)
        for entry in entries:
            other.add(entry)
        other.add_negatives(memory.negatives)
        found = run(target, other)
        assert (found.proposals.tolist(), found.scores.tolist()) == expected


def test_renamed_classes_are_permuted_and_nothing_else(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    names = {"class 0": "z", "class 1": "x", "class 2": "y"}
    other = MemoryBank(memory.encoder)
    for entry in memory.entries:
        other.add(replace(entry, class_name=names[entry.class_name]))
    other.add_negatives(memory.negatives)
    one, two = run(target, memory), run(target, other)
    assert (two.proposals.tolist(), two.scores.tolist()) == figures(one)
    assert [other.classes[k] for k in two.labels] == [names[memory.classes[k]] for k in one.labels]
    assert torch.allclose(one.margins, two.margins, atol=1e-6)


# Odd input


def test_no_proposal_survives(small_encoder):
    """Neither where there is none, nor where none resembles a class."""
    empty = Proposals(
        torch.zeros(0, 32, 32),
        torch.zeros(0),
        torch.zeros(0, 2),
        Voters(torch.zeros(0, 32, 32).half(), torch.zeros(0)),
    )
    dim = small_encoder.info.dim
    memory = MemoryBank(small_encoder.info)
    template = made_up_memory({"a": 1}).entries[0]
    memory.add(replace(template, prototype=torch.ones(dim), whole_prototype=torch.ones(dim)))
    embedded = TargetCrops(no_image, small_encoder)
    none = EncodedTarget(torch.ones(4, 4, dim), empty, (40, 50), embedded=embedded)
    one = replace(empty, mask_logits=torch.ones(1, 32, 32), predicted_iou=torch.ones(1), points=torch.zeros(1, 2))
    unlike = EncodedTarget(-torch.ones(4, 4, dim), one, (40, 50), embedded=embedded)
    for target in (none, none.compact(), unlike, unlike.compact()):
        found = run(target, memory)
        assert len(found) == 0
        assert found.masks.shape == (0, 40, 50)
        assert found.compared.shape == (0, dim)


def test_thresholds_and_numbers_hold_for_the_last_pass(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    everything = run(target, memory)
    threshold = float(everything.scores[2])
    few = run(target, memory, config=replace(CONFIG, score_threshold=threshold))
    assert few.proposals.tolist() == everything.proposals[:2].tolist()
    # Eight times as many candidates enter the merging as instances are returned: here that is all of them.
    eight = run(target, memory, config=replace(CONFIG, max_instances=8))
    assert eight.proposals.tolist() == everything.proposals[:8].tolist()
    assert len(everything) > 8


def test_one_class_only(small_encoder):
    target, problem = make_target(small_encoder)
    memory = make_memory(problem)
    for name in memory.classes[1:]:
        memory.remove(class_name=name)
    found = run(target, memory)
    assert len(found) > 0
    assert set(found.labels.tolist()) == {0}
    assert torch.equal(found.margins, found.similarities)


@pytest.mark.parametrize(
    ("part", "method", "message"),
    [
        ("embedded", METHOD, "without its image, from which crops are cut"),
        ("tiles", replace(METHOD, crops=False, tiles=True), "without the features of its tiles"),
        ("voters", METHOD, "without the masks that vote on outlines"),
    ],
)
def test_a_target_of_another_preset_is_refused_in_words(small_encoder, part, method, message):
    target, problem = make_target(small_encoder)
    if part == "voters":
        target = replace(target, proposals=replace(target.proposals, voters=None))
    else:
        target = replace(target, **{part: None})
    for each in (target, target.compact()):
        with pytest.raises(ValueError, match=f"{message}: encode it with the preset that it is matched with"):
            run(each, make_memory(problem), method)


def test_a_crowded_image_gives_more_instances_a_closer_look():
    method = Method(crops=True, survivors=2)
    assert _survivors(torch.tensor([0.9, 0.8, 0.7, 0.1]), method) == 3
    assert _survivors(torch.tensor([0.9, 0.2, 0.1]), method) == 2
    assert _survivors(torch.tensor([0.9, NEAR_BEST * 0.9, 0.1]), Method(crops=True, survivors=1)) == 2
    assert _survivors(torch.zeros(0), method) == 2  # a slice of none
