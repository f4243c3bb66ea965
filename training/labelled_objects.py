"""Objects of photographs with a class, to train the encoder on."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage
from torch import Tensor

from nts.images import normalise, resize_bicubic, stretch, to_float
from nts.matching import patch_weights
from nts.references import Reference, prepare_reference
from synthetic.natural import draw_surface, photograph

from .pool import STUFF, Photograph, Pool, resize

MIN_AREA = 400  # pixels
MIN_OBJECTS = 4  # of a class
SHARES = (0.2, 0.95)
"""Extent of an object relative to the window around it."""

MERGED = {"Faces_easy": "Faces", "airplanes": "airplane", "Motorbikes": "motorcycle", "car_side": "car"}
"""Names of one class in several sets."""


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """An object of a photograph; ``index`` of its mask, or ``None`` if the whole photograph shows it."""

    photograph: Photograph
    index: int | None

    def mask(self) -> np.ndarray:
        """bool ``[H, W]``; without a mask, an ellipse in the middle."""
        if self.index is not None:
            return self.photograph.masks([self.index])[0]
        height, width = self.photograph.size
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        return (y / 0.8) ** 2 + (x / 0.8) ** 2 <= 1


def read_objects(pool: Pool, folder: Path) -> dict[str, list[LabelledObject]]:
    """Objects by the name of their class: those of a pool with masks, and photographs of one object.

    Args:
        pool: photographs with masks.
        folder: with a folder for every set: ``images/`` and ``labels.json``, the class of every file.
    """
    found: dict[str, list[LabelledObject]] = defaultdict(list)
    for photographs in pool.sets.values():
        for each in photographs:
            for i, name in enumerate(each.classes):
                if not STUFF.search(name) and coco_mask.area(each.rles[i]) >= MIN_AREA:
                    found[name].append(LabelledObject(each, i))
    for file in sorted(Path(folder).glob("*/labels.json")):
        for image, name in json.loads(file.read_text()).items():
            path = file.parent / "images" / image
            each = Photograph(f"{file.parent.name}/{image}", path, _size(path), (), ())
            found[MERGED.get(name, name)].append(LabelledObject(each, None))
    return {name: objects for name, objects in sorted(found.items()) if len(objects) >= MIN_OBJECTS}


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


@dataclass(frozen=True, eq=False)
class View:
    """Input of the encoder, and regions of it.

    Attributes:
        pixels: float ``[3, side, side]``, normalised.
        weights: float ``[n, h, w]`` on the patch grid: the object first, then background windows.
    """

    pixels: Tensor
    weights: Tensor


def draw_view(rng: np.random.Generator, of: LabelledObject, side: int, patch: int, *, crop: bool) -> View:
    """A view of an object with other light, size and direction.

    Args:
        rng: source of random numbers.
        of: the object.
        side: of the encoder's input.
        patch: side of a patch.
        crop: as a reference is seen: masked and cropped; else a window around the object, as a target is seen.
    """
    image, mask = of.photograph.image(), of.mask()
    everything = of.photograph.masks().any(0) if of.index is not None else None
    if rng.uniform() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
        everything = everything if everything is None else everything[:, ::-1]
    if of.index is not None and not crop and rng.uniform() < 0.25:
        surface = resize((np.clip(draw_surface(rng, 64), 0, 1) * 255).astype(np.uint8), image.shape[:2])
        image = np.where(ndimage.binary_dilation(mask, iterations=1)[..., None], image, surface)
        everything = mask
    if not crop:
        window = _window(rng, mask, whole=of.index is None)
        image, mask = image[window], mask[window]
        everything = everything if everything is None else everything[window]
    image = photograph(rng, np.ascontiguousarray(image, dtype=np.float32) / 255, 0.8)
    grid = (side // patch, side // patch)
    antialias = bool(rng.integers(2))
    if crop:
        reference = Reference(image, "", np.ascontiguousarray(mask))
        weighting = "area" if antialias else "corner"
        pixels, weights = prepare_reference(reference, side, grid, antialias=antialias, patch_weights=weighting)
        return View(pixels, weights[None])
    pixels = normalise(stretch(image, side) if antialias else resize_bicubic(to_float(image), side))
    regions = [mask]
    if everything is not None:
        background = _background(rng, everything)
        regions += [background] if background is not None else []
    return View(pixels, patch_weights(torch.from_numpy(np.stack(regions)), grid))


def _window(rng: np.random.Generator, mask: np.ndarray, *, whole: bool) -> tuple[slice, slice]:
    """Window around an object; of a photograph without a mask most of it."""
    window = []
    share = rng.uniform(0.8, 1.2) if whole else SHARES[0] * (SHARES[1] / SHARES[0]) ** rng.uniform()
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    extent = max(span[-1] + 1 - span[0] for span in spans)
    for span, length in zip(spans, mask.shape, strict=True):
        size = int(np.clip(extent / share * np.exp(rng.uniform(-0.15, 0.15)), 24, length))
        centre = (span[0] + span[-1]) / 2 + rng.uniform(-0.2, 0.2) * size
        start = int(np.clip(centre - size / 2, 0, length - size))
        window.append(slice(start, start + size))
    return window[0], window[1]


def _background(rng: np.random.Generator, everything: np.ndarray) -> np.ndarray | None:
    """Ellipse that no known object covers; ``None`` if there is no room."""
    height, width = everything.shape
    y, x = np.ogrid[:height, :width]
    for _ in range(4):
        centre, radii = rng.uniform(0, 1, 2) * [height, width], rng.uniform(0.08, 0.3, 2) * [height, width]
        ellipse = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1
        if ellipse.any() and (ellipse & everything).sum() < 0.05 * ellipse.sum():
            return ellipse
    return None
