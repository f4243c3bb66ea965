"""Segmentation with a cache of encoded targets, see :mod:`nts.cached_targets`.

>>> from nts.cache import default_cache
>>> cached = CachedSegmenter(segmenter, default_cache())
>>> found = cached.segment(cached.fetch_file("street.jpg"))
>>> cached.store(found)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cache import TensorCache
from .cached_targets import CachedTargets, Fetched
from .instances import Instances
from .pipeline import ReferenceSegmenter
from .settled import Settled
from .targets import EncodedTarget, Target


@dataclass(frozen=True)
class Segmented:
    """Result for an image.

    Attributes:
        instances: found in the image.
        target: of the image, with crops and scores that may be new; ``None`` if another process has it.
        key: of the target in the cache; ``None`` without a cache here.
        from_cache: whether the target came from a cache, here or where it was segmented.
    """

    instances: Instances
    target: EncodedTarget | Target | None = None
    key: str | None = None
    from_cache: bool = False


class CachedSegmenter:
    """Segmenter that runs its models only on images that are not in the cache.

    Args:
        segmenter: the segmenter.
        cache: of targets. It is not used if the segmenter's scorer cannot score cached targets.
    """

    def __init__(self, segmenter: ReferenceSegmenter, cache: TensorCache | None) -> None:
        self.segmenter = segmenter
        self._targets = CachedTargets(segmenter.targets, cache if segmenter.scorer.scores_cached_targets else None)

    @property
    def images_per_batch(self) -> int:
        """See :attr:`.TargetEncoder.images_per_batch`."""
        return self._targets.images_per_batch

    def fetch_file(self, path: str | os.PathLike) -> Fetched:
        """See :meth:`.CachedTargets.fetch_file`."""
        return self._targets.fetch_file(path)

    def fetch(self, image: np.ndarray) -> Fetched:
        """See :meth:`.CachedTargets.fetch`."""
        return self._targets.fetch(image)

    def encode_together(self, images: Sequence[Fetched]) -> list[Fetched]:
        """See :meth:`.CachedTargets.encode_together`."""
        return self._targets.encode_together(images)

    def segment(self, image: Fetched, settled: Settled | None = None) -> Segmented:
        """Find instances in an image; the models run if its target is not cached.

        Args:
            image: the image.
            settled: see :meth:`.ReferenceSegmenter.match`.
        """
        target = self._targets.encode(image)
        return Segmented(self.segmenter.match(target, settled), target, image.key, image.from_cache)

    def store(self, image: Segmented) -> None:
        """See :meth:`.CachedTargets.store`."""
        if image.target is not None:
            self._targets.store(image.key, image.target, from_cache=image.from_cache)
