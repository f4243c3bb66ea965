"""Memory bank: prototypes of the references, class prototypes computed from them, and prototypes of negatives.

The *instance prototype* of a reference is the mean of its patch tokens, weighted by its mask. The *class prototype* is
the normalised mean of the instance prototypes of a class (paper, Sec. 3.2). A *negative* is the prototype of something
that is of no class. The bank stores vectors, not feature maps: a reference takes ``4 C`` bytes, or ``8 C`` with the
prototype of its whole image, and references and negatives can be added and removed at any time.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .negatives import MOST_NEGATIVES, thin
from .tiling import ObjectSize
from .utils.files import pack_tensors, unpack_tensors, write_file

SCHEMA_VERSION = 4
"""2: entries may be ``promoted``, and may have whole images. 3: entries have the ``file`` of their image. 4: entries
may have prototypes of their whole images and proposals, and there may be negatives. Files of older schemas can be read.
Added within a version were annotations sampled for ``nearest`` rasterisation (3) and sizes of objects (4): earlier
readers ignore them, and in earlier files they are missing."""
_FORMAT = "nts-memory"


class MemoryFileError(ValueError):
    """A memory file cannot be read or written; the message names it and the reason."""


class EncoderMismatch(ValueError):
    """A memory does not fit an encoder, or another memory."""


def instance_prototype(tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean of a reference's patch tokens weighted by its mask, ``sum(m F) / sum(m)`` (paper, Eq. 1).

    Args:
        tokens: ``[P, C]`` patch tokens of the reference crop.
        weights: ``[P]`` weight of each patch, ``>= 0``.

    Returns:
        float ``[C]``, *not* normalised.

    Raises:
        ValueError: if the weights sum to zero, or a value is not finite. The published code divides by zero here, and
            one such reference turns all results into NaN.
    """
    weights = weights.to(torch.float32)
    total = weights.sum()
    if not (weights.isfinite().all() and tokens.isfinite().all()):
        raise ValueError("tokens or weights of the reference hold NaN or infinity")
    if total <= 0:
        raise ValueError("the mask of the reference covers no patch")
    return weights @ tokens.float() / total


def class_prototype(instance_prototypes: Tensor) -> Tensor:
    """L2-normalised mean of the instance prototypes of a class (paper, Eq. 2).

    Instance prototypes are not normalised before averaging.

    Args:
        instance_prototypes: ``[R, C]``, ``R >= 1``.

    Returns:
        float ``[C]`` of length 1.
    """
    if len(instance_prototypes) == 0:
        raise ValueError("a class needs at least one reference")
    return F.normalize(instance_prototypes.float().mean(0), dim=0)


@dataclass(frozen=True)
class EncoderInfo:
    """Identity of an encoder. Prototypes of different encoders cannot be compared.

    Attributes:
        name: as given by the user, for example ``"facebook/dinov2-large"``.
        fingerprint: hash of the weights.
        input_size: side of the encoder's square input in pixels.
        dim: ``C``, length of a token.
    """

    name: str
    fingerprint: str
    input_size: int
    dim: int


@dataclass(frozen=True, eq=False)
class WholeImage:
    """Whole image of a reference, as input of a visual reference prompt.

    Attributes:
        key: name of the image; references of one image share its tokens.
        tokens: half precision ``[P, C]``, patch tokens of the image.
        weights: half precision ``[P]`` in ``[0, 1]``, the annotation on the patch grid (rasterisation ``"cover"``).
        kind: kind of the annotation; ``"mask"`` if it was promoted to one.
        sampled: bool ``[P]``, the annotation at one pixel per patch (rasterisation ``"nearest"``), which a prompt with
            the published choices was trained on. ``None`` in memories built before samples were stored.
    """

    key: str
    tokens: Tensor
    weights: Tensor
    kind: str = "mask"
    sampled: Tensor | None = None

    def joined(self, other: WholeImage) -> WholeImage:
        """Union with another annotation of the same image."""
        both = None if self.sampled is None or other.sampled is None else self.sampled | other.sampled
        return replace(self, weights=torch.maximum(self.weights, other.weights), sampled=both)


