"""A pool of photographs with masks, to train on: folders in COCO's layout.

Every set is a folder with ``images/`` and ``annotations.json``, whose masks may be incomplete and may overlap. A tenth
of each set is held out for validation; copies of a photograph stay together.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.segmentation import felzenszwalb

from nts.images import read_image

Part = Literal["train", "validation"]

HELD_OUT = 10  # one of so many
STUFF = re.compile(r"-merged$|-other$|-stuff$|^(sky|wall|floor|ceiling|road|street|sea|snow|sand|river|gravel|playing)")
"""Names of classes without instances."""

WEIGHTS = {"coco_masks": 3.0, "animals_other": 3.0, "feral_cats": 2.0, "mushrooms": 0.7, "facade": 0.3}
"""Relative frequency of sets in a draw; 1 for all others."""

REGION_SIDE = 128
REGION_SCALES = ((100, 10), (400, 25))
"""Scale and smallest size in pixels, see ``skimage.segmentation.felzenszwalb``, for images of that side."""

NOT_CUT_OUT = ("feral_cats", "facade", "carpanels")
"""Sets whose objects are not pasted: their outlines are coarse or jagged, or they are no objects by themselves."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph with its objects.

    Attributes:
        name: set and file name.
        path: of the image.
        size: ``(H, W)``.
        rles: masks as run-length encodings.
        classes: names of the masks' classes.
    """

    name: str
    path: Path
    size: tuple[int, int]
    rles: tuple[dict, ...]
    classes: tuple[str, ...]

    def image(self) -> np.ndarray:
        """uint8 ``[H, W, 3]``."""
        return _read(self.path)

    def masks(self, which: Sequence[int] | slice = slice(None)) -> np.ndarray:
        """Masks of some objects, bool ``[n, H, W]``."""
        rles = self.rles[which] if isinstance(which, slice) else [self.rles[i] for i in which]
        if not rles:
            return np.zeros((0, *self.size), bool)
        return coco_mask.decode(list(rles)).transpose(2, 0, 1).astype(bool)

    def regions(self) -> np.ndarray:
        """Regions of even colour at two scales (Felzenszwalb and Huttenlocher), int32 ``[2, H, W]``."""
        return _regions(self.path, self.size)


@lru_cache(maxsize=4096)
def _read(path: Path) -> np.ndarray:
    return read_image(path)


@lru_cache(maxsize=4096)
def _small_regions(path: Path) -> np.ndarray:
    image = _read(path)
    scale = REGION_SIDE / max(image.shape[:2])
    small = resize(image, (max(8, round(image.shape[0] * scale)), max(8, round(image.shape[1] * scale))))
    found = [felzenszwalb(small, scale=scale, sigma=0.8, min_size=size) for scale, size in REGION_SCALES]
    return np.stack(found).astype(np.int32)


def _regions(path: Path, size: tuple[int, int]) -> np.ndarray:
    small = _small_regions(path)
    rows, columns = (np.arange(full) * part // full for full, part in zip(size, small.shape[1:], strict=True))
    return small[:, rows[:, None], columns]


@dataclass(frozen=True, eq=False)
class Pool:
    """Photographs of several sets.

    Attributes:
        sets: photographs by the name of their set.
        cut_outs: whole, well outlined objects, as pairs of a photograph and the index of its mask.
    """

    sets: dict[str, tuple[Photograph, ...]]
    cut_outs: tuple[tuple[Photograph, int], ...]

    def draw(self, rng: np.random.Generator) -> Photograph:
        """A photograph at random, see :data:`WEIGHTS`."""
        names = sorted(self.sets)
        weights = np.array([WEIGHTS.get(name, 1.0) for name in names])
        photographs = self.sets[names[rng.choice(len(names), p=weights / weights.sum())]]
        return photographs[int(rng.integers(len(photographs)))]


def read_pool(folder: Path, part: Part) -> Pool:
    """Read the part of a pool that is trained on, or the one that is held out.

    Args:
        folder: with a folder for every set.
        part: which photographs.

    Raises:
        FileNotFoundError: if there is no set.
    """
    files = sorted(Path(folder).glob("*/annotations.json"))
    if not files:
        raise FileNotFoundError(f"{folder} has no folder with an annotations.json")
    sets = {file.parent.name: _read_set(file, part) for file in files}
    cut_outs = [
        (photograph, i)
        for name, photographs in sets.items()
        if name not in NOT_CUT_OUT
        for photograph in photographs
        for i in range(len(photograph.rles))
        if _may_be_cut_out(photograph, i)
    ]
    return Pool(sets, tuple(cut_outs))


def _read_set(file: Path, part: Part) -> tuple[Photograph, ...]:
    dataset = json.loads(file.read_text())
    name = file.parent.name
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    objects: dict[int, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        if not annotation["iscrowd"]:
            objects[annotation["image_id"]].append(annotation)
    return tuple(
        Photograph(
            name=f"{name}/{image['file_name']}",
            path=file.parent / "images" / image["file_name"],
            size=(image["height"], image["width"]),
            rles=tuple(annotation["segmentation"] for annotation in objects[image["id"]]),
            classes=tuple(names[annotation["category_id"]] for annotation in objects[image["id"]]),
        )
        for image in dataset["images"]
        if objects[image["id"]] and _is_held_out(image["file_name"]) == (part == "validation")
    )


def _is_held_out(file_name: str) -> bool:
    """Whether an image is held out; augmented copies have the same start of the name."""
    photograph = re.split(r"_scaled|_jpe?g|_png|\.", file_name)[0]
    return zlib.crc32(photograph.encode()) % HELD_OUT == 0


def _may_be_cut_out(photograph: Photograph, i: int) -> bool:
    """Large enough, not cut off by the border of the photograph, not stuff."""
    rle = photograph.rles[i]
    x, y, width, height = coco_mask.toBbox(rle)
    rows, columns = photograph.size
    inside = x > 1 and y > 1 and x + width < columns - 1 and y + height < rows - 1
    return bool(
        inside and min(width, height) >= 24 and coco_mask.area(rle) >= 900 and not STUFF.search(photograph.classes[i])
    )


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 image or bool mask, ``[H, W, …]`` to ``size`` = ``(h, w)``, antialiased."""
    height, width = size
    if image.dtype == bool:
        pixels = Image.fromarray(image.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(pixels) >= 128
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
