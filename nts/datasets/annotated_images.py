"""References as a person might have annotated them: the images of a data set, with weaker marks than its masks.

What marks a class in an image is simulated from a seed that depends on (seed, image, class, kind) alone. So every head,
every episode and every machine sees the same annotation of the same image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..promotion import promote
from ..references import KINDS, Kind, Reference
from ..segmenter import Segmenter
from .annotations import EVALUATION, Simulation, simulate_reference
from .episodes import EpisodeImages


@dataclass(frozen=True)
class Annotation:
    """How references are annotated.

    Attributes:
        kind: what marks the object.
        promoted: SAM2 draws the object's mask from it.
    """

    kind: Kind = "mask"
    promoted: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind of annotation {self.kind!r}; there are {', '.join(KINDS)}")
        if self.promoted and self.kind == "mask":
            raise ValueError("a mask cannot be promoted: it is what others are promoted to")

    def __str__(self) -> str:
        return f"{self.kind} promoted" if self.promoted else self.kind

    @classmethod
    def parse(cls, words: str) -> Annotation:
        """From its words, ``"box"`` or ``"box promoted"``.

        Raises:
            ValueError: if there is no such annotation.
        """
        kind, _, more = words.partition(" ")
        if more not in ("", "promoted"):
            raise ValueError(f"{words!r} is no annotation: it is a kind, with or without 'promoted' behind it")
        return cls(kind, more == "promoted")  # type: ignore[arg-type] # checked in __post_init__


MASKS = Annotation()
"""References with masks."""
ANNOTATIONS: tuple[Annotation, ...] = (
    *(Annotation(kind) for kind in KINDS),
    *(Annotation(kind, True) for kind in KINDS if kind != "mask"),
)
"""All kinds, raw, then promoted."""


class AnnotatedImages:
    """Images whose references carry simulated annotations.

    Args:
        images: with masks.
        annotation: what is simulated from them.
        seed: of the simulation.
        segmenter: SAM2, needed to promote.
        settings: how much is marked: 20 points or 9 strokes, as in the evaluations of SEEM and VRP-SAM.

    Attributes:
        not_promoted: label ids of references of which SAM2 drew nothing: they are shown as they were annotated.

    Raises:
        ValueError: if annotations shall be promoted, but there is no segmenter.
    """

    def __init__(
        self,
        images: EpisodeImages,
        annotation: Annotation,
        *,
        seed: int = 0,
        segmenter: Segmenter | None = None,
        settings: Simulation = EVALUATION,
    ) -> None:
        if annotation.promoted and segmenter is None:
            raise ValueError("annotations are promoted by a segmenter, and there is none")
        self.annotation = annotation
        self.not_promoted: set[str] = set()
        self._images, self._seed, self._segmenter, self._settings = images, seed, segmenter, settings
        self._promoted: dict[str, np.ndarray] = {}

    def reference(self, image_id: int | str, class_id: int) -> Reference:
        """See :class:`~nts.datasets.episodes.References`. Label ids name the annotation, too."""
        whole = self._images.reference(image_id, class_id)
        rng = np.random.default_rng(_seed_of(self._seed, image_id, class_id, self.annotation.kind))
        marked = simulate_reference(whole, self.annotation.kind, rng, self._settings)
        if self.annotation.kind == "mask":
            return marked
        marked = replace(marked, label_id=f"{whole.label_id}/{self.annotation}")
        return self._promote(marked) if self.annotation.promoted else marked

    def _promote(self, marked: Reference) -> Reference:
        """SAM2 is asked once for every reference, and its mask kept in few bytes."""
        if marked.label_id in self.not_promoted:
            return marked
        if marked.label_id not in self._promoted:
            assert self._segmenter is not None  # made sure of at the start
            (promoted,) = promote([marked], self._segmenter)
            if not promoted.promoted:
                self.not_promoted.add(marked.label_id)
                return marked
            self._promoted[marked.label_id] = np.packbits(promoted.mask)
        bits = self._promoted[marked.label_id]
        mask = np.unpackbits(bits, count=marked.mask.size).reshape(marked.mask.shape).astype(bool)
        return replace(marked, mask=mask, promoted=True)


def parse_annotations(words: Iterable[str]) -> tuple[Annotation, ...]:
    """Several annotations from their words, each once."""
    return tuple(dict.fromkeys(Annotation.parse(word) for word in words))


def _seed_of(*what: object) -> int:
    """The same number for the same values, on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")
