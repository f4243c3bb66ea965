"""The whole way: references into a memory, images and a memory into instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .cache import TensorCache
from .cache.references import KeptReferences
from .cache.targets import target_key, target_settings
from .encoder import Encoder
from .images import PreparedImage, prepare_target
from .instances import Instances
from .matching import match_proposals, match_target, nearest_references, pool_tokens, similarity
from .memory import MemoryBank, MemoryEntry, WholeImage
from .models import load_encoder, load_segmenter
from .presets import Preset, get_preset
from .references import InvalidReference, Reference, annotation_weights, by_image, contradictions, prepare_reference
from .segmenter import ImageEmbedding, Proposals, Segmenter
from .segmenter.guidance import guided_points
from .targets import Target, make_target
from .utils.devices import halving
from .utils.threads import in_one_thread, side_by_side
from .vrp.head import ClassMaps, PromptHead, whole_images
from .vrp.prompt import TrainedPrompt
from .vrp.scoring import score_proposals

Scorer = Literal["prototype", "vrp", "both"]
SCORERS: tuple[Scorer, ...] = ("prototype", "vrp", "both")


@dataclass(frozen=True)
class Skipped:
    """A reference that could not be used, and why."""

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
    """Turn references into entries of a memory, one result per reference, in their order.

    References are read ``batch_size`` at a time, so an iterator that loads images as it goes needs little memory.

    Args:
        references: of any kind; those of one image share its array and follow each other.
        encoder: a loaded encoder.
        preset: how they are prepared.
        batch_size: references encoded at a time; fewer where the device has no memory for so many.
        keep_images: keep the tokens of whole images, too, which a visual reference prompt needs.
        cache: what was encoded before is read from it, and what is encoded now is kept there.
    """
    preset = get_preset(preset)
    references = iter(references)
    kept = KeptReferences(cache, encoder, preset)
    while batch := list(islice(references, batch_size)):
        keys = [kept.key(reference) for reference in batch]
        known = [kept.find(key) for key in keys]
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
                found = kept.keep(key, next(tokens).cpu(), inputs[1])
            whole = None
            if keep_images:
                whole = _whole_image(reference, *kept.whole_tokens(reference.image), encoder.grid)
            yield replace(_entry(reference, *found), whole_image=whole)


def build_memory(
    references: Iterable[Reference],
    encoder: Encoder | str = "small",
    preset: str | Preset = "default",
    *,
    keep_images: bool = False,
    cache: TensorCache | None = None,
) -> tuple[MemoryBank, list[Skipped]]:
    """A memory of all usable references, and the list of those that were left out.

    References of one image that follow each other and contradict each other are left out, see
    :func:`nts.references.contradictions`. Boxes, points and scribbles are taken as they are; give them to
    :func:`nts.promotion.promote` before to have masks drawn for them. ``keep_images`` and ``cache`` as in
    :func:`encode_references`.

    >>> memory, skipped = build_memory([Reference(image, "cat", mask)])
    """
    preset = get_preset(preset)
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, precision=preset.precision_for("auto"))
    memory, skipped = MemoryBank(encoder.info, preset.name), list[Skipped]()

    def usable() -> Iterator[Reference]:
        for of_image in by_image(references):
            reasons = contradictions(of_image)
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
    return memory, skipped


@dataclass(frozen=True)
class EncodedTarget:
    """All that the matching needs of an image, whatever the memory: encode once, match many times.

    Attributes:
        tokens: ``[h, w, C]`` patch tokens.
        proposals: the masks that SAM2 proposes.
        image_size: ``(H, W)``.
        embedding: SAM2's, for a visual reference prompt to be decoded with; kept only if asked for.
    """

    tokens: Tensor
    proposals: Proposals
    image_size: tuple[int, int]
    embedding: ImageEmbedding | None = None

    @cached_property
    def features(self) -> Tensor:
        """Pooled features of the proposals: float ``[n, C]``, L2-normalised."""
        return pool_tokens(self.tokens, self.proposals.mask_logits > 0)

    def target(self) -> Target:
        """What is worth keeping of it, see :mod:`nts.targets`."""
        return in_one_thread(
            lambda: make_target(self.features, self.proposals, self.image_size), self.proposals.mask_logits.device
        )


def encode_target(
    image: np.ndarray | PreparedImage,
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    *,
    keep_embedding: bool = False,
    prototypes: Tensor | None = None,
) -> EncodedTarget:
    """Run both models on an image, uint8 ``[H, W, 3]``, or on one that was prepared ahead.

    Where the preset has its prompts led by prototypes, these are ``prototypes`` ``[K, C]``; without any, every point of
    the grid is a prompt.
    """
    preset = get_preset(preset)
    if isinstance(image, np.ndarray):
        image = prepare_image(image, encoder, segmenter, preset)
    tokens, embedding = _encode(image, encoder, segmenter, preset)
    which = None
    if preset.proposals.guidance is not None and prototypes is not None:
        side = preset.proposals.points_per_side or segmenter.points_per_side
        which = guided_points(tokens, prototypes, side, preset.proposals.guidance)
    proposals = segmenter.propose(embedding, preset.proposals, which)
    if not keep_embedding:
        return EncodedTarget(tokens, proposals, image.image_size)
    return EncodedTarget(tokens, proposals, image.image_size, _for_prompts(embedding, segmenter, preset))


def prepare_image(
    image: np.ndarray, encoder: Encoder, segmenter: Segmenter, preset: str | Preset = "default"
) -> PreparedImage:
    """An image, uint8 ``[H, W, 3]``, as both models take it: the part of the work that needs no model."""
    inputs = prepare_target(
        image, encoder.info.input_size, segmenter.input_size, antialias=get_preset(preset).antialias
    )
    return PreparedImage(*inputs, image.shape[:2])


def _encode(
    image: PreparedImage, encoder: Encoder, segmenter: Segmenter, preset: Preset
) -> tuple[Tensor, ImageEmbedding]:
    """Patch tokens ``[h, w, C]`` and the embedding of an image."""

    def encode() -> Tensor:
        return encoder.encode(image.encoder_input[None])[0]

    def embed() -> ImageEmbedding:
        return segmenter.embed(image.segmenter_input, add_no_mem_embed=preset.proposals.add_no_mem_embed)

    if encoder.is_small and segmenter.is_small and encoder.device.type == segmenter.device.type == "cpu":
        return side_by_side(encode, embed)
    return encode(), embed()


def _for_prompts(embedding: ImageEmbedding, segmenter: Segmenter, preset: Preset) -> ImageEmbedding:
    """With SAM2's "no memory" embedding, whether the proposals do with or without it."""
    return embedding if preset.proposals.add_no_mem_embed else segmenter.with_no_mem_embed(embedding)


