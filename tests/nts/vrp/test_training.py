"""Training of the reference prompt: episodes, convergence, and resumption identical to an uninterrupted run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nts.cache import TensorCache
from nts.datasets.episodes import EpisodeImages
from nts.references import KINDS, annotation_weights
from nts.utils.run_folder import RunError
from nts.vrp.training import (
    PAPER,
    ClassSplit,
    FeatureStore,
    Progress,
    TrainingConfig,
    TrainingError,
    TrainingReport,
    default_vrp,
    images_of_classes,
    run_training,
    split_classes,
    train,
)
from nts.vrp.training.episodes import annotate, draw_training_episode
from synthetic.scenes import draw_scene, write_coco

pytestmark = pytest.mark.usefixtures("one_thread")

SPECIES = (100, 102, 104, 106, 108)
CONFIG = TrainingConfig(steps=6, batch=2, warmup=1, check_every=2, validation_episodes=4, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def dataset(folder) -> dict:
    """Twenty scenes of five species."""
    scenes = [draw_scene([91, i], [SPECIES[i % 5], SPECIES[(i + 1 + i // 5) % 5]]) for i in range(20)]
    coco = json.loads(write_coco(folder / "data", scenes, SPECIES).read_text())
    for image in coco["images"]:
        image["path"] = str(folder / "data" / "data" / image["file_name"])
    return coco


@pytest.fixture(scope="module")
def store(folder, small_encoder, small_segmenter) -> FeatureStore:
    return FeatureStore(small_encoder, small_segmenter, TensorCache(folder / "features", 1 << 30))


SPLIT = ClassSplit(train=(1, 2, 3), validation=(4, 5))


def run(dataset, store, folder, config=CONFIG, split=SPLIT, until: int | None = None) -> TrainingReport | None:
    training = train(dataset, split, store, folder, config)
    if until is None:
        return run_training(training)
    for step in training:
        if isinstance(step, Progress) and step.step >= until:
            training.close()
            return None
    raise AssertionError("it ended before")


# ---- episodes --------------------------------------------------------------------------------------------------------


def draw(images, number: int, **changes):
    settings = {"seed": 1, "kinds": KINDS, "most_shots": 3, "absent_share": 0.25, "flip": True} | changes
    return draw_training_episode(images, number, **settings)


def test_an_episode_depends_on_seed_and_number_alone(dataset):
    images = images_of_classes(dataset, (1, 2, 3))
    shuffled = {**dataset, "images": dataset["images"][::-1], "annotations": dataset["annotations"][::-1]}
    again = images_of_classes(shuffled, (3, 2, 1))
    episodes = [draw(images, number) for number in range(60)]
    assert episodes == [draw(again, number) for number in range(60)]
    assert episodes != [draw(images, number, seed=2) for number in range(60)]


def test_workers_that_share_the_numbers_see_different_episodes(dataset):
    images = images_of_classes(dataset, (1, 2, 3))
    first, second = ([draw(images, number) for number in range(rank, 40, 2)] for rank in (0, 1))
    assert not {episode.seed for episode in first} & {episode.seed for episode in second}
    assert first != second


def test_episodes_are_what_they_say(dataset):
    images = images_of_classes(dataset, (1, 2, 3))
    shown = {(a["image_id"], a["category_id"]) for a in dataset["annotations"]}
    episodes = [draw(images, number) for number in range(300)]
    for episode in episodes:
        assert episode.target not in episode.references
        assert len(set(episode.references)) == len(episode.references) == len(episode.kinds) <= 3
        assert all((image, episode.class_id) in shown for image in episode.references)
        assert ((episode.target, episode.class_id) in shown) != episode.absent
    assert {len(e.references) for e in episodes} == {1, 2, 3}
    assert {kind for e in episodes for kind in e.kinds} == set(KINDS)
    counts = Counter(e.class_id for e in episodes)
    assert min(counts.values()) > 60
    assert 0.15 < np.mean([e.absent for e in episodes]) < 0.35
    assert {flip for e in episodes for flip in e.flips} == {True, False}
    assert not any(any(draw(images, n, flip=False).flips) for n in range(20))


def test_an_image_that_shows_a_test_class_is_not_used_at_all(dataset):
    images = images_of_classes(dataset, (1, 2, 3), forbidden=(4,))
    held_out = {a["image_id"] for a in dataset["annotations"] if a["category_id"] == 4}
    assert held_out
    assert not held_out & set(images.all_images)
    assert not any(held_out & set(of_class) for of_class in images.with_class.values())


def test_annotations_follow_their_image_when_it_is_mirrored(dataset):
    images, source = images_of_classes(dataset, (1, 2, 3)), EpisodeImages(dataset)
    seen = Counter()
    for number in range(80):
        episode = draw(images, number)
        for k, kind in enumerate(episode.kinds):
            mask = source.mask(episode.references[k], episode.class_id)
            mask = mask[:, ::-1] if episode.flips[1 + k] else mask
            marked = annotate(source, episode, k)
            assert marked.any()
            assert kind == "box" or not (marked & ~mask).any()
            assert np.array_equal(marked, annotate(source, episode, k))
            assert annotation_weights(marked, kind, (24, 24)).sum() > 0
            seen[kind, episode.flips[1 + k]] += 1
    assert len(seen) == 8


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_split_without_a_leak(dataset):
    split = split_classes(dataset, test=(2,))
    assert sorted((*split.train, *split.validation)) == [1, 3, 4, 5]
    assert len(split.validation) == 1
    assert split == split_classes(dataset, test=(2,))
    with pytest.raises(
        TrainingError, match=r"classes \[2\] are both to be trained on and to be tested: that is a leak"
    ):
        split_classes(dataset, (1, 2, 3), (2,))
    with pytest.raises(TrainingError, match=r"classes \[1\] are both among those to train and those to test"):
        ClassSplit((1, 2), (3,), (1,))


def test_one_class_is_too_few(dataset, store, tmp_path):
    with pytest.raises(TrainingError, match=r"needs at least 3 classes, .* there are 1"):
        split_classes(dataset, (1,))
    with pytest.raises(TrainingError, match="nothing to tell apart"):
        next(train(dataset, ClassSplit((1,), (2,)), store, tmp_path / "run", CONFIG))


def test_few_classes_are_warned_of(dataset, store, tmp_path):
    report = run(dataset, store, tmp_path / "run", replace(CONFIG, steps=2))
    assert any("only 3 classes to learn from" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"kinds": ("mask", "cloud")}, "kinds must be some of"),
        ({"kinds": ()}, "kinds must be some of"),
        ({"absent_share": 1.0}, "absent_share must lie in"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(TrainingError, match=message):
        TrainingConfig(**changes)


# ---- features --------------------------------------------------------------------------------------------------------


def test_features_are_computed_once_and_come_back_from_the_cache(tmp_path, small_encoder, small_segmenter):
    image = draw_scene([92, 0], SPECIES).image
    asked = []

    def read() -> np.ndarray:
        asked.append(1)
        return image

    cache = TensorCache(tmp_path, 1 << 30)
    first = FeatureStore(small_encoder, small_segmenter, cache)
    made = first.get("a", read)
    assert first.get("a", read) is made
    assert len(asked) == 1
    mirrored = first.get("a", read, flipped=True)
    assert not torch.equal(made.tokens, mirrored.tokens)
    assert cache.count("training-features-") == 2

    again = FeatureStore(small_encoder, small_segmenter, cache)
    again._compute = None  # cached features are not computed again
    second = again.get("another name", read)
    assert torch.equal(second.tokens, made.tokens)
    assert torch.equal(second.embedding.features, made.embedding.features)
    for a, b in zip(second.embedding.high_resolution, made.embedding.high_resolution, strict=True):
        assert torch.equal(a, b)


def test_features_in_memory_stay_within_their_budget(small_encoder, small_segmenter):
    images = {k: draw_scene([92, k], SPECIES).image for k in range(3)}
    size = FeatureStore(small_encoder, small_segmenter).get(0, lambda: images[0]).nbytes
    store = FeatureStore(small_encoder, small_segmenter, memory_budget=int(2.5 * size))
    for k in (0, 1, 2):
        store.get(k, lambda k=k: images[k])
    reads = []
    for k in (2, 1, 0):
        store.get(k, lambda k=k: (reads.append(k), images[k])[1])
    assert reads == [0]


# ---- training --------------------------------------------------------------------------------------------------------


def test_an_interrupted_training_is_the_uninterrupted_one(dataset, store, tmp_path):
    whole = run(dataset, store, tmp_path / "whole")
    for until in (3, 5):  # beyond a checkpoint: later steps are repeated
        run(dataset, store, tmp_path / "parts", until=until)
    resumed = run(dataset, store, tmp_path / "parts")
    assert resumed.log == whole.log
    assert [entry["step"] for entry in whole.log] == [2, 4, 6]
    assert (tmp_path / "parts" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
    assert resumed.best_step == whole.best_step
    for name, value in whole.prompt.model.state_dict().items():
        assert torch.equal(resumed.prompt.model.state_dict()[name], value)
    assert sorted(path.name for path in (tmp_path / "whole" / "pictures").iterdir()) == [
        "000002.png",
        "000004.png",
        "000006.png",
    ]


def test_dropout_is_resumed_too(dataset, store, tmp_path):
    vrp = replace(default_vrp(store), dropout=0.5, queries=4)
    whole = run_training(train(dataset, SPLIT, store, tmp_path / "whole", CONFIG, vrp))
    training = train(dataset, SPLIT, store, tmp_path / "parts", CONFIG, vrp)
    for _ in range(3):
        next(training)
    training.close()
    resumed = run_training(train(dataset, SPLIT, store, tmp_path / "parts", CONFIG, vrp))
    assert resumed.log == whole.log


def test_the_folder_of_another_training_is_refused(dataset, store, tmp_path):
    run(dataset, store, tmp_path / "run", until=2)
    with pytest.raises(RunError, match=r"training.seed: 3 there, 4 now"):
        run(dataset, store, tmp_path / "run", replace(CONFIG, seed=4))


def test_the_prompt_says_what_it_was_trained_on(dataset, store, tmp_path):
    report = run(dataset, store, tmp_path / "run", replace(CONFIG, steps=2))
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    assert report.prompt.classes == tuple(sorted(names.values()))
    assert report.prompt.encoder == store.encoder.info
    assert report.prompt.segmenter == store.segmenter.info
    assert report.prompt.about["training"]["seed"] == 3


def test_kinds_that_the_prompt_does_not_know_cannot_be_simulated(dataset, store, tmp_path):
    vrp = replace(default_vrp(store), kinds=("mask", "box"))
    with pytest.raises(TrainingError, match="does not know annotations of the kinds point, scribble"):
        next(train(dataset, SPLIT, store, tmp_path / "run", CONFIG, vrp))


def test_the_order_of_kinds_is_that_of_the_prompt(dataset, store, tmp_path):
    config, vrp = replace(CONFIG, steps=2, kinds=("box",)), default_vrp(store)
    report = run_training(train(dataset, SPLIT, store, tmp_path / "run", config, replace(vrp, kinds=("point", "box"))))
    assert report.prompt.model.config.kinds == ("point", "box")
    assert report.prompt.model.kinds[1].any()
    assert not report.prompt.model.kinds[0].any()  # no gradient ever reached the kind that was not simulated


def test_the_published_choices_run(dataset, store, tmp_path):
    config = replace(PAPER, steps=2, batch=2, check_every=2, validation_episodes=2)
    vrp = default_vrp(store, published=True)
    report = run_training(train(dataset, SPLIT, store, tmp_path / "run", config, vrp))
    assert report.prompt.model.config == vrp
    assert vrp.queries == 50
    assert report.log[-1]["loss"] == pytest.approx(report.log[-1]["mask_loss"])  # the object score is not involved
