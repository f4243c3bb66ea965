"""Examples in docstrings, run on the small models and drawn scenes."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_dataset import SPECIES
from paths import ROOT
from PIL import Image

from nts import Reference, ReferenceSegmenter, build_memory
from synthetic.scenes import reference_scenes


def modules_with_examples() -> list[str]:
    paths = [path for path in sorted((ROOT / "nts").rglob("*.py")) if ">>> " in path.read_text()]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


ADAPTER = [name for name in modules_with_examples() if name.startswith("nts.fiftyone_adapter")]
ENGINE = [name for name in modules_with_examples() if name not in ADAPTER]


@pytest.fixture
def names(small_encoder, small_segmenter, tmp_path, monkeypatch) -> dict[str, Any]:
    """Names that the examples assume; the working folder holds an image, `street.jpg`."""
    (scene,) = reference_scenes(SPECIES[0], 1)
    image, mask = scene.image, scene.masks[0]
    Image.fromarray(image).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    memory, _ = build_memory([Reference(image, "bird", mask)], small_encoder)
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    return {"image": image, "mask": np.asarray(mask), "memory": memory, "segmenter": segmenter}


def run_examples(module: str, names: dict[str, Any]) -> None:
    assert "+SKIP" not in Path(importlib.import_module(module).__file__).read_text()
    results = doctest.testmod(importlib.import_module(module), extraglobs=names)
    assert results.attempted > 0
    assert results.failed == 0, "see the output above"


@pytest.mark.parametrize("module", ENGINE)
def test_examples_of_the_engine_run(module, names):
    run_examples(module, names)


@pytest.mark.parametrize("module", ADAPTER)
def test_examples_of_the_adapter_run(module, nts_fo, drawn, names):
    run_examples(module, {**names, "dataset": drawn})
