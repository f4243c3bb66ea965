"""References with simulated annotations: the images of a data set, with weaker annotations than its masks.

An annotation is simulated from a seed that depends on (seed, image, class, kind) only, so every predictor, episode and
machine gets the same annotation of an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..cache import TensorCache
from ..promotion import promote
from ..references import KINDS, Kind, Reference
from ..segmenter import Segmenter
from .annotations import EVALUATION, Simulation, simulate_reference
from .episodes import EpisodeImages


@dataclass(frozen=True)
class Annotation:
    """Kind of annotation of references.

    Attributes:
        kind: geometry that marks the object.
        promoted: the mask is predicted by SAM2 from that geometry.
    """

    kind: Kind = "mask"
    promoted: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind of annotation {self.kind!r}; there are {', '.join(KINDS)}")
        if self.promoted and self.kind == "mask":
            raise ValueError("a mask cannot be promoted: other kinds are promoted to masks")

    def __str__(self) -> str:
        return f"{self.kind} promoted" if self.promoted else self.kind

    @classmethod
    def parse(cls, words: str) -> Annotation:
        """Parse ``"box"`` or ``"box promoted"``.

        Raises:
            ValueError: if the text names no annotation.
        """
        kind, _, more = words.partition(" ")
        if more not in ("", "promoted"):
            raise ValueError(f"{words!r} is not an annotation: give a kind, optionally followed by 'promoted'")
        return cls(kind, more == "promoted")  # type: ignore[arg-type] # checked in __post_init__


MASKS = Annotation()
"""Masks, the annotation of the data set."""
ANNOTATIONS: tuple[Annotation, ...] = (
    *(Annotation(kind) for kind in KINDS),
    *(Annotation(kind, True) for kind in KINDS if kind != "mask"),
)
"""All kinds, as annotated, then promoted."""


class AnnotatedImages:
    """Images whose references carry simulated annotations.

    Args:
        images: images with masks.
        annotation: kind to simulate from the masks.
        seed: of the simulation.
        segmenter: SAM2, required for promotion.
        settings: numbers of points and strokes; by default 20 and 9, as in the evaluations of SEEM and VRP-SAM.
        cache: of promoted masks; ``None`` for none.

    Attributes:
        not_promoted: label ids of references for which SAM2 predicted no mask. They are shown as annotated.

    Raises:
        ValueError: if a promoted annotation has no segmenter.
    """

    def __init__(
        self,
        images: EpisodeImages,
        annotation: Annotation,
        *,
        seed: int = 0,
        segmenter: Segmenter | None = None,
        settings: Simulation = EVALUATION,
        cache: TensorCache | None = None,
    ) -> None:
        if annotation.promoted and segmenter is None:
            raise ValueError("annotations are promoted by a segmenter, and there is none")
        self.annotation = annotation
        self.not_promoted: set[str] = set()
        self._images, self._seed, self._segmenter, self._settings = images, seed, segmenter, settings
        self._cache = cache
        self._promoted: dict[str, np.ndarray] = {}

    def reference(self, image_id: int | str, class_id: int) -> Reference:
        """See :class:`~nts.datasets.episodes.References`. Label ids include the annotation."""
        whole = self._images.reference(image_id, class_id)
        rng = np.random.default_rng(_seed_of(self._seed, image_id, class_id, self.annotation.kind))
        marked = simulate_reference(whole, self.annotation.kind, rng, self._settings)
        if self.annotation.kind == "mask":
            return marked
        marked = replace(marked, label_id=f"{whole.label_id}/{self.annotation}")
        return self._promote(marked) if self.annotation.promoted else marked

    def _promote(self, marked: Reference) -> Reference:
        """Promote a reference; its mask is predicted once and stored as bits."""
        if marked.label_id in self.not_promoted:
            return marked
        if marked.label_id not in self._promoted:
            assert self._segmenter is not None  # checked at construction
            (promoted,) = promote([marked], self._segmenter, self._cache)
            if not promoted.promoted:
                self.not_promoted.add(marked.label_id)
                return marked
            self._promoted[marked.label_id] = np.packbits(promoted.mask)
        bits = self._promoted[marked.label_id]
        mask = np.unpackbits(bits, count=marked.mask.size).reshape(marked.mask.shape).astype(bool)
        return replace(marked, mask=mask, promoted=True)


def parse_annotations(words: Iterable[str]) -> tuple[Annotation, ...]:
    """Parse annotations, each once."""
    return tuple(dict.fromkeys(Annotation.parse(word) for word in words))


def _seed_of(*what: object) -> int:
    """Seed from plain values, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")
