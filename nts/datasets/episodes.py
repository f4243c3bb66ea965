"""Episodes of few-shot semantic segmentation: a class, a target image, and ``k`` other images as references.

A list of episodes is drawn once, from a seed, and can be kept in a JSON file: every head is judged by the same
episodes, on every machine. (Published figures rest on different draws: VRP-SAM takes seed 321, HSNet and Matcher seed
0, and what those give depends on the number of loader processes.)

A head is anything that turns references and a target into a mask, :data:`Predictor`. :class:`PaintedInstances` is that
of the training-free pipeline.
"""

from __future__ import annotations

import json
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ..building import Skipped, encode_references
from ..encoder import Encoder
from ..images import ImageError, digest
from ..memory import MemoryBank, MemoryEntry
from ..metrics.crowds import is_crowd
from ..metrics.matches import number_then_word
from ..metrics.miou import PAINT_THRESHOLD, PixelCounts, count_pixels, paint
from ..pipeline import ReferenceSegmenter, encode_target
from ..presets import Preset, get_preset
from ..references import InvalidReference, Reference
from ..scorers import make_scorer
from ..segmenter import Segmenter
from ..targets import EncodedTarget
from ..vrp.prompt import TrainedPrompt
from .layouts import mask_of_annotation, read_annotated_image

EPISODES_PER_FOLD = 1000

Predictor = Callable[[Sequence[Reference], np.ndarray], np.ndarray]
"""References of one class and a target, uint8 ``[H, W, 3]``, to a mask, bool ``[H, W]``."""


