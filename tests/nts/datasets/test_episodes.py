"""Episodes: the same on every machine, disjoint, and judged pixel by pixel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nts.datasets.episodes import (
    EncodedOnce,
    Episode,
    EpisodeImages,
    PaintedInstances,
    draw_episodes,
    evaluate_episodes,
    read_episodes,
    write_episodes,
)
from nts.datasets.layouts import mask_of_annotation
from nts.presets import PAPER
from nts.references import InvalidReference
from synthetic.scenes import coco_dataset, target_scenes


def dataset_of(classes_of_images: list[set[int]]) -> dict:
    annotations = [
        {"id": 100 * i + c, "image_id": i, "category_id": c} for i, cs in enumerate(classes_of_images) for c in cs
    ]
    categories = [{"id": c, "name": f"class {c}"} for c in sorted(set().union(*classes_of_images))]
    return {"images": [{"id": i} for i in range(len(classes_of_images))], "annotations": annotations} | {
        "categories": categories
    }


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


def test_a_draw_is_what_it_was_when_this_was_written_whatever_the_order_of_the_file():
    dataset = dataset_of([{1, 2}, {1}, {2, 3}, {1, 3}, {2}, {1, 2, 3}, {3}, {1}])
    episodes = draw_episodes(dataset, dataset, [1, 2, 3], shots=2, seed=0, count=4)
    assert episodes == [
        Episode(3, 6, (3, 5)),
        Episode(2, 5, (2, 4)),
        Episode(3, 5, (3, 6)),
        Episode(2, 2, (5, 4)),
    ]
    turned = {key: list(reversed(values)) for key, values in dataset.items()}
    assert draw_episodes(turned, turned, [3, 2, 1], shots=2, seed=0, count=4) == episodes
    assert draw_episodes(dataset, dataset, [1, 2, 3], shots=2, seed=1, count=4) != episodes


def test_every_class_is_drawn_about_as_often_and_no_target_is_its_own_reference():
    dataset = dataset_of([{1}] * 6 + [{2}] * 300 + [{3}] * 7)
    episodes = draw_episodes(dataset, dataset, [1, 2, 3], shots=5, seed=321)
    assert len(episodes) == 1000
    assert all(280 < sum(e.class_id == c for e in episodes) < 390 for c in (1, 2, 3))
    assert all(e.target not in e.references and len(set(e.references)) == 5 for e in episodes)


def test_classes_with_too_few_images_are_not_drawn_and_none_at_all_is_refused():
    dataset = dataset_of([{1}, {1}, {2}])
    episodes = draw_episodes(dataset, dataset, [1, 2], shots=1, seed=0, count=50)
    assert {e.class_id for e in episodes} == {1}
    crowd = {**dataset, "annotations": [{**a, "iscrowd": 1} for a in dataset["annotations"]]}
    with pytest.raises(ValueError, match="no class has a target image and 1 other"):
        draw_episodes(crowd, crowd, [1, 2], shots=1, seed=0)


def test_references_of_other_images_than_the_targets_may_be_all_there_are():
    references, targets = dataset_of([{1}]), dataset_of([set(), {1}])
    assert draw_episodes(references, targets, [1], shots=1, seed=0, count=1) == [Episode(1, 1, (0,))]


def test_a_list_survives_its_file(tmp_path):
    episodes = [Episode(3, "a", ("b", 4)), Episode(1, 2, (7, 8))]
    write_episodes(tmp_path / "list.json", episodes, seed=4)
    assert read_episodes(tmp_path / "list.json") == episodes
    assert json.loads((tmp_path / "list.json").read_text())["seed"] == 4
    (tmp_path / "list.json").write_text('{"episodes": [1]}')
    with pytest.raises(ValueError, match="no file of episodes"):
        read_episodes(tmp_path / "list.json")


def test_a_head_that_knows_the_truth_is_right_and_one_that_says_nothing_is_not(scenes):
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

    def head(_, target):
        return np.broadcast_to(left_half, target.shape[:2])

    for outcome in evaluate_episodes(episodes, images, images, head, side=64):
        truth = images.mask(outcome.episode.target, outcome.episode.class_id)[2::4, 2::4]
        predicted = np.broadcast_to(left_half[:, 2::4], truth.shape)
        assert truth.any()
        assert outcome.counts.intersection == (truth & predicted).sum()
        assert outcome.counts.union == (truth | predicted).sum() < 64 * 64


def test_the_pipeline_as_a_head_finds_something_and_encodes_each_reference_once(
    scenes, small_encoder, small_segmenter, monkeypatch
):
    from nts.datasets import episodes as module

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
    head = PaintedInstances(EncodedOnce(small_encoder, small_segmenter, preset), threshold=0.6)
    outcomes = list(evaluate_episodes([*drawn, *drawn], images, images, head))
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


def test_segmentations_of_every_kind():
    polygon = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
    mask = mask_of_annotation(polygon, 8, 10)
    assert mask.shape == (8, 10)
    assert mask.sum() == 12
    counts = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=False))
    runs = np.diff([0, *counts, mask.size]).tolist()
    assert np.array_equal(mask_of_annotation({"segmentation": {"size": [8, 10], "counts": runs}}, 8, 10), mask)
    with pytest.raises(InvalidReference, match="has 10 x 8 pixels, its image 9 x 8"):
        mask_of_annotation({"segmentation": {"size": [8, 10], "counts": runs}}, 8, 9)
    with pytest.raises(InvalidReference, match="no segmentation"):
        mask_of_annotation({"id": 4, "segmentation": []}, 8, 9)
