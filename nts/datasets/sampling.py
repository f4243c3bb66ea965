"""Choice of references: the published few-shot sampling, the benchmarks' own files, and a stratified draw.

Every draw is reproducible: it depends on its seed and the data, not on the machine. The published rule also depends on
the order of the file, the stratified draw does not.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

from ..metrics.crowds import is_crowd
from .protocol_data import ProtocolData
from .protocols import Protocol

MIN_SIDE = 32
MIN_BORDER_DISTANCE = 10


def draw_references(protocol: Protocol, data: ProtocolData, shots: int, seed: int) -> dict[int, list[dict]]:
    """Draw the references of a run of a protocol.

    Args:
        protocol: with the rule of the draw.
        data: its data set.
        shots: references per class.
        seed: of the draw; without effect where the references are given (CD-FSOD).

    Returns:
        Annotations of ``data.references`` by evaluated class id; fewer than ``shots`` if a shot file or a stratified
        draw has no more.

    Raises:
        ValueError: if a class has too few references for the rule, or the protocol draws them per episode.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    match protocol.draw:
        case "published":
            return sample_references(data.references, shots, seed, data.class_ids)
        case "lvis":
            return sample_references(data.references, shots, seed, data.class_ids, too_few="repeat")
        case "shot-files":
            return _references_of_shots(data, shots)
        case "stratified":
            return _stratified_references(data, shots, seed)
        case _:
            raise ValueError(f"the protocol {protocol.name!r} draws its references with every episode, not beforehand")


def sample_references(
    dataset: dict,
    shots: int,
    seed: int,
    class_ids: Sequence[int] | None = None,
    too_few: Literal["error", "repeat"] = "error",
) -> dict[int, list[dict]]:
    """Draw references from a COCO dataset by the published rule.

    Annotations are grouped by class, with classes and annotations in the order of the file. The list of each class is
    shuffled by Python's ``random``, with one generator for all classes. The first ``shots`` annotations are taken that
    are no crowd, at least 32 pixels wide and high, 10 pixels away from every border, and in an image that the class has
    not used yet. The draw therefore depends on the order of the file and the set of classes only.

    Args:
        dataset: a COCO dataset.
        shots: references per class.
        seed: of the draw; the published ones are 42, 13, 27, 36, 88, 33, 69, 55, 77 and 99.
        class_ids: category ids to draw for; all where ``None``.
        too_few: ``"repeat"`` is the rule of LVIS: a class with too few qualifying annotations cycles through them, a
            class with none takes the first of its shuffled list.

    Returns:
        ``shots`` annotations by class id, in the order of the file.

    Raises:
        ValueError: if a class has no annotation, or too few qualifying ones; the message names it.
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
            if image_id not in chosen and qualifies(annotation, *sizes[image_id]):
                chosen[image_id] = annotation
        references = list(chosen.values())
        if len(references) < shots and too_few == "repeat":
            references = list(islice(cycle(references or of_class[:shots]), shots))
        if len(references) < shots:
            raise ValueError(
                f"class {names[class_id]!r} has only {len(references)} annotations that qualify as references, "
                f"{shots} are needed (no crowd, at least {MIN_SIDE} px wide and high, {MIN_BORDER_DISTANCE} px from "
                "the border, one per image)"
            )
        drawn[class_id] = references
    if missing := sorted(wanted - drawn.keys()):
        raise ValueError(f"no annotation at all of {', '.join(repr(names.get(i, i)) for i in missing)}")
    return drawn


def references_of_shot_file(dataset: dict) -> dict[int, list[dict]]:
    """Group the annotations of a shot file of CD-FSOD by class, each once.

    The publication repeats the first annotation of an image for each annotation of the class in it.
    """
    references: dict[int, list[dict]] = {}
    for annotation in dataset["annotations"]:
        references.setdefault(annotation["category_id"], []).append(annotation)
    return references


@dataclass(frozen=True)
class Candidate:
    """Object that can become a reference.

    Attributes:
        key: identifies the object on every machine, and seeds its chance.
        class_name: name of the class.
        image: name of the image.
        size: area, in a unit shared by all candidates.
    """

    key: str
    class_name: str
    image: str
    size: float


@dataclass(frozen=True)
class StratifiedDraw:
    """Result of :func:`stratified_sample`.

    Attributes:
        chosen: references of every class, by ascending size.
        too_few: number of candidates of the classes with fewer than ``shots``.
    """

    chosen: Mapping[str, tuple[Candidate, ...]]
    too_few: Mapping[str, int]


def stratified_sample(candidates: Iterable[Candidate], shots: int, seed: int) -> StratifiedDraw:
    """Draw references that cover the sizes of each class, from as many images as possible.

    The candidates of a class are ranked by size and split into ``shots`` strata of equal number. Each stratum gives one
    candidate, from an image that the class has not used yet. Places that remain go to candidates from unused images,
    then to any candidate. Chance is a hash of seed and key, so the order of candidates has no effect, and an additional
    candidate changes little.

    Args:
        candidates: objects of any classes, with distinct keys.
        shots: references per class.
        seed: of the draw.

    Raises:
        ValueError: if two candidates share a key, or ``shots`` is less than 1.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    by_class: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_class.setdefault(candidate.class_name, []).append(candidate)
    keys = [candidate.key for of_class in by_class.values() for candidate in of_class]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{len(keys) - len(set(keys))} candidates have the key of another")
    chosen = {name: _stratified(by_class[name], shots, seed) for name in sorted(by_class)}
    return StratifiedDraw(chosen, {name: len(of_class) for name, of_class in chosen.items() if len(of_class) < shots})


