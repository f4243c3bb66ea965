"""References of a run's draws: every distinct reference is encoded once, and each draw gets its own memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..building import Skipped, encode_references
from ..cache import TensorCache
from ..datasets.coco_records import has_mask, mask_of_annotation, read_annotated_image
from ..encoder import Encoder
from ..images import ImageError, read_file, read_image
from ..memory import MemoryBank, MemoryEntry
from ..metrics.crowds import is_crowd
from ..negative_building import NegativeEncoder
from ..presets import Preset
from ..promotion import promote_boxes
from ..references import InvalidReference, Reference
from ..segmenter import Segmenter
from ..utils.files import content_id, write_file

_REFERENCES_PER_SAVE = 256


@dataclass(frozen=True)
class ReferenceEncoder:
    """Encodes annotations of a COCO dataset as references; masks that are missing are predicted from the boxes.

    With a preset whose method uses negatives, it also collects those of the reference images: everything off the
    annotations of the evaluated classes and off crowds. Masks of other classes are negatives themselves.

    Attributes:
        dataset: a COCO dataset whose images have a ``path``.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: how images and masks are prepared.
        class_ids: category ids of the evaluated classes.
        complete_labels: every object of the evaluated classes is annotated in the reference images.
        background: files of images that show no class, for negatives.
        cache: of encoded references, predicted masks and negatives; ``None`` for none.
    """

    dataset: dict
    encoder: Encoder
    segmenter: Segmenter
    preset: Preset
    class_ids: Sequence[int] = ()
    complete_labels: bool = False
    background: Sequence[Path] = ()
    cache: TensorCache | None = None

    def encode_resumably(self, annotations: Sequence[dict], folder: Path) -> tuple[MemoryBank, list[str], list[str]]:
        """Encode annotations and background images, resuming after an interruption.

        The entries, the negatives and the progress are stored as ``references.safetensors`` and ``references.json``.
        Chunks do not depend on the point of an interruption: the encoder would round differently in another batch.

        Args:
            annotations: those of an image in a row.
            folder: of the run.

        Returns:
            One entry per usable annotation, with the annotation's id as its label id, and the negatives of all images,
            with the image's id as their sample id; then a line for every annotation that is not usable, and for every
            background image.
        """
        file, progress = folder / "references.safetensors", folder / "references.json"
        bank = MemoryBank(self.encoder.info, self.preset.name)
        state: dict[str, Any] = {"done": 0, "skipped": [], "background": 0, "skipped_background": []}
        if progress.is_file():
            bank, state = MemoryBank.load(file, self.encoder.info), json.loads(progress.read_text())

        def save() -> None:
            bank.save(file)
            write_file(progress, json.dumps(state, indent=1).encode())

        with tqdm(total=len(annotations), initial=state["done"], unit="reference", desc="references") as bar:
            for start in range(state["done"], len(annotations), _REFERENCES_PER_SAVE):
                chunk = annotations[start : start + _REFERENCES_PER_SAVE]
                negatives = self._negative_encoder()
                for result in self._encode(chunk, negatives):
                    if isinstance(result, MemoryEntry):
                        bank.add(result)
                    else:
                        state["skipped"].append(result)
                    bar.update()
                # An image may have references in two chunks; its negatives come with the first.
                earlier = {str(annotation["image_id"]) for annotation in annotations[:start]}
                for negative in negatives.negatives if negatives else ():
                    if negative.sample_id not in earlier:
                        bank.add_negative(negative)
                state["done"] = start + len(chunk)
                save()
        if state["background"] < len(self.background):
            negatives = self._negative_encoder()
            assert negatives is not None
            for path in tqdm(self.background, unit="image", desc="background images"):
                try:
                    content = read_file(path)
                    image = read_image(path, exif=self.preset.exif, content=content)
                except ImageError as error:
                    state["skipped_background"].append(str(error))
                else:
                    negatives.add_background_image(image, file=content_id(content))
            for negative in negatives.negatives:
                bank.add_negative(negative)
            state["background"] = len(self.background)
            save()
        return bank, state["skipped"], state["skipped_background"]

    def _negative_encoder(self) -> NegativeEncoder | None:
        if not self.preset.method.negatives:
            return None
        return NegativeEncoder(self.encoder, self.segmenter, self.preset, self.cache)

    def _encode(self, annotations: Sequence[dict], negatives: NegativeEncoder | None) -> Iterator[MemoryEntry | str]:
        """The entry of every annotation, or the reason that there is none; in any order."""
        unreadable: list[str] = []
        references = self._read(annotations, negatives, unreadable)
        for result in encode_references(references, self.encoder, self.preset, cache=self.cache):
            if isinstance(result, Skipped):
                yield f"annotation {result.label_id} in image {result.sample_id}: {result.reason}"
            else:
                yield result
        yield from unreadable

    def _read(
        self, annotations: Sequence[dict], negatives: NegativeEncoder | None, unreadable: list[str]
    ) -> Iterator[Reference]:
        images = {image["id"]: image for image in self.dataset["images"]}
        by_image: dict[int | str, list[dict]] = {}
        for annotation in annotations:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for image_id, of_image in by_image.items():
            record = images[image_id]
            try:
                image = read_annotated_image(record, exif=self.preset.exif)
            except ImageError as error:
                unreadable += [f"annotation {a['id']}: {error}" for a in of_image]
                continue
            references = list(self._references(record, image, of_image, unreadable))
            if negatives is not None and references:
                references = self._with_negatives(negatives, references, image_id)
            yield from references

    def _references(
        self, record: dict, image: np.ndarray, of_image: Sequence[dict], unreadable: list[str]
    ) -> Iterator[Reference]:
        names = {category["id"]: category["name"] for category in self.dataset["categories"]}
        boxes = [a["bbox"] for a in of_image if not has_mask(a)]
        drawn = promote_boxes(image, boxes, self.segmenter, self.cache) if boxes else None
        promoted = iter(zip(drawn.masks, drawn.filled.tolist(), strict=True) if drawn else ())
        for annotation in of_image:
            try:
                if has_mask(annotation):
                    mask, filled = mask_of_annotation(annotation, *image.shape[:2]), False
                else:
                    mask, filled = next(promoted)
                yield Reference(
                    image,
                    names[annotation["category_id"]],
                    mask,
                    box=tuple(annotation["bbox"]),
                    kind="box" if filled else "mask",
                    sample_id=str(record["id"]),
                    label_id=str(annotation["id"]),
                )
            except InvalidReference as error:
                unreadable.append(f"annotation {annotation['id']} in {record['path']}: {error}")

    def _with_negatives(
        self, negatives: NegativeEncoder, references: Sequence[Reference], image_id: int | str
    ) -> list[Reference]:
        """Collect the negatives of the image of some references, and return these with their best proposals."""
        size = references[0].image.shape[:2]
        used = {reference.label_id for reference in references}
        labelled, others, all_drawn = list[np.ndarray](), list[np.ndarray](), True
        for annotation in self._annotations_of_images.get(image_id, ()):
            if str(annotation["id"]) in used:
                continue
            is_other = annotation["category_id"] not in self.class_ids and not is_crowd(annotation.get("iscrowd"))
            mask = _pixels(annotation, size)
            if is_other:
                if mask is not None and has_mask(annotation):
                    others.append(mask)
            elif mask is None:
                all_drawn = False
            else:
                labelled.append(mask)
        complete = self.complete_labels and all_drawn
        return negatives.add_reference_image(references, labelled, others, complete=complete)

    @cached_property
    def _annotations_of_images(self) -> dict[int | str, list[dict]]:
        by_image: dict[int | str, list[dict]] = {}
        for annotation in self.dataset["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        return by_image


def _pixels(annotation: dict, size: tuple[int, int]) -> np.ndarray | None:
    """Mask of an annotation; its filled box, if there is none or it does not fit; ``None`` if nothing can be drawn."""
    try:
        mask = mask_of_annotation(annotation, *size)
    except InvalidReference:  # there is none, or it is of another size
        mask = np.zeros(size, bool)
    if not mask.any():
        x, y, width, height = annotation["bbox"]
        mask[max(0, math.floor(y)) : math.ceil(y + height), max(0, math.floor(x)) : math.ceil(x + width)] = True
    return mask if mask.any() else None
