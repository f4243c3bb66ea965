"""Small FiftyOne dataset of drawn scenes: two classes, four reference images, three targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from synthetic.scenes import DISTRACTOR_SPECIES, NOVEL_SPECIES, Scene, draw_scene, reference_scenes, species_name

if TYPE_CHECKING:
    import fiftyone

SPECIES = tuple(NOVEL_SPECIES)[:4:2]  # dissimilar species
CLASSES = tuple(sorted(species_name(number) for number in SPECIES))
REFERENCES, TARGETS = 4, 3
PLUGIN = "@nts/reference-segmentation"


def drawn_samples(folder: Path) -> list[fiftyone.Sample]:
    """Samples tagged `reference` and `target`, with masks in `ground_truth`; images are written to the folder."""
    import fiftyone as fo

    return [
        fo.Sample(_write(scene, folder / f"{k}.png"), tags=[tag], ground_truth=_detections(scene, SPECIES))
        for k, (tag, scene) in enumerate(_scenes())
    ]


def training_samples(folder: Path, seed: int, pairs: Sequence[tuple[int, int]]) -> list[fiftyone.Sample]:
    """One sample per pair of species, with masks in `objects`; images are written to the folder."""
    import fiftyone as fo

    scenes = [draw_scene([seed, k], pair) for k, pair in enumerate(pairs)]
    return [
        fo.Sample(_write(scene, folder / f"{k:02d}.png"), objects=_detections(scene, pair))
        for k, (scene, pair) in enumerate(zip(scenes, pairs, strict=True))
    ]


def _write(scene: Scene, path: Path) -> Path:
    Image.fromarray(scene.image).save(path)
    return path


def _detections(scene: Scene, species: Sequence[int]) -> fiftyone.Detections:
    import fiftyone as fo

    return fo.Detections(
        detections=[
            fo.Detection.from_mask(mask, label=species_name(number))
            for mask, number in zip(scene.masks, scene.species.tolist(), strict=True)
            if number in species
        ]
    )


def truncate(path: str) -> bytes:
    """Cut an image file in half, and return its original content."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])
    return content


def blobs(rng: np.random.Generator, count: int, height: int, width: int) -> list[np.ndarray]:
    """Masks of random ellipses, bool ``[height, width]``, all non-empty."""
    ys, xs = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = 1 + rng.uniform(0, height / 3), 1 + rng.uniform(0, width / 3)
        mask = ((ys - y) / ry) ** 2 + ((xs - x) / rx) ** 2 <= 1
        mask[min(int(y), height - 1), min(int(x), width - 1)] = True
        masks.append(mask)
    return masks


@lru_cache(maxsize=1)
def _scenes() -> list[tuple[str, Scene]]:
    references = [("reference", scene) for number in SPECIES for scene in reference_scenes(number, 2)]
    pool = [*SPECIES, *SPECIES, *DISTRACTOR_SPECIES[:4]]
    targets = [("target", draw_scene([7, k], pool)) for k in range(TARGETS)]
    return references + targets


def fields_and_runs(dataset) -> dict:
    """Fields and runs of a dataset, to compare before and after."""
    dataset.reload()
    return {"fields": set(dataset.get_field_schema(flat=True)), "runs": dataset.list_runs()}
