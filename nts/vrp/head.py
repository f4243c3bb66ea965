"""A trained reference prompt in use: references of classes in, a map of every class on an image out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoder import Encoder
from ..memory import MemoryBank, WholeImage
from ..segmenter import ImageEmbedding, Segmenter
from .model import ABSENT, ReferenceState
from .prompt import PromptMismatch, TrainedPrompt

_REFERENCES_AT_ONCE = 32
"""Of all classes that are looked at together: what they take grows with their number, that of the patches squared."""


@dataclass(frozen=True)
class ClassMaps:
    """What a prompt sees of ``K`` classes in an image.

    Attributes:
        logits: ``[K, S, S]``, positive where the class is; of SAM2's decoder.
        presence: ``[K]`` in ``[0, 1]``: is the class in the image at all? As if half of all images had it.
    """

    logits: Tensor
    presence: Tensor

    @property
    def probabilities(self) -> Tensor:
        """``[K, S, S]`` in ``[0, 1]``."""
        return self.logits.sigmoid()


class PromptHead:
    """A reference prompt, with the two models that it was trained for.

    Args:
        prompt: the trained prompt.
        encoder: its encoder.
        segmenter: its segmenter.

    Raises:
        PromptMismatch: if it was trained for other models.
    """

    def __init__(self, prompt: TrainedPrompt, encoder: Encoder, segmenter: Segmenter) -> None:
        prompt.check_models(encoder, segmenter)
        self.prompt = prompt
        self._segmenter = segmenter
        self._device = segmenter.device
        self._model = prompt.model.to(self._device)
        # In training most targets showed the class. In use a class is as likely to be there as not, for all we know.
        absent = prompt.about.get("training", {}).get("absent_share", 0.0)
        self._log_odds = math.log((1 - absent) / absent) if absent else 0.0

    @torch.inference_mode()
    def look(self, classes: Sequence[Sequence[WholeImage]]) -> list[ReferenceState]:
        """Look at the references of classes, once for all targets.

        Args:
            classes: for each class its references, at least one. A reference of no weight at all is an empty one.

        Returns:
            states, each of a few of the classes, in their order.
        """
        chunks: list[list[Sequence[WholeImage]]] = [[]]
        for references in classes:
            most = max(map(len, [*chunks[-1], references]))
            if chunks[-1] and most * (len(chunks[-1]) + 1) > _REFERENCES_AT_ONCE:
                chunks.append([])
            chunks[-1].append(references)
        return [self._look(chunk) for chunk in chunks]

    @torch.inference_mode()
    def maps(self, states: Sequence[ReferenceState], tokens: Tensor, embedding: ImageEmbedding) -> ClassMaps:
        """Maps of all classes on one image.

        Args:
            states: of the classes, by :meth:`look`.
            tokens: ``[h, w, C]`` patch tokens of the image.
            embedding: SAM2's, with its "no memory" embedding.
        """
        target = tokens.to(self._device, torch.float32).flatten(0, 1)[None]
        logits, scores = [], []
        for state in states:
            prompts = self._model.prompt(state, target)
            decoded = self._segmenter.decode(embedding, prompts.sparse, prompts.dense)
            logits.append(decoded.mask_logits)
            scores.append(decoded.object_score)
        return ClassMaps(torch.cat(logits), (torch.cat(scores) - self._log_odds).sigmoid())

    def _look(self, classes: Sequence[Sequence[WholeImage]]) -> ReferenceState:
        config = self.prompt.model.config
        most, patches = max(map(len, classes)), math.prod(config.grid)
        tokens = torch.zeros(len(classes), most, patches, config.token_dim)
        weights = torch.zeros(len(classes), most, patches)
        kinds = torch.full((len(classes), most), ABSENT)
        for c, references in enumerate(classes):
            for k, reference in enumerate(references):
                tokens[c, k], weights[c, k] = reference.tokens, self._annotation(reference)
                kinds[c, k] = self.prompt.kind_index(reference.kind)
        return self._model.encode_support(tokens.to(self._device), weights.to(self._device), kinds.to(self._device))

    def _annotation(self, reference: WholeImage) -> Tensor:
        """Annotation ``[P]`` of a reference, rasterised as in the prompt's training."""
        if self.prompt.model.config.rasterisation == "cover":
            return reference.weights
        if reference.sampled is None:
            raise PromptMismatch(
                "this reference prompt was trained with annotations sampled at one pixel per patch (preset 'paper'), "
                "and this memory was built without such samples: build the memory again"
            )
        return reference.sampled


def whole_images(memory: MemoryBank) -> list[list[WholeImage]]:
    """For every class of a memory its reference images, with all labels of the class in an image as one annotation.

    Raises:
        PromptMismatch: if a reference of the memory was kept without its whole image.
    """
    without = sum(entry.whole_image is None for entry in memory.entries)
    if without:
        raise PromptMismatch(
            f"{without} of the {len(memory)} references of this memory were kept without their whole images, which a "
            "reference prompt needs: build the memory again, with whole images"
        )
    by_class: dict[str, dict[tuple[str, str], WholeImage]] = {name: {} for name in memory.classes}
    for entry in memory.entries:
        image = entry.whole_image
        assert image is not None
        seen, place = by_class[entry.class_name], (image.key, image.kind)
        seen[place] = image if place not in seen else seen[place].joined(image)
    return [list(images.values()) for images in by_class.values()]
