"""Heads of episodes, beside the training-free pipeline: a trained reference prompt, and baselines that it should beat.

The baselines: the prior of the target (:mod:`nts.vrp.prior`), cut at a threshold; and GP-SAM of the VRP-SAM paper (CVPR
2024, Table 3), for which that is a pseudo-mask: five random points of it, its bounding box, or both are SAM2's prompt.
The paper does not say the threshold, and the threshold decides: choose it on other classes than those that are tested,
:func:`choose_threshold`.

All of them see whole images, so a reference image is encoded once whatever is marked in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets.annotated_images import AnnotatedImages, Annotation
from ..datasets.annotations import simulate
from ..datasets.episodes import (
    EncodedOnce,
    Episode,
    EpisodeImages,
    PaintedInstances,
    Predictor,
    References,
    evaluate_episodes,
)
from ..encoder import Encoder
from ..images import digest, normalise, stretch
from ..masks import draw_masks
from ..memory import WholeImage
from ..metrics.miou import PAINT_THRESHOLD, summarise_episodes
from ..pipeline import Scorer
from ..presets import Preset
from ..references import Reference, annotation_weights, box_of_mask
from ..segmenter import ImageEmbedding, Segmenter
from ..vrp.head import PromptHead
from ..vrp.prior import normalise_prior, prior
from ..vrp.prompt import TrainedPrompt

Prompts = Literal["points", "box", "both"]

TRAINING_FREE = "training-free"
PROMPTED_SCORERS: dict[str, Scorer] = {"vrp-scorer": "vrp", "both-scorers": "both"}
PREDICTORS: tuple[str, ...] = (
    TRAINING_FREE,
    "prior",
    "gp-sam-points",
    "gp-sam-box",
    "gp-sam-both",
    "vrp-map",
    *PROMPTED_SCORERS,
)
"""All heads, by the names that a user gives them. Those of the last line need a trained reference prompt."""
PROMPTED = ("vrp-map", *PROMPTED_SCORERS)
"""Those that need a trained reference prompt."""

PROMPTED_PAINT_THRESHOLD = 0.3
"""Instances that a reference prompt has judged are painted from this score on, where none was chosen."""
PRIOR_THRESHOLD = 0.75
"""Of the normalised prior, where none was chosen: the best on drawn scenes, not on photographs."""
PRIOR_THRESHOLDS: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
"""To choose from."""

TOKENS_BUDGET = 512 << 20

Thresholds = float | Mapping[Annotation, float]
"""One for all references, or one for every way in which they are annotated."""


class Baselines:
    """What the baselines share: both models, the tokens of images seen before, and the last target.

    Args:
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        budget: bytes of tokens that are kept.
    """

    def __init__(self, encoder: Encoder, segmenter: Segmenter, budget: int = TOKENS_BUDGET) -> None:
        self.segmenter = segmenter
        self._encoder, self._budget = encoder, budget
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._target: tuple[np.ndarray, Tensor] | None = None
        self._embedding: tuple[np.ndarray, ImageEmbedding] | None = None

    def prior(self, references: Sequence[Reference], target: np.ndarray) -> Tensor:
        """The normalised prior at the target's size: float ``[H, W]`` in ``[0, 1]``.

        Args:
            references: of one class.
            target: uint8 ``[H, W, 3]``; one that follows itself is encoded once.
        """
        tokens = torch.cat([self.tokens(reference) for reference in references])
        marked = torch.cat([self._marked(reference) for reference in references]).to(tokens.device)
        similarity = normalise_prior(prior(tokens, marked, self.target_tokens(target)))
        similarity = similarity.reshape(1, 1, *self._encoder.grid)
        return F.interpolate(similarity, size=target.shape[:2], mode="bilinear", align_corners=False)[0, 0]

    def target_tokens(self, target: np.ndarray) -> Tensor:
        """``[P, C]`` tokens of a target; one that follows itself is encoded once."""
        if self._target is None or self._target[0] is not target:
            self._target = target, self._encode(target)
        return self._target[1]

    def embedding(self, target: np.ndarray) -> ImageEmbedding:
        """SAM2's embedding of a target; one that follows itself is encoded once."""
        if self._embedding is None or self._embedding[0] is not target:
            self._embedding = target, self.segmenter.embed(normalise(stretch(target, self.segmenter.input_size)))
        return self._embedding[1]

    def _marked(self, reference: Reference) -> Tensor:
        """The patches that belong to what is marked, bool ``[P]``: half covered, or as far covered as any is.

        A patch at the border of an object is mostly background, and the maximum needs only one such patch to find the
        background alike. (On drawn scenes the prior reaches an mIoU of 40 so, and of 26 with every patch that is
        touched.)
        """
        kind = "mask" if reference.promoted else reference.kind
        weights = annotation_weights(reference.mask, kind, self._encoder.grid).flatten()
        return weights >= min(0.5, float(weights.max()))

    def tokens(self, reference: Reference) -> Tensor:
        """``[P, C]`` tokens of a reference's whole image; kept by the image's content."""
        key = digest(reference.image)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tokens = self._encode(reference.image)
        self._kept[key] = tokens
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)
        return tokens

    def _encode(self, image: np.ndarray) -> Tensor:
        pixels = normalise(stretch(image, self._encoder.info.input_size))
        return self._encoder.encode(pixels[None])[0].flatten(0, 1)


