"""Similarity of proposals to the references of a memory, without averaging them.

An *exemplar* is a unit vector that stands for one reference. There are two for each: of its crop, to compare with the
crops of proposals, and the normalised sum of crop and whole image, to compare with features of whole images.

The similarity to a class is a soft maximum over its exemplars. It is also the robust aggregation: a mislabelled
reference pulls a mean away from its class, but leaves the other exemplars where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory import MemoryBank
from .method import Method
from .negatives import usable_negatives

_FEWEST_FOR_SPREAD = 10
_SPREADS = (0.02, 0.3)


@dataclass(frozen=True)
class Scale:
    """Constants of the similarity, by the spread of an encoder's cosines.

    Encoders differ in the spread of their cosines, so the constants are multiples of it. With ``sd`` the standard
    deviation of the negatives' greatest class cosine: ``tau = 2 / sd``, ``tau_negatives = 3 / sd``, ``slope = 1 / sd``.

    Attributes:
        tau: sharpness of the soft maximum over the exemplars of a class.
        tau_negatives: sharpness of the soft maximum over negatives.
        slope: of the logistic function of ``s - n``.
    """

    tau: float = 20.0
    tau_negatives: float = 30.0
    slope: float = 10.0

    @classmethod
    def of_spread(cls, spread: float) -> Scale:
        """Constants for a standard deviation, clipped to a plausible range."""
        low, high = _SPREADS
        spread = min(max(spread, low), high)
        return cls(2 / spread, 3 / spread, 1 / spread)


def soft_maximum(cosines: Tensor, labels: Tensor, classes: int, tau: float) -> Tensor:
    """Soft maximum of the cosines to the exemplars of each class, ``(1 / tau) log mean_r exp(tau cos_r)``.

    Args:
        cosines: ``[n, R]``; ``-inf`` leaves an exemplar out.
        labels: int64 ``[R]``, class of each exemplar.
        classes: ``K``.
        tau: sharpness: towards 0 the mean, towards infinity the maximum.

    Returns:
        ``[n, K]``, clipped to ``[0, 1]``; 0 for a class without an exemplar.
    """
    # Relative to the greatest of each class, so that a large tau neither overflows nor vanishes.
    greatest = cosines.new_full((len(cosines), classes), -torch.inf)
    greatest = greatest.scatter_reduce_(1, labels.expand(len(cosines), -1), cosines, "amax").clamp(min=-1)
    terms = (tau * (cosines - greatest[:, labels])).exp()
    sums = cosines.new_zeros(len(cosines), classes).index_add_(1, labels, terms)
    counts = cosines.new_zeros(len(cosines), classes).index_add_(1, labels, cosines.isfinite().to(terms.dtype))
    return (greatest + (sums / counts.clamp(min=1)).log() / tau).clamp(0, 1)


@dataclass(frozen=True)
class Exemplars:
    """References and negatives of a memory as unit vectors.

    Attributes:
        classes: ``K``.
        labels: int64 ``[R]``, class of each reference.
        crops: float ``[R, C]``, of the references' crops.
        wholes: float ``[R, C]``, of crop and whole image; of the crop alone where there is no other.
        prototypes: float ``[K, C]``, class prototypes as published.
        trusted: int64 ``[N]``, rows of the memory's negatives that pass the guard.
        negatives: float ``[N, C]``, those negatives, if the method uses them; else none.
        scale: constants of the similarity.
        similarity: see :class:`nts.method.Method`.
    """

    classes: int
    labels: Tensor
    crops: Tensor
    wholes: Tensor
    prototypes: Tensor
    trusted: Tensor
    negatives: Tensor
    scale: Scale
    similarity: str

    @classmethod
    def of_memory(cls, memory: MemoryBank, method: Method, device: torch.device | str = "cpu") -> Exemplars:
        """Exemplars of a memory; raises ``ValueError`` if it is empty."""
        prototypes, labels = F.normalize(memory.prototypes(), dim=1), memory.entry_labels()
        crops = F.normalize(memory.instance_prototypes(), dim=1)
        seen_whole = [
            each.prototype if each.whole_prototype is None else each.whole_prototype for each in memory.entries
        ]
        wholes = F.normalize(crops + F.normalize(torch.stack(seen_whole), dim=1), dim=1)
        scale = scale_of_negatives(memory, prototypes)
        trusted, negatives = torch.zeros(0, dtype=torch.int64), crops.new_zeros(0, crops.shape[1])
        if memory.negatives:
            everything = F.normalize(torch.stack([each.prototype for each in memory.negatives]), dim=1)
            similarity = soft_maximum(everything @ crops.T, labels, len(prototypes), scale.tau).amax(1)
            own = leave_one_out(crops, labels, len(prototypes), scale.tau)
            sure = torch.tensor([each.sure for each in memory.negatives])
            trusted = usable_negatives(similarity, sure, own)
            negatives = everything[trusted if method.negatives else trusted[:0]]
        return cls(
            classes=len(prototypes),
            labels=labels,
            crops=crops,
            wholes=wholes,
            prototypes=prototypes,
            trusted=trusted,
            negatives=negatives,
            scale=scale,
            similarity=method.similarity,
        ).to(device)

    def to(self, device: torch.device | str) -> Exemplars:
        """The same on a device."""
        tensors: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def whole_similarity(self, features: Tensor) -> Tensor:
        """Similarity of features of whole images ``[n, C]`` to every class: ``[n, K]`` in ``[0, 1]``."""
        return self._similarity(features, self.wholes)

    def crop_similarity(self, features: Tensor) -> Tensor:
        """Similarity of features of crops ``[n, C]`` to every class: ``[n, K]`` in ``[0, 1]``."""
        return self._similarity(features, self.crops)

    def _similarity(self, features: Tensor, exemplars: Tensor) -> Tensor:
        if self.similarity == "mean":
            return (features @ self.prototypes.T).clamp(0, 1)
        return soft_maximum(features @ exemplars.T, self.labels, self.classes, self.scale.tau)

    def background(self, features: Tensor) -> Tensor | None:
        """Similarity of features of crops ``[n, C]`` to the negatives, ``[n]``; ``None`` without negatives."""
        if len(self.negatives) == 0:
            return None
        return soft_maximum_of_all(features @ self.negatives.T, self.scale.tau_negatives)


def soft_maximum_of_all(cosines: Tensor, tau: float) -> Tensor:
    """Soft maximum over all columns of ``[n, N]``, clipped to ``[0, 1]``: ``[n]``."""
    labels = torch.zeros(cosines.shape[1], dtype=torch.int64, device=cosines.device)
    return soft_maximum(cosines, labels, 1, tau)[:, 0]


def leave_one_out(crops: Tensor, labels: Tensor, classes: int, tau: float) -> Tensor:
    """Similarity of every reference to the others of its class.

    Args:
        crops: ``[R, C]`` unit vectors.
        labels: int64 ``[R]``.
        classes: ``K``.
        tau: see :func:`soft_maximum`.

    Returns:
        ``[R]`` in ``[0, 1]``; NaN for the only reference of a class.
    """
    own = similarity_to_others(crops, labels, classes, tau)[torch.arange(len(labels)), labels]
    alone = labels.bincount(minlength=classes)[labels] == 1
    return own.masked_fill(alone, torch.nan)


def similarity_to_others(crops: Tensor, labels: Tensor, classes: int, tau: float) -> Tensor:
    """Similarity of every reference to all classes, ``[R, K]``, with the reference itself left out."""
    cosines = (crops @ crops.T).fill_diagonal_(-torch.inf)
    return soft_maximum(cosines, labels, classes, tau)


def scale_of_negatives(memory: MemoryBank, prototypes: Tensor) -> Scale:
    """Constants by the spread of the negatives; those of the small encoder if there are too few.

    Args:
        memory: with negatives. Rejected predictions do not count: they are chosen by their similarity.
        prototypes: ``[K, C]`` class prototypes, unit vectors.
    """
    found = [each.prototype for each in memory.negatives if each.source != "rejected"]
    if len(found) < _FEWEST_FOR_SPREAD:
        return Scale()
    greatest = (F.normalize(torch.stack(found), dim=1) @ prototypes.T).amax(1)
    return Scale.of_spread(float(greatest.std()))
