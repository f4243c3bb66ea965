"""Drawn images of five species for tests of episodes and predictors."""

from __future__ import annotations

from nts.datasets.episodes import EpisodeImages
from synthetic.episodes import drawn_images
from synthetic.scenes import NOVEL_SPECIES, VALIDATION_SPECIES

SPECIES = (*NOVEL_SPECIES[:3], *VALIDATION_SPECIES[:4:2])
GROUPS = {"novel": (1, 2, 3), "base": (4, 5)}


def drawn_pair() -> tuple[EpisodeImages, EpisodeImages]:
    """References and targets, three images per species each."""
    return drawn_images(SPECIES, references_per_class=3, targets_per_class=3)
