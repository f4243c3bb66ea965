"""Photographs that come with scikit-image, which FiftyOne installs: label a few objects, find the others.

The labels are ellipses, drawn by hand. Labels and predictions are in one image, as when somebody labels a few objects
of an image and wants the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fiftyone as fo
import numpy as np
import skimage.data
from PIL import Image

from nts import fiftyone_adapter as nts
from nts.pictures import class_colours, contact_sheet
from nts.recommendation import THRESHOLD

from .showing import Bar, draw_sample

DATASET = "reference-segmentation-photographs"
LABELS = "labels"

Ellipse = tuple[float, float, float, float]
"""``x, y`` of the centre, and both radii, in pixels."""


@dataclass(frozen=True)
class Photograph:
    """A photograph, and a few labels.

    Attributes:
        name: in ``skimage.data``.
        label: class of the objects.
        ellipses: labelled objects.
        size: width and height of the part in the upper left corner that is used; ``None`` for all.
    """

    name: str
    label: str
    ellipses: tuple[Ellipse, ...]
    size: tuple[int, int] | None = None

    @property
    def predictions(self) -> str:
        """Field of the predictions: one for each photograph, since a field has the predictions of one memory."""
        return f"found_{self.label}"

    def pixels(self) -> np.ndarray:
        """uint8 ``[H, W, 3]``."""
        image = getattr(skimage.data, self.name)()
        width, height = self.size or image.shape[1::-1]
        image = image[:height, :width]
        return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image

    def masks(self) -> list[np.ndarray]:
        """Masks of the labels, bool ``[H, W]``."""
        height, width = self.pixels().shape[:2]
        y, x = np.ogrid[:height, :width]
        return [((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1 for cx, cy, rx, ry in self.ellipses]


COINS = Photograph("coins", "coin", ((335, 44, 29, 29), (44, 54, 22, 21), (274, 194, 23, 22)))
GALAXIES = Photograph(
    "hubble_deep_field",
    "galaxy",
    ((123, 400, 18, 20), (404, 74, 16, 13), (485, 64, 17, 13), (307, 335, 11, 11), (292, 111, 16, 18)),
    size=(520, 500),
)
"""Its galaxies are small, so that the image is cut into tiles."""
PHOTOGRAPHS = (COINS, GALAXIES)


def run(out: Path, photographs: Sequence[Photograph] = PHOTOGRAPHS) -> fo.Dataset:
    """Find the objects in photographs, print how many, and draw a picture; returns the dataset."""
    dataset = load_dataset(out, photographs)
    print("Photographs of scikit-image")
    for photograph in photographs:
        view = dataset.match_tags(photograph.name)
        with Bar(photograph.name) as bar:
            nts.build_reference_memory(view, LABELS, photograph.name, progress=bar.update)
            nts.auto_segment_view(view, photograph.name, photograph.predictions, progress=bar.update)
        confidences = view.values(f"{photograph.predictions}.detections.confidence", unwind=True)
        found = sum(confidence >= THRESHOLD for confidence in confidences)
        print(f"  {photograph.label}: {len(photograph.ellipses)} labelled, {found} found at the recommended threshold")
    print(f"Picture: {draw_picture(dataset, photographs, out)}\n")
    return dataset


def load_dataset(folder: Path, photographs: Sequence[Photograph]) -> fo.Dataset:
    """Create the dataset of the photographs with their labels, replacing an earlier one."""
    if fo.dataset_exists(DATASET):
        fo.delete_dataset(DATASET)
    dataset = fo.Dataset(DATASET, persistent=True)
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    for photograph in photographs:
        path = folder / "photographs" / f"{photograph.name}.png"
        Image.fromarray(photograph.pixels()).save(path)
        sample = fo.Sample(path, tags=[photograph.name])
        labels = [fo.Detection.from_mask(mask, label=photograph.label) for mask in photograph.masks()]
        sample[LABELS] = fo.Detections(detections=labels)
        dataset.add_sample(sample)
    return dataset


def draw_picture(dataset: fo.Dataset, photographs: Sequence[Photograph], folder: Path) -> Path:
    """Draw the labels and the predictions of every photograph side by side."""
    colours = class_colours([photograph.label for photograph in photographs])
    rows = [
        [
            draw_sample(sample, LABELS, colours, size=480),
            draw_sample(sample, photograph.predictions, colours, minimum_confidence=THRESHOLD, size=480),
        ]
        for photograph, sample in zip(photographs, dataset, strict=True)
    ]
    path = folder / "photographs.png"
    contact_sheet(rows, ["labelled", "found"], colours, "A few objects labelled, the others found").save(path)
    return path
