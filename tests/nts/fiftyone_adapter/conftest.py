"""Fixtures of the adapter's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from made_up_predictions import predict

if TYPE_CHECKING:
    import fiftyone


@pytest.fixture
def predicted(drawn: fiftyone.Dataset) -> fiftyone.Dataset:
    """Drawn scenes with synthetic predictions in `found`."""
    predict(drawn)
    return drawn
