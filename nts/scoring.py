"""Scorers: the part of the pipeline that decides which class a proposal belongs to, and with what confidence.

Everything else (proposals, suppression, soft merging) is the same for all scorers. Scorers are chosen by name in
:mod:`nts.scorers`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .exemplars import Exemplars
from .matching import check_prototypes, similarity
from .memory import MemoryBank
from .method import PUBLISHED, Method
from .targets import EncodedTarget, Target
from .utils.threads import in_one_thread


class Scorer(Protocol):
    """Class scores of proposals, for the classes of one memory.

    Attributes:
        name: as runs store it, see :data:`nts.scorers.SCORERS`.
        needs_embedding: whether images must be encoded with SAM2's embedding, see :func:`nts.pipeline.encode_target`.
        scores_cached_targets: whether a :class:`~nts.targets.Target` is enough. If not, no cache is used.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_embedding(self) -> bool: ...

    @property
    def scores_cached_targets(self) -> bool: ...

    def scores(self, target: EncodedTarget | Target) -> Tensor:
        """Score the ``n`` proposals of an image: float ``[n, K]`` in ``[0, 1]``, on the device of the proposals.

        Raises:
            ValueError: if the target lacks what the scorer needs.
        """
        ...


class PrototypeScorer:
    """Similarity to class prototypes, ``s_ic = max(0, g_i . p_c)``, as published (paper, Sec. 3.3).

    Args:
        prototypes: ``[K, C]`` class prototypes; they are L2-normalised here.
    """

    name = "prototype"
    needs_embedding = False
    scores_cached_targets = True

    def __init__(self, prototypes: Tensor) -> None:
        self._prototypes = F.normalize(prototypes.float(), dim=1)

    def scores(self, target: EncodedTarget | Target) -> Tensor:
        """See :meth:`Scorer.scores`."""

        def score() -> Tensor:
            check_prototypes(self._prototypes, target.features.shape[1])
            return similarity(target.features, self._prototypes.to(target.features.device))

        return in_one_thread(score, target.predicted_iou.device)


class ExemplarScorer:
    """Soft maximum of the similarity to the exemplars of a class, see :mod:`nts.exemplars`.

    Args:
        exemplars: of a memory.
        tiles: compare the features from tiles of the image, see :mod:`nts.tiles`.
    """

    name = "prototype"
    needs_embedding = False
    scores_cached_targets = True

    def __init__(self, exemplars: Exemplars, *, tiles: bool = False) -> None:
        self._tiles = tiles
        self._on = {exemplars.crops.device: exemplars}

    def exemplars(self, device: torch.device) -> Exemplars:
        """The exemplars on a device: targets from the cache are on the CPU."""
        if device not in self._on:
            self._on[device] = next(iter(self._on.values())).to(device)
        return self._on[device]

    def scores(self, target: EncodedTarget | Target) -> Tensor:
        """See :meth:`Scorer.scores`."""

        def score() -> Tensor:
            features = target.tile_features if self._tiles else target.features
            exemplars = self.exemplars(features.device)
            check_prototypes(exemplars.prototypes, features.shape[1])
            return exemplars.whole_similarity(features)

        return in_one_thread(score, target.predicted_iou.device)


def make_prototype_scorer(
    memory: MemoryBank, method: Method, device: torch.device | str = "cpu"
) -> PrototypeScorer | ExemplarScorer:
    """Scorer by the references of a memory: as published, or by exemplars where the method goes beyond the paper.

    Raises:
        ValueError: if the memory is empty.
    """
    if method == PUBLISHED:
        return PrototypeScorer(memory.prototypes().to(device))
    return ExemplarScorer(Exemplars.of_memory(memory, method, device), tiles=method.tiles)
