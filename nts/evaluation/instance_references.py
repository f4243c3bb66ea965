"""References of a run's draws: every distinct reference is encoded once, and each draw gets its own memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..building import Skipped, encode_references
from ..datasets.coco_records import has_mask, mask_of_annotation, read_annotated_image
from ..encoder import Encoder
from ..images import ImageError
from ..memory import MemoryBank, MemoryEntry
from ..presets import Preset
from ..promotion import promote_boxes
from ..references import InvalidReference, Reference
from ..segmenter import Segmenter
from ..utils.files import write_file

_REFERENCES_PER_SAVE = 256


@dataclass(frozen=True)
class ReferenceEncoder:
    """Encodes annotations of a COCO dataset as references; masks that are missing are predicted from the boxes.

    Attributes:
        dataset: a COCO dataset whose images have a ``path``.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: how images and masks are prepared.
    """

    dataset: dict
    encoder: Encoder
    segmenter: Segmenter
    preset: Preset

    def encode_resumably(self, annotations: Sequence[dict], folder: Path) -> tuple[MemoryBank, list[str]]:
        """Encode annotations, resuming after an interruption.

        The entries and the progress are stored as ``references.safetensors`` and ``references.json``. Chunks do not
        depend on the point of an interruption: the encoder would round differently in another batch.

        Args:
            annotations: those of an image in a row.
            folder: of the run.

        Returns:
            One entry per usable annotation, with the annotation's id as its label id, and a line for every other one.
        """
        file, progress = folder / "references.safetensors", folder / "references.json"
        bank, done = MemoryBank(self.encoder.info, self.preset.name), 0
        skipped: list[str] = []
        if progress.is_file():
            bank, state = MemoryBank.load(file, self.encoder.info), json.loads(progress.read_text())
            done, skipped = state["done"], state["skipped"]
        with tqdm(total=len(annotations), initial=done, unit="reference", desc="references") as bar:
            for start in range(done, len(annotations), _REFERENCES_PER_SAVE):
                chunk = annotations[start : start + _REFERENCES_PER_SAVE]
                for result in self._encode(chunk):
                    if isinstance(result, MemoryEntry):
                        bank.add(result)
                    else:
                        skipped.append(result)
                    bar.update()
                bank.save(file)
                state = {"done": start + len(chunk), "skipped": skipped}
                write_file(progress, json.dumps(state, indent=1).encode())
        return bank, skipped

    def _encode(self, annotations: Sequence[dict]) -> Iterator[MemoryEntry | str]:
        """The entry of every annotation, or the reason that there is none; in any order."""
        unreadable: list[str] = []
        references = self._read(annotations, unreadable)
        for result in encode_references(references, self.encoder, self.preset):
            if isinstance(result, Skipped):
                yield f"annotation {result.label_id} in image {result.sample_id}: {result.reason}"
            else:
                yield result
        yield from unreadable

    def _read(self, annotations: Sequence[dict], unreadable: list[str]) -> Iterator[Reference]:
        images = {image["id"]: image for image in self.dataset["images"]}
        names = {category["id"]: category["name"] for category in self.dataset["categories"]}
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
            boxes = [a["bbox"] for a in of_image if not has_mask(a)]
            drawn = promote_boxes(image, boxes, self.segmenter) if boxes else None
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
                        sample_id=str(image_id),
                        label_id=str(annotation["id"]),
                    )
                except InvalidReference as error:
                    unreadable.append(f"annotation {annotation['id']} in {record['path']}: {error}")
