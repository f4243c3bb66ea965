"""Fixtures of the tests of the engine."""

from __future__ import annotations

import pytest

from nts import pipeline


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """Batches of three, as on a GPU; numbers of images that both image encoders see at once."""
    seen, together = [], pipeline.encode_together
    monkeypatch.setattr(pipeline, "images_per_batch", lambda device: 3)
    monkeypatch.setattr(
        pipeline, "encode_together", lambda images, *more: seen.append(len(images)) or together(images, *more)
    )
    return seen
