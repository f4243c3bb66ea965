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


@pytest.fixture
def segmented(nts_fo, drawn, references, targets):
    """The drawn scenes, with the predictions of a memory in the field `nts_shapes`."""
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    nts_fo.auto_segment_view(targets, "shapes")
    return drawn
