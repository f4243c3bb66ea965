"""Segmenting without encoding an image twice: by a cache of targets, known by the content of their images.

The three steps can be taken in three threads: look an image up ahead of the models, segment it, keep what is new behind
them.

>>> from nts.cache import default_cache
>>> cached = CachedSegmenter(segmenter, default_cache())
>>> found = cached.segment(cached.look_up_file("street.jpg"))
>>> cached.keep(found)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .cache import TensorCache
from .cache.targets import keep_target, read_target
from .images import PreparedImage, digest, digest_content, read_file, read_image
from .instances import Instances
from .pipeline import EncodedTarget, ReferenceSegmenter
from .targets import Target

Content = TypeVar("Content")


@dataclass(frozen=True)
class LookedUp:
    """An image's target, where it had been kept, or else the image, ready for the models.

    Attributes:
        found: one of the two.
        key: of the target in the cache; ``None`` without a cache.
    """

    found: Target | PreparedImage
    key: str | None


@dataclass(frozen=True)
class Segmented:
    """What was found in an image.

    Attributes:
        instances: what was found.
        encoded: what the models made of the image; ``None`` where they did not run.
        key: of its target in the cache; ``None`` without a cache.
    """

    instances: Instances
    encoded: EncodedTarget | None
    key: str | None


class CachedSegmenter:
    """A segmenter that runs its models on no image that it, or another with the same models, has seen before.

    Args:
        segmenter: the segmenter. One with a reference prompt looks at every image anew, and uses no cache.
        cache: of targets; without one, too, every image is encoded.
    """

    def __init__(self, segmenter: ReferenceSegmenter, cache: TensorCache | None) -> None:
        self.segmenter = segmenter
        self._cache = cache if segmenter.keeps_targets else None

    def look_up_file(self, path: str | os.PathLike) -> LookedUp:
        """An image by the content of its file, so that a known one need not even be decoded.

        Raises:
            ImageError: if the file cannot be read, or is no image.
        """
        content = read_file(path)
        key, target = self._find(digest_content, content)
        if target is not None:
            return LookedUp(target, key)
        image = read_image(path, exif=self.segmenter.preset.exif, content=content)
        return LookedUp(self.segmenter.prepare(image), key)

    def look_up(self, image: np.ndarray) -> LookedUp:
        """An image, uint8 ``[H, W, 3]``, by its pixels."""
        key, target = self._find(digest, image)
        return LookedUp(self.segmenter.prepare(image) if target is None else target, key)

    def _find(self, name: Callable[[Content], str], content: Content) -> tuple[str | None, Target | None]:
        if self._cache is None:
            return None, None
        key = self.segmenter.target_key(name(content))
        return key, read_target(self._cache, key)

    def segment(self, image: LookedUp) -> Segmented:
        """Run the models, if they must be run, and match."""
        if isinstance(image.found, Target):
            return Segmented(self.segmenter.match_target(image.found), None, image.key)
        encoded = self.segmenter.encode(image.found)
        return Segmented(self.segmenter.match(encoded), encoded, image.key)

    def keep(self, image: Segmented) -> None:
        """Keep what is new."""
        if self._cache is not None and image.key is not None and image.encoded is not None:
            keep_target(self._cache, image.key, image.encoded.target())
