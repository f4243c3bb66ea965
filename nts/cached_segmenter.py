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
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from .cache import TensorCache
from .cache.targets import crops_key, read_crops, read_target, write_crops, write_target
from .crops import TargetCrops
from .images import PreparedImage, digest, digest_content, image_size, read_file, read_image
from .instances import Instances
from .pipeline import ReferenceSegmenter
from .settled import Settled
from .targets import EncodedTarget, Target
from .tiling import TiledImage

Content = TypeVar("Content")


@dataclass(frozen=True)
class Fetched:
    """An image on its way to the matching.

    Attributes:
        target: from the cache, or else the image, prepared for the models.
        key: of the target in the cache; ``None`` without a cache.
    """

    target: Target | PreparedImage | TiledImage
    key: str | None


@dataclass(frozen=True)
class Segmented:
    """Result for an image.

    Attributes:
        instances: found in the image.
        encoded: output of the models; ``None`` if the target came from the cache.
        key: of the target in the cache; ``None`` without a cache.
        crops: features of proposals from their crops, some of which may be new; ``None`` if the method uses none.
        from_cache: whether the target came from a cache, here or where it was segmented.
    """

    instances: Instances
    encoded: EncodedTarget | Target | None
    key: str | None
    crops: TargetCrops | None = None
    from_cache: bool = False


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
        content, exif = read_file(path), self.segmenter.preset.exif
        return self._fetch(
            digest_content,
            content,
            lambda: image_size(path, exif=exif, content=content),
            lambda: read_image(path, exif=exif, content=content),
        )

    def fetch(self, image: np.ndarray) -> Fetched:
        """As :meth:`fetch_file`, for an image in memory, uint8 ``[H, W, 3]``."""
        return self._fetch(digest, image, lambda: (image.shape[0], image.shape[1]), lambda: image)

    def _fetch(
        self,
        digest_of: Callable[[Content], str],
        content: Content,
        size: Callable[[], tuple[int, int]],
        decode: Callable[[], np.ndarray],
    ) -> Fetched:
        if self._cache is None:
            return Fetched(self.segmenter.prepare(decode()), None)
        key = self.segmenter.target_key(digest_of(content), size() if self.segmenter.makes_tiles else None)
        target = read_target(self._cache, key)
        if target is None:
            return Fetched(self.segmenter.prepare(decode()), key)
        if self.segmenter.uses_crops:
            known = read_crops(self._cache, self._crops_key(key))
            target = replace(target, embedded=TargetCrops(decode, self.segmenter.encoder, known))
        return Fetched(target, key)

    def _crops_key(self, key: str) -> str:
        return crops_key(key, self.segmenter.encoder)

    def segment(self, image: Fetched, settled: Settled | None = None) -> Segmented:
        """Find instances in an image; the models run if its target is not cached.

        Args:
            image: the image.
            settled: see :meth:`.ReferenceSegmenter.match`.
        """
        if isinstance(image.target, Target):
            found = self.segmenter.match(image.target, settled)
            return Segmented(found, None, image.key, image.target.embedded, from_cache=True)
        encoded = self.segmenter.encode(image.target)
        return Segmented(self.segmenter.match(encoded, settled), encoded, image.key, encoded.embedded)

    def store(self, image: Segmented) -> None:
        """Write the target of an image and the features of its crops to the cache, if they are new."""
        if self._cache is None or image.key is None:
            return
        if image.encoded is not None:
            write_target(self._cache, image.key, image.encoded.compact())
        if image.crops is not None and image.crops.new:
            write_crops(self._cache, self._crops_key(image.key), image.crops.features)
