"""Classes of a training: images that show them, and the split into training, validation and test classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...metrics.crowds import is_crowd
from .config import TrainingError

ImageId = int | str

LEAST_CLASSES = 3
"""Two classes to tell apart in training, and one for validation."""


@dataclass(frozen=True)
class ClassImages:
    """Images by class.

    Attributes:
        with_class: ids of the images of each class, at least two; sorted.
        all_images: ids of all images; sorted.
    """

    with_class: Mapping[int, tuple[ImageId, ...]]
    all_images: tuple[ImageId, ...]


@dataclass(frozen=True)
class ClassSplit:
    """Disjoint sets of classes; ids of a COCO dataset.

    Attributes:
        train: training classes.
        validation: classes on which the best weights are chosen.
        test: classes excluded from training; images that show one of them are not used.

    Raises:
        TrainingError: if a class is in two of the sets.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if shared := sorted(set(getattr(self, a)) & set(getattr(self, b))):
                raise TrainingError(f"classes {shared} are both among those to {a} and those to {b}: that is a leak")


def images_of_classes(dataset: Mapping, class_ids: Iterable[int], forbidden: Iterable[int] = ()) -> ClassImages:
    """Group the images of a COCO dataset by class.

    Args:
        dataset: a COCO dataset.
        class_ids: classes to train on; those with fewer than two images are left out.
        forbidden: test classes. Images that show one of them are not used at all: an unlabelled object would
            be learned as background.
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


def split_classes(
    dataset: Mapping, classes: Sequence[int] | None = None, test: Sequence[int] = (), *, seed: int = 1
) -> ClassSplit:
    """Reserve a fifth of the classes, at least one, for validation.

    Args:
        dataset: a COCO dataset.
        classes: training and validation classes; ``None`` for all except ``test``.
        test: test classes.
        seed: of the random choice.

    Raises:
        TrainingError: if there are too few classes with two images, or a class is for both training and test.
    """
    named = {category["id"] for category in dataset["categories"]}
    wanted = sorted(named - set(test)) if classes is None else sorted(set(classes))
    if leaked := sorted(set(wanted) & set(test)):
        raise TrainingError(f"classes {leaked} are both to be trained on and to be tested: that is a leak")
    usable = sorted(images_of_classes(dataset, wanted, test).with_class)
    if len(usable) < LEAST_CLASSES:
        raise TrainingError(
            f"a reference prompt needs at least {LEAST_CLASSES} classes, each in two images or more that show no test "
            f"class; there are {len(usable)}: two to tell apart, and one to choose the best weights by"
        )
    rng = np.random.default_rng([seed, len(usable)])
    order = [usable[i] for i in rng.permutation(len(usable))]
    count = max(1, round(0.2 * len(usable)))
    return ClassSplit(tuple(sorted(order[count:])), tuple(sorted(order[:count])), tuple(sorted(test)))