class ThresholdedPrior:
    """The prior, cut at a threshold: no segmenter at all.

    Args:
        baselines: the models.
        threshold: pixels of at least this are found.
    """

    def __init__(self, baselines: Baselines, threshold: Thresholds = PRIOR_THRESHOLD) -> None:
        self._baselines, self._threshold = baselines, threshold

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.datasets.episodes.Predictor`."""
        similarity = self._baselines.prior(references, target)
        return (similarity >= _threshold_for(references, self._threshold)).cpu().numpy()


class GeometricPrompts:
    """SAM2, prompted with points or the box of the thresholded prior (GP-SAM).

    Points alone are ambiguous: of SAM2's three masks the one of the highest predicted IoU is taken. With a box there is
    one.

    Args:
        baselines: the models.
        prompts: ``"points"``, ``"box"`` (the smallest around all of the pseudo-mask), or ``"both"``.
        threshold: pixels of at least this make the pseudo-mask.
        points: how many are drawn from it.
        seed: of their draw; equal pseudo-masks give equal points.
    """

    def __init__(
        self,
        baselines: Baselines,
        prompts: Prompts,
        threshold: Thresholds = PRIOR_THRESHOLD,
        *,
        points: int = 5,
        seed: int = 0,
    ) -> None:
        self._baselines, self._prompts, self._points, self._seed = baselines, prompts, points, seed
        self._pseudo_mask = ThresholdedPrior(baselines, threshold)

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.datasets.episodes.Predictor`."""
        pseudo_mask = self._pseudo_mask(references, target)
        if not pseudo_mask.any():
            return pseudo_mask
        points, labels = self.prompt(pseudo_mask)
        segmenter = self._baselines.segmenter
        logits, predicted_iou = segmenter.predict_points(
            self._baselines.embedding(target),
            points[None] * (segmenter.input_size / torch.tensor([target.shape[1], target.shape[0]])),
            labels[None],
            multimask=self._prompts == "points",
        )
        best = logits[0, int(predicted_iou[0].argmax())]
        return draw_masks(best[None], target.shape[:2])[0].cpu().numpy()

    def prompt(self, pseudo_mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """What SAM2 is asked.

        Args:
            pseudo_mask: bool ``[H, W]``, not empty.

        Returns:
            float ``[p, 2]``, ``x, y`` in pixels of the image, and int32 ``[p]``: 1 for a point on the object, 2 and 3
            for the upper left and lower right corner of the box, which SAM2 takes for points of another kind.
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


