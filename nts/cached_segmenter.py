"""Segmentation with a cache of encoded targets, keyed by the content of the images.

The three steps can run in three threads: :meth:`~CachedSegmenter.fetch_file` ahead of the models,
:meth:`~CachedSegmenter.segment` with them, :meth:`~CachedSegmenter.store` after them.

>>> from nts.cache import default_cache
>>> cached = CachedSegmenter(segmenter, default_cache())
>>> found = cached.segment(cached.fetch_file("street.jpg"))
>>> cached.store(found)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .cache import TensorCache
from .cache.targets import read_target, write_target
from .images import PreparedImage, digest, digest_content, read_file, read_image
from .instances import Instances
from .pipeline import ReferenceSegmenter
from .targets import EncodedTarget, Target

Content = TypeVar("Content")


@dataclass(frozen=True)
class Fetched:
    """An image on its way to the matching.

    Attributes:
        target: from the cache, or else the image, prepared for the models.
        key: of the target in the cache; ``None`` without a cache.
    """

    target: Target | PreparedImage
    key: str | None


@dataclass(frozen=True)
class Segmented:
    """Result for an image.

    Attributes:
        instances: found in the image.
        encoded: output of the models; ``None`` if the target came from the cache.
        key: of the target in the cache; ``None`` without a cache.
    """

    instances: Instances
    encoded: EncodedTarget | None
    key: str | None


class CachedSegmenter:
    """Segmenter that runs its models only on images that are not in the cache.

    Args:
        segmenter: the segmenter.
        cache: of targets. It is not used if the segmenter's scorer cannot score cached targets.
    """

    def __init__(self, segmenter: ReferenceSegmenter, cache: TensorCache | None) -> None:
        self.segmenter = segmenter
        self._cache = cache if segmenter.scorer.scores_cached_targets else None

    def fetch_file(self, path: str | os.PathLike) -> Fetched:
        """Read an image file, and decode it unless its target is in the cache.

        Raises:
            ImageError: if the file cannot be read or is not an image.
        """
        content = read_file(path)
        key, target = self._find(digest_content, content)
        if target is not None:
            return Fetched(target, key)
        image = read_image(path, exif=self.segmenter.preset.exif, content=content)
        return Fetched(self.segmenter.prepare(image), key)

    def fetch(self, image: np.ndarray) -> Fetched:
        """As :meth:`fetch_file`, for an image in memory, uint8 ``[H, W, 3]``."""
        key, target = self._find(digest, image)
        return Fetched(self.segmenter.prepare(image) if target is None else target, key)

    def _find(self, digest_of: Callable[[Content], str], content: Content) -> tuple[str | None, Target | None]:
        if self._cache is None:
            return None, None
        key = self.segmenter.target_key(digest_of(content))
        return key, read_target(self._cache, key)

    def segment(self, image: Fetched) -> Segmented:
        """Find instances in an image; the models run if its target is not cached."""
        if isinstance(image.target, Target):
            return Segmented(self.segmenter.match(image.target), None, image.key)
        encoded = self.segmenter.encode(image.target)
        return Segmented(self.segmenter.match(encoded), encoded, image.key)

    def store(self, image: Segmented) -> None:
        """Write the target of an image to the cache, if it is new."""
        if self._cache is not None and image.key is not None and image.encoded is not None:
            write_target(self._cache, image.key, image.encoded.compact())