@dataclass(frozen=True)
class Episode:
    """Find the pixels of a class in a target image, given images in which they are marked.

    Attributes:
        class_id: category id.
        target: image id among the targets.
        references: image ids among the references, all different, and none the target.
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
    """Draw episodes: a class uniformly, then its target, then its references, without repetition.

    The draw depends on the ids, the seed and the number of shots alone: not on the order of the files, and, since of
    Python's generator only ``random()`` is used, whose sequence Python promises to keep, not on the machine either.

    Args:
        references: a COCO dataset. Its images may be the targets'; a target is never its own reference.
        targets: a COCO dataset.
        class_ids: the classes of the fold. Those of which there are too few images are not drawn.
        shots: references per episode.
        seed: of the draw.
        count: how many episodes.

    Raises:
        ValueError: if no class has a target and ``shots`` references beside it.
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
    """A control: for every episode one of another class with the same target, whose references are shown instead.

    A head that does as well with them does not look at its references. The other class is drawn uniformly, then its
    images, all others than the target; what is drawn depends on the seed and the episode alone.

    Args:
        episodes: to be misled.
        references: the COCO dataset that their references are from.
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
    """Write episodes to a JSON file, with whatever else should be known ``about`` them."""
    content = {**about, "episodes": [asdict(episode) for episode in episodes]}
    Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_episodes(path: str | os.PathLike) -> list[Episode]:
    """Read episodes from a file of :func:`write_episodes`.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Episode(e["class_id"], e["target"], tuple(e["references"])) for e in content["episodes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of episodes: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Outcome:
    """One episode and its pixels; with an ``error``, the head was not asked, and found nothing."""

    episode: Episode
    counts: PixelCounts
    error: str = ""


class References(Protocol):
    """Where the references of episodes are: :class:`EpisodeImages` with its masks, or weaker annotations of them."""

    def reference(self, image_id: int | str, class_id: int) -> Reference:
        """What marks a class in an image. The same every time, under sample and label ids of its own.

        Raises:
            ImageError: if the image cannot be used.
            InvalidReference: if it cannot show the class.
        """
        ...


class EpisodeImages:
    """The images and class masks of a COCO dataset, by image id.

    Args:
        dataset: a COCO dataset; every image has a ``path``, unless its pixels are given, and an ``ignore``, the run
            lengths of pixels that count for nothing, where it has such.
        exif: see :func:`nts.images.read_image`.
        keep: so many of the images read last are kept.
        pixels: images that are in memory, uint8 ``[H, W, 3]``, by their ids.

    Attributes:
        dataset: as given.
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
        """``(H, W)`` as the dataset says."""
        return self._images[image_id]["height"], self._images[image_id]["width"]

    def image(self, image_id: int | str) -> np.ndarray:
        """uint8 ``[H, W, 3]``; the same array, as long as it is kept.

        Raises:
            ImageError: if the file cannot be read, or has another size than its annotations.
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
        """Pixels of a class, crowds included: bool ``[H, W]``."""
        height, width = self.size(image_id)
        mask = np.zeros((height, width), bool)
        for annotation in self._annotations.get(image_id, ()):
            if annotation["category_id"] == class_id:
                mask |= mask_of_annotation(annotation, height, width)
        return mask

    def ignored(self, image_id: int | str) -> np.ndarray | None:
        """Pixels that count for nothing, bool ``[H, W]``; ``None`` where the image has none."""
        segmentation = self._images[image_id].get("ignore")
        height, width = self.size(image_id)
        return None if segmentation is None else mask_of_annotation({"segmentation": segmentation}, height, width)

    def reference(self, image_id: int | str, class_id: int) -> Reference:
        """All pixels of a class in an image as one reference.

        Raises:
            ImageError: if the image cannot be used.
            InvalidReference: if it has no pixel of the class.
        """
        return Reference(
            self.image(image_id),
            self._names[class_id],
            self.mask(image_id, class_id),
            sample_id=str(image_id),
            label_id=f"{image_id}/{class_id}",
        )


def evaluate_episodes(
    episodes: Iterable[Episode],
    references: References,
    targets: EpisodeImages,
    predictor: Predictor,
    *,
    side: int | None = None,
    shown: Iterable[Episode] | None = None,
) -> Iterator[Outcome]:
    """Ask a head for every episode, and count pixels.

    Episodes that follow each other on one target give the predictor the same array, so it may keep what it made of it.

    Args:
        episodes: which.
        references: where their references are.
        targets: where their targets are.
        predictor: the head. It is not told the class, only shown it.
        side: compare masks resized to so many pixels squared (nearest), as VRP-SAM does with 512; at the target's own
            size where ``None``.
        shown: for every episode another one, whose class and references are shown instead: a control, such as that of
            :func:`show_wrong_class`.

    Yields:
        one outcome per episode. An image that cannot be used is told, and counts as one in which nothing was found.
    """
    episodes = list(episodes)
    for episode, instead in zip(episodes, episodes if shown is None else shown, strict=True):
        truth, ignored = targets.mask(episode.target, episode.class_id), targets.ignored(episode.target)
        error = ""
        try:
            seen = [references.reference(image_id, instead.class_id) for image_id in instead.references]
            predicted = predictor(seen, targets.image(episode.target))
        except (ImageError, InvalidReference) as reason:
            predicted, error = np.zeros_like(truth), str(reason)
        if side is not None:
            predicted, truth = _resize(predicted, side), _resize(truth, side)
            ignored = None if ignored is None else _resize(ignored, side)
        yield Outcome(episode, count_pixels(predicted, truth, ignored), error)


class EncodedOnce:
    """References, and the last target, encoded: heads that share it encode nothing that another one has.

    Args:
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: how both are used.
    """

    def __init__(self, encoder: Encoder, segmenter: Segmenter, preset: str | Preset = "default") -> None:
        self.encoder, self.segmenter, self.preset = encoder, segmenter, get_preset(preset)
        self._last: tuple[np.ndarray, EncodedTarget] | None = None
        self._entries: dict[str, MemoryEntry] = {}

    def entry(self, reference: Reference) -> MemoryEntry:
        """A reference as an entry of a memory, with its whole image; kept by its content.

        Raises:
            InvalidReference: if it cannot be used.
        """
        marked = reference.mask, reference.box, reference.kind, reference.promoted
        # Ids are no names: two data sets may have the same, and one image may be annotated in several ways.
        key = repr((digest(reference.image), digest(marked[0]), reference.label_id, *marked[1:]))
        if key not in self._entries:
            (entry,) = encode_references([reference], self.encoder, self.preset, keep_images=True)
            if isinstance(entry, Skipped):
                raise InvalidReference(f"the reference {entry.label_id}: {entry.reason}")
            self._entries[key] = entry
        return self._entries[key]

    def encode(self, target: np.ndarray) -> EncodedTarget:
        """The target, uint8 ``[H, W, 3]``, with what a reference prompt needs; the same array is encoded once."""
        if self._last is None or self._last[0] is not target:
            encoded = encode_target(target, self.encoder, self.segmenter, self.preset, keep_embedding=True)
            self._last = target, encoded
        return self._last[1]


class PaintedInstances:
    """The pipeline as a head, training-free or with a trained reference prompt: instances of the class, painted.

    Args:
        models: both of them; heads may share it.
        threshold: see :func:`nts.metrics.miou.paint`.
        scorer: see :func:`nts.scorers.make_scorer`.
        prompt: the same.
    """

    def __init__(
        self,
        models: EncodedOnce,
        threshold: float = PAINT_THRESHOLD,
        *,
        scorer: str = "prototype",
        prompt: TrainedPrompt | None = None,
    ) -> None:
        self._models, self._threshold = models, threshold
        self._scorer, self._prompt = scorer, prompt

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`Predictor`. References need label ids of their own.

        Raises:
            InvalidReference: if a reference cannot be used.
        """
        models = self._models
        memory = MemoryBank(models.encoder.info, models.preset.name)
        for reference in references:
            memory.add(models.entry(reference))
        scorer = make_scorer(self._scorer, memory, models.encoder, models.segmenter, self._prompt)
        head = ReferenceSegmenter(memory, models.encoder, models.segmenter, models.preset, scorer=scorer)
        return (paint(head.match(models.encode(target)), self._threshold) > 0).cpu().numpy()


def _images_of_classes(dataset: dict) -> dict[int, list[int | str]]:
    """Sorted ids of the images that show each class, crowds alone not enough."""
    images: dict[int, set[int | str]] = {}
    for annotation in dataset["annotations"]:
        if not is_crowd(annotation.get("iscrowd")):
            images.setdefault(annotation["category_id"], set()).add(annotation["image_id"])
    return {class_id: sorted(ids, key=number_then_word) for class_id, ids in images.items()}


def _resize(mask: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
