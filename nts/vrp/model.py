"""The network of the visual reference prompt: annotated references in, prompts for SAM2's mask decoder out.

VRP-SAM ("VRP-SAM: SAM with Visual Reference Prompt", CVPR 2024) has two trained parts:

* the **feature augmenter** (Sec. 3.2) concatenates the reference's prototype and annotation to the features of the
  reference, and the same prototype and a training-free *prior* to the features of the target;
* the **prompt generator** (Sec. 3.3) is a set of queries that attend to the augmented reference, then to the augmented
  target. The results replace embedded clicks in SAM2's mask decoder.

The encoder and all of SAM2 are frozen. This is why prompts carry over to classes that were not trained on.

One part goes beyond the paper and is off in :func:`paper`: a *dense prompt*, which adds the augmented target to the
image embedding where SAM2's decoder expects an embedded mask. Queries encode the object; a decoder that was trained on
clicks then has to locate it. The dense prompt gives it the location.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..references import Kind
from .prior import cosines, max_similarity, normalise_prior

ABSENT = -1
"""Kind index of padding: a class with fewer references than the others of its batch."""

DEFAULT_KINDS: tuple[Kind, ...] = ("mask", "box", "point", "scribble")
"""Kinds of annotation of a configuration that does not name them. Stored prompts rely on this tuple and its order."""

_PROTOTYPE_EPSILON = 5e-4
_MARK_SCALE = 10.0


@dataclass(frozen=True)
class VRPConfig:
    """Architecture of a visual reference prompt. The defaults are ours; :func:`paper` gives the published choices.

    Attributes:
        token_dim: ``C``, length of the encoder's tokens.
        dim: ``D``, length of SAM2's prompt tokens and width of the network.
        grid: ``(h, w)`` patches of the encoder.
        queries: ``N``, number of queries, hence of sparse prompts.
        heads: attention heads.
        dropout: probability of dropping a feature channel in training.
        normalise_prior: min-max normalise the prior per image, as PFENet does. The published code uses the cosine
            similarity, floored at 0.
        background_prior: add a channel: similarity to marked patches minus similarity to unmarked ones. Only for masks
            and boxes, as patches that a point or a scribble leaves unmarked may belong to the object.
        bare_priors: add two channels that are not normalised: the maximal cosine similarity, and the similarity to the
            mean of the marked patches, as in prototype matching. The normalised prior locates the object; these tell
            whether it is present.
        kind_vectors: add a learned vector per kind of annotation to the queries.
        query_init: ``"learned"``, or ``"prototype"`` to initialise each query with the reference's prototype (Table 6).
        shots: combination of several references of a class. ``"set"``: one attention over the patches of all, ``N``
            prompts in total. ``"concatenate"``: ``N`` prompts per reference, as published.
        dense_prompt: predict a dense prompt, see the module's docstring.
        rasterisation: mapping of annotations to the patch grid, see :func:`nts.references.annotation_weights`.
        kinds: kinds of annotation that the network knows; their order is that of the kind vectors.
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
    kinds: tuple[Kind, ...] = DEFAULT_KINDS

    def __post_init__(self) -> None:
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 x heads = {4 * self.heads}, got {self.dim}")
        if self.queries < 1:
            raise ValueError(f"queries must be at least 1, got {self.queries}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must be different kinds of annotation, got {self.kinds}")

    @property
    def channels(self) -> int:
        """Number of channels beside features and prototype; on the target, its priors."""
        return 1 + self.background_prior + 2 * self.bare_priors

    @property
    def area_kinds(self) -> tuple[int, ...]:
        """Indices of the kinds that mark whole objects, so that unmarked patches are background."""
        return tuple(index for index, kind in enumerate(self.kinds) if kind in ("mask", "box"))

    def to_dict(self) -> dict[str, Any]:
        """The configuration as stored in files and hashed in fingerprints.

        Default kinds are left out: files and fingerprints made before kinds were stored stay valid.
        """
        settings = asdict(self)
        if self.kinds == DEFAULT_KINDS:
            del settings["kinds"]
        return settings

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> VRPConfig:
        """Inverse of :meth:`to_dict`; sequences may be lists, as read from JSON."""
        kinds = tuple(settings.get("kinds", DEFAULT_KINDS))
        return cls(**settings | {"grid": tuple(settings["grid"]), "kinds": kinds})