@dataclass(frozen=True, eq=False)
class MemoryEntry:
    """A reference in the bank.

    Attributes:
        class_name: name of the class.
        prototype: float ``[C]``, instance prototype, not normalised.
        sample_id: id of the sample in its dataset.
        label_id: id of the label. The bank holds one entry per sample and label id, and any number without a label id.
            Labels copied from one sample to another have the same id.
        kind: geometry of the annotation: ``"mask"``, ``"box"``, ``"point"`` or ``"scribble"``.
        weight: number of patches that the mask covers on the encoder's grid.
        promoted: the mask was predicted by SAM2 from an annotation of this kind.
        file: identity of the content of the image file, see :func:`nts.utils.files.content_id`; empty if unknown.
        whole_prototype: float ``[C]``, instance prototype of the reference in its whole image, as targets are seen;
            ``None`` if the memory was built without it.
        predicted_iou: SAM2's predicted IoU for the proposal that covers the reference best; ``None`` if none overlaps
            it, or none was made.
        proposal_iou: IoU of that proposal with the reference; 0 if none overlaps it.
        size: of the object on its image; ``None`` if unknown: of points and scribbles, and in earlier files.
        whole_image: optional, for visual reference prompts; several hundred times the size of a prototype.
    """

    class_name: str
    prototype: Tensor
    sample_id: str = ""
    label_id: str = ""
    kind: str = "mask"
    weight: float = 1.0
    promoted: bool = False
    file: str = ""
    whole_prototype: Tensor | None = None
    predicted_iou: float | None = None
    proposal_iou: float | None = None
    size: ObjectSize | None = None
    whole_image: WholeImage | None = None

    @property
    def image(self) -> str:
        """Identity of its image: the content of the file, or else the sample."""
        return self.file or self.sample_id


NegativeSource = Literal["reference image", "other class", "background image", "rejected"]


@dataclass(frozen=True, eq=False)
class Negative:
    """Something that is of no class.

    Attributes:
        prototype: float ``[C]``, instance prototype of its crop.
        source: a proposal off all labels of a ``"reference image"``, a labelled object of an ``"other class"``, a
            proposal in a ``"background image"``, which shows no class, or a ``"rejected"`` prediction.
        sure: nobody doubts that it is of no class. A proposal in a reference image may be an object without a label,
            unless the image is labelled completely.
        sample_id: id of the sample in its dataset.
        label_id: id of the label; empty for a proposal.
        file: identity of the content of the image file; empty if unknown.
        predicted_iou: SAM2's predicted IoU of the proposal, or of the one that covers a labelled object best, 0 if
            there is none; 1 for a rejected prediction.
    """

    prototype: Tensor
    source: NegativeSource
    sure: bool
    sample_id: str = ""
    label_id: str = ""
    file: str = ""
    predicted_iou: float = 1.0

    @property
    def image(self) -> str:
        """Identity of its image: the content of the file, or else the sample."""
        return self.file or self.sample_id


