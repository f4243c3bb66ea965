"""Drawn images for episodes."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_episodes import SPECIES, drawn_pair

from nts.datasets.episodes import EpisodeImages
from synthetic.episodes import drawn_images
from synthetic.scenes import species_name


@pytest.fixture(scope="module")
def images() -> tuple[EpisodeImages, EpisodeImages]:
    return drawn_pair()


def test_drawn_targets_hold_their_class_others_and_distractors_and_references_one_object(images):
    references, targets = images
    assert [c["name"] for c in references.dataset["categories"]] == [species_name(number) for number in SPECIES]
    assert len(references.dataset["images"]) == len(targets.dataset["images"]) == 15
    assert len(references.dataset["annotations"]) == 15
    shown = {image["id"]: [] for image in targets.dataset["images"]}
    for annotation in targets.dataset["annotations"]:
        shown[annotation["image_id"]].append(annotation["category_id"])
    of_class = [1 + i // 3 for i in range(15)]
    assert all(class_id in classes for class_id, classes in zip(of_class, shown.values(), strict=True))
    assert sum(len(classes) > len(set(classes)) for classes in shown.values()) > 4
    assert not shown.keys() & {image["id"] for image in references.dataset["images"]}


def test_a_drawn_image_does_not_depend_on_the_number_of_images(images):
    more, _ = drawn_images(SPECIES, references_per_class=4, targets_per_class=1)
    again, _ = drawn_images(SPECIES, references_per_class=3, targets_per_class=1)
    other, _ = drawn_images(SPECIES, references_per_class=3, targets_per_class=1, seed=1)
    assert np.array_equal(again.image("reference 4"), images[0].image("reference 4"))
    assert np.array_equal(more.image("reference 5"), images[0].image("reference 4"))
    assert not np.array_equal(other.image("reference 4"), images[0].image("reference 4"))
    with pytest.raises(ValueError, match="must be different species"):
        drawn_images([SPECIES[0], SPECIES[0]])