def _stratified(candidates: Sequence[Candidate], shots: int, seed: int) -> tuple[Candidate, ...]:
    chance = {c.key: hashlib.sha256(f"{seed} {c.key}".encode()).digest() for c in candidates}
    ranked = sorted(candidates, key=lambda c: (c.size, chance[c.key]))
    drawn = sorted(candidates, key=lambda c: chance[c.key])
    stratum = {c.key: rank * shots // len(ranked) for rank, c in enumerate(ranked)}
    chosen: list[Candidate] = []
    images: set[str] = set()
    filled: set[int] = set()

    def take(candidate: Candidate) -> None:
        chosen.append(candidate)
        images.add(candidate.image)
        filled.add(stratum[candidate.key])

    for candidate in drawn:
        if stratum[candidate.key] not in filled and candidate.image not in images:
            take(candidate)
    for candidate in drawn:
        if len(chosen) < shots and candidate.image not in images:
            take(candidate)
    taken = {candidate.key for candidate in chosen}
    chosen += [candidate for candidate in drawn if candidate.key not in taken][: shots - len(chosen)]
    return tuple(sorted(chosen, key=lambda c: (c.size, chance[c.key])))


def _stratified_references(data: ProtocolData, shots: int, seed: int) -> dict[int, list[dict]]:
    """Draw by file names, classes and boxes, which no import renumbers, unlike ids."""
    names = {image["id"]: image["file_name"] for image in data.references["images"]}
    class_names = {category["id"]: category["name"] for category in data.references["categories"]}
    wanted = set(data.class_ids)
    annotations: dict[str, dict] = {}
    candidates = []
    for annotation in data.references["annotations"]:
        if annotation["category_id"] not in wanted or is_crowd(annotation.get("iscrowd")):
            continue
        class_name, image = class_names[annotation["category_id"]], names[annotation["image_id"]]
        key = candidate_key(image, class_name, annotation["bbox"], annotations)
        annotations[key] = annotation
        candidates.append(Candidate(key, class_name, image, annotation["area"]))
    draw = stratified_sample(candidates, shots, seed)
    if missing := [class_id for class_id in data.class_ids if class_names[class_id] not in draw.chosen]:
        raise ValueError(f"no annotation at all of {', '.join(_class_names(data.references, missing))}")
    return {class_id: [annotations[c.key] for c in draw.chosen[class_names[class_id]]] for class_id in data.class_ids}


def candidate_key(image: str, class_name: str, box: Sequence[float], used: Mapping[str, object]) -> str:
    """Key of an object from image, class and box; equal objects are numbered.

    Boxes may be in pixels or relative to the image: the digits separate objects less than a pixel apart in either.
    """
    key = f"{image} {class_name} {' '.join(f'{value:.6f}' for value in box)}"
    number = 1
    while (numbered := f"{key} {number}") in used:
        number += 1
    return numbered


def _references_of_shots(data: ProtocolData, shots: int) -> dict[int, list[dict]]:
    """Annotations of the shot file for a number of shots, each once."""
    annotations = [a for a in data.references["annotations"] if a["shots"] == shots]
    if not annotations:
        there = sorted({a["shots"] for a in data.references["annotations"]})
        raise ValueError(f"there is no shot file of {shots} shots, only of {', '.join(map(str, there))}")
    drawn = references_of_shot_file({"annotations": annotations})
    if missing := [class_id for class_id in data.class_ids if class_id not in drawn]:
        raise ValueError(
            f"the shot file of {shots} shots has no annotation of {', '.join(_class_names(data.references, missing))}"
        )
    return {class_id: drawn[class_id] for class_id in data.class_ids}


def _class_names(dataset: dict, class_ids: Iterable[int]) -> list[str]:
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    return [repr(names[class_id]) for class_id in class_ids]


def qualifies(annotation: dict, image_width: int, image_height: int) -> bool:
    """Return whether an annotation qualifies as a reference under the published rule."""
    x, y, width, height = annotation["bbox"]
    return (
        not is_crowd(annotation.get("iscrowd"))
        and min(width, height) >= MIN_SIDE
        and min(x, y, image_width - x - width, image_height - y - height) >= MIN_BORDER_DISTANCE
    )