class MemoryBank:
    """References with their prototypes, and negatives.

    Classes are in alphabetical order, independent of the order of insertion.

    Attributes:
        encoder: encoder that computed the prototypes.
        preset: name of the preset that the references were prepared with.
        created: time of creation, ISO 8601.
    """

    def __init__(self, encoder: EncoderInfo, preset: str = "default", created: str | None = None) -> None:
        self.encoder = encoder
        self.preset = preset
        self.created = created or datetime.now(UTC).isoformat(timespec="seconds")
        # Keyed by sample and label id, to replace an entry without a scan; by a number if it has no label id.
        self._entries: dict[tuple[str, str] | int, MemoryEntry] = {}
        self._negatives: dict[tuple[str, str] | int, Negative] = {}
        self._unnamed = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        negatives = f", {len(self._negatives)} negatives" if self._negatives else ""
        return (
            f"MemoryBank({len(self)} references of {len(self.classes)} classes{negatives}, "
            f"encoder {self.encoder.name!r})"
        )

    @property
    def entries(self) -> tuple[MemoryEntry, ...]:
        """All references, in order of insertion."""
        return tuple(self._entries.values())

    @property
    def negatives(self) -> tuple[Negative, ...]:
        """All negatives, in order of insertion."""
        return tuple(self._negatives.values())

    @property
    def negative_counts(self) -> dict[NegativeSource, int]:
        """Number of negatives from every source that there are some of."""
        return dict(Counter(negative.source for negative in self._negatives.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the classes with a reference; the labels of instances index them."""
        return tuple(sorted({entry.class_name for entry in self._entries.values()}))

    @property
    def shots(self) -> dict[str, int]:
        """Number of references per class."""
        shots = dict.fromkeys(self.classes, 0)
        for entry in self._entries.values():
            shots[entry.class_name] += 1
        return shots

    @property
    def has_whole_images(self) -> bool:
        """True if every reference has its whole image, as a visual reference prompt requires."""
        return len(self) > 0 and all(entry.whole_image is not None for entry in self._entries.values())

    def add(self, entry: MemoryEntry) -> None:
        """Add a reference, replacing the entry of the same sample and label id.

        Raises:
            EncoderMismatch: if the prototype does not have the length of the encoder's tokens.
            ValueError: if the class name is empty, or the prototype is not finite.
        """
        if not entry.class_name:
            raise ValueError(f"the reference {entry.label_id or entry.sample_id!r} has no class")
        prototype = self._checked(entry.prototype, f"reference {entry.label_id!r}")
        whole = entry.whole_prototype
        if whole is not None:
            whole = self._checked(whole, f"reference {entry.label_id!r} in its whole image")
        entry = replace(entry, prototype=prototype, whole_prototype=whole)
        key = (entry.sample_id, entry.label_id) if entry.label_id else next(self._unnamed)
        self._entries.pop(key, None)
        self._entries[key] = entry

    def add_negative(self, negative: Negative) -> None:
        """Add a negative, replacing the one of the same sample and label id; raises as :meth:`add`."""
        prototype = self._checked(negative.prototype, f"negative {negative.label_id or negative.sample_id!r}")
        key = (negative.sample_id, negative.label_id) if negative.label_id else next(self._unnamed)
        self._negatives.pop(key, None)
        self._negatives[key] = replace(negative, prototype=prototype)

    def add_negatives(self, negatives: Iterable[Negative]) -> None:
        """Add negatives, and thin all of them to :data:`nts.negatives.MOST_NEGATIVES` where there are more.

        Rejected predictions are kept in any case: they are decisions of a person.
        """
        for negative in negatives:
            self.add_negative(negative)
        decided = {key: each for key, each in self._negatives.items() if each.source == "rejected"}
        found = {key: each for key, each in self._negatives.items() if key not in decided}
        if len(found) <= MOST_NEGATIVES:
            return
        chosen = set(thin(torch.stack([each.prototype for each in found.values()])).tolist())
        kept = {key: each for row, (key, each) in enumerate(found.items()) if row in chosen}
        self._negatives = kept | decided

    def _checked(self, prototype: Tensor, whose: str) -> Tensor:
        if tuple(prototype.shape) != (self.encoder.dim,):
            raise EncoderMismatch(
                f"the prototype of {whose} has shape {tuple(prototype.shape)}, but encoder {self.encoder.name!r} makes "
                f"vectors of length {self.encoder.dim}"
            )
        if not prototype.isfinite().all():
            raise ValueError(f"the prototype of {whose} holds NaN or infinity")
        return prototype.detach().to("cpu", torch.float32)

    def remove_negatives(self, *, source: NegativeSource | None = None, label_ids: Iterable[str] = ()) -> int:
        """Remove the negatives of a source, or single ones by their labels, and return the number removed."""
        label_ids = set(label_ids) - {""}
        gone = [key for key, n in self._negatives.items() if n.source == source or n.label_id in label_ids]
        for key in gone:
            del self._negatives[key]
        return len(gone)

    def remove(self, *, class_name: str | None = None, label_ids: Iterable[str] = ()) -> int:
        """Remove a class, or single references, and return the number removed; negatives stay."""
        label_ids = set(label_ids) - {""}
        gone = [key for key, e in self._entries.items() if e.class_name == class_name or e.label_id in label_ids]
        for key in gone:
            del self._entries[key]
        return len(gone)

    def merge(self, other: MemoryBank) -> None:
        """Add all references and negatives of another bank; they replace those of the same sample and label id.

        Raises:
            EncoderMismatch: if the other bank was built with another encoder or preset.
        """
        self.check_encoder(other.encoder)
        if other.preset != self.preset:
            raise EncoderMismatch(
                f"one memory was prepared by the preset {self.preset!r}, the other by {other.preset!r}: "
                "build both with the same"
            )
        for entry in other.entries:
            self.add(entry)
        self.add_negatives(other.negatives)

    def check_encoder(self, encoder: EncoderInfo) -> None:
        """Raise :class:`EncoderMismatch` unless this bank was built with ``encoder``."""
        mine = (self.encoder.fingerprint, self.encoder.input_size, self.encoder.dim)
        if (encoder.fingerprint, encoder.input_size, encoder.dim) != mine:
            raise EncoderMismatch(
                f"this memory was made by the encoder {_describe(self.encoder)}, not by {_describe(encoder)}: "
                f"use {self.encoder.name!r}, or build the memory again"
            )

    def prototypes(self) -> Tensor:
        """Class prototypes, float ``[K, C]``, in the order of :attr:`classes`."""
        if not self._entries:
            raise ValueError("the memory is empty: it has no reference of any class")
        prototypes, labels = self.instance_prototypes(), self.entry_labels()
        return torch.stack([class_prototype(prototypes[labels == k]) for k in range(len(self.classes))])

    def instance_prototypes(self) -> Tensor:
        """Instance prototypes, float ``[R, C]``, in the order of :attr:`entries`."""
        if not self._entries:
            return torch.zeros(0, self.encoder.dim)
        return torch.stack([entry.prototype for entry in self._entries.values()])

    def entry_labels(self) -> Tensor:
        """Class index of each entry, int64 ``[R]``."""
        row = {name: k for k, name in enumerate(self.classes)}
        return torch.tensor([row[entry.class_name] for entry in self._entries.values()], dtype=torch.int64)

    def to_bytes(self) -> bytes:
        """Content of a ``.safetensors`` file."""
        entries, tokens = [], dict[str, Tensor]()
        weights, samples, wholes = list[Tensor](), list[Tensor](), list[Tensor]()
        for entry in self._entries.values():
            record = {name: getattr(entry, name) for name in _ENTRY_FIELDS}
            if entry.whole_prototype is not None:
                record["whole_prototype"] = True
                wholes.append(entry.whole_prototype)
            image = entry.whole_image
            if image is not None:
                record["whole_image"] = {"key": image.key, "kind": image.kind}
                tokens[image.key] = image.tokens
                weights.append(image.weights)
                if image.sampled is not None:
                    record["whole_image"]["sampled"] = True
                    samples.append(image.sampled)
            entries.append(record)
        tensors = {"instance_prototypes": self.instance_prototypes()}
        if weights:
            tensors |= {"image_tokens": torch.stack(list(tokens.values())), "image_weights": torch.stack(weights)}
        if samples:
            tensors["image_samples"] = torch.stack(samples)
        if wholes:
            tensors["whole_prototypes"] = torch.stack(wholes)
        if self._negatives:
            tensors["negatives"] = torch.stack([negative.prototype for negative in self.negatives])
        negatives = [{name: getattr(each, name) for name in _NEGATIVE_FIELDS} for each in self.negatives]
        header = {
            "encoder": json.dumps(asdict(self.encoder)),
            "preset": self.preset,
            "created": self.created,
            "entries": json.dumps(entries),
            "sizes": json.dumps([None if each.size is None else asdict(each.size) for each in self.entries]),
            "images": json.dumps(list(tokens)),
            "negatives": json.dumps(negatives),
        }
        return pack_tensors(tensors, _FORMAT, SCHEMA_VERSION, header)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the memory") -> MemoryBank:
        """Load a bank from the content of a file.

        Args:
            data: content of the file.
            source: name of the file in error messages.

        Raises:
            MemoryFileError: if the content is damaged, not a memory, or of a newer schema.
        """
        tensors, header = unpack_tensors(
            data, _FORMAT, SCHEMA_VERSION, noun="memory", source=source, error=MemoryFileError
        )
        try:
            bank = cls(EncoderInfo(**json.loads(header["encoder"])), header["preset"], header["created"])
            images = dict(zip(json.loads(header.get("images", "[]")), tensors.get("image_tokens", ()), strict=True))
            weights, samples = iter(tensors.get("image_weights", ())), iter(tensors.get("image_samples", ()))
            wholes = iter(tensors.get("whole_prototypes", ()))
            records = json.loads(header["entries"])
            sizes = json.loads(header["sizes"]) if "sizes" in header else [None] * len(records)
            for record, size, prototype in zip(records, sizes, tensors["instance_prototypes"], strict=True):
                about = record.pop("whole_image", None)
                whole = next(wholes) if record.pop("whole_prototype", False) else None
                image = None
                if about is not None:
                    sampled = next(samples) if about.get("sampled") else None
                    image = WholeImage(about["key"], images[about["key"]], next(weights), about["kind"], sampled)
                bank.add(
                    MemoryEntry(
                        prototype=prototype,
                        whole_prototype=whole,
                        size=None if size is None else ObjectSize(**size),
                        whole_image=image,
                        **record,
                    )
                )
            for record, prototype in zip(
                json.loads(header.get("negatives", "[]")), tensors.get("negatives", ()), strict=True
            ):
                bank.add_negative(Negative(prototype=prototype, **record))
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise MemoryFileError(f"{source} is damaged: its header and its tensors do not agree ({error})") from error
        return bank

    def save(self, path: str | os.PathLike) -> None:
        """Write a ``.safetensors`` file atomically: an existing file survives every failure.

        Raises:
            MemoryFileError: if the file cannot be written (folder missing or read-only, disk full).
        """
        try:
            write_file(Path(path), self.to_bytes())
        except OSError as error:
            raise MemoryFileError(f"the memory could not be written to {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike, encoder: EncoderInfo | None = None) -> MemoryBank:
        """Load a bank from a file.

        Args:
            path: the file.
            encoder: encoder that the bank must have been built with; ``None`` to skip the check.

        Raises:
            MemoryFileError: if the file is missing, damaged, not a memory, or of a newer schema.
            EncoderMismatch: if it was built with another encoder.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise MemoryFileError(f"the memory file {path} could not be read: {error.strerror or error}") from error
        bank = cls.from_bytes(data, source=str(path))
        if encoder is not None:
            bank.check_encoder(encoder)
        return bank


_TENSORS = ("prototype", "whole_prototype", "whole_image")
_ENTRY_FIELDS = tuple(name for name in MemoryEntry.__dataclass_fields__ if name not in (*_TENSORS, "size"))
_NEGATIVE_FIELDS = tuple(name for name in Negative.__dataclass_fields__ if name not in _TENSORS)


def _describe(encoder: EncoderInfo) -> str:
    return f"{encoder.name!r} (weights {encoder.fingerprint[:12]}, input {encoder.input_size}, {encoder.dim} channels)"
