"""Encodings that predictors share, so that none encodes an image again.

There are two caches because predictors need two kinds of encodings. :class:`SharedEncodings` holds whole images as the
baselines and the maps of a reference prompt use them, without a preset and without proposals. :class:`SharedPipeline`
holds memory entries and targets of the pipeline, as a preset prepares them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
from torch import Tensor

from ..building import Skipped, encode_references
from ..cache import TensorCache
from ..cached_targets import CachedTargets, Fetched
from ..encoder import Encoder
from ..images import digest, normalise, stretch
from ..memory import MemoryEntry
from ..pipeline import TargetEncoder
from ..presets import Preset, get_preset
from ..references import InvalidReference, Reference
from ..segmenter import ImageEmbedding, Segmenter
from ..targets import EncodedTarget, Target
from ..utils.prefetch import prefetch_together

TOKENS_BUDGET = 512 << 20
"""Bytes of reference tokens in memory."""


class SharedEncodings:
    """Patch tokens of whole images, and SAM2's embedding of the last target.

    Args:
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        budget: bytes of reference tokens to hold; the least recently used go first.
    """

    def __init__(self, encoder: Encoder, segmenter: Segmenter, budget: int = TOKENS_BUDGET) -> None:
        self.encoder, self.segmenter = encoder, segmenter
        self._budget = budget
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()
        self._target: tuple[np.ndarray, Tensor] | None = None
        self._embedding: tuple[np.ndarray, ImageEmbedding] | None = None

    def reference_tokens(self, reference: Reference) -> Tensor:
        """Patch tokens ``[P, C]`` of the whole image of a reference, cached by its content."""
        key = digest(reference.image)
        if key in self._tokens:
            self._tokens.move_to_end(key)
            return self._tokens[key]
        tokens = self._encode(reference.image)
        self._tokens[key] = tokens
        while len(self._tokens) > 1 and sum(held.nbytes for held in self._tokens.values()) > self._budget:
            self._tokens.popitem(last=False)
        return tokens

    def target_tokens(self, target: np.ndarray) -> Tensor:
        """Patch tokens ``[P, C]`` of a target, uint8 ``[H, W, 3]``. The same array in a row is encoded once."""
        if self._target is None or self._target[0] is not target:
            self._target = target, self._encode(target)
        return self._target[1]

    def target_embedding(self, target: np.ndarray) -> ImageEmbedding:
        """SAM2's embedding of a target, uint8 ``[H, W, 3]``. The same array in a row is encoded once."""
        if self._embedding is None or self._embedding[0] is not target:
            self._embedding = target, self.segmenter.embed(normalise(stretch(target, self.segmenter.input_size)))
        return self._embedding[1]

    def _encode(self, image: np.ndarray) -> Tensor:
        pixels = normalise(stretch(image, self.encoder.info.input_size))
        return self.encoder.encode(pixels[None])[0].flatten(0, 1)


class SharedPipeline:
    """Both models under a preset, with the memory entries and the last target that they encoded.

    Args:
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: how both are used.
        cache: of encoded references and targets; ``None`` for none.
        for_prompts: targets are scored by reference prompts.

    Attributes:
        from_cache: number of targets that came from the cache.
    """

    def __init__(
        self,
        encoder: Encoder,
        segmenter: Segmenter,
        preset: str | Preset = "default",
        cache: TensorCache | None = None,
        *,
        for_prompts: bool = True,
    ) -> None:
        self.encoder, self.segmenter, self.preset = encoder, segmenter, get_preset(preset)
        self._cache, self.from_cache = cache, 0
        self._targets = CachedTargets(TargetEncoder(encoder, segmenter, self.preset, for_prompts=for_prompts), cache)
        self._ahead: list[tuple[np.ndarray, Callable[[], Fetched]]] = []
        self._last: tuple[np.ndarray, Fetched, EncodedTarget | Target] | None = None
        self._entries: dict[str, MemoryEntry] = {}

    def entry(self, reference: Reference) -> MemoryEntry:
        """Memory entry of a reference with its whole image, cached by its content.

        Raises:
            InvalidReference: if the reference cannot be used.
        """
        marked = reference.mask, reference.box, reference.kind, reference.promoted
        # Ids are not enough: two data sets may share them, and one image may be annotated in several ways.
        key = repr((digest(reference.image), digest(marked[0]), reference.label_id, *marked[1:]))
        if key not in self._entries:
            (entry,) = encode_references([reference], self.encoder, self.preset, keep_images=True, cache=self._cache)
            if isinstance(entry, Skipped):
                raise InvalidReference(f"the reference {entry.label_id}: {entry.reason}")
            self._entries[key] = entry
        return self._entries[key]

    @property
    def images_per_batch(self) -> int:
        """See :attr:`.TargetEncoder.images_per_batch`."""
        return self._targets.images_per_batch

    def encode_together(self, targets: Sequence[np.ndarray]) -> None:
        """Run the image encoders on several targets at once; :meth:`encode` goes on from there with the same arrays."""
        fetched = prefetch_together(
            self._targets.fetch, targets, self._targets.encode_together, self.images_per_batch, ahead=False
        )
        with closing(fetched):
            self._ahead = list(fetched)

    def encode(self, target: np.ndarray) -> EncodedTarget | Target:
        """Encoding of a target, uint8 ``[H, W, 3]``. The same array in a row is encoded once."""
        if self._last is None or self._last[0] is not target:
            image_of = next((image_of for ahead, image_of in self._ahead if ahead is target), None)
            fetched = self._targets.fetch(target) if image_of is None else image_of()
            self.from_cache += fetched.from_cache
            self._last = target, fetched, self._targets.encode(fetched)
        return self._last[2]

    def store(self) -> None:
        """Write the last target to the cache, with what matching it has added."""
        if self._last is not None:
            _, fetched, encoded = self._last
            self._targets.store(fetched.key, encoded, from_cache=fetched.from_cache)
