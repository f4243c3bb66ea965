"""A reference prompt as a predictor of episodes, and the accuracy of the shipped one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nts.building import build_memory
from nts.datasets.annotated_images import AnnotatedImages, Annotation
from nts.datasets.episode_lists import draw_lists
from nts.datasets.episodes import draw_episodes
from nts.evaluation.predictor_evaluation import Row, evaluate_predictors
from nts.evaluation.predictors import PaintedInstances, PromptedMap
from nts.evaluation.shared_encodings import SharedEncodings, SharedPipeline
from nts.masks import draw_masks
from nts.models import SMALL, WeightsNotFound
from nts.references import KINDS, Reference
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.loading import load_reference_prompt
from synthetic.episodes import drawn_images
from synthetic.scenes import NOVEL_SPECIES, TRAIN_SPECIES, species_name

SHIPPED = SMALL / "reference_prompt.safetensors"


@pytest.fixture(scope="module")
def prompt():
    return load_reference_prompt("small")


@pytest.fixture(scope="module")
def novel():
    """Images of classes that no model was trained on."""
    return drawn_images(NOVEL_SPECIES, references_per_class=6, targets_per_class=4)


@pytest.fixture(scope="module")
def encodings(small_encoder, small_segmenter):
    return SharedEncodings(small_encoder, small_segmenter)


def test_the_shipped_prompt_is_small_and_has_not_seen_the_novel_classes(prompt, small_encoder, small_segmenter):
    assert SHIPPED.stat().st_size < 4 << 20
    prompt.check_models(small_encoder, small_segmenter)
    prompt.check_novel([species_name(number) for number in NOVEL_SPECIES])
    drawn = {name for name in prompt.classes if not name.startswith("photographed ")}
    assert len(drawn) > 1500
    assert drawn <= {species_name(number) for number in TRAIN_SPECIES}


def test_a_prompt_that_is_not_there_is_named():
    with pytest.raises(WeightsNotFound, match="there is no reference prompt 'tiny': it is neither 'small'"):
        load_reference_prompt("tiny")


def test_the_map_of_a_predictor_is_that_of_the_pipeline(prompt, novel, encodings, small_encoder, small_segmenter):
    references, targets = novel
    (episode,) = draw_episodes(references.dataset, targets.dataset, [1, 2], shots=3, seed=0, count=1)
    shown = [references.reference(image, episode.class_id) for image in episode.references]
    target = targets.image(episode.target)
    found = PromptedMap(encodings, prompt)(shown, target)
    memory, _ = build_memory(shown, small_encoder, keep_images=True)
    maps = ClassMapper(prompt, small_encoder, small_segmenter, whole_images(memory)).map(target)
    assert (found != draw_masks(maps.logits, target.shape[:2])[0].numpy()).mean() < 1e-3


def test_the_control_sees_no_annotation(prompt, novel, encodings, small_encoder):
    references, targets = novel
    (episode,) = draw_episodes(references.dataset, targets.dataset, [1], shots=1, seed=0, count=1)
    shown = references.reference(episode.references[0], 1)
    other = Reference(shown.image, shown.class_name, ~shown.mask, sample_id=shown.sample_id, label_id="other")
    blind = PromptedMap(encodings, prompt, empty=True)
    target = targets.image(episode.target)
    assert np.array_equal(blind([shown], target), blind([other], target))
    seeing = PromptedMap(encodings, prompt)
    assert not np.array_equal(seeing([shown], target), seeing([other], target))


@pytest.mark.parametrize("kind", KINDS)
def test_references_of_every_kind_are_followed(prompt, novel, encodings, small_encoder, kind):
    references, targets = novel
    annotated = AnnotatedImages(references, Annotation(kind))
    predictor = PromptedMap(encodings, prompt)
    overlap, union = 0, 0
    for episode in draw_episodes(references.dataset, targets.dataset, range(1, 11), shots=3, seed=1, count=12):
        shown = [annotated.reference(image, episode.class_id) for image in episode.references]
        found = predictor(shown, targets.image(episode.target))
        truth = targets.mask(episode.target, episode.class_id)
        overlap, union = overlap + (found & truth).sum(), union + (found | truth).sum()
    assert overlap / union > 0.45


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_a_prompt_paints_instances_too(prompt, novel, small_encoder, small_segmenter, scorer):
    references, targets = novel
    predictor = PaintedInstances(SharedPipeline(small_encoder, small_segmenter), 0.3, scorer=scorer, prompt=prompt)
    overlap, union = 0, 0
    for episode in draw_episodes(references.dataset, targets.dataset, range(1, 11), shots=5, seed=2, count=5):
        shown = [references.reference(image, episode.class_id) for image in episode.references]
        found, truth = predictor(shown, targets.image(episode.target)), targets.mask(episode.target, episode.class_id)
        overlap, union = overlap + (found & truth).sum(), union + (found | truth).sum()
    assert overlap / union > 0.35


def test_on_new_classes_it_follows_its_references(prompt, encodings, small_encoder):
    """Minimum mIoU on drawn scenes: with five masks, relative to empty and wrong references, and on base classes."""
    seen = [number for number in TRAIN_SPECIES if species_name(number) in prompt.classes][:10]
    predictor = PromptedMap(encodings, prompt)
    rows = {
        "right": Row(predictor),
        "wrong": Row(predictor, "wrong class"),
        "empty": Row(PromptedMap(encodings, prompt, empty=True)),
    }

    def mious(species, count: int, *names: str) -> list[float]:
        images = drawn_images(species)
        groups = {"all": range(1, 1 + len(species))}
        lists = draw_lists(*images, groups, shots=[5], count=count)
        table = evaluate_predictors(*images, lists, groups, {name: rows[name] for name in names}, draws=2)
        return [table.cell(name, "mask", 5, "all").figures["miou"].value for name in names]

    novel, wrong, empty = mious(NOVEL_SPECIES, 120, "right", "wrong", "empty")
    (base,) = mious(seen, 60, "right")
    assert novel >= 65
    assert novel - empty >= 15
    assert novel - wrong >= 25
    assert base - novel <= 15


def test_presence_tells_what_is_there(prompt, novel, small_encoder, small_segmenter):
    references, targets = novel
    labels = {category["id"]: category["name"] for category in targets.dataset["categories"]}
    shown: dict[int, list[str]] = {class_id: [] for class_id in labels}
    for annotation in references.dataset["annotations"]:
        shown[annotation["category_id"]].append(annotation["image_id"])
    memory, _ = build_memory(
        (references.reference(image, class_id) for class_id, images in shown.items() for image in images[:3]),
        small_encoder,
        keep_images=True,
    )
    mapper = ClassMapper(prompt, small_encoder, small_segmenter, whole_images(memory))
    there, absent = [], []
    for image in targets.dataset["images"]:
        held = {labels[a["category_id"]] for a in targets.dataset["annotations"] if a["image_id"] == image["id"]}
        presence = mapper.map(targets.image(image["id"])).presence
        for name, score in zip(memory.classes, presence.tolist(), strict=True):
            (there if name in held else absent).append(score)
    better = (torch.tensor(there)[:, None] > torch.tensor(absent)).float().mean()
    assert better > 0.8
