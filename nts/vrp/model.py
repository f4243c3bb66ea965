"""The visual reference prompt (VRP-SAM, CVPR 2024): a small network that turns references into prompts for SAM2.

Two parts, in the order of the paper:

* the **feature augmenter** (Sec. 3.2) marks what is meant: it lays the reference's prototype and its annotation over
  the features of the reference, and the same prototype and a training-free *prior* over those of the target;
* the **prompt generator** (Sec. 3.3) lets a few queries look at the augmented reference, then at the augmented target.
  What comes out takes the place of embedded clicks in SAM2's mask decoder.

Both are trained, on labelled classes; the encoder and all of SAM2 stay frozen, which is what makes the prompts work for
classes that were never seen in training.

Beyond the paper, and off in :data:`PAPER`: a *dense prompt*, by which the augmented target also speaks to SAM2's
decoder where it expects an embedded mask. Queries say what to look for, and a decoder that was trained on clicks has to
find out where; the dense prompt tells it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..references import KINDS
from .prior import cosines, greatest_of, normalise_prior

ABSENT = -1
"""In the place of a kind: there is no reference here. It fills up sets of fewer references than others."""

_PROTOTYPE_EPSILON = 5e-4
_MARK_SCALE = 10.0


@dataclass(frozen=True)
class VRPConfig:
    """What a visual reference prompt is made of. The defaults are ours, :data:`PAPER` has the published choices.

    Attributes:
        token_dim: ``C``, length of the encoder's tokens.
        dim: ``D``, length of SAM2's prompt tokens, and the width of everything in between.
        grid: ``(h, w)`` patches of the encoder.
        queries: ``N``, number of queries, and so of prompts.
        heads: of every attention.
        dropout: share of the channels of the features that are dropped in training.
        normalise_prior: min-max per image, as in PFENet. The published code takes the bare cosine, floored at zero.
        background_prior: one more channel: how much more alike to marked than to unmarked patches. For masks and boxes
            only: what is not marked by a point or a scribble may well be part of the object.
        bare_priors: two more channels, not normalised: the cosine itself, and that to the mean of the marked patches,
            by which prototypes judge. The normalised prior says where in an image, these say whether at all.
        kind_vectors: one learned vector for every kind of annotation, added to the queries.
        query_init: ``"learned"``, or ``"prototype"``: every query begins as the reference's prototype (paper, Table 6).
        shots: how references of one class come together. ``"set"``: one attention over the patches of all of them, and
            always ``N`` prompts. ``"concatenate"``: the prompts of one behind those of the other, as published.
        dense_prompt: see the module.
        rasterisation: how annotations come to the patch grid, see :func:`nts.references.annotation_weights`.
    """

    token_dim: int
    dim: int
    grid: tuple[int, int]
    queries: int = 16
    heads: int = 4
    dropout: float = 0.0
    normalise_prior: bool = True
    background_prior: bool = True
    bare_priors: bool = True
    kind_vectors: bool = True
    query_init: Literal["learned", "prototype"] = "learned"
    shots: Literal["set", "concatenate"] = "set"
    dense_prompt: bool = True
    rasterisation: Literal["cover", "nearest"] = "cover"

    @property
    def channels(self) -> int:
        """Channels beside features and prototype: on the target, its priors."""
        return 1 + self.background_prior + 2 * self.bare_priors

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 x heads = {4 * self.heads}, got {self.dim}")
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, got {self.queries}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


def paper(config: VRPConfig) -> VRPConfig:
    """The published choices at the sizes of a configuration."""
    return replace(
        config,
        queries=50,
        heads=4,
        dropout=0.5,
        normalise_prior=False,
        background_prior=False,
        bare_priors=False,
        kind_vectors=False,
        query_init="learned",
        shots="concatenate",
        dense_prompt=False,
        rasterisation="nearest",
    )


@dataclass(frozen=True)
class ReferenceState:
    """All that the prompts need of the references of a class, whatever the target: made once, used for every image.

    ``B`` classes; ``G`` groups of references, one for a set, ``k`` for concatenated shots; ``R`` patches of a group.

    Attributes:
        queries: ``[B, G, N, D]``, what the queries have seen of the references (``Q_2`` in the paper's order).
        prototypes: ``[B, G, D]``, of the reduced features.
        tokens: ``[B, G, R, C]``, the references' patches, for the prior.
        marked: bool ``[B, G, R]``, patches that the annotations mark.
        unmarked: bool ``[B, G, R]``, patches known to be background.
    """

    queries: Tensor
    prototypes: Tensor
    tokens: Tensor
    marked: Tensor
    unmarked: Tensor

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Prompts:
    """Prompts for SAM2's decoder: ``sparse`` ``[B, n, D]``, and ``dense`` ``[B, D, h, w]``, or ``None``."""

    sparse: Tensor
    dense: Tensor | None


class VisualReferencePrompt(nn.Module):
    """Feature augmenter and prompt generator.

    >>> vrp = VisualReferencePrompt(VRPConfig(token_dim=192, dim=128, grid=(24, 24)))
    >>> sum(p.numel() for p in vrp.parameters()) < 700_000
    True
    """

    positions: Tensor

    def __init__(self, config: VRPConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.reduce = nn.Linear(config.token_dim, dim, bias=False)
        self.augment = nn.Linear(2 * dim + config.channels, dim, bias=False)
        if config.query_init == "learned":
            self.queries = nn.Parameter(torch.randn(config.queries, dim))
        if config.kind_vectors:
            self.kinds = nn.Parameter(torch.zeros(len(KINDS), dim))
        self.see_references = _Attention(dim, config.heads)
        self.confer_on_references = _Attention(dim, config.heads)
        self.see_target = _Attention(dim, config.heads)
        self.confer_on_target = _Attention(dim, config.heads)
        if config.dense_prompt:
            narrow = dim // 4
            last = nn.Conv2d(narrow, dim, 1, bias=False)
            # Training begins at SAM2 as it is, with no word of where.
            nn.init.zeros_(last.weight)
            layers = (
                nn.Conv2d(dim, narrow, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(narrow, narrow, 3, padding=1),
                nn.ReLU(),
            )
            self.dense = nn.Sequential(*layers, last)
        self.register_buffer("positions", sine_positions(config.grid, dim), persistent=False)

    def encode_references(self, tokens: Tensor, weights: Tensor, kinds: Tensor) -> ReferenceState:
        """Look at the references of ``B`` classes, up to ``K`` each.

        Args:
            tokens: ``[B, K, P, C]`` patch tokens of whole reference images.
            weights: ``[B, K, P]`` in ``[0, 1]``: the annotations on the patch grid. All zero is an empty reference: no
                patch is marked, and the prior is zero.
            kinds: int64 ``[B, K]``, places in :data:`KINDS`, or :data:`ABSENT`.
        """
        if self.config.shots == "set":
            return self._encode_groups(*(x[:, None] for x in (tokens, weights, kinds)))
        return self._encode_groups(*(x[:, :, None] for x in (tokens, weights, kinds)))

    def _encode_groups(self, tokens: Tensor, weights: Tensor, kinds: Tensor) -> ReferenceState:
        """As :meth:`encode_references`, in groups ``[B, G, K, ...]``, each of which makes ``N`` prompts."""
        groups, patches = kinds.shape[:2], tokens.shape[3]
        present = kinds != ABSENT
        weights = weights * present[..., None]
        is_area = present & ((kinds == KINDS.index("mask")) | (kinds == KINDS.index("box")))
        # Border patches are part object, part background: whichever prevails in the most covered patches counts.
        marked = weights > 0.5 * weights.amax((2, 3), keepdim=True).clamp(min=1e-6)
        unmarked = (weights == 0) & is_area[..., None] & (weights > 0).any(-1, keepdim=True)

        features = self._reduce(tokens)
        mass = weights.sum((2, 3))[..., None]
        prototypes = (features * weights[..., None]).sum((2, 3)) / (mass + _PROTOTYPE_EPSILON)
        channels = [weights]
        if self.config.background_prior:
            channels.append((2 * weights - 1) * is_area[..., None])
        channels += [weights] * (self.config.channels - len(channels))
        augmented = self._augment(features, prototypes[:, :, None], channels)

        queries = self._first_queries(prototypes, kinds)
        positions = self.positions.repeat(kinds.shape[2], 1)
        hidden = ~present[..., None].expand(*kinds.shape, patches)
        queries = self.see_references(
            queries.flatten(0, 1), augmented.flatten(2, 3).flatten(0, 1), positions, hidden.flatten(2).flatten(0, 1)
        )
        queries = self.confer_on_references(queries, queries)
        return ReferenceState(
            queries.unflatten(0, groups), prototypes, tokens.flatten(2, 3), marked.flatten(2), unmarked.flatten(2)
        )

    def prompt(self, state: ReferenceState, target_tokens: Tensor) -> Prompts:
        """Look at targets.

        Args:
            state: of ``B`` classes.
            target_tokens: ``[B, P, C]``, or ``[1, P, C]``: one target for all classes.
        """
        target_tokens = target_tokens.expand(len(state), -1, -1)
        targets = target_tokens[:, None].expand(-1, state.queries.shape[1], -1, -1)
        augmented = self._augment(self._reduce(targets), state.prototypes, self.target_channels(state, targets))
        queries = self.see_target(state.queries.flatten(0, 1), augmented.flatten(0, 1), self.positions)
        sparse = self.confer_on_target(queries, queries).unflatten(0, state.queries.shape[:2]).flatten(1, 2)
        dense = None
        if self.config.dense_prompt:
            dense = self.dense(augmented.mean(1).mT.unflatten(2, self.config.grid))
        return Prompts(sparse, dense)

    def target_channels(self, state: ReferenceState, targets: Tensor) -> list[Tensor]:
        """The priors of targets ``[B, G, P, C]``: each ``[B, G, P]``, zero where nothing is marked."""
        cosine = cosines(state.tokens, targets)
        alike = greatest_of(cosine, state.marked)
        is_marked = state.marked.any(-1, keepdim=True)
        channels = [(normalise_prior(alike) if self.config.normalise_prior else alike.clamp(min=0)) * is_marked]
        if self.config.background_prior:
            is_known = state.unmarked.any(-1, keepdim=True)
            channels.append((alike - greatest_of(cosine, state.unmarked)) * (is_marked & is_known))
        if self.config.bare_priors:
            mean = (state.tokens * state.marked[..., None]).sum(-2, keepdim=True)
            channels += [alike * is_marked, cosines(mean, targets)[..., 0] * is_marked]
        return channels

    def _reduce(self, tokens: Tensor) -> Tensor:
        """``E = dropout(relu(W_1 F))``, ``[..., P, C]`` to ``[..., P, D]``."""
        # The scale of DINOv2's tokens differs from size to size and means nothing here.
        features = F.relu(self.reduce(F.layer_norm(tokens.float(), tokens.shape[-1:])))
        if not self.config.dropout:
            return features
        kept = F.dropout(
            features.new_ones(*features.shape[:-2], 1, features.shape[-1]), self.config.dropout, self.training
        )
        return features * kept

    def _augment(self, features: Tensor, prototypes: Tensor, channels: list[Tensor]) -> Tensor:
        """``relu(W_2 [E; p; 10 a])``: features ``[..., P, D]``, prototypes ``[..., D]``, channels ``[..., P]``."""
        prototypes = prototypes[..., None, :].expand_as(features)
        marks = torch.stack(channels, -1) * _MARK_SCALE
        return F.relu(self.augment(torch.cat([features, prototypes, marks], -1)))

    def _first_queries(self, prototypes: Tensor, kinds: Tensor) -> Tensor:
        """``Q_0``: ``[B, G, N, D]``."""
        count = self.config.queries
        if self.config.query_init == "prototype":
            queries = prototypes[:, :, None].expand(-1, -1, count, -1)
        else:
            queries = self.queries.expand(*prototypes.shape[:2], -1, -1)
        if self.config.kind_vectors:
            present = (kinds != ABSENT)[..., None]
            vectors = self.kinds[kinds.clamp(min=0)] * present
            queries = queries + (vectors.sum(2) / present.sum(2).clamp(min=1))[:, :, None]
        return queries


class _Attention(nn.Module):
    """``LN(q + attention(q, k + positions, k))``: positions are added to the keys only."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, values: Tensor, positions: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        keys = values if positions is None else values + positions
        seen, _ = self.attention(queries, keys, values, key_padding_mask=hidden, need_weights=False)
        return self.norm(queries + seen)


def sine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """2-D sine encoding of the places on a grid (Carion et al. 2020): ``[h * w, dim]``, row by row; y first, then x."""
    frequencies = 10_000 ** (-torch.arange(dim // 4) / (dim // 4))
    rows, columns = (((torch.arange(side) + 0.5) / side * 2 * math.pi)[:, None] * frequencies for side in grid)
    rows, columns = (torch.cat([angles.sin(), angles.cos()], 1) for angles in (rows, columns))
    height, width = grid
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], 2).flatten(0, 1)
