"""Episodes of few-shot semantic segmentation: a class, a target image, and ``k`` other images as references.

A list of episodes is drawn once from a seed and can be stored as JSON: every predictor is judged by the same episodes,
on every machine. (Published figures rest on different draws: VRP-SAM uses seed 321, HSNet and Matcher seed 0, and their
draws depend on the number of loader processes.)
"""

from __future__ import annotations

import json
import os
import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..metrics.crowds import is_crowd
from ..metrics.matches import number_then_word
from ..references import Reference
from .coco_records import mask_of_annotation, read_annotated_image

EPISODES_PER_FOLD = 1000


@dataclass(frozen=True)
class Episode:
    """Task to find the pixels of a class in a target image, given reference images.

    Attributes:
        class_id: category id.
        target: image id among the targets.
        references: image ids among the references, distinct, and without the target.
    """

    class_id: int
    target: int | str
    references: tuple[int | str, ...]


def draw_episodes(
    references: dict,
    targets: dict,
    class_ids: Iterable[int],
    *,
    shots: int,
    seed: int,
    count: int = EPISODES_PER_FOLD,
) -> list[Episode]:
    """Draw episodes: a class uniformly, then a target of it, then distinct references.

    The draw depends on the ids, the seed and the number of shots only: not on the order of the files, nor on the
    machine, since only ``random()`` of Python's generator is used, whose sequence is stable over versions.

    Args:
        references: a COCO dataset; may be that of the targets. A target is never its own reference.
        targets: a COCO dataset.
        class_ids: classes of the fold. Classes with too few images are not drawn.
        shots: references per episode.
        seed: of the draw.
        count: number of episodes.

    Raises:
        ValueError: if no class has a target and ``shots`` other images.
    """
    of_references, of_targets = _images_of_classes(references), _images_of_classes(targets)
    pools = {}
    for class_id in sorted(set(class_ids)):
        among, candidates = of_references.get(class_id, []), of_targets.get(class_id, [])
        known = set(among)
        possible = [image for image in candidates if len(among) - (image in known) >= shots]
        if possible:
            pools[class_id] = (possible, among)
    if not pools:
        raise ValueError(f"no class has a target image and {shots} other images as references")

    generator = random.Random(seed)

    def pick(items: list):
        return items[int(generator.random() * len(items))]

    classes, episodes = list(pools), []
    for _ in range(count):
        class_id = pick(classes)
        possible, among = pools[class_id]
        target = pick(possible)
        chosen: list[int | str] = []
        while len(chosen) < shots:
            image = pick(among)
            if image != target and image not in chosen:
                chosen.append(image)
        episodes.append(Episode(class_id, target, tuple(chosen)))
    return episodes


def show_wrong_class(
    episodes: Iterable[Episode], references: dict, class_ids: Iterable[int], *, seed: int
) -> list[Episode]:
    """Draw control episodes: the same targets, with references of another class.

    A predictor that does as well with them ignores its references. The other class is drawn uniformly, then
    images of it other than the target. The draw depends on the seed and the episode only.

    Args:
        episodes: to draw controls for.
        references: COCO dataset of their references.
        class_ids: to draw the other class from.
        seed: of the draw.

    Raises:
        ValueError: if no other class has as many images as an episode has references.
    """
    images, wanted, misled = _images_of_classes(references), sorted(set(class_ids)), []
    for episode in episodes:
        generator = random.Random(repr((seed, episode)))
        pools = {
            class_id: [image for image in images.get(class_id, []) if image != episode.target]
            for class_id in wanted
            if class_id != episode.class_id
        }
        enough = [class_id for class_id, pool in pools.items() if len(pool) >= len(episode.references)]
        if not enough:
            raise ValueError(
                f"no class but that of the episode (category {episode.class_id}) has {len(episode.references)} images "
                "as references: the control needs another"
            )
        other = enough[int(generator.random() * len(enough))]
        pool = pools[other]
        chosen = [pool.pop(int(generator.random() * len(pool))) for _ in episode.references]
        misled.append(Episode(other, episode.target, tuple(chosen)))
    return misled


