"""Episodes as batches of tensors: frozen features, rasterised annotations, and truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...datasets.episodes import EpisodeImages
from ...references import annotation_weights
from ...segmenter import Decoded, ImageEmbedding
from ..model import ABSENT, VisualReferencePrompt, VRPConfig
from .classes import ImageId
from .episodes import TrainingEpisode, annotate
from .features import FeatureStore, ImageFeatures, stack


@dataclass(frozen=True)
class Batch:
    """``B`` episodes of up to ``K`` references.

    Attributes:
        tokens, weights, kinds: the references, see :meth:`VisualReferencePrompt.encode_support`.
        targets: ``[B, P, C]`` patch tokens of the targets.
        embedding: image embeddings of the targets.
        truth: ``[B, s, s]`` in ``[0, 1]``, covered fraction of each cell at the side of the loss.
        counted: ``[B, s, s]``: 1 for cells that count in the loss, 0 for ignored ones.
        present: ``[B]``: 1 if the target shows the class, else 0.
    """

    tokens: Tensor
    weights: Tensor
    kinds: Tensor
    targets: Tensor
    embedding: ImageEmbedding
    truth: Tensor
    counted: Tensor
    present: Tensor


class Batches:
    """Builds and decodes batches.

    Args:
        images: images and masks of the dataset.
        store: features of the images, and both models.
        vrp: configuration of the prompt to be trained.
        loss_side: side at which masks are compared; ``None`` for the side of SAM2's logits.
    """

    def __init__(self, images: EpisodeImages, store: FeatureStore, vrp: VRPConfig, loss_side: int | None) -> None:
        self.images = images
        self._store, self._vrp = store, vrp
        self._side = loss_side or store.segmenter.mask_side
        self._device = store.segmenter.device

    def build(self, episodes: Sequence[TrainingEpisode]) -> Batch:
        """Batch ``B`` episodes; those with fewer references than others are padded."""
        most = max(len(episode.references) for episode in episodes)
        empty = torch.zeros(math.prod(self._vrp.grid), self._vrp.token_dim, dtype=torch.float16)
        tokens, weights, kinds = [], [], []
        for episode in episodes:
            for k in range(most):
                if k >= len(episode.references):
                    tokens.append(empty)
                    weights.append(empty[:, 0].float())
                    kinds.append(ABSENT)
                    continue
                tokens.append(self._features(episode.references[k], episode.flips[1 + k]).tokens)
                marked, kind = annotate(self.images, episode, k), episode.kinds[k]
                weights.append(annotation_weights(marked, kind, self._vrp.grid, self._vrp.rasterisation).flatten())
                kinds.append(self._vrp.kinds.index(kind))
        targets, embedding = stack([self._features(e.target, e.flips[0]) for e in episodes], self._device)
        truth, counted = zip(*(self._truth(e) for e in episodes), strict=True)
        shape = (len(episodes), most)
        return Batch(
            torch.stack(tokens).unflatten(0, shape).to(self._device, torch.float32),
            torch.stack(weights).unflatten(0, shape).to(self._device),
            torch.tensor(kinds, device=self._device).unflatten(0, shape),
            targets,
            embedding,
            torch.stack(truth).to(self._device),
            torch.stack(counted).to(self._device),
            torch.tensor([float(not e.absent) for e in episodes], device=self._device),
        )

    def decode(self, model: VisualReferencePrompt, batch: Batch) -> Decoded:
        """Masks of a batch by SAM2's decoder (Sec. 3.3)."""
        prompts = model.prompt(model.encode_support(batch.tokens, batch.weights, batch.kinds), batch.targets)
        return self._store.segmenter.decode(batch.embedding, prompts.sparse, prompts.dense)

    def _features(self, image_id: ImageId, flipped: bool) -> ImageFeatures:
        return self._store.get(image_id, lambda: self.images.image(image_id), flipped=flipped)

    def _truth(self, episode: TrainingEpisode) -> tuple[Tensor, Tensor]:
        """Covered fraction and counted cells, ``[s, s]`` each, of the target, mirrored if it is."""
        truth = self.images.mask(episode.target, episode.class_id)
        ignored = self.images.ignored(episode.target)
        side = self._side

        def shrink(mask: np.ndarray) -> Tensor:
            mask = np.ascontiguousarray(mask[:, ::-1]) if episode.flips[0] else mask
            return annotation_weights(mask, "mask", (side, side))

        counted = torch.ones(side, side) if ignored is None else (shrink(ignored) == 0).float()
        return shrink(truth), counted
