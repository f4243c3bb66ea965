"""Outputs of the two frozen models, computed once per image: neither model changes while a prompt is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...cache import TensorCache, content_key
from ...encoder import Encoder
from ...images import digest, prepare_target
from ...segmenter import ImageEmbedding, Segmenter

FEATURES_BUDGET = 20 << 30
"""Bytes on disk for the features of a training; about 10 MB per image with the large models."""
MEMORY_BUDGET = 2 << 30

_FEATURES = "training-features"
"""Kind of the cache entries, see :func:`nts.cache.content_key`."""


@dataclass(frozen=True)
class ImageFeatures:
    """Features of an image in half precision.

    Attributes:
        tokens: ``[P, C]`` patch tokens of the whole image.
        embedding: SAM2's image embedding, including the "no memory" embedding that its decoder was trained with.
    """

    tokens: Tensor
    embedding: ImageEmbedding

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        embedding = self.embedding
        return sum(x.nbytes for x in (self.tokens, embedding.features, *embedding.high_resolution))


class FeatureStore:
    """Features of images, computed on first use, then served from memory or from a cache on disk.

    Args:
        encoder: DINOv2.
        segmenter: SAM2.
        cache: cache on disk; without one, features that leave memory are computed again.
        memory_budget: maximal bytes in memory; the least recently used features are dropped.
    """

    def __init__(
        self,
        encoder: Encoder,
        segmenter: Segmenter,
        cache: TensorCache | None = None,
        *,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        self.encoder, self.segmenter = encoder, segmenter
        self._cache = cache
        self._memory_left = memory_budget
        self._in_memory: OrderedDict[Hashable, ImageFeatures] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], np.ndarray], *, flipped: bool = False) -> ImageFeatures:
        """Return the features of an image.

        Args:
            key: name of the image, unique within this store.
            read: returns the image, uint8 ``[H, W, 3]``; called if the features are not in memory.
            flipped: of the mirrored image.
        """
        place = (key, flipped)
        if place in self._in_memory:
            self._in_memory.move_to_end(place)
            return self._in_memory[place]
        image = read()
        features = self._read_or_compute(image[:, ::-1].copy() if flipped else image)
        self._memory_left -= features.nbytes
        self._in_memory[place] = features
        while self._memory_left < 0 and len(self._in_memory) > 1:
            _, oldest = self._in_memory.popitem(last=False)
            self._memory_left += oldest.nbytes
        return features

    def _read_or_compute(self, image: np.ndarray) -> ImageFeatures:
        if self._cache is None:
            return self._compute(image)
        key = self._cache_key(image)
        if (found := self._cache.get(key)) is not None:
            tensors, _ = found
            levels = tuple(tensors[name] for name in sorted(tensors) if name.startswith("level"))
            return ImageFeatures(tensors["tokens"], ImageEmbedding(tensors["features"], levels))
        computed = self._compute(image)
        tensors = {"tokens": computed.tokens, "features": computed.embedding.features}
        tensors |= {f"level{k}": level for k, level in enumerate(computed.embedding.high_resolution)}
        self._cache.put(key, tensors)
        return computed

    def _compute(self, image: np.ndarray) -> ImageFeatures:
        encoder_input, segmenter_input = prepare_target(image, self.encoder.info.input_size, self.segmenter.input_size)
        tokens = self.encoder.encode(encoder_input[None])[0].flatten(0, 1)
        embedding = self.segmenter.embed(segmenter_input)
        # Cloned, as tensors made in inference mode cannot take part in training.
        half = [
            x.to("cpu", torch.float16).clone(memory_format=torch.contiguous_format)
            for x in (tokens, embedding.features, *embedding.high_resolution)
        ]
        return ImageFeatures(half[0], ImageEmbedding(half[1], tuple(half[2:])))

    def _cache_key(self, image: np.ndarray) -> str:
        return content_key(
            _FEATURES,
            image=digest(image),
            encoder=self.encoder.info.fingerprint,
            encoder_size=self.encoder.info.input_size,
            encoder_precision=self.encoder.precision,
            segmenter=self.segmenter.fingerprint,
            segmenter_size=self.segmenter.input_size,
            segmenter_precision=self.segmenter.precision,
        )


def stack(features: Sequence[ImageFeatures], device: torch.device) -> tuple[Tensor, ImageEmbedding]:
    """Batch the features of ``B`` images in single precision: tokens ``[B, P, C]`` and embeddings."""

    def batch(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).to(device, torch.float32)

    tokens = batch([of.tokens[None] for of in features])
    levels = zip(*(of.embedding.high_resolution for of in features), strict=True)
    embedding = ImageEmbedding(
        batch([of.embedding.features for of in features]), tuple(batch(level) for level in levels)
    )
    return tokens, embedding
