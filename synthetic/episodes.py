"""Drawn images for episodes: any species as classes, with references and targets, in memory.

A reference image shows one well visible member of a class among distractors. A target shows several members of its
class, which often touch, among members of other classes and distractors.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from nts.datasets.episodes import EpisodeImages

from .scenes import DISTRACTOR_SPECIES, Scene, coco_dataset, draw_scene

OTHERS = 12
"""Largest number of other classes, and of distractors, in a target."""


def drawn_images(
    species: Sequence[int],
    *,
    references_per_class: int = 12,
    targets_per_class: int = 12,
    distractors: Sequence[int] = DISTRACTOR_SPECIES,
    seed: int = 0,
) -> tuple[EpisodeImages, EpisodeImages]:
    """Draw references and targets of classes.

    Image ``i`` of a class does not depend on the numbers of images. Category ids count from 1, in the order of
    ``species``; names are those of :func:`~synthetic.scenes.species_name`. Distractors stay unannotated.

    Args:
        species: the classes, distinct, at least one.
        references_per_class: reference images of each class.
        targets_per_class: target images of each class; others may show it too.
        distractors: species without annotation.
        seed: of the scenes.

    Returns:
        References and targets, with distinct image ids.

    Raises:
        ValueError: if there is no species, or one is repeated or also a distractor.
    """
    species = list(species)
    if not species or len(set(species)) < len(species) or set(species) & set(distractors):
        raise ValueError("the classes must be different species, at least one, and none of the distractors")
    references = [
        draw_scene([77, seed, number, i], distractors, featured=number)
        for number in species
        for i in range(references_per_class)
    ]
    targets = [_target(number, species, distractors, seed, i) for number in species for i in range(targets_per_class)]
    return _images(references, species, "reference"), _images(targets, species, "target")


def _target(number: int, species: Sequence[int], distractors: Sequence[int], seed: int, i: int) -> Scene:
    """Draw scenes until one shows a member of the species."""

    def draw(attempt: int) -> Scene:
        rng = np.random.default_rng([78, seed, number, i, attempt])
        others = [other for other in species if other != number]
        chosen = [others[k] for k in rng.permutation(len(others))[:OTHERS]]
        unlabelled = [distractors[k] for k in rng.permutation(len(distractors))[:OTHERS]]
        return draw_scene([79, seed, number, i, attempt], [*[number] * OTHERS, *chosen, *unlabelled])

    return next(scene for scene in map(draw, count()) if number in scene.species)


def _images(scenes: Sequence[Scene], species: Sequence[int], role: str) -> EpisodeImages:
    dataset = coco_dataset(scenes, species)
    for image in dataset["images"]:
        image["id"] = f"{role} {image['id']}"
    for annotation in dataset["annotations"]:
        annotation["image_id"] = f"{role} {annotation['image_id']}"
    pixels = {image["id"]: scene.image for image, scene in zip(dataset["images"], scenes, strict=True)}
    return EpisodeImages(dataset, pixels=pixels)
