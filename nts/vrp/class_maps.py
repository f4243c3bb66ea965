"""Class maps: for every class of some references, where it is in an image, and whether it is there at all (VRP-SAM)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..encoder import Encoder
from ..images import PreparedImage
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
        self._states = self._encode_references(classes)

    def map(self, image: np.ndarray | PreparedImage, preset: str | Preset = "default") -> ClassMaps:
        """Map all classes on an image, uint8 ``[H, W, 3]`` or prepared; SAM2 proposes nothing for it."""
        preset = get_preset(preset)
        tokens, embedding = encode_image(image, self._encoder, self._segmenter, preset)
        return self.maps(tokens, embedding_for_prompts(embedding, self._segmenter, preset))

    @torch.inference_mode()
    def maps(self, tokens: Tensor, embedding: ImageEmbedding) -> ClassMaps:
        """Map all classes on an image that was encoded before.

        Args:
            tokens: ``[h, w, C]`` patch tokens of the image.
            embedding: SAM2's, with its "no memory" embedding.
        """
        target = tokens.to(self._device, torch.float32).flatten(0, 1)[None]
        logits, scores = [], []
        for state in self._states:
            prompts = self._model.prompt(state, target)
            decoded = self._segmenter.decode(embedding, prompts.sparse, prompts.dense)
            logits.append(decoded.mask_logits)
            scores.append(decoded.object_score)
        return ClassMaps(torch.cat(logits), (torch.cat(scores) - self._log_odds).sigmoid())

    @torch.inference_mode()
    def _encode_references(self, classes: Sequence[Sequence[WholeImage]]) -> list[ReferenceState]:
        """Encode the references of all classes, a few classes at a time, in their order."""
        chunks: list[list[Sequence[WholeImage]]] = [[]]
        for references in classes:
            most = max(map(len, [*chunks[-1], references]))
            if chunks[-1] and most * (len(chunks[-1]) + 1) > _REFERENCES_PER_CHUNK:
                chunks.append([])
            chunks[-1].append(references)
        return [self._encode_chunk(chunk) for chunk in chunks]

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
