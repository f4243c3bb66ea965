"""Fixtures of the adapter's tests."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from made_up_predictions import predict

from nts.presets import DEFAULT, Preset

if TYPE_CHECKING:
    import fiftyone


@pytest.fixture
def predicted(drawn: fiftyone.Dataset) -> fiftyone.Dataset:
    """Drawn scenes with synthetic predictions in `found`."""
    predict(drawn)
    return drawn


@pytest.fixture
def decisions(nts_fo: ModuleType) -> ModuleType:
    """Module of decisions about predictions."""
    return importlib.import_module("nts.fiftyone_adapter.decisions")


@pytest.fixture
def quick() -> Preset:
    """The default preset with a coarse prompt grid, for tests that do not depend on the instances."""
    return replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=6))


@pytest.fixture
def memory(nts_fo: ModuleType, references: fiftyone.DatasetView) -> str:
    """Name of a memory of the drawn dataset."""
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    return "shapes"
