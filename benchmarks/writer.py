"""The writer and the database: made-up results of many images, written as those of a segmentation.

    python -m benchmarks.writer --images 2000 --instances 100

No model runs: an executor hands the loop over images the same instances for every image, as workers of a cluster would.
What is left is what one writer does: labels, masks, the database, the confidences of all instances at the end. The
database is a private one with a small cache, so that the figures are those of a database larger than its memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from nts.cached_segmenter import Segmented
from nts.instances import Instances
from synthetic.scenes import NOVEL_SPECIES, coco_dataset, reference_scenes, species_name
from tools import private_mongod

SIDE = 640
CLASSES = 3
CHANNELS = 320
"""Of the features of the small encoder."""


def made_up(instances: int, channels: int, classes: int, seed: int = 1) -> Instances:
    """Instances of an image: discs in random places, with the features and scores of a segmentation."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(instances):
        radius = int(rng.integers(8, 40))
        line = torch.arange(2 * radius + 1) - radius
        masks.append(line.square()[:, None] + line.square() <= radius**2)
    sides = torch.tensor([len(mask) for mask in masks])
    corners = torch.from_numpy(rng.uniform(size=(instances, 2))) * (SIDE - sides[:, None])
    boxes = torch.cat([corners.long(), corners.long() + sides[:, None]], 1)
    scores = torch.from_numpy(np.sort(rng.uniform(0.05, 0.9, instances))[::-1].copy()).float()
    features = F.normalize(torch.from_numpy(rng.standard_normal((instances, channels))).float(), dim=1)
    labels = torch.from_numpy(rng.integers(0, classes, instances))
    numbers = torch.arange(instances)
    return Instances(
        crops=tuple(masks),
        image_size=(SIDE, SIDE),
        boxes=boxes.float(),
        labels=labels,
        scores=scores,
        similarities=scores,
        margins=scores / 2,
        predicted_iou=scores,
        features=features,
        proposals=numbers,
        references=labels,
    )


def dataset_with_memory(folder: Path, name: str = "writer"):
    """Dataset of one drawn reference image per class, and a memory of them under the same name."""
    import fiftyone as fo

    from nts.fiftyone_adapter import build_reference_memory

    dataset = fo.Dataset(name)
    samples = []
    # Two references of a class calibrate its confidences, which are then fitted to all images at the end.
    scenes = [scene for species in NOVEL_SPECIES[:CLASSES] for scene in reference_scenes(species, 2)]
    for number, scene in enumerate(scenes):
        path = folder / f"{number}.png"
        Image.fromarray(scene.image).save(path)
        (truth,) = coco_dataset([scene], [int(scene.species[0])])["annotations"][:1]
        x, y, w, h = truth["bbox"]
        height, width = scene.image.shape[:2]
        mask = scene.masks[0][int(y) : int(y + h), int(x) : int(x + w)]
        label = fo.Detection(
            label=species_name(int(scene.species[0])),
            bounding_box=[x / width, y / height, w / width, h / height],
            mask=mask,
        )
        samples.append(fo.Sample(path, ground_truth=fo.Detections(detections=[label]), tags=["reference"]))
    dataset.add_samples(samples, progress=False)
    build_reference_memory(dataset, "ground_truth", name)
    return dataset


def segment_made_up(view, memory: str, find: Callable[[int], Instances]):
    """Segment a view with a memory; a function of the image's number finds its instances. Returns the report."""
    from nts.fiftyone_adapter import segmenting

    def execute(todo: Sequence[tuple[str, str]]) -> Generator[tuple[str, Callable[[], Segmented]], None, None]:
        for number, (sample_id, _) in enumerate(todo):
            found = Segmented(find(number))
            yield sample_id, lambda found=found: found

    with patch.object(segmenting, "locally", lambda *_, **__: execute):
        return segmenting.auto_segment_view(view, memory, use_cache=False)


def measure(images: int, instances: int, folder: Path) -> dict[str, float]:
    """Write made-up results of images, and return seconds and megabytes."""
    private_mongod.start()
    import fiftyone as fo
    import fiftyone.core.odm as foo

    from nts.fiftyone_adapter import segmenting

    dataset = dataset_with_memory(folder)
    targets = [fo.Sample(str(folder / f"target-{number}.png"), tags=["target"]) for number in range(images)]
    dataset.add_samples(targets, progress=False)
    del targets  # FiftyOne reloads every sample that is held in memory after each write
    before = foo.get_db_conn().command("dbStats")
    found = made_up(instances, CHANNELS, CLASSES)
    fit, fitting = segmenting.fit_confidences, []

    def timed_fit(*arguments: Any) -> Any:
        begin = time.perf_counter()
        fitted = fit(*arguments)
        fitting.append(time.perf_counter() - begin)
        return fitted

    with patch.object(segmenting, "fit_confidences", timed_fit):
        begin, busy, database_busy = time.perf_counter(), time.process_time(), _database_seconds()
        report = segment_made_up(dataset.match_tags("target"), "writer", lambda _: found)
        seconds = time.perf_counter() - begin
        busy, database_busy = time.process_time() - busy, _database_seconds() - database_busy
    after = foo.get_db_conn().command("dbStats")
    return {
        "images": images,
        "instances": instances,
        "seconds": seconds,
        "seconds of the images": report.seconds,
        "seconds of the confidences": sum(fitting),
        "images per second": images / (report.seconds + sum(fitting)),
        "CPU seconds, Python": busy,
        "CPU seconds, database": database_busy,
        "MB of documents": (after["dataSize"] - before["dataSize"]) / 1e6,
        "MB on disk": (after["storageSize"] - before["storageSize"]) / 1e6,
    }


def _database_seconds() -> float:
    """Seconds of CPU that the database has used."""
    import fiftyone.core.odm as foo

    used = foo.get_db_conn().command("serverStatus")["extra_info"]
    return (used["user_time_us"] + used["system_time_us"]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--instances", type=int, default=100, help="per image")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(args.images, args.instances, Path(folder))
    for name, value in numbers.items():
        print(f"{name:27} {value:,.1f}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
