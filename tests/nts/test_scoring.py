"""Scorers: the prototypes, and any other object that implements the protocol."""

from __future__ import annotations

import pytest
import torch
from novel_references import novel_references

from nts.building import build_memory
from nts.memory import MemoryBank
from nts.pipeline import ReferenceSegmenter
from nts.scorers import PROMPTED, SCORERS, make_scorer
from nts.scoring import PrototypeScorer
from nts.segmenter import Proposals
from nts.targets import make_target
from synthetic.scenes import target_scenes


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    return build_memory(novel_references(3, shots=1), small_encoder)[0]


def test_prototypes_that_do_not_fit_are_refused():
    logits = torch.ones(2, 16, 16)
    target = make_target(torch.zeros(2, 4), Proposals(logits, torch.rand(2), torch.zeros(2, 2)), (9, 9))
    with pytest.raises(ValueError, match="C = 4"):
        PrototypeScorer(torch.ones(1, 3)).scores(target)
    with pytest.raises(ValueError, match="a prototype holds NaN"):
        PrototypeScorer(torch.full((1, 4), torch.nan)).scores(target)


def test_prototypes_score_by_default_and_by_name(memory, small_encoder, small_segmenter):
    default = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    target = default.encode(target_scenes(1)[0].image)
    named = make_scorer("prototype", memory, small_encoder, small_segmenter)
    scores = default.scorer.scores(target)
    assert scores.shape == (len(target.proposals), 3)
    assert torch.equal(named.scores(target), scores)
    assert torch.equal(named.scores(target.compact()), scores)
    assert target.embedding is None
    assert default.scorer.name == named.name == "prototype"


def test_scorers_go_by_the_names_that_runs_store():
    assert tuple(SCORERS) == ("prototype", "vrp", "both")
    assert tuple(PROMPTED) == ("vrp", "both")


class LastClass:
    """Scorer that assigns every proposal to the last class."""

    name = "last"
    needs_embedding = True
    scores_cached_targets = False

    def scores(self, target) -> torch.Tensor:
        assert target.embedding is not None
        scores = torch.zeros(len(target.proposals), 3)
        scores[:, 2] = 1
        return scores


def test_any_object_with_these_methods_is_a_scorer(memory, small_encoder, small_segmenter):
    found = ReferenceSegmenter(memory, small_encoder, small_segmenter, scorer=LastClass()).segment(
        target_scenes(1)[0].image
    )
    assert len(found) > 0
    assert (found.labels == 2).all()
    assert (found.similarities == 1).all()
    assert {memory.entries[k].class_name for k in found.references.tolist()} == {memory.classes[2]}
