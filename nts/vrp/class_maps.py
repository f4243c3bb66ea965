"""Class maps: for every class of some references, where it is in an image, and whether it is there at all (VRP-SAM)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..encoder import Encoder
from ..images import PreparedImage, digest, digest_content
from ..memory import MemoryBank, WholeImage
from ..pipeline import embedding_for_prompts, encode_image
from ..presets import Preset, get_preset
from ..segmenter import ImageEmbedding, Segmenter
from .model import ABSENT, ReferenceState
from .prompt import PromptMismatch, TrainedPrompt

_REFERENCES_PER_CHUNK = 32
"""References, of all classes, that are encoded together. Memory grows with their number and the square of the patches.
"""


@dataclass(frozen=True)
class ClassMaps:
    """Maps of ``K`` classes on one image.

    Attributes:
        logits: ``[K, S, S]`` from SAM2's decoder, positive where the class is.
        presence: ``[K]`` in ``[0, 1]``, the probability that the class is in the image, at a prior of one half.
    """

    logits: Tensor
    presence: Tensor

    @property
    def probabilities(self) -> Tensor:
        """``[K, S, S]`` in ``[0, 1]``."""
        return self.logits.sigmoid()


class ClassMapper:
    """Maps classes, given by references, on images, with a trained visual reference prompt.

    Args:
        prompt: the trained prompt.
        encoder, segmenter: the models that it was trained for.
        classes: for each class its references, at least one; see :func:`whole_images`. A reference may mark nothing.

    Raises:
        PromptMismatch: if the prompt was trained for other models or kinds of annotation, or with annotations that the
            references lack.
        ValueError: if there is no class.
    """

    def __init__(
        self,
        prompt: TrainedPrompt,
        encoder: Encoder,
        segmenter: Segmenter,
        classes: Sequence[Sequence[WholeImage]],
    ) -> None:
        if not classes:
            raise ValueError("the memory is empty: it has no reference of any class")
        prompt.check_models(encoder, segmenter)
        self._prompt, self._encoder, self._segmenter = prompt, encoder, segmenter
        self._device = segmenter.device
        self._model = prompt.model.to(self._device)
        # In training most targets show the class; here, presence is reported for even odds.
        absent = prompt.about.get("training", {}).get("absent_share", 0.0)
        self._log_odds = math.log((1 - absent) / absent) if absent else 0.0
        self._classes = classes
        self._chunks = _chunks(classes)
        self._states = [self._encode_chunk([classes[c] for c in chunk]) for chunk in self._chunks]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """For each class a hash of everything that its map depends on, besides the models and the image."""
        prompt = (self._prompt.fingerprint, self._log_odds)
        keys = []
        for chunk in self._chunks:
            # In groups of one reference each, a class is padded to the largest one beside it.
            padded = None if self._model.config.shots == "set" else max(len(self._classes[c]) for c in chunk)
            for c in chunk:
                references = [
                    (digest(r.tokens.numpy()), r.kind, digest(self._annotation(r).numpy())) for r in self._classes[c]
                ]
                keys.append(digest_content(repr((prompt, padded, references)).encode()))
        return tuple(keys)

    def map(self, image: np.ndarray | PreparedImage, preset: str | Preset = "default") -> ClassMaps:
        """Map all classes on an image, uint8 ``[H, W, 3]`` or prepared; SAM2 proposes nothing for it."""
        preset = get_preset(preset)
        tokens, embedding = encode_image(image, self._encoder, self._segmenter, preset)
        return self.maps(tokens, embedding_for_prompts(embedding, self._segmenter, preset))

    @torch.inference_mode()
    def maps(self, tokens: Tensor, embedding: ImageEmbedding, classes: Sequence[int] | None = None) -> ClassMaps:
        """Map classes on an image that was encoded before.

        Args:
            tokens: ``[h, w, C]`` patch tokens of the image.
            embedding: SAM2's, with its "no memory" embedding.
            classes: indices of at least one class, in ascending order; all where ``None``.
        """
        target = tokens.to(self._device, torch.float32).flatten(0, 1)[None]
        wanted = set(range(len(self._classes)) if classes is None else classes)
        logits, scores = [], []
        for chunk, state in zip(self._chunks, self._states, strict=True):
            rows = [row for row, c in enumerate(chunk) if c in wanted]
            if not rows:
                continue
            if len(rows) < len(chunk):
                state = state[rows]
            prompts = self._model.prompt(state, target)
            decoded = self._segmenter.decode(embedding, prompts.sparse, prompts.dense)
            logits.append(decoded.mask_logits)
            scores.append(decoded.object_score)
        return ClassMaps(torch.cat(logits), (torch.cat(scores) - self._log_odds).sigmoid())

    @torch.inference_mode()
    def _encode_chunk(self, classes: Sequence[Sequence[WholeImage]]) -> ReferenceState:
        config = self._model.config
        most, patches = max(map(len, classes)), math.prod(config.grid)
        tokens = torch.zeros(len(classes), most, patches, config.token_dim)
        weights = torch.zeros(len(classes), most, patches)
        kinds = torch.full((len(classes), most), ABSENT)
        for c, references in enumerate(classes):
            for k, reference in enumerate(references):
                tokens[c, k], weights[c, k] = reference.tokens, self._annotation(reference)
                kinds[c, k] = self._prompt.kind_index(reference.kind)
        return self._model.encode_support(tokens.to(self._device), weights.to(self._device), kinds.to(self._device))

    def _annotation(self, reference: WholeImage) -> Tensor:
        """Annotation ``[P]`` of a reference, rasterised as in the prompt's training."""
        if self._model.config.rasterisation == "cover":
            return reference.weights
        if reference.sampled is None:
            raise PromptMismatch(
                "this reference prompt was trained with annotations sampled at one pixel per patch (preset 'paper'), "
                "and this memory was built without such samples: build the memory again"
            )
        return reference.sampled


def _chunks(classes: Sequence[Sequence[WholeImage]]) -> list[list[int]]:
    """Indices of the classes that are encoded together, a few at a time, in their order."""
    chunks: list[list[int]] = [[]]
    for c in range(len(classes)):
        most = max(len(classes[other]) for other in [*chunks[-1], c])
        if chunks[-1] and most * (len(chunks[-1]) + 1) > _REFERENCES_PER_CHUNK:
            chunks.append([])
        chunks[-1].append(c)
    return chunks


def whole_images(memory: MemoryBank) -> list[list[WholeImage]]:
    """Return the reference images of every class of a memory.

    All labels of a class in one image become one annotation.

    Raises:
        PromptMismatch: if a reference of the memory has no whole image.
    """
    without = sum(entry.whole_image is None for entry in memory.entries)
    if without:
        raise PromptMismatch(
            f"{without} of the {len(memory)} references of this memory were stored without their whole images, which a "
            "reference prompt needs: build the memory again, with whole images"
        )
    by_class: dict[str, dict[tuple[str, str], WholeImage]] = {name: {} for name in memory.classes}
    for entry in memory.entries:
        image = entry.whole_image
        assert image is not None
        seen, place = by_class[entry.class_name], (image.key, image.kind)
        seen[place] = image if place not in seen else seen[place].joined(image)
    return [list(images.values()) for images in by_class.values()]
