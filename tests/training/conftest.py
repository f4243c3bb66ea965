"""A tiny pool of pictures in the layout of the photographs that the small models are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from synthetic.natural import draw_natural_scene
from synthetic.scenes import write_coco

SPECIES = (100, 102, 104)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `pool/<set>/` (masks) and `classes/<set>/` (a class for each picture)."""
    folder = tmp_path_factory.mktemp("photographs")
    for k, name in enumerate(("coco_masks", "feral_cats")):
        scenes = [draw_natural_scene([k, i], SPECIES, featured=SPECIES[i % 3], side=160) for i in range(24)]
        root = folder / "pool" / name
        write_coco(root, scenes, SPECIES)
        (root / "labels.json").rename(root / "annotations.json")
        (root / "data").rename(root / "images")
    root = folder / "classes" / "objects"
    (root / "images").mkdir(parents=True)
    labels = {}
    for i in range(8):
        file = f"{i}.png"
        Image.fromarray(draw_natural_scene([9, i], [106], featured=108, side=64).image).save(root / "images" / file)
        labels[file] = "whole"
    (root / "labels.json").write_text(json.dumps(labels))
    return folder
