"""The prior: how much every patch of a target resembles the marked patches of references, without any training.

It is PFENet's (TPAMI 2020, Sec. 3.2), which VRP-SAM (CVPR 2024, Sec. 3.2) feeds to its feature augmenter: the maximal
cosine over all marked patches. PFENet stretches it to ``[0, 1]`` for every image, :func:`normalise_prior`.

Several references are one set of patches: the maximum over all of them is that of their maxima. All functions take
leading dimensions for a batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7
"""PFENet's: what is added to the span of a map before it is divided by it."""


def prior(reference_tokens: Tensor, marked: Tensor, target_tokens: Tensor) -> Tensor:
    """The maximal cosine of every patch of a target with the marked patches.

    Args:
        reference_tokens: ``[..., R, C]`` tokens of the patches of one reference, or of several behind each other.
        marked: ``[..., R]``, bool, or weights, of which those above 0 mark a patch.
        target_tokens: ``[..., T, C]`` tokens of the patches of the target.

    Returns:
        float ``[..., T]`` in ``[-1, 1]``; -1 everywhere where nothing is marked. A token without length is alike to
        nothing: 0.
    """
    return greatest_of(cosines(reference_tokens, target_tokens), marked > 0)


def cosines(reference_tokens: Tensor, target_tokens: Tensor) -> Tensor:
    """Cosine of every patch of a target with every patch of the references: ``[..., T, R]``."""
    return F.normalize(target_tokens.float(), dim=-1) @ F.normalize(reference_tokens.float(), dim=-1).mT


def greatest_of(cosine: Tensor, chosen: Tensor) -> Tensor:
    """The greatest cosine ``[..., T]`` with the chosen ones, bool ``[..., R]``; -1 where none is chosen."""
    return cosine.masked_fill(~chosen[..., None, :], -1.0).amax(-1)


def background_prior(reference_tokens: Tensor, marked: Tensor, target_tokens: Tensor) -> Tensor:
    """The maximal cosine of every patch of a target with the patches that are *not* marked.

    It means something for masks and boxes only: what a point or a scribble leaves out may still be the object. A patch
    that is marked in part counts as marked.

    Args:
        reference_tokens, marked, target_tokens: as in :func:`prior`.

    Returns:
        float ``[..., T]`` in ``[-1, 1]``; -1 everywhere where every patch is marked, so that there is no background.
    """
    return prior(reference_tokens, marked <= 0, target_tokens)


def normalise_prior(similarity: Tensor) -> Tensor:
    """Stretch every map ``[..., T]`` to ``[0, 1]``: its least value becomes 0, its greatest 1, as in PFENet.

    A constant map gives zeros.
    """
    least, greatest = similarity.amin(-1, keepdim=True), similarity.amax(-1, keepdim=True)
    return (similarity - least) / (greatest - least + EPSILON)
