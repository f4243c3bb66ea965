"""Baselines on episodes that a trained reference prompt should beat.

The training-free prior of the target (:mod:`nts.vrp.prior`), thresholded; and GP-SAM of VRP-SAM (CVPR 2024, Table 3),
which takes the thresholded prior as a pseudo-mask: five random points of it, its bounding box, or both prompt SAM2. The
paper does not state the threshold, and results depend on it: choose it on other classes than those that are tested, see
:func:`nts.evaluation.thresholds.choose_threshold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.annotations import simulate
from ..masks import draw_masks
from ..references import Reference, annotation_weights, box_of_mask
from ..vrp.prior import normalise_prior, prior
from .shared_encodings import SharedEncodings
from .thresholds import Thresholds, threshold_for

PromptKinds = Literal["points", "box", "both"]
"""Geometric prompts of SAM2 that are taken from the pseudo-mask."""

PRIOR_THRESHOLD = 0.75
"""Default threshold of the normalised prior: the best on drawn scenes, not on photographs."""
PRIOR_THRESHOLDS: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
"""Candidates to choose from."""


def target_prior(encodings: SharedEncodings, references: Sequence[Reference], target: np.ndarray) -> Tensor:
    """Normalised prior of a class at the size of the target: float ``[H, W]`` in ``[0, 1]``.

    Args:
        encodings: of the images.
        references: of one class.
        target: uint8 ``[H, W, 3]``.
    """
    grid = encodings.encoder.grid
    tokens = torch.cat([encodings.reference_tokens(reference) for reference in references])
    marked = torch.cat([_marked_patches(reference, grid) for reference in references]).to(tokens.device)
    similarity = normalise_prior(prior(tokens, marked, encodings.target_tokens(target)))
    similarity = similarity.reshape(1, 1, *grid)
    return F.interpolate(similarity, size=target.shape[:2], mode="bilinear", align_corners=False)[0, 0]


def _marked_patches(reference: Reference, grid: tuple[int, int]) -> Tensor:
    """Patches of the marked object, bool ``[P]``: those covered by half, or as far as any patch is.

    A patch at the border of an object is mostly background, and one such patch is enough for the maximum over patches
    to match the background. (On drawn scenes the prior reaches an mIoU of 40 with this rule, and of 26 with every patch
    that is touched.)
    """
    kind = "mask" if reference.promoted else reference.kind
    weights = annotation_weights(reference.mask, kind, grid).flatten()
    return weights >= min(0.5, float(weights.max()))


class ThresholdedPrior:
    """The prior, thresholded; no segmenter is involved.

    Args:
        encodings: shared with other predictors.
        threshold: pixels with a prior of at least this are foreground.
    """

    def __init__(self, encodings: SharedEncodings, threshold: Thresholds = PRIOR_THRESHOLD) -> None:
        self._encodings, self._threshold = encodings, threshold

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.evaluation.episode_evaluation.Predictor`."""
        similarity = target_prior(self._encodings, references, target)
        return (similarity >= threshold_for(references, self._threshold)).cpu().numpy()


class GeometricPrompts:
    """GP-SAM: SAM2, prompted with points or the box of the thresholded prior.

    Points alone are ambiguous: of SAM2's three masks the one with the highest predicted IoU is used. With a box there
    is one mask.

    Args:
        encodings: shared with other predictors.
        prompts: ``"points"``, ``"box"`` (the bounding box of the whole pseudo-mask), or ``"both"``.
        threshold: pixels with a prior of at least this form the pseudo-mask.
        points: number of points drawn from it.
        seed: of their draw; equal pseudo-masks give equal points.
    """

    def __init__(
        self,
        encodings: SharedEncodings,
        prompts: PromptKinds,
        threshold: Thresholds = PRIOR_THRESHOLD,
        *,
        points: int = 5,
        seed: int = 0,
    ) -> None:
        self._encodings, self._prompts, self._points, self._seed = encodings, prompts, points, seed
        self._pseudo_mask = ThresholdedPrior(encodings, threshold)

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.evaluation.episode_evaluation.Predictor`."""
        pseudo_mask = self._pseudo_mask(references, target)
        if not pseudo_mask.any():
            return pseudo_mask
        points, labels = self.prompt(pseudo_mask)
        segmenter = self._encodings.segmenter
        logits, predicted_iou = segmenter.predict_points(
            self._encodings.target_embedding(target),
            points[None] * (segmenter.input_size / torch.tensor([target.shape[1], target.shape[0]])),
            labels[None],
            multimask=self._prompts == "points",
        )
        best = logits[0, int(predicted_iou[0].argmax())]
        return draw_masks(best[None], target.shape[:2])[0].cpu().numpy()

    def prompt(self, pseudo_mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Points of SAM2's prompt, and their labels.

        Args:
            pseudo_mask: bool ``[H, W]``, not empty.

        Returns:
            float ``[p, 2]``, ``x, y`` in pixels of the image, and int32 ``[p]``: 1 for a point on the object, 2 and 3
            for the upper left and lower right corner of the box.
        """
        points, labels = [], []
        if self._prompts != "points":
            x, y, width, height = box_of_mask(pseudo_mask)
            points += [[x, y], [x + width, y + height]]
            labels += [2, 3]
        if self._prompts != "box":
            drawn = simulate(pseudo_mask, "point", np.random.default_rng(self._seed), points=self._points)
            ys, xs = drawn.nonzero()
            points += np.stack([xs + 0.5, ys + 0.5], 1).tolist()
            labels += [1] * len(xs)
        return torch.tensor(points, dtype=torch.float32), torch.tensor(labels, dtype=torch.int32)
