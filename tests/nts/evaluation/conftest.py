"""Fixtures of the evaluation tests."""

from __future__ import annotations

import pytest
from drawn_episodes import GROUPS, drawn_pair

from nts.datasets.episode_lists import EpisodeList, draw_lists
from nts.datasets.episodes import EpisodeImages
from nts.evaluation.shared_encodings import SharedEncodings


@pytest.fixture(scope="module")
def images() -> tuple[EpisodeImages, EpisodeImages]:
    return drawn_pair()


@pytest.fixture(scope="module")
def lists(images) -> list[EpisodeList]:
    return draw_lists(*images, GROUPS, shots=(1, 2), count=6)


@pytest.fixture
def encodings(small_encoder, small_segmenter) -> SharedEncodings:
    return SharedEncodings(small_encoder, small_segmenter)