def paper(config: VRPConfig) -> VRPConfig:
    """Return the published choices (VRP-SAM and its released code) at the sizes of a configuration."""
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
    """Encoding of the references of ``B`` classes. It does not depend on the target: encode once, prompt many times.

    ``G`` groups of references per class: 1 for ``shots="set"``, ``k`` for ``"concatenate"``; ``R`` patches per group.

    Attributes:
        queries: ``[B, G, N, D]``, after attention to the references (``Q_2``).
        prototypes: ``[B, G, D]``, of the reduced features (``p``).
        tokens: ``[B, G, R, C]``, the references' patch tokens, for the prior.
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

    def __getitem__(self, classes: Sequence[int]) -> ReferenceState:
        """Some of the classes."""
        rows = list(classes)
        return ReferenceState(**{name: tensor[rows] for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class PromptEmbeddings:
    """Prompts for SAM2's mask decoder.

    Attributes:
        sparse: ``[B, n, D]``, in place of embedded clicks.
        dense: ``[B, D, h, w]``, in place of an embedded mask; ``None`` for SAM2's "no mask" embedding.
    """

    sparse: Tensor
    dense: Tensor | None


class VisualReferencePrompt(nn.Module):
    """Feature augmenter and prompt generator (VRP-SAM, Sec. 3).

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
            self.kinds = nn.Parameter(torch.zeros(len(config.kinds), dim))
        self.see_references = _Attention(dim, config.heads)
        self.confer_on_references = _Attention(dim, config.heads)
        self.see_target = _Attention(dim, config.heads)
        self.confer_on_target = _Attention(dim, config.heads)
        if config.dense_prompt:
            narrow = dim // 4
            last = nn.Conv2d(narrow, dim, 1, bias=False)
            # Zero, so that training starts from SAM2 without a dense prompt.
            nn.init.zeros_(last.weight)
            layers = (
                nn.Conv2d(dim, narrow, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(narrow, narrow, 3, padding=1),
                nn.ReLU(),
            )
            self.dense = nn.Sequential(*layers, last)
        self.register_buffer("positions", sine_positions(config.grid, dim), persistent=False)

    def encode_support(self, tokens: Tensor, weights: Tensor, kinds: Tensor) -> ReferenceState:
        """Encode the references of ``B`` classes, up to ``K`` each: the support set (Sec. 3.2; Sec. 3.3, ``Q_1, Q_2``).

        Args:
            tokens: ``[B, K, P, C]`` patch tokens of whole reference images.
            weights: ``[B, K, P]`` in ``[0, 1]``, the annotations on the patch grid. All zero is an empty reference: no
                patch is marked, and the prior is zero.
            kinds: int64 ``[B, K]``, indices in ``config.kinds``, or :data:`ABSENT` for padding.
        """
        if self.config.shots == "set":
            return self._encode_groups(*(x[:, None] for x in (tokens, weights, kinds)))
        return self._encode_groups(*(x[:, :, None] for x in (tokens, weights, kinds)))

    def _encode_groups(self, tokens: Tensor, weights: Tensor, kinds: Tensor) -> ReferenceState:
        """As :meth:`encode_support`, in groups ``[B, G, K, ...]`` of ``N`` prompts each.

        ``E_r = relu(W_2 [E; p; 10 a])`` with the prototype ``p = sum(a E) / sum(a)`` (Sec. 3.2);
        ``Q_1 = attention(Q_0, E_r)``, ``Q_2 = attention(Q_1, Q_1)`` (Sec. 3.3).
        """
        groups, patches = kinds.shape[:2], tokens.shape[3]
        present = kinds != ABSENT
        weights = weights * present[..., None]
        is_area = torch.isin(kinds, kinds.new_tensor(self.config.area_kinds))
        # Border patches are part object, part background: only those covered at least half as much as the most covered
        # patch are marked.
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
        padding = ~present[..., None].expand(*kinds.shape, patches)
        queries = self.see_references(
            queries.flatten(0, 1), augmented.flatten(2, 3).flatten(0, 1), positions, padding.flatten(2).flatten(0, 1)
        )
        queries = self.confer_on_references(queries, queries)
        return ReferenceState(
            queries.unflatten(0, groups), prototypes, tokens.flatten(2, 3), marked.flatten(2), unmarked.flatten(2)
        )

    def prompt(self, state: ReferenceState, target_tokens: Tensor) -> PromptEmbeddings:
        """Generate prompts for targets: ``Q_3 = attention(Q_2, E_t)``, ``Q_4 = attention(Q_3, Q_3)`` (Sec. 3.3).

        Args:
            state: encoded references of ``B`` classes.
            target_tokens: ``[B, P, C]``, or ``[1, P, C]`` for one target of all classes.
        """
        target_tokens = target_tokens.expand(len(state), -1, -1)
        targets = target_tokens[:, None].expand(-1, state.queries.shape[1], -1, -1)
        augmented = self._augment(self._reduce(targets), state.prototypes, self.target_channels(state, targets))
        queries = self.see_target(state.queries.flatten(0, 1), augmented.flatten(0, 1), self.positions)
        sparse = self.confer_on_target(queries, queries).unflatten(0, state.queries.shape[:2]).flatten(1, 2)
        dense = None
        if self.config.dense_prompt:
            dense = self.dense(augmented.mean(1).mT.unflatten(2, self.config.grid))
        return PromptEmbeddings(sparse, dense)

    def target_channels(self, state: ReferenceState, targets: Tensor) -> list[Tensor]:
        """Priors of targets (Sec. 3.2, pseudo-mask of the target).

        Args:
            state: encoded references.
            targets: ``[B, G, P, C]`` patch tokens.

        Returns:
            one float ``[B, G, P]`` per channel, zero where no patch is marked.
        """
        cosine = cosines(state.tokens, targets)
        foreground = max_similarity(cosine, state.marked)
        is_marked = state.marked.any(-1, keepdim=True)
        first = normalise_prior(foreground) if self.config.normalise_prior else foreground.clamp(min=0)
        channels = [first * is_marked]
        if self.config.background_prior:
            is_known = state.unmarked.any(-1, keepdim=True)
            channels.append((foreground - max_similarity(cosine, state.unmarked)) * (is_marked & is_known))
        if self.config.bare_priors:
            mean = (state.tokens * state.marked[..., None]).sum(-2, keepdim=True)
            channels += [foreground * is_marked, cosines(mean, targets)[..., 0] * is_marked]
        return channels

    def _reduce(self, tokens: Tensor) -> Tensor:
        """``E = dropout(relu(W_1 F))``, ``[..., P, C]`` to ``[..., P, D]`` (Sec. 3.2)."""
        # The scale of DINOv2's tokens differs between model sizes and carries no information here.
        features = F.relu(self.reduce(F.layer_norm(tokens.float(), tokens.shape[-1:])))
        if not self.config.dropout:
            return features
        channels = features.new_ones(*features.shape[:-2], 1, features.shape[-1])
        return features * F.dropout(channels, self.config.dropout, self.training)

    def _augment(self, features: Tensor, prototypes: Tensor, channels: list[Tensor]) -> Tensor:
        """``relu(W_2 [E; p; 10 a])`` (Sec. 3.2).

        Args:
            features: ``E``, ``[..., P, D]``.
            prototypes: ``p``, ``[..., D]``.
            channels: ``a``, ``[..., P]`` each.
        """
        prototypes = prototypes[..., None, :].expand_as(features)
        marks = torch.stack(channels, -1) * _MARK_SCALE
        return F.relu(self.augment(torch.cat([features, prototypes, marks], -1)))

    def _first_queries(self, prototypes: Tensor, kinds: Tensor) -> Tensor:
        """``Q_0`` (Sec. 3.3): ``[B, G, N, D]``."""
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
    """``LN(q + attention(q, k + positions, k))`` (Sec. 3.3): positions are added to the keys only."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, values: Tensor, positions: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        keys = values if positions is None else values + positions
        update, _ = self.attention(queries, keys, values, key_padding_mask=padding, need_weights=False)
        return self.norm(queries + update)


def sine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """2-D sine encoding of grid positions (Carion et al. 2020; Sec. 3.3): ``[h * w, dim]`` in row order, y before x."""
    frequencies = 10_000 ** (-torch.arange(dim // 4) / (dim // 4))
    rows, columns = (((torch.arange(side) + 0.5) / side * 2 * math.pi)[:, None] * frequencies for side in grid)
    rows, columns = (torch.cat([angles.sin(), angles.cos()], 1) for angles in (rows, columns))
    height, width = grid
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], 2).flatten(0, 1)
