"""Fixtures of the tests of operators and panels."""

from __future__ import annotations

import pytest
from made_up_predictions import predict


@pytest.fixture
def evaluated(nts_fo, drawn):
    """Two evaluations of the drawn scenes, `second` the newer."""
    for seed, key in enumerate(("first", "second")):
        predict(drawn, key, seed)
        nts_fo.evaluate_nap(drawn, key, "ground_truth", eval_key=f"nap_{key}")
    return drawn