class ReferenceSegmenter:
    """Finds the objects of a memory's classes in images.

    >>> segmenter = ReferenceSegmenter(memory)
    >>> instances = segmenter.segment(image)
    >>> names = [segmenter.classes[label] for label in instances.labels]

    Args:
        memory: the reference memory; it must hold at least one reference, made by the same encoder.
        encoder: a loaded encoder, or a name for :func:`nts.models.load_encoder`.
        segmenter: a loaded segmenter, or a name for :func:`nts.models.load_segmenter`.
        preset: ``"default"``, ``"paper"``, ``"fast"``, or a :class:`~nts.presets.Preset`.
        scorer: what judges which class a proposal is of, and how surely. ``"prototype"``: its likeness to the
            prototypes, as published. ``"vrp"``: a trained visual reference prompt. ``"both"``: the likeness
            times the root of the prompt's score, which on classes kept aside did better than other ways to join them.
            Suppression and merging are the same for all.
        prompt: the trained prompt, for the scorers that need one; the memory must have whole images then.

    Raises:
        EncoderMismatch: if another encoder made the memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        ValueError: if the memory is empty, or a scorer lacks its prompt.
    """

    def __init__(
        self,
        memory: MemoryBank,
        encoder: Encoder | str = "small",
        segmenter: Segmenter | str = "small",
        preset: str | Preset = "default",
        *,
        scorer: Scorer = "prototype",
        prompt: TrainedPrompt | None = None,
    ) -> None:
        if scorer not in SCORERS:
            raise ValueError(f"the scorer must be one of {', '.join(SCORERS)}, got {scorer!r}")
        if scorer != "prototype" and prompt is None:
            raise ValueError(f"the scorer {scorer!r} needs a trained reference prompt")
        self.preset = get_preset(preset)
        precision = self.preset.precision_for("auto")
        self.encoder = load_encoder(encoder, precision=precision) if isinstance(encoder, str) else encoder
        self.segmenter = load_segmenter(segmenter, precision=precision) if isinstance(segmenter, str) else segmenter
        self.memory = memory
        memory.check_encoder(self.encoder.info)
        device = self.encoder.device
        # Targets that were kept are matched on the CPU, others where the models are.
        self._on_cpu = memory.prototypes(), memory.instance_prototypes(), memory.entry_labels()
        self._prototypes, self._references, self._reference_labels = (each.to(device) for each in self._on_cpu)
        self.scorer = scorer
        self._head: PromptHead | None = None
        if scorer != "prototype" and prompt is not None:
            self._head = PromptHead(prompt, self.encoder, self.segmenter)
            self._states = self._head.look(whole_images(memory))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the instances' labels."""
        return self.memory.classes

    def segment(self, image: np.ndarray) -> Instances:
        """Find instances in an image, uint8 ``[H, W, 3]``. An image without any gives empty instances."""
        return self.match(self.encode(image))

    def prepare(self, image: np.ndarray) -> PreparedImage:
        """An image, uint8 ``[H, W, 3]``, ready for :meth:`encode`; another thread can do this ahead."""
        return prepare_image(image, self.encoder, self.segmenter, self.preset)

    def encode(self, image: np.ndarray | PreparedImage) -> EncodedTarget:
        """Run both models on an image, uint8 ``[H, W, 3]`` or prepared, and keep what :meth:`match` will need."""
        return encode_target(
            image,
            self.encoder,
            self.segmenter,
            self.preset,
            keep_embedding=self._head is not None,
            prototypes=self._prototypes,
        )

    def map_classes(self, image: np.ndarray) -> ClassMaps:
        """What the reference prompt sees of every class in an image, uint8 ``[H, W, 3]``; nothing is proposed for it.

        Raises:
            ValueError: if there is no reference prompt.
        """
        tokens, embedding = _encode(self.prepare(image), self.encoder, self.segmenter, self.preset)
        return self._maps(tokens, _for_prompts(embedding, self.segmenter, self.preset))

    def class_maps(self, target: EncodedTarget) -> ClassMaps:
        """What the reference prompt sees of every class in an image, by :meth:`encode`.

        Raises:
            ValueError: if there is no reference prompt, or the image was encoded without its embedding.
        """
        if target.embedding is None:
            raise ValueError("the image was encoded without its embedding: encode it by this segmenter")
        return self._maps(target.tokens, target.embedding)

    def _maps(self, tokens: Tensor, embedding: ImageEmbedding) -> ClassMaps:
        if self._head is None:
            raise ValueError("maps of classes are a reference prompt's: choose the scorer 'vrp' or 'both'")
        return self._head.maps(self._states, tokens, embedding)

    @property
    def keeps_targets(self) -> bool:
        """Whether all that :meth:`match` needs of an image is in a :class:`~nts.targets.Target`.

        A reference prompt looks at the image anew.
        """
        return self._head is None

    def target_key(self, content: str) -> str:
        """Names the target of an image for a cache, see :func:`nts.cache.targets.target_key`."""
        return target_key(content, self._target_settings)

    @cached_property
    def _target_settings(self) -> dict[str, Any]:
        return target_settings(self.encoder, self.segmenter, self.preset, self._prototypes)

    @torch.inference_mode()
    def match_target(self, target: Target) -> Instances:
        """Find instances in an image of which only the target was kept.

        Raises:
            ValueError: if a reference prompt judges, which needs more of an image.
        """
        if self._head is not None:
            raise ValueError("a reference prompt looks at the image itself: encode it by this segmenter")
        prototypes, references, labels = self._on_cpu
        return in_one_thread(
            lambda: _with_references(match_target(target, prototypes, self.preset.matching), references, labels),
            prototypes.device,
        )

    @torch.inference_mode()
    def match(self, target: EncodedTarget) -> Instances:
        """Find instances in an image that was encoded before, for this memory or another."""
        scores = self._class_scores(target)
        return in_one_thread(lambda: self._match(target, scores), self.encoder.device)

    def _match(self, target: EncodedTarget, class_scores: Tensor | None) -> Instances:
        instances = match_proposals(
            target.tokens,
            target.proposals.mask_logits,
            target.proposals.predicted_iou,
            self._prototypes,
            target.image_size,
            self.preset.matching,
            target.features,
            class_scores,
        )
        return _with_references(instances, self._references, self._reference_labels)

    def _class_scores(self, target: EncodedTarget) -> Tensor | None:
        """``[n, K]`` by the reference prompt; ``None`` where the prototypes judge alone."""
        if self._head is None:
            return None
        scores = score_proposals(self.class_maps(target).probabilities, target.proposals.mask_logits > 0)
        return scores if self.scorer == "vrp" else similarity(target.features, self._prototypes) * scores.sqrt()


def _with_references(instances: Instances, references: Tensor, labels: Tensor) -> Instances:
    """With the most alike of the references ``[R, C]`` of classes ``[R]`` for every instance."""
    found = nearest_references(instances.features, instances.labels, references, labels)
    return replace(instances, references=found)


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


def _whole_image(reference: Reference, name: str, tokens: Tensor, grid: tuple[int, int]) -> WholeImage:
    kind = "mask" if reference.promoted else reference.kind
    weights = annotation_weights(reference.mask, kind, grid).flatten().half()
    # Prompts with the published choices were trained on annotations sampled at one pixel per patch.
    sampled = annotation_weights(reference.mask, kind, grid, "nearest").flatten().bool()
    return WholeImage(name, tokens, weights, kind, sampled)


def _entry(reference: Reference, prototype: Tensor, weight: float) -> MemoryEntry:
    return MemoryEntry(
        class_name=reference.class_name,
        prototype=prototype,
        sample_id=reference.sample_id,
        label_id=reference.label_id,
        kind=reference.kind,
        weight=weight,
        promoted=reference.promoted,
        file=reference.file,
    )
