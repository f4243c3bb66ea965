"""Evaluation of predictors on episodes, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nts.datasets.episodes import Episode, EpisodeImages, draw_episodes
from nts.evaluation.episode_evaluation import evaluate_episodes
from nts.evaluation.predictors import PaintedInstances
from nts.evaluation.shared_encodings import SharedPipeline
from nts.presets import PAPER
from synthetic.scenes import coco_dataset, target_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict:
    """Six drawn scenes on disk, as a COCO dataset with paths."""
    folder: Path = tmp_path_factory.mktemp("scenes")
    drawn = target_scenes(6)
    dataset = coco_dataset(drawn)
    for image, scene in zip(dataset["images"], drawn, strict=True):
        image["path"] = str(folder / f"{image['id']}.png")
        Image.fromarray(scene.image).save(image["path"])
    return dataset


def test_a_predictor_that_knows_the_truth_is_right_and_one_that_says_nothing_is_not(scenes):
    images = EpisodeImages(scenes)
    class_ids = [category["id"] for category in scenes["categories"]]
    episodes = draw_episodes(scenes, scenes, class_ids, shots=1, seed=0, count=8)
    asked = iter(episodes)

    def oracle(references, target):
        episode = next(asked)
        assert np.array_equal(references[0].image, images.image(episode.references[0]))
        return images.mask(episode.target, episode.class_id)

    for outcome in evaluate_episodes(episodes, images, images, oracle):
        assert outcome.counts.intersection == outcome.counts.union > 0
        assert outcome.counts.background_intersection == outcome.counts.background_union
    nothing = evaluate_episodes(episodes, images, images, lambda _, target: np.zeros(target.shape[:2], bool))
    assert all(outcome.counts.intersection == 0 < outcome.counts.union for outcome in nothing)


def test_masks_can_be_compared_at_another_size(scenes):
    images = EpisodeImages(scenes)
    class_ids = [category["id"] for category in scenes["categories"]]
    episodes = draw_episodes(scenes, scenes, class_ids, shots=1, seed=0, count=2)
    left_half = np.arange(256)[None, :] < 128

    def predictor(_, target):
        return np.broadcast_to(left_half, target.shape[:2])

    for outcome in evaluate_episodes(episodes, images, images, predictor, side=64):
        truth = images.mask(outcome.episode.target, outcome.episode.class_id)[2::4, 2::4]
        predicted = np.broadcast_to(left_half[:, 2::4], truth.shape)
        assert truth.any()
        assert outcome.counts.intersection == (truth & predicted).sum()
        assert outcome.counts.union == (truth | predicted).sum() < 64 * 64


def test_the_pipeline_as_a_predictor_finds_something_and_encodes_each_reference_once(
    scenes, small_encoder, small_segmenter, monkeypatch
):
    from nts.evaluation import shared_encodings as module

    encoded = []
    original = module.encode_references

    def counting(references, *args, **options):
        encoded.extend(reference.label_id for reference in references)
        return original(references, *args, **options)

    monkeypatch.setattr(module, "encode_references", counting)
    images = EpisodeImages(scenes, exif=False)
    class_ids = [category["id"] for category in scenes["categories"]]
    drawn = draw_episodes(scenes, scenes, class_ids, shots=1, seed=2, count=2)
    preset = replace(PAPER, proposals=replace(PAPER.proposals, points_per_side=8))
    predictor = PaintedInstances(SharedPipeline(small_encoder, small_segmenter, preset), threshold=0.6)
    outcomes = list(evaluate_episodes([*drawn, *drawn], images, images, predictor))
    assert outcomes[:2] == outcomes[2:]
    assert sum(outcome.counts.intersection for outcome in outcomes) > 0
    assert not any(outcome.error for outcome in outcomes)
    assert len(encoded) == len(set(encoded))


def test_an_image_that_cannot_be_used_is_told_and_counts_as_nothing_found(scenes, tmp_path):
    broken = {**scenes, "images": [dict(image) for image in scenes["images"]]}
    first, second = broken["images"][:2]
    class_of = {a["image_id"]: a["category_id"] for a in scenes["annotations"]}
    first["path"] = str(tmp_path / "gone.png")
    small = tmp_path / "small.png"
    Image.new("RGB", (10, 10)).save(small)
    second["path"] = str(small)
    episodes = [Episode(class_of[image["id"]], image["id"], (scenes["images"][3]["id"],)) for image in (first, second)]
    intact = EpisodeImages(
        {**scenes, "annotations": [{**a, "category_id": 1} for a in scenes["annotations"]]}
        | {"categories": [{"id": 1, "name": "any"}]}
    )
    episodes = [Episode(1, e.target, e.references) for e in episodes]
    targets = EpisodeImages({**broken, "annotations": [{**a, "category_id": 1} for a in scenes["annotations"]]})
    gone, wrong = evaluate_episodes(episodes, intact, targets, lambda _, t: np.ones(t.shape[:2], bool))
    assert "does not exist" in gone.error
    assert "10 x 10 pixels, but its annotations are for 256 x 256" in wrong.error
    for outcome in (gone, wrong):
        assert outcome.counts.intersection == 0 < outcome.counts.union


def test_ignored_pixels_count_for_nothing(scenes):
    image = scenes["images"][0]
    everything = {"size": [256, 256], "counts": [0, 256 * 256]}
    images = EpisodeImages({**scenes, "images": [{**image, "ignore": everything}, *scenes["images"][1:]]})
    class_id = next(a["category_id"] for a in scenes["annotations"] if a["image_id"] == image["id"])
    other = next(
        a["image_id"] for a in scenes["annotations"] if a["category_id"] == class_id and a["image_id"] != image["id"]
    )
    (outcome,) = evaluate_episodes(
        [Episode(class_id, image["id"], (other,))], images, images, lambda _, t: np.ones(t.shape[:2], bool)
    )
    assert outcome.counts.union == outcome.counts.background_union == 0
