"""Time of a run over cached images, relative to the first run.

    python -m benchmarks.second_run                         the shipped small pair
    python -m benchmarks.second_run --models released       released architectures, random weights, 640 x 480

The first run reads the file, runs both models, matches, and caches the target and the features of its crops. The second
run uses another memory of 20 classes: it finds the target by the file's content, loads it from the cache, and matches.
Survivors that the first memory did not have are embedded from their crops; once these are cached, no model runs. Both
end with masks cropped to their boxes, as they are written to a dataset.

Masks of random weights are noise: they need twenty times the run lengths of objects, and one of them suppresses all
others. The second run is therefore also timed on an image of 800 discs, a hundred of them returned.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measuring import (
    RESULTS,
    Stopwatch,
    draw_images,
    float32_pair,
    made_up_proposals,
    markdown_table,
    shown,
    spread_predicted_iou,
    surroundings,
    write_report,
)
from benchmarks.speed import jpeg_file, read_file
from nts.cache import TensorCache
from nts.cache.targets import write_target
from nts.cached_segmenter import CachedSegmenter
from nts.images import digest_content
from nts.memory import MemoryBank, MemoryEntry, Negative
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT
from nts.proposal_masks import DrawnMasks
from nts.segmenter import Proposals
from nts.targets import Target, make_target
from nts.utils.devices import resolve_device

CLASSES = 20
NEGATIVES = 200
ROUNDS = 5
"""Second runs over every image; the median is reported."""


def random_memory(engine_of: Any, seed: int) -> MemoryBank:
    """References of 20 classes; their source does not affect the time."""
    generator = torch.Generator().manual_seed(seed)
    bank = MemoryBank(engine_of.info)
    for k in range(CLASSES):
        prototype = torch.randn(engine_of.info.dim, generator=generator)
        bank.add(MemoryEntry(f"class {k}", prototype, "sample", f"label {k}"))
    for _ in range(NEGATIVES):
        prototype = torch.randn(engine_of.info.dim, generator=generator)
        bank.add_negative(Negative(prototype, "background image", sure=True))
    return bank


def run(
    models: str = "small",
    device: str = "auto",
    images: int | None = None,
    encoder_size: str = "small",
    segmenter_size: str = "tiny",
    survivors: float = 0.5,
    output: Path | None = RESULTS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers."""
    where, small = resolve_device(device), models == "small"
    pair = float32_pair(models, encoder_size, segmenter_size, where)
    files = [jpeg_file(image) for image in draw_images(images or (20 if small else 2), (480, 640))]
    preset = DEFAULT
    if not small:
        threshold = spread_predicted_iou(pair, read_file(files[0]), survivors)
        preset = replace(DEFAULT, proposals=replace(DEFAULT.proposals, iou_threshold=threshold))
    memories = [random_memory(pair.encoder, seed) for seed in (0, 1)]
    without_crops = preset.without("crops", "negatives")
    engines = [
        ReferenceSegmenter(memory, pair.encoder, pair.segmenter, chosen)
        for memory, chosen in ((memories[0], preset), (memories[1], preset), (memories[1], without_crops))
    ]
    watch, sizes, found = Stopwatch(where), [], []
    with tempfile.TemporaryDirectory() as folder:
        cache = TensorCache(Path(folder) / "cache", 10**10)
        first, second, third = (CachedSegmenter(engine, cache) for engine in engines)
        paths = [Path(folder) / f"{k}.jpg" for k in range(len(files))]
        for path, file in zip(paths, files, strict=True):
            path.write_bytes(file)

        def encode(path: Path) -> None:
            first.store(first.segment(first.fetch_file(path)))

        def look_again(path: Path, segmenter: CachedSegmenter = second) -> int:
            found = segmenter.segment(segmenter.fetch_file(path))
            assert found.from_cache
            segmenter.store(found)
            return len(found.instances)

        for path in paths:
            watch.time("first", encode, path)
        sizes.append(cache.size() / len(paths))
        for path in paths:
            watch.time("new crops", look_again, path)
        for _ in range(ROUNDS):
            found += [watch.time("second", look_again, path) for path in paths]
            for path in paths:
                watch.time("without crops", look_again, path, third)

        (Path(folder) / "discs").write_bytes(files[0] + b"discs")
        key = engines[1].targets.key(digest_content(files[0] + b"discs"))
        write_target(cache, key, image_of_discs(engines[1]))
        look_again(Path(folder) / "discs")
        discs = [watch.time("discs", look_again, Path(folder) / "discs") for _ in range(4 * ROUNDS)]
        for _ in range(4 * ROUNDS):
            watch.time("discs without crops", look_again, Path(folder) / "discs", third)
    medians = {run_: float(np.median(seconds)) for run_, seconds in watch.seconds.items()}
    numbers = {
        "models": pair.name,
        "surroundings": surroundings(where),
        "images": len(files),
        "image_size": [480, 640],
        "classes": CLASSES,
        "instances": float(np.mean(found)),
        "instances_of_discs": discs[0],
        "seconds": medians,
        "ratio": medians["first"] / medians["second"],
        "bytes_per_image": sizes[0],
    }
    if output is not None:
        write_report(output, "second_run_small" if small else "second_run_released", numbers, report(numbers))
    return numbers


def image_of_discs(engine: ReferenceSegmenter) -> Target:
    """Encoded target of 800 discs, each similar to some class."""
    logits, predicted_iou = made_up_proposals(800, engine.segmenter.mask_side)
    generator = torch.Generator().manual_seed(2)
    prototypes = engine.memory.prototypes().cpu()
    features = prototypes[torch.arange(800) % CLASSES] + 0.05 * torch.randn(
        800, prototypes.shape[1], generator=generator
    )
    proposals = Proposals(logits, predicted_iou, torch.zeros(800, 2))
    target = make_target(F.normalize(features, dim=1), proposals, (480, 640))
    return replace(target, voted=DrawnMasks.of_logits(logits, (480, 640)))


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    discs = f"800 discs, {numbers['instances_of_discs']} instances"
    words = {
        "first": "first run",
        "new crops": "second run, new survivors",
        "second": "second run, all crops known",
        "without crops": "second run, without crops and negatives",
        "discs": f"second run, all crops known, {discs}",
        "discs without crops": "second run, without crops and negatives, 800 discs",
    }
    rows = [[words[name], shown(1000 * seconds)] for name, seconds in numbers["seconds"].items()]
    return f"""## Second run: {numbers["models"]}

{numbers["images"]} images of 640 x 480, {numbers["classes"]} classes, {numbers["instances"]:.0f} instances per image,
{numbers["bytes_per_image"] / 1e6:.2f} MB per image on disk. Medians.

{markdown_table(["", "ms per image"], rows)}

The second run is **{numbers["ratio"]:.0f}** times as fast.
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=("small", "released"), default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int)
    parser.add_argument("--encoder-size", default="small")
    parser.add_argument("--segmenter-size", default="tiny")
    parser.add_argument(
        "--survivors", type=float, default=0.5, help="surviving fraction of prompts, with random models"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
