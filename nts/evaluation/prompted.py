"""A trained reference prompt as a head of episodes: its map of the class, and the control that shows it nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..encoder import Encoder
from ..masks import draw_masks
from ..memory import WholeImage
from ..references import Reference, annotation_weights
from ..vrp.head import PromptHead
from ..vrp.prompt import ReferencePrompt
from .heads import Baselines


class PromptedMap:
    """Where the map of a reference prompt is positive.

    Args:
        models: the two models, and what they made of images before.
        encoder: the first of them.
        prompt: the trained prompt.
        empty: show it the reference images without their annotations: the control of whether they matter.

    Raises:
        PromptMismatch: if the prompt was trained for other models.
    """

    def __init__(self, models: Baselines, encoder: Encoder, prompt: ReferencePrompt, *, empty: bool = False) -> None:
        self._models, self._config, self._empty = models, prompt.model.config, empty
        self._head = PromptHead(prompt, encoder, models.segmenter)

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.evaluation.episodes.Predictor`. References of one image need one sample id."""
        states = self._head.look([[self._whole_image(reference) for reference in references]])
        tokens = self._models.target_tokens(target).unflatten(0, self._config.grid)
        maps = self._head.maps(states, tokens, self._models.embedding(target))
        return draw_masks(maps.logits, target.shape[:2])[0].cpu().numpy()

    def _whole_image(self, reference: Reference) -> WholeImage:
        kind = "mask" if reference.promoted else reference.kind
        weights = annotation_weights(reference.mask, kind, self._config.grid, self._config.rasterisation).flatten()
        image = WholeImage(reference.sample_id, self._models.tokens(reference), weights, kind)
        return replace(image, weights=weights * 0) if self._empty else image