def write_episodes(path: str | os.PathLike, episodes: Sequence[Episode], **about: object) -> None:
    """Write episodes to a JSON file, with further plain values ``about`` them."""
    content = {**about, "episodes": [asdict(episode) for episode in episodes]}
    Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_episodes(path: str | os.PathLike) -> list[Episode]:
    """Read episodes from a file of :func:`write_episodes`.

    Raises:
        ValueError: if the file holds no episodes.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Episode(e["class_id"], e["target"], tuple(e["references"])) for e in content["episodes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of episodes: {type(error).__name__}: {error}") from error


class References(Protocol):
    """Source of references: :class:`EpisodeImages` with masks, or simulated annotations of them."""

    def reference(self, image_id: int | str, class_id: int) -> Reference:
        """Return the reference of a class in an image, with unique sample and label ids; equal on every call.

        Raises:
            ImageError: if the image cannot be used.
            InvalidReference: if it does not show the class.
        """
        ...


class EpisodeImages:
    """Images and class masks of a COCO dataset, by image id.

    Args:
        dataset: a COCO dataset. Every image has a ``path``, unless its pixels are given, and optionally ``ignore``, the
            RLE of pixels to leave out.
        exif: see :func:`nts.images.read_image`.
        keep: number of images to hold in memory; the least recently used go first.
        pixels: images in memory, uint8 ``[H, W, 3]``, by id.

    Attributes:
        dataset: the COCO dataset.
    """

    def __init__(
        self,
        dataset: dict,
        *,
        exif: bool = True,
        keep: int = 16,
        pixels: Mapping[int | str, np.ndarray] | None = None,
    ) -> None:
        self.dataset = dataset
        self._pixels = pixels or {}
        self._images = {image["id"]: image for image in dataset["images"]}
        self._annotations: dict[int | str, list[dict]] = {}
        for annotation in dataset["annotations"]:
            self._annotations.setdefault(annotation["image_id"], []).append(annotation)
        self._names = {category["id"]: category["name"] for category in dataset["categories"]}
        self._exif = exif
        self._keep = keep
        self._read: OrderedDict[int | str, np.ndarray] = OrderedDict()

    def size(self, image_id: int | str) -> tuple[int, int]:
        """Size ``(H, W)`` of an image in the dataset."""
        return self._images[image_id]["height"], self._images[image_id]["width"]

    def image(self, image_id: int | str) -> np.ndarray:
        """Image, uint8 ``[H, W, 3]``; the same array while it is in memory.

        Raises:
            ImageError: if the file cannot be read, or differs in size from the dataset.
        """
        if image_id in self._pixels:
            return self._pixels[image_id]
        if image_id in self._read:
            self._read.move_to_end(image_id)
            return self._read[image_id]
        image = read_annotated_image(self._images[image_id], exif=self._exif)
        self._read[image_id] = image
        if len(self._read) > self._keep:
            self._read.popitem(last=False)
        return image

    def mask(self, image_id: int | str, class_id: int) -> np.ndarray:
        """Mask of a class, including crowds: bool ``[H, W]``."""
        height, width = self.size(image_id)
        mask = np.zeros((height, width), bool)
        for annotation in self._annotations.get(image_id, ()):
            if annotation["category_id"] == class_id:
                mask |= mask_of_annotation(annotation, height, width)
        return mask

    def ignored(self, image_id: int | str) -> np.ndarray | None:
        """Pixels to leave out, bool ``[H, W]``; ``None`` without any."""
        segmentation = self._images[image_id].get("ignore")
        height, width = self.size(image_id)
        return None if segmentation is None else mask_of_annotation({"segmentation": segmentation}, height, width)

    def reference(self, image_id: int | str, class_id: int) -> Reference:
        """Reference with all pixels of a class in an image.

        Raises:
            ImageError: if the image cannot be used.
            InvalidReference: if it shows no pixel of the class.
        """
        return Reference(
            self.image(image_id),
            self._names[class_id],
            self.mask(image_id, class_id),
            sample_id=str(image_id),
            label_id=f"{image_id}/{class_id}",
        )


def _images_of_classes(dataset: dict) -> dict[int, list[int | str]]:
    """Sorted ids of the images of each class, without images that show crowds only."""
    images: dict[int, set[int | str]] = {}
    for annotation in dataset["annotations"]:
        if not is_crowd(annotation.get("iscrowd")):
            images.setdefault(annotation["category_id"], set()).add(annotation["image_id"])
    return {class_id: sorted(ids, key=number_then_word) for class_id, ids in images.items()}
