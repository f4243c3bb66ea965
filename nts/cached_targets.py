"""Encoded targets with a cache, keyed by the content of the images.

The steps can run in different threads: :meth:`~CachedTargets.fetch_file` ahead of the models,
:meth:`~CachedTargets.encode` with them, and :meth:`~CachedTargets.store` after the matching, which may have embedded
crops or scored classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from .cache import TensorCache
from .cache.targets import (
    crops_key,
    prompt_scores_key,
    read_crops,
    read_prompt_scores,
    read_target,
    write_crops,
    write_prompt_scores,
    write_target,
)
from .crops import TargetCrops
from .images import PreparedImage, digest, digest_content, image_size, read_file, read_image
from .pipeline import TargetEncoder
from .prompt_scores import PromptScores
from .targets import EncodedImage, EncodedTarget, Target
from .tiling import TiledImage

Content = TypeVar("Content")


@dataclass(frozen=True)
class Fetched:
    """An image on its way to the matching.

    Attributes:
        target: from the cache, or else the image, prepared for the models, or already seen by the image encoders.
        key: of the target in the cache; ``None`` without a cache.
    """

    target: Target | PreparedImage | EncodedImage | TiledImage
    key: str | None

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.target.image_size

    @property
    def from_cache(self) -> bool:
        """Whether the target came from the cache."""
        return isinstance(self.target, Target)


class CachedTargets:
    """Encodes only images whose targets are not in the cache.

    Args:
        encoder: of targets.
        cache: of targets; ``None`` for none.
    """

    def __init__(self, encoder: TargetEncoder, cache: TensorCache | None) -> None:
        self._encoder, self._cache = encoder, cache

    @property
    def images_per_batch(self) -> int:
        """See :attr:`.TargetEncoder.images_per_batch`."""
        return self._encoder.images_per_batch

    def fetch_file(self, path: str | os.PathLike) -> Fetched:
        """Read an image file, and decode it unless its target is in the cache.

        Raises:
            ImageError: if the file cannot be read or is not an image.
        """
        content, exif = read_file(path), self._encoder.preset.exif
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
            return Fetched(self._encoder.prepare(decode()), None)
        key = self._encoder.key(digest_of(content), size() if self._encoder.makes_tiles else None)
        target = read_target(self._cache, key)
        if target is None:
            return Fetched(self._encoder.prepare(decode()), key)
        if self._encoder.preset.method.crops:
            known = read_crops(self._cache, self._crops_key(key))
            target = replace(target, embedded=TargetCrops(decode, self._encoder.encoder, known))
        if target.as_scored is not None:
            side = self._encoder.segmenter.mask_side
            prompted = PromptScores(
                partial(target.as_scored.filled, (side, side)),
                lambda: self._encoder.encode_for_prompts(decode()),
                read_prompt_scores(self._cache, prompt_scores_key(key)),
            )
            target = replace(target, prompted=prompted)
        return Fetched(target, key)

    def encode_together(self, images: Sequence[Fetched]) -> list[Fetched]:
        """Run the image encoders at once on those images that need them, for :meth:`encode`; for a GPU."""
        prepared = [image.target for image in images if isinstance(image.target, PreparedImage)]
        encoded = iter(self._encoder.encode_together(prepared))
        return [
            replace(image, target=next(encoded)) if isinstance(image.target, PreparedImage) else image
            for image in images
        ]

    def encode(self, image: Fetched) -> EncodedTarget | Target:
        """The target of an image; the models run if it is not cached."""
        return image.target if isinstance(image.target, Target) else self._encoder.encode(image.target)

    def store(self, key: str | None, target: EncodedTarget | Target, *, from_cache: bool) -> None:
        """Write to the cache what is new of a target: itself, features of its crops, and its scores by prompts.

        Args:
            key, from_cache: of the image as it was fetched. The image itself is not needed: the inputs of the models
                are large, and results may wait for this.
            target: after the matching.
        """
        if self._cache is None or key is None:
            return
        if not from_cache:
            write_target(self._cache, key, target.compact())
        if target.embedded is not None and target.embedded.new:
            write_crops(self._cache, self._crops_key(key), target.embedded.features)
        if target.prompted is not None and target.prompted.new:
            write_prompt_scores(self._cache, prompt_scores_key(key), target.prompted.scores, target.prompted.used)

    def _crops_key(self, key: str) -> str:
        return crops_key(key, self._encoder.encoder)
