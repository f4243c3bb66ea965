"""The whole way: references into a memory, images and a memory into instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .encoder import Encoder
from .images import prepare_target
from .instances import Instances
from .matching import match_proposals, most_alike_references
from .memory import MemoryBank, MemoryEntry, instance_prototype
from .models import load_encoder, load_segmenter
from .presets import Preset, get_preset
from .references import InvalidReference, Reference, by_image, contradictions, prepare_reference
from .segmenter import Proposals, Segmenter


@dataclass(frozen=True)
class Skipped:
    """A reference that could not be used, and why."""

    sample_id: str
    label_id: str
    reason: str


def encode_references(
    references: Iterable[Reference], encoder: Encoder, preset: str | Preset = "default", batch_size: int = 8
) -> Iterator[MemoryEntry | Skipped]:
    """Turn references into entries of a memory, one result per reference, in their order.

    References are read ``batch_size`` at a time, so an iterator that loads images as it goes needs little memory.
    """
    preset = get_preset(preset)
    references = iter(references)
    while batch := list(islice(references, batch_size)):
        prepared = [_prepare(reference, encoder, preset) for reference in batch]
        usable = [inputs for inputs in prepared if not isinstance(inputs, Skipped)]
        tokens = iter(encoder.encode(torch.stack([pixels for pixels, _ in usable])) if usable else ())
        for reference, inputs in zip(batch, prepared, strict=True):
            yield inputs if isinstance(inputs, Skipped) else _entry(reference, next(tokens).cpu(), inputs[1])


def build_memory(
    references: Iterable[Reference], encoder: Encoder | str = "small", preset: str | Preset = "default"
) -> tuple[MemoryBank, list[Skipped]]:
    """A memory of all usable references, and the list of those that were left out.

    References of one image that follow each other and contradict each other are left out, see
    :func:`nts.references.contradictions`. Boxes, points and scribbles are taken as they are; give them to
    :func:`nts.promotion.promote` before to have masks drawn for them.

    >>> memory, skipped = build_memory([Reference(image, "cat", mask)])  # doctest: +SKIP
    """
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    preset = get_preset(preset)
    memory, skipped = MemoryBank(encoder.info, preset.name), list[Skipped]()

    def usable() -> Iterator[Reference]:
        for of_image in by_image(references):
            reasons = contradictions(of_image)
            for k, reference in enumerate(of_image):
                if k in reasons:
                    skipped.append(Skipped(reference.sample_id, reference.label_id, reasons[k]))
                else:
                    yield reference

    for result in encode_references(usable(), encoder, preset):
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            memory.add(result)
    return memory, skipped


@dataclass(frozen=True)
class EncodedTarget:
    """All that the matching needs of an image, whatever the memory: encode once, match many times.

    Attributes:
        tokens: ``[h, w, C]`` patch tokens.
        proposals: the masks that SAM2 proposes.
        image_size: ``(H, W)``.
    """

    tokens: Tensor
    proposals: Proposals
    image_size: tuple[int, int]


def encode_target(
    image: np.ndarray, encoder: Encoder, segmenter: Segmenter, preset: str | Preset = "default"
) -> EncodedTarget:
    """Run both models on an image, uint8 ``[H, W, 3]``."""
    preset = get_preset(preset)
    encoder_input, segmenter_input = prepare_target(
        image, encoder.info.input_size, segmenter.input_size, antialias=preset.antialias
    )
    tokens = encoder.encode(encoder_input[None])[0]
    embedding = segmenter.embed(segmenter_input, add_no_mem_embed=preset.proposals.add_no_mem_embed)
    return EncodedTarget(tokens, segmenter.propose(embedding, preset.proposals), image.shape[:2])


class ReferenceSegmenter:
    """Finds the objects of a memory's classes in images.

    >>> segmenter = ReferenceSegmenter(memory)  # doctest: +SKIP
    >>> instances = segmenter.segment(read_image("street.jpg"))  # doctest: +SKIP
    >>> [memory.classes[label] for label in instances.labels]  # doctest: +SKIP

    Args:
        memory: the reference memory; it must hold at least one reference, made by the same encoder.
        encoder: a loaded encoder, or a name for :func:`nts.models.load_encoder`.
        segmenter: a loaded segmenter, or a name for :func:`nts.models.load_segmenter`.
        preset: ``"default"``, ``"paper"``, or a :class:`~nts.presets.Preset`.

    Raises:
        EncoderMismatch: if another encoder made the memory.
        ValueError: if the memory is empty.
    """

    def __init__(
        self,
        memory: MemoryBank,
        encoder: Encoder | str = "small",
        segmenter: Segmenter | str = "small",
        preset: str | Preset = "default",
    ) -> None:
        self.encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
        self.segmenter = load_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        self.preset = get_preset(preset)
        self.memory = memory
        memory.check_encoder(self.encoder.info)
        device = self.encoder.device
        self._prototypes = memory.prototypes().to(device)
        self._references = memory.instance_prototypes().to(device)
        self._reference_labels = memory.entry_labels().to(device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the instances' labels."""
        return self.memory.classes

    def segment(self, image: np.ndarray) -> Instances:
        """Find instances in an image, uint8 ``[H, W, 3]``. An image without any gives empty instances."""
        return self.match(encode_target(image, self.encoder, self.segmenter, self.preset))

    @torch.inference_mode()
    def match(self, target: EncodedTarget, features: Tensor | None = None) -> Instances:
        """Find instances in an image that was encoded before; ``features`` as in :func:`nts.matching.match_proposals`.

        They do not depend on the memory: who asks several of them for one image need pool them only once.
        """
        instances = match_proposals(
            target.tokens,
            target.proposals.mask_logits,
            target.proposals.predicted_iou,
            self._prototypes,
            target.image_size,
            self.preset.matching,
            features,
        )
        references = most_alike_references(
            instances.features, instances.labels, self._references, self._reference_labels
        )
        return replace(instances, references=references)


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


def _entry(reference: Reference, tokens: Tensor, weights: Tensor) -> MemoryEntry:
    return MemoryEntry(
        class_name=reference.class_name,
        prototype=instance_prototype(tokens.flatten(0, 1), weights.flatten()),
        sample_id=reference.sample_id,
        label_id=reference.label_id,
        kind=reference.kind,
        weight=float(weights.sum()),
        promoted=reference.promoted,
    )
