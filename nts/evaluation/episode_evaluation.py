"""Evaluation of a predictor over episodes, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..datasets.episodes import Episode, EpisodeImages, References
from ..images import ImageError
from ..metrics.miou import PixelCounts, count_pixels
from ..references import InvalidReference, Reference

Predictor = Callable[[Sequence[Reference], np.ndarray], np.ndarray]
"""References of one class and a target, uint8 ``[H, W, 3]``, to a mask, bool ``[H, W]``."""


@dataclass(frozen=True)
class Outcome:
    """Pixel counts of an episode. With an ``error``, the predictor did not run, and the predicted mask is empty."""

    episode: Episode
    counts: PixelCounts
    error: str = ""


def evaluate_episodes(
    episodes: Iterable[Episode],
    references: References,
    targets: EpisodeImages,
    predictor: Predictor,
    *,
    side: int | None = None,
    shown: Iterable[Episode] | None = None,
) -> Iterator[Outcome]:
    """Run a predictor on episodes and count pixels.

    Consecutive episodes on one target give the predictor the same array, so that it can reuse what it computed.

    Args:
        episodes: to evaluate.
        references: source of their references.
        targets: source of their targets.
        predictor: to evaluate. It sees references of the class, never its name.
        side: compare masks resized to ``side`` pixels squared (nearest), as VRP-SAM does with 512; at the size of the
            target where ``None``.
        shown: for every episode another one, whose class and references are shown instead: a control, such as that of
            :func:`~nts.datasets.episodes.show_wrong_class`.

    Yields:
        One outcome per episode. An unusable image gives an outcome with an error, counted as an empty prediction.
    """
    episodes = list(episodes)
    for episode, instead in zip(episodes, episodes if shown is None else shown, strict=True):
        truth, ignored = targets.mask(episode.target, episode.class_id), targets.ignored(episode.target)
        error = ""
        try:
            seen = [references.reference(image_id, instead.class_id) for image_id in instead.references]
            predicted = predictor(seen, targets.image(episode.target))
        except (ImageError, InvalidReference) as reason:
            predicted, error = np.zeros_like(truth), str(reason)
        if side is not None:
            predicted, truth = _resize(predicted, side), _resize(truth, side)
            ignored = None if ignored is None else _resize(ignored, side)
        yield Outcome(episode, count_pixels(predicted, truth, ignored), error)


def _resize(mask: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
