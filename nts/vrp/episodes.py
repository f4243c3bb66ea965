"""Episodes to train on: a class, a target, and a few other images of the class as references.

Episode number ``n`` of a training depends on the seed and on ``n`` alone. Workers that share the numbers among them
therefore never see the same episode twice, and an interrupted training goes on with the ones that it would have had.
(The published multi-GPU training draws with generators that are seeded alike on every worker, so all see the same.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..datasets.annotations import simulate
from ..datasets.episodes import EpisodeImages
from ..metrics.crowds import is_crowd
from ..references import Kind

ImageId = int | str


@dataclass(frozen=True)
class ClassImages:
    """Which images show which classes.

    Attributes:
        with_class: images of every class, at least two; sorted.
        all_images: every image, of whatever class; sorted.
    """

    with_class: Mapping[int, tuple[ImageId, ...]]
    all_images: tuple[ImageId, ...]


@dataclass(frozen=True)
class TrainingEpisode:
    """One episode.

    Attributes:
        class_id: the class.
        target: an image of it; one without it, where ``absent``.
        references: other images of the class.
        kinds: how each reference is annotated.
        flips: which images are mirrored: the target, then every reference.
        absent: the class is not in the target.
        seed: of the simulated annotations.
    """

    class_id: int
    target: ImageId
    references: tuple[ImageId, ...]
    kinds: tuple[Kind, ...]
    flips: tuple[bool, ...]
    absent: bool
    seed: tuple[int, int]


def images_of_classes(dataset: Mapping, class_ids: Iterable[int], forbidden: Iterable[int] = ()) -> ClassImages:
    """Sort the images of a COCO dataset by class.

    Args:
        dataset: a COCO dataset.
        class_ids: the classes to train on; one with fewer than two images is left out.
        forbidden: classes to be tested later. An image that shows one of them is not used at all, whatever else is on
            it: unlabelled, it would be learned as background.
    """
    forbidden = set(forbidden)
    held_out = {a["image_id"] for a in dataset["annotations"] if a["category_id"] in forbidden}
    images: dict[int, set[ImageId]] = {c: set() for c in sorted(set(class_ids))}
    for annotation in dataset["annotations"]:
        shown = annotation["category_id"] in images and not is_crowd(annotation.get("iscrowd"))
        if shown and annotation["image_id"] not in held_out:
            images[annotation["category_id"]].add(annotation["image_id"])
    everything = tuple(sorted((image["id"] for image in dataset["images"] if image["id"] not in held_out), key=str))
    return ClassImages({c: tuple(sorted(ids, key=str)) for c, ids in images.items() if len(ids) >= 2}, everything)


def draw_training_episode(
    images: ClassImages,
    number: int,
    *,
    seed: int,
    kinds: tuple[Kind, ...],
    most_shots: int,
    absent_share: float,
    flip: bool,
) -> TrainingEpisode:
    """Draw episode ``number``: a class uniformly, its target, 1 to ``most_shots`` references, a kind for each.

    Args:
        images: which images show which classes.
        number: of the episode in the whole training.
        seed: of the training.
        kinds: to choose from.
        most_shots: the number of references is uniform up to this, or to what there is.
        absent_share: how many episodes have a target without the class, where there is one.
        flip: mirror every other image.
    """
    rng = np.random.default_rng([seed, number])
    class_id = list(images.with_class)[rng.integers(len(images.with_class))]
    shown = images.with_class[class_id]
    shots = 1 + int(rng.integers(min(most_shots, len(shown) - 1)))
    target, *references = (shown[i] for i in rng.permutation(len(shown))[: shots + 1])
    absent = False
    if rng.random() < absent_share and len(shown) < len(images.all_images):
        without = sorted(set(images.all_images) - set(shown), key=str)
        target, absent = without[rng.integers(len(without))], True
    return TrainingEpisode(
        class_id,
        target,
        tuple(references),
        tuple(kinds[i] for i in rng.integers(len(kinds), size=shots)),
        tuple(flip and bool(x) for x in rng.integers(2, size=1 + shots)),
        absent,
        (seed, number),
    )


def annotate(images: EpisodeImages, episode: TrainingEpisode, place: int) -> np.ndarray:
    """The simulated annotation of one reference of an episode, on the image as it is mirrored: bool ``[H, W]``."""
    mask = images.mask(episode.references[place], episode.class_id)
    if episode.flips[1 + place]:
        mask = np.ascontiguousarray(mask[:, ::-1])
    return simulate(mask, episode.kinds[place], np.random.default_rng([*episode.seed, 1 + place]))
