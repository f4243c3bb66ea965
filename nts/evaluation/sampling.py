"""Which objects become references: the published few-shot sampling."""

from __future__ import annotations

import random
from collections.abc import Sequence

MIN_SIDE = 32
MIN_BORDER_DISTANCE = 10


def sample_references(
    dataset: dict, shots: int, seed: int, class_ids: Sequence[int] | None = None
) -> dict[int, list[dict]]:
    """Draw references from a COCO dataset by the published rule.

    Annotations are grouped by class, classes and annotations in the order of the file. Each class's list is shuffled by
    Python's ``random``, one generator for all classes, and the first ``shots`` annotations are taken that are no crowd,
    are at least 32 pixels wide and high, stay 10 pixels away from every border, and lie in an image that the class has
    not used yet. The draw therefore depends on the order of the file and on the set of classes, and on nothing else.

    Args:
        dataset: a COCO dataset.
        shots: references per class.
        seed: of the draw; the published ones are 42, 13, 27, 36, 88, 33, 69, 55, 77 and 99.
        class_ids: category ids to draw for; all where ``None``.

    Returns:
        for every class id, in the order of the file, its ``shots`` annotations.

    Raises:
        ValueError: if a class has too few annotations that qualify; the message names it.
    """
    wanted = {category["id"] for category in dataset["categories"]} if class_ids is None else set(class_ids)
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in dataset["images"]}
    by_class: dict[int, list[dict]] = {}
    for annotation in dataset["annotations"]:
        if annotation["category_id"] in wanted:
            by_class.setdefault(annotation["category_id"], []).append(annotation)

    generator = random.Random(seed)
    drawn: dict[int, list[dict]] = {}
    for class_id, of_class in by_class.items():
        generator.shuffle(of_class)
        chosen: dict[int | str, dict] = {}
        for annotation in of_class:
            if len(chosen) == shots:
                break
            image_id = annotation["image_id"]
            if image_id not in chosen and _qualifies(annotation, *sizes[image_id]):
                chosen[image_id] = annotation
        if len(chosen) < shots:
            raise ValueError(
                f"class {names[class_id]!r} has only {len(chosen)} annotations that qualify as references, "
                f"{shots} are needed (no crowd, at least {MIN_SIDE} px wide and high, {MIN_BORDER_DISTANCE} px from "
                "the border, one per image)"
            )
        drawn[class_id] = list(chosen.values())
    if missing := sorted(wanted - drawn.keys()):
        raise ValueError(f"no annotation at all of {', '.join(repr(names.get(i, i)) for i in missing)}")
    return drawn


def references_of_shot_file(dataset: dict) -> dict[int, list[dict]]:
    """All references of a benchmark's own shot file, as CD-FSOD ships them: every annotation once, by class.

    The publication takes the first annotation of an image as often as the image has annotations of the class.
    """
    references: dict[int, list[dict]] = {}
    for annotation in dataset["annotations"]:
        references.setdefault(annotation["category_id"], []).append(annotation)
    return references


def _qualifies(annotation: dict, image_width: int, image_height: int) -> bool:
    x, y, width, height = annotation["bbox"]
    return (
        not annotation.get("iscrowd", 0)
        and min(width, height) >= MIN_SIDE
        and min(x, y, image_width - x - width, image_height - y - height) >= MIN_BORDER_DISTANCE
    )
