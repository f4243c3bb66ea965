"""Build a memory: references to prototypes (paper, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .cache import TensorCache
from .cache.references import ReferenceCache
from .encoder import Encoder
from .images import digest
from .memory import MemoryBank, MemoryEntry, WholeImage, instance_prototype
from .models import load_encoder, load_segmenter
from .negative_building import NegativeEncoder
from .presets import Preset, get_preset
from .references import (
    InvalidReference,
    Reference,
    annotation_weights,
    box_of_mask,
    by_image,
    contradictions,
    prepare_reference,
)
from .segmenter import Segmenter
from .tiling import ObjectSize
from .utils.devices import halving


@dataclass(frozen=True)
class Skipped:
    """A reference that could not be used, and the reason."""

    sample_id: str
    label_id: str
    reason: str


def encode_references(
    references: Iterable[Reference],
    encoder: Encoder,
    preset: str | Preset = "default",
    batch_size: int = 8,
    *,
    keep_images: bool = False,
    cache: TensorCache | None = None,
) -> Iterator[MemoryEntry | Skipped]:
    """Encode references as entries of a memory, one result per reference, in their order.

    The prototype of an entry is the weighted mean of the patch tokens of its crop (paper, Eq. 1; see
    :func:`nts.memory.instance_prototype`). References are read ``batch_size`` at a time, so an iterator that loads
    images on demand needs little memory.

    Args:
        references: of any kind; those of one image share its array and follow each other.
        encoder: a loaded encoder.
        preset: decides how references are prepared.
        batch_size: references encoded at a time; fewer where the device has too little memory.
        keep_images: also store the tokens of whole images, which visual reference prompts need.
        cache: for encoded references.
    """
    preset = get_preset(preset)
    references = iter(references)
    encoded = ReferenceCache(cache, encoder, preset)
    while batch := list(islice(references, batch_size)):
        keys = [encoded.key(reference) for reference in batch]
        known = [encoded.get(key) for key in keys]
        prepared = [
            None if found is not None else _prepare(reference, encoder, preset)
            for reference, found in zip(batch, known, strict=True)
        ]
        pixels = [inputs[0] for inputs in prepared if isinstance(inputs, tuple)]
        tokens = iter(halving(encoder.encode, torch.stack(pixels)) if pixels else ())
        for reference, key, found, inputs in zip(batch, keys, known, prepared, strict=True):
            if isinstance(inputs, Skipped):
                yield inputs
                continue
            if found is None:
                assert inputs is not None
                found = encoded.put(key, next(tokens).cpu(), inputs[1])
            entry = _entry(reference, *found)
            if preset.method.similarity == "soft-maximum":
                entry = replace(entry, whole_prototype=_whole_prototype(reference, encoded, encoder.grid))
            if keep_images:
                whole = _whole_image(reference, *encoded.whole_tokens(reference.image), encoder.grid)
                entry = replace(entry, whole_image=whole)
            yield entry


def build_memory(
    references: Iterable[Reference],
    encoder: Encoder | str = "small",
    preset: str | Preset = "default",
    *,
    segmenter: Segmenter | str | None = "small",
    complete_labels: bool = False,
    background: Iterable[np.ndarray] = (),
    keep_images: bool = False,
    cache: TensorCache | None = None,
) -> tuple[MemoryBank, list[Skipped]]:
    """Build a memory of all usable references (paper, Eq. 1 and 2), and of the negatives in their images.

    References of one image that follow each other and contradict each other are left out, see
    :func:`nts.references.contradictions`. Boxes, points and scribbles are rasterised without SAM2; use
    :func:`nts.promotion.promote` first to turn them into masks.

    Args:
        references, preset, keep_images, cache: see :func:`encode_references`.
        encoder: a loaded encoder, or a name for :func:`nts.models.load_encoder`.
        segmenter: proposes negatives, if the preset uses them; a loaded segmenter, or a name for
            :func:`nts.models.load_segmenter`; ``None`` for a memory without negatives.
        complete_labels: the references are all objects of their classes in their images, so that anything else in these
            is of no class. Otherwise, what resembles a class is no negative.
        background: images that show no class, uint8 ``[H, W, 3]``: everything in them is a negative.

    Returns:
        the memory, and the references that were left out.

    >>> memory, skipped = build_memory([Reference(image, "cat", mask)])
    """
    preset = get_preset(preset)
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, precision=preset.precision_for("auto"))
    memory, skipped = MemoryBank(encoder.info, preset.name), list[Skipped]()
    negatives = None
    if preset.method.negatives and segmenter is not None:
        if isinstance(segmenter, str):
            segmenter = load_segmenter(segmenter, precision=preset.precision_for("auto"))
        negatives = NegativeEncoder(encoder, segmenter, preset, cache)
        for image in background:
            negatives.add_background_image(image, _image_name(image))

    def usable() -> Iterator[Reference]:
        for of_image in map(_named, by_image(references)):
            reasons = contradictions(of_image)
            if negatives is not None:
                of_image = negatives.add_reference_image(of_image, complete=complete_labels)
            for k, reference in enumerate(of_image):
                if k in reasons:
                    skipped.append(Skipped(reference.sample_id, reference.label_id, reasons[k]))
                else:
                    yield reference

    for result in encode_references(usable(), encoder, preset, keep_images=keep_images, cache=cache):
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            memory.add(result)
    if negatives is not None:
        memory.add_negatives(negatives.negatives)
    return memory, skipped


def _named(of_image: list[Reference]) -> list[Reference]:
    """References of one image with a sample id: negatives have to know their image."""
    name = of_image[0].sample_id or of_image[0].file or _image_name(of_image[0].image)
    return [reference if reference.sample_id else replace(reference, sample_id=name) for reference in of_image]


def _image_name(image: np.ndarray) -> str:
    return f"image {digest(image)[:12]}"


def _prepare(reference: Reference, encoder: Encoder, preset: Preset) -> tuple[Tensor, Tensor] | Skipped:
    try:
        return prepare_reference(
            reference,
            encoder.info.input_size,
            encoder.grid,
            antialias=preset.antialias,
            patch_weights=preset.patch_weights,
        )
    except InvalidReference as error:
        return Skipped(reference.sample_id, reference.label_id, str(error))


def _whole_prototype(reference: Reference, encoded: ReferenceCache, grid: tuple[int, int]) -> Tensor:
    """Instance prototype of a reference in its whole image, as targets are seen."""
    _, tokens = encoded.whole_tokens(reference.image)
    kind = "mask" if reference.promoted else reference.kind
    return instance_prototype(tokens, annotation_weights(reference.mask, kind, grid).flatten())


def _whole_image(reference: Reference, name: str, tokens: Tensor, grid: tuple[int, int]) -> WholeImage:
    kind = "mask" if reference.promoted else reference.kind
    weights = annotation_weights(reference.mask, kind, grid).flatten().half()
    # Prompts with the published choices were trained on annotations sampled at one pixel per patch.
    sampled = annotation_weights(reference.mask, kind, grid, "nearest").flatten().bool()
    return WholeImage(name, tokens, weights, kind, sampled)


def _entry(reference: Reference, prototype: Tensor, weight: float) -> MemoryEntry:
    size = None
    if not reference.is_sparse:
        *_, width, height = reference.box or box_of_mask(reference.mask)
        size = ObjectSize((width * height) ** 0.5, max(reference.mask.shape))
    return MemoryEntry(
        class_name=reference.class_name,
        prototype=prototype,
        sample_id=reference.sample_id,
        label_id=reference.label_id,
        kind=reference.kind,
        weight=weight,
        promoted=reference.promoted,
        file=reference.file,
        predicted_iou=reference.predicted_iou,
        proposal_iou=reference.proposal_iou,
        size=size,
    )
