"""Where a target is alike to what is marked in the references: a map that needs no training.

The *prior* of PFENet (Tian et al. 2020), which VRP-SAM builds on: for every patch of the target the cosine to the most
alike marked patch of any reference. Its counterpart, the *background prior*, asks the unmarked patches.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-7


def prior(reference_tokens: Tensor, marked: Tensor, target_tokens: Tensor) -> Tensor:
    """Cosine of every patch of the target to the most alike marked patch of the references.

    Args:
        reference_tokens: ``[..., R, C]``, the patches of all references of one class.
        marked: bool ``[..., R]``, which of them count.
        target_tokens: ``[..., T, C]``.

    Returns:
        float ``[..., T]`` in ``[-1, 1]``; -1 everywhere where nothing is marked.
    """
    cosine = F.normalize(target_tokens.float(), dim=-1) @ F.normalize(reference_tokens.float(), dim=-1).mT
    return cosine.masked_fill(~marked[..., None, :], -1.0).amax(-1)


def normalise_prior(values: Tensor) -> Tensor:
    """Min-max normalisation of every map ``[..., T]`` to ``[0, 1]``, as in PFENet; a constant map gives zeros."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - low) / (high - low + _EPSILON)