class PromptedMap:
    """Where the map of a reference prompt is positive.

    Args:
        models: the two models, and what they made of images before.
        encoder: the first of them.
        prompt: the trained prompt.
        empty: show it the reference images without their annotations: the control of whether they matter.

    Raises:
        PromptMismatch: if the prompt was trained for other models.
    """

    def __init__(self, models: Baselines, encoder: Encoder, prompt: TrainedPrompt, *, empty: bool = False) -> None:
        self._models, self._config, self._empty = models, prompt.model.config, empty
        self._head = PromptHead(prompt, encoder, models.segmenter)

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.datasets.episodes.Predictor`."""
        states = self._head.look([[self._whole_image(reference) for reference in references]])
        tokens = self._models.target_tokens(target).unflatten(0, self._config.grid)
        maps = self._head.maps(states, tokens, self._models.embedding(target))
        return draw_masks(maps.logits, target.shape[:2])[0].cpu().numpy()

    def _whole_image(self, reference: Reference) -> WholeImage:
        kind = "mask" if reference.promoted else reference.kind
        mask = np.zeros_like(reference.mask) if self._empty else reference.mask
        weights = annotation_weights(mask, kind, self._config.grid).flatten()
        sampled = annotation_weights(mask, kind, self._config.grid, "nearest").flatten().bool()
        return WholeImage(reference.sample_id, self._models.tokens(reference), weights, kind, sampled)


def make_predictor(
    name: str,
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    threshold: float | None = None,
    baselines: Baselines | None = None,
    prompt: TrainedPrompt | None = None,
) -> Predictor:
    """A head by its name.

    Args:
        name: one of :data:`PREDICTORS`.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: of the training-free pipeline; the baselines have no settings of that kind.
        threshold: see :func:`default_threshold`, which is taken where it is ``None``.
        baselines: what baselines share, so that none does again what another did.
        prompt: the trained reference prompt, for those of :data:`PROMPTED`.

    Raises:
        ValueError: if there is none of that name, or it lacks its prompt.
        PromptMismatch: if the prompt was trained for other models.
    """
    threshold = default_threshold(name) if threshold is None else threshold
    if name in PROMPTED and prompt is None:
        raise ValueError(f"the head {name!r} needs a trained reference prompt")
    if name == TRAINING_FREE or name in PROMPTED_SCORERS:
        scorer = PROMPTED_SCORERS.get(name, "prototype")
        return PaintedInstances(EncodedOnce(encoder, segmenter, preset), threshold, scorer=scorer, prompt=prompt)
    baselines = baselines or Baselines(encoder, segmenter)
    if prompt is not None and name == "vrp-map":
        return PromptedMap(baselines, encoder, prompt)
    prompts: dict[str, Prompts] = {"gp-sam-points": "points", "gp-sam-box": "box", "gp-sam-both": "both"}
    if name in prompts:
        return GeometricPrompts(baselines, prompts[name], threshold)
    return ThresholdedPrior(baselines, threshold)


def default_threshold(name: str) -> float:
    """The threshold of a head: least score that is painted, or least normalised prior that is found.

    Raises:
        ValueError: if there is no head of that name.
    """
    if name not in PREDICTORS:
        raise ValueError(f"there is no head {name!r}; there are {', '.join(PREDICTORS)}")
    painted = {TRAINING_FREE: PAINT_THRESHOLD, **dict.fromkeys(PROMPTED_SCORERS, PROMPTED_PAINT_THRESHOLD)}
    return painted.get(name, PRIOR_THRESHOLD)


def choose_threshold(
    make: Callable[[float], Predictor],
    thresholds: Sequence[float],
    episodes: Sequence[Episode],
    references: References,
    targets: EpisodeImages,
    *,
    side: int | None = None,
) -> tuple[float, dict[float, float]]:
    """The threshold of the highest mIoU on some episodes: of *validation* classes, never of those that are tested.

    Args:
        make: the head, given a threshold.
        thresholds: to choose from.
        episodes: to choose by.
        references: where their references are.
        targets: where their targets are.
        side: see :func:`~nts.datasets.episodes.evaluate_episodes`.

    Returns:
        the best threshold, the lowest on ties, and the mIoU of each, in ``[0, 1]``.

    Raises:
        ValueError: if there is no threshold, or no episode with a pixel to find.
    """
    classes = {class_id: str(class_id) for class_id in sorted({episode.class_id for episode in episodes})}
    heads = {threshold: make(threshold) for threshold in sorted(set(thresholds))}
    counts: dict[float, list[list[int]]] = {threshold: [] for threshold in heads}
    for episode in sorted(episodes, key=lambda e: str(e.target)):  # all thresholds and episodes of a target in a row
        for threshold, head in heads.items():
            (outcome,) = evaluate_episodes([episode], references, targets, head, side=side)
            counts[threshold].append([episode.class_id, *outcome.counts.numbers])
    found = {}
    for threshold, rows in counts.items():
        table = np.array(rows, np.int64).reshape(-1, 5)
        found[threshold] = summarise_episodes(table[:, 0], table[:, 1:], classes).miou
    if not found or any(np.isnan(list(found.values()))):
        raise ValueError("a threshold needs some to choose from, and episodes with a pixel to find")
    return max(found, key=lambda threshold: (found[threshold], -threshold)), found


def choose_thresholds(
    make: Callable[[float], Predictor],
    thresholds: Sequence[float],
    episodes: Sequence[Episode],
    references: EpisodeImages,
    targets: EpisodeImages,
    annotations: Sequence[Annotation],
    *,
    segmenter: Segmenter | None = None,
    seed: int = 0,
    side: int | None = None,
) -> dict[Annotation, float]:
    """The best threshold for every way in which references are annotated, see :func:`choose_threshold`.

    Args:
        make, thresholds, episodes, targets, side: as there.
        references: images with the masks that annotations are simulated from.
        annotations: for which.
        segmenter: SAM2, where annotations are promoted.
        seed: of the simulated annotations.
    """
    chosen = {}
    for annotation in annotations:
        shown = AnnotatedImages(references, annotation, seed=seed, segmenter=segmenter)
        chosen[annotation], _ = choose_threshold(make, thresholds, episodes, shown, targets, side=side)
    return chosen


def _threshold_for(references: Sequence[Reference], thresholds: Thresholds) -> float:
    if not isinstance(thresholds, Mapping):
        return thresholds
    kind, promoted = references[0].kind, any(reference.promoted for reference in references)
    of_kind = [annotation for annotation in thresholds if annotation.kind == kind]
    if not of_kind:
        raise ValueError(f"there is no threshold for references annotated by a {kind}")
    # A reference of which SAM2 drew nothing is shown as it was annotated, among others that were promoted.
    return thresholds[next((a for a in of_kind if a.promoted == promoted), of_kind[0])]
