"""References kept by their content: adding one to a memory encodes one, however many it has."""

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
"""The kinds of what is kept, see :func:`nts.cache.content_key`."""


class KeptReferences:
    """What an encoder makes of references, found in a cache or put there.

    Args:
        cache: nothing is found without one.
        encoder: the encoder.
        preset: how references are prepared.
    """

    def __init__(self, cache: TensorCache | None, encoder: Encoder, preset: Preset) -> None:
        self._cache, self._encoder, self._preset = cache, encoder, preset
        self._last: tuple[np.ndarray, str] | None = None
        self._last_tokens: tuple[str, Tensor] | None = None

    def key(self, reference: Reference) -> str | None:
        """Names a reference; ``None`` without a cache, for looking at all of its pixels takes a while."""
        if self._cache is None:
            return None
        box = reference.box
        return content_key(
            REFERENCE,
            image=self._name(reference.image),
            mask=digest(np.asarray(reference.mask)),
            box=None if box is None else [float(side) for side in box],
            marked_by=reference.kind,
            promoted=reference.promoted,
            antialias=self._preset.antialias,
            patch_weights=self._preset.patch_weights,
            **self._about_encoder(),
        )

    def find(self, key: str | None) -> tuple[Tensor, float] | None:
        """The instance prototype ``[C]`` of a reference and its weight in patches, if they are known."""
        kept = None if self._cache is None or key is None else self._cache.get(key)
        if kept is None:
            return None
        tensors, header = kept
        return tensors["prototype"], float(header["weight"])

    def keep(self, key: str | None, tokens: Tensor, weights: Tensor) -> tuple[Tensor, float]:
        """As :meth:`find`, of tokens ``[h, w, C]`` and weights ``[h, w]`` that were made now."""
        prototype, weight = instance_prototype(tokens.flatten(0, 1), weights.flatten()), float(weights.sum())
        if self._cache is not None and key is not None:
            self._cache.put(key, {"prototype": prototype}, {"weight": repr(weight)})
        return prototype, weight

    def whole_tokens(self, image: np.ndarray) -> tuple[str, Tensor]:
        """A name made of its pixels, and half precision ``[P, C]`` patch tokens of a whole image."""
        name = self._name(image)
        if self._last_tokens is None or self._last_tokens[0] != name:
            self._last_tokens = name, self._tokens(name, image)
        return self._last_tokens

    def _tokens(self, name: str, image: np.ndarray) -> Tensor:
        key = content_key(IMAGE, image=name, **self._about_encoder())
        kept = None if self._cache is None else self._cache.get(key)
        if kept is not None:
            return kept[0]["tokens"]
        pixels = normalise(stretch(image, self._encoder.info.input_size))
        tokens = self._encoder.encode(pixels[None])[0].flatten(0, 1).half().cpu()
        if self._cache is not None:
            self._cache.put(key, {"tokens": tokens})
        return tokens

    def _about_encoder(self) -> dict[str, str | int]:
        info = self._encoder.info
        return {"encoder": info.fingerprint, "size": info.input_size, "precision": self._encoder.precision}

    def _name(self, image: np.ndarray) -> str:
        # References of one image follow each other.
        if self._last is None or self._last[0] is not image:
            self._last = image, digest(image)
        return self._last[1]
