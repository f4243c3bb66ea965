"""The baseline of the benchmarks equals the engine, and the reference implementation of the recipe."""

from __future__ import annotations

import pytest
import torch
from novel_references import novel_references
from problems import make_problem

from nts.building import build_memory
from nts.memory import class_prototype
from nts.pipeline import ReferenceSegmenter
from nts.presets import PAPER
from reference_implementation import published_pipeline, published_recipe
from synthetic.scenes import target_scenes


@pytest.fixture(scope="module")
def engine(small_encoder, small_segmenter) -> ReferenceSegmenter:
    references = novel_references(4, shots=2)
    return ReferenceSegmenter(build_memory(references, small_encoder, PAPER)[0], small_encoder, small_segmenter, PAPER)


@pytest.mark.parametrize("number", range(3))
def test_the_engine_finds_what_the_published_pipeline_finds(engine, number):
    image = target_scenes(3)[number].image
    found = engine.segment(image)
    expected = published_pipeline.segment(
        image,
        engine.encoder._model,
        engine.segmenter._model,
        engine.memory.prototypes(),
        published_pipeline.Constants(points_per_side=engine.segmenter.points_per_side),
    )
    assert len(found) > 2
    assert found.labels.tolist() == expected.labels.tolist()
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.masks != expected.masks).flatten(1).sum(1).max() <= 2


@pytest.mark.parametrize("seed", range(4))
def test_the_published_pipeline_matches_as_the_obvious_recipe_does(seed):
    problem = make_problem(200 + seed, classes=1 + seed, proposals=60, image_size=[(48, 64), (300, 200)][seed % 2])
    prototypes = torch.stack([class_prototype(tokens.mean(1)) for tokens in problem.reference_tokens])
    arguments = problem.tokens, problem.mask_logits, problem.predicted_iou, prototypes, problem.image_size
    expected = published_recipe.match(*arguments, max_instances=25)
    found = published_pipeline.match(*arguments, published_pipeline.Constants(max_instances=25))
    assert found.labels.tolist() == expected.labels.tolist()
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    assert torch.equal(found.masks, expected.masks)


def test_an_image_without_any_proposal_has_no_instances():
    problem = make_problem(1)
    found = published_pipeline.match(
        problem.tokens, problem.mask_logits[:0], problem.predicted_iou[:0], torch.eye(16)[:3], (48, 64)
    )
    assert found.masks.shape == (0, 48, 64)
    assert len(found.labels) == len(found.scores) == 0
