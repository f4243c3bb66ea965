"""Training episodes: a class, a target image, and other images of the class as references.

Episode ``n`` depends only on the seed and on ``n``. Workers that divide the numbers among them never draw the same
episode twice, and an interrupted training resumes with the same episodes. (The published multi-GPU training seeds all
workers alike, so each step repeats the same episodes on every GPU.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...datasets.annotations import simulate
from ...datasets.episodes import EpisodeImages
from ...references import Kind
from .classes import ClassImages, ImageId


@dataclass(frozen=True)
class TrainingEpisode:
    """A training episode.

    Attributes:
        class_id: id of the class.
        target: id of an image that shows the class, or does not where ``absent``.
        references: ids of other images of the class.
        kinds: kind of annotation of each reference.
        flips: mirrored images: the target first, then each reference.
        absent: the target does not show the class.
        seed: of the simulated annotations.
    """

    class_id: int
    target: ImageId
    references: tuple[ImageId, ...]
    kinds: tuple[Kind, ...]
    flips: tuple[bool, ...]
    absent: bool
    seed: tuple[int, int]


def draw_training_episode(
    images: ClassImages,
    number: int,
    *,
    seed: int,
    kinds: tuple[Kind, ...],
    most_shots: int,
    absent_share: float,
    flip: bool,
) -> TrainingEpisode:
    """Draw an episode: a class uniformly, then its target, 1 to ``most_shots`` references, and a kind for each.

    Args:
        images: images by class.
        number: of the episode, counted over the whole training.
        seed: of the training.
        kinds: kinds of annotation to draw from.
        most_shots: maximal number of references; fewer if the class has fewer images.
        absent_share: probability of a target without the class, if there is such an image.
        flip: mirror images with probability 1/2.
    """
    rng = np.random.default_rng([seed, number])
    class_id = list(images.with_class)[rng.integers(len(images.with_class))]
    shown = images.with_class[class_id]
    shots = 1 + int(rng.integers(min(most_shots, len(shown) - 1)))
    target, *references = (shown[i] for i in rng.permutation(len(shown))[: shots + 1])
    absent = False
    if rng.random() < absent_share and len(shown) < len(images.all_images):
        without = sorted(set(images.all_images) - set(shown), key=str)
        target, absent = without[rng.integers(len(without))], True
    return TrainingEpisode(
        class_id,
        target,
        tuple(references),
        tuple(kinds[i] for i in rng.integers(len(kinds), size=shots)),
        tuple(flip and bool(x) for x in rng.integers(2, size=1 + shots)),
        absent,
        (seed, number),
    )


def annotate(images: EpisodeImages, episode: TrainingEpisode, index: int) -> np.ndarray:
    """Simulate the annotation of reference ``index``, in its mirrored image if it is mirrored: bool ``[H, W]``."""
    mask = images.mask(episode.references[index], episode.class_id)
    if episode.flips[1 + index]:
        mask = np.ascontiguousarray(mask[:, ::-1])
    return simulate(mask, episode.kinds[index], np.random.default_rng([*episode.seed, 1 + index]))
