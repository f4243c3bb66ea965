"""Cache of encoded references, keyed by their content."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..encoder import Encoder
from ..images import digest, normalise, stretch
from ..memory import instance_prototype
from ..presets import Preset
from ..references import Reference
from .tensors import TensorCache, content_key

REFERENCE, IMAGE = "reference", "image"
"""Kinds of cached content, see :func:`nts.cache.content_key`."""


class ReferenceCache:
    """Instance prototypes, and tokens of whole images, of one encoder.

    Args:
        cache: where they are stored; ``None`` stores nothing.
        encoder: the encoder.
        preset: decides how references are prepared.
    """

    def __init__(self, cache: TensorCache | None, encoder: Encoder, preset: Preset) -> None:
        self._cache, self._encoder, self._preset = cache, encoder, preset
        self._last: tuple[np.ndarray, str] | None = None
        self._last_tokens: tuple[str, Tensor] | None = None

    def key(self, reference: Reference) -> str | None:
        """Key of a reference; ``None`` without a cache, because hashing all pixels takes a while."""
        if self._cache is None:
            return None
        box = reference.box
        return content_key(
            REFERENCE,
            image=self._digest(reference.image),
            mask=digest(np.asarray(reference.mask)),
            box=None if box is None else [float(side) for side in box],
            marked_by=reference.kind,
            promoted=reference.promoted,
            antialias=self._preset.antialias,
            patch_weights=self._preset.patch_weights,
            **self._encoder_settings(),
        )

    def get(self, key: str | None) -> tuple[Tensor, float] | None:
        """Return the instance prototype ``[C]`` of a reference and its weight in patches, if they are cached."""
        found = None if self._cache is None or key is None else self._cache.get(key)
        if found is None:
            return None
        tensors, header = found
        return tensors["prototype"], float(header["weight"])

    def put(self, key: str | None, tokens: Tensor, weights: Tensor) -> tuple[Tensor, float]:
        """Compute, store and return the instance prototype (paper, Eq. 1) and the weight of a reference.

        Args:
            key: of the reference.
            tokens: ``[h, w, C]`` patch tokens of its crop.
            weights: ``[h, w]`` weights of its mask.
        """
        prototype, weight = instance_prototype(tokens.flatten(0, 1), weights.flatten()), float(weights.sum())
        if self._cache is not None and key is not None:
            self._cache.put(key, {"prototype": prototype}, {"weight": repr(weight)})
        return prototype, weight

    def whole_tokens(self, image: np.ndarray) -> tuple[str, Tensor]:
        """Return the digest of an image and its patch tokens, half precision ``[P, C]``."""
        name = self._digest(image)
        if self._last_tokens is None or self._last_tokens[0] != name:
            self._last_tokens = name, self._tokens(name, image)
        return self._last_tokens

    def _tokens(self, name: str, image: np.ndarray) -> Tensor:
        key = content_key(IMAGE, image=name, **self._encoder_settings())
        found = None if self._cache is None else self._cache.get(key)
        if found is not None:
            return found[0]["tokens"]
        pixels = normalise(stretch(image, self._encoder.info.input_size))
        tokens = self._encoder.encode(pixels[None])[0].flatten(0, 1).half().cpu()
        if self._cache is not None:
            self._cache.put(key, {"tokens": tokens})
        return tokens

    def _encoder_settings(self) -> dict[str, str | int]:
        info = self._encoder.info
        return {"encoder": info.fingerprint, "size": info.input_size, "precision": self._encoder.precision}

    def _digest(self, image: np.ndarray) -> str:
        # References of one image follow each other, so the last digest is often asked for again.
        if self._last is None or self._last[0] is not image:
            self._last = image, digest(image)
        return self._last[1]
