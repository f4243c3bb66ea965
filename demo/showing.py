"""Shared by the demos: progress bars, tables and pictures of samples."""

from __future__ import annotations

from collections.abc import Mapping

import fiftyone as fo
import numpy as np
from PIL import Image
from tqdm import tqdm

from nts.fiftyone_adapter.jobs import Progress
from nts.images import read_image
from nts.metrics.coco import NovelAP
from nts.pictures import Colour, draw_instances

MOST_CAPTIONS = 30


class Bar:
    """Progress bar of a job."""

    def __init__(self, title: str) -> None:
        self._bar = tqdm(desc=f"{title:<17}", unit="", leave=True, dynamic_ncols=True)

    def update(self, progress: Progress) -> None:
        self._bar.total = progress.total
        self._bar.n = progress.done
        self._bar.refresh()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.total is not None:
            self._bar.n = self._bar.total
        self._bar.close()


def print_table(title: str, results: Mapping[str, NovelAP]) -> None:
    """Print nAP in percent over all classes for each run, then per class for the first one."""
    result = next(iter(results.values()))
    print(f"\n{title}")
    print(f"{'':<19}{'masks':>8}{'AP50':>8}{'AP75':>8}{'boxes':>10}{'AP50':>8}{'AP75':>8}")
    rows = {f"all, {name}": (of.masks.novel, of.boxes.novel) for name, of in results.items()}
    rows |= {name: (result.masks.per_class[name], result.boxes.per_class[name]) for name in result.novel_classes}
    for name, kinds in rows.items():
        masks, boxes = ["".join(f"{100 * ap:8.1f}" for ap in (of.ap, of.ap50, of.ap75)) for of in kinds]
        print(f"{name:<19}{masks}  {boxes}")
    print()


def draw_sample(
    sample: fo.Sample,
    field: str | None,
    colours: Mapping[str, Colour],
    minimum_confidence: float = 0.0,
    size: int = 320,
) -> Image.Image:
    """Draw a sample with the masks of one field, captioned with their confidence if they have one."""
    image = read_image(sample.filepath)
    labels = sample[field].detections if field and sample[field] else []
    certain = [d for d in labels if d.confidence is None or d.confidence >= minimum_confidence]
    shown = [d for d in certain if d.label in colours and d.has_mask]
    masks = [d.to_segmentation(frame_size=image.shape[1::-1]).mask > 0 for d in shown]
    captions = [f"{d.confidence:.2f}" for d in shown if d.confidence is not None]
    captions = captions if len(captions) <= MOST_CAPTIONS else []  # they would hide the objects
    stacked = np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool)
    return draw_instances(image, stacked, [d.label for d in shown], colours, captions, size)
