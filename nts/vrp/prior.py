"""Training-free prior: similarity of each target patch to the marked patches of references.

PFENet's prior (TPAMI 2020, Sec. 3.2), which VRP-SAM (CVPR 2024, Sec. 3.2) gives to its feature augmenter as the
target's pseudo-mask: the maximal cosine similarity over all marked patches. PFENet rescales it to ``[0, 1]`` per image,
see :func:`normalise_prior`.

Several references are passed as one set of patches, as the maximum over all of them is the maximum of their maxima. All
functions accept leading batch dimensions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-7
"""Added to the range of a map before division (PFENet)."""


def prior(reference_tokens: Tensor, marked: Tensor, target_tokens: Tensor) -> Tensor:
    """Maximal cosine similarity of each target patch to the marked patches (PFENet, Sec. 3.2; VRP-SAM, Sec. 3.2).

    Args:
        reference_tokens: ``[..., R, C]`` patch tokens of one reference, or of several concatenated.
        marked: ``[..., R]``, bool, or weights that mark a patch where positive.
        target_tokens: ``[..., T, C]`` patch tokens of the target.

    Returns:
        float ``[..., T]`` in ``[-1, 1]``; -1 if no patch is marked. The similarity to a zero token is 0.
    """
    return max_similarity(cosines(reference_tokens, target_tokens), marked > 0)


def cosines(reference_tokens: Tensor, target_tokens: Tensor) -> Tensor:
    """Cosine similarity of each target patch to each reference patch, ``[..., T, R]``."""
    return F.normalize(target_tokens.float(), dim=-1) @ F.normalize(reference_tokens.float(), dim=-1).mT


def max_similarity(cosine: Tensor, selected: Tensor) -> Tensor:
    """Maximum of ``cosine`` ``[..., T, R]`` over the selected patches, bool ``[..., R]``; -1 if none is selected."""
    return cosine.masked_fill(~selected[..., None, :], -1.0).amax(-1)


def normalise_prior(similarity: Tensor) -> Tensor:
    """Min-max normalise each map ``[..., T]`` to ``[0, 1]`` (PFENet, Sec. 3.2). A constant map becomes zero."""
    least, greatest = similarity.amin(-1, keepdim=True), similarity.amax(-1, keepdim=True)
    return (similarity - least) / (greatest - least + EPSILON)
