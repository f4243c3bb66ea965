"""Time of the parts of the method, relative to the preset ``paper``.

    python -m benchmarks.cost                        the shipped small pair
    python -m benchmarks.cost --models released      released architectures, random weights, 1024 prompts

Every variant segments every image in turn, so that all variants meet the same load of the machine. Proposals of random
weights are noise, and the number of crops says little about real images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import (
    RESULTS,
    Stopwatch,
    draw_images,
    float32_pair,
    markdown_table,
    shown,
    spread_predicted_iou,
    surroundings,
    write_report,
)
from benchmarks.second_run import random_memory
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT, FAST, PAPER, Preset
from nts.utils.devices import resolve_device

VARIANTS: dict[str, Preset] = {
    "paper": PAPER,
    "default": DEFAULT,
    "default - crops": DEFAULT.without("crops"),
    "default - consensus": DEFAULT.without("consensus"),
    "default - crops, consensus": DEFAULT.without("crops", "consensus"),
    "default, tiles for crops": replace(DEFAULT, method=replace(DEFAULT.method, crops=False, tiles=True)),
    "default, mirrored": replace(DEFAULT, method=replace(DEFAULT.method, mirrored=True)),
    "fast": FAST,
}


def run(
    models: str = "small",
    device: str = "auto",
    images: int | None = None,
    encoder_size: str = "small",
    segmenter_size: str = "tiny",
    proposals: float = 0.5,
    output: Path | None = RESULTS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers.

    Args:
        models: ``"small"``, or ``"released"`` for random weights.
        device: of the models.
        images: number of images.
        encoder_size, segmenter_size: of the released architectures.
        proposals: fraction of the prompts that propose a mask, with random weights.
        output: folder of the report.
    """
    where, small = resolve_device(device), models == "small"
    pair = float32_pair(models, encoder_size, segmenter_size, where)
    pictures = draw_images(images or (20 if small else 2), (480, 640))
    variants = VARIANTS
    if not small:
        threshold = spread_predicted_iou(pair, pictures[0], proposals)
        variants = {
            name: replace(preset, proposals=replace(preset.proposals, iou_threshold=threshold))
            for name, preset in VARIANTS.items()
        }
    memory = random_memory(pair.encoder, seed=0)
    engines = {
        name: ReferenceSegmenter(memory, pair.encoder, pair.segmenter, preset) for name, preset in variants.items()
    }
    for engine in engines.values():
        engine.segment(pictures[0])
    watch = Stopwatch(where)
    for picture in pictures:
        for name, engine in engines.items():
            watch.time(name, engine.segment, picture)
    seconds = {name: float(np.median(of_variant)) for name, of_variant in watch.seconds.items()}
    numbers = {
        "models": pair.name,
        "surroundings": surroundings(where),
        "images": len(pictures),
        "seconds": seconds,
        "ratios": {name: value / seconds["paper"] for name, value in seconds.items()},
    }
    if output is not None:
        write_report(output, f"cost_{models}", numbers, report(numbers))
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    rows = [
        [name, shown(1000 * seconds), f"{numbers['ratios'][name]:.2f}"] for name, seconds in numbers["seconds"].items()
    ]
    return f"""## Cost of the method: {numbers["models"]}

{numbers["images"]} images of 640 x 480. Medians.

{markdown_table(["", "ms per image", "to paper"], rows)}
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=("small", "released"), default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int)
    parser.add_argument("--encoder-size", default="small")
    parser.add_argument("--segmenter-size", default="tiny")
    parser.add_argument("--proposals", type=float, default=0.5, help="fraction of prompts, with random models")
    parser.add_argument("--output", type=Path, default=RESULTS)
    print(report(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
