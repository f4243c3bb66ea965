"""Large images: accuracy by the size of objects, with tiles and without, and the time they take.

    python -m benchmarks.tiles --world large

Targets are drawn scenes of 2048 x 1536 pixels with objects of 1 % to 8 % of the longer side; references come from such
scenes as well. AP is mask nAP at IoU 0.5 to 0.95. For the AP of a range of sizes, objects of other sizes are neither
right nor wrong, as in COCO's AP of small and large objects.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measuring import markdown_table
from benchmarks.worlds import WORLDS, World, as_reference
from nts.building import build_memory
from nts.evaluation.model_diagnostics import drawn_hits
from nts.instances import Instances
from nts.metrics.coco import coco_results
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT, Preset
from nts.tiling import Tiling
from synthetic.scenes import Scene, coco_dataset, species_name

SIZES = {"below 3 %": (0.0, 0.03), "3 % to 5 %": (0.03, 0.05), "above 5 %": (0.05, 1.0)}
"""Ranges of the root of an object's area, relative to the longer side of its image."""


@dataclass(frozen=True)
class Row:
    """Figures of a grid.

    Attributes:
        tiles: the option.
        grid: rows and columns of the last image.
        ap: mask nAP in percent, of all objects and by size.
        recall: share of the objects that a proposal covers at IoU 0.5, in percent, likewise.
        seconds: of encoding and of matching, per image.
        second_run: seconds per tile of matching a target from the cache.
    """

    tiles: str
    grid: tuple[int, int]
    ap: dict[str, float]
    recall: dict[str, float]
    seconds: tuple[float, float]
    second_run: float


def measure(world: World, tiles: Sequence[str], targets: int, shots: int) -> list[Row]:
    """Segment the same images of a world with several options."""
    encoder, segmenter = load_encoder("small"), load_segmenter("small")
    references = [
        as_reference(scene, species, k)
        for species in world.novel
        for k, scene in enumerate(world.references(species, shots))
    ]
    memory, _ = build_memory(references, encoder, DEFAULT, segmenter=segmenter)
    scenes = world.targets(targets)
    classes = sorted(world.novel, key=species_name)
    return [_row(ReferenceSegmenter(memory, encoder, segmenter, _preset(name)), scenes, classes) for name in tiles]


def _preset(tiles: str) -> Preset:
    return replace(DEFAULT, tiling=Tiling.parse(tiles))


def _row(engine: ReferenceSegmenter, scenes: Sequence[Scene], classes: Sequence[int]) -> Row:
    found: list[Instances] = []
    hits: list[tuple[float, bool]] = []
    encoding = matching = again = 0.0
    for scene in tqdm(scenes, desc=f"tiles {engine.preset.tiling}"):
        begin = time.perf_counter()
        target = engine.encode(scene.image).compact()
        encoded = time.perf_counter()
        found.append(engine.match(target))
        matched = time.perf_counter()
        engine.match(target)
        encoding, matching = encoding + encoded - begin, matching + matched - encoded
        again += time.perf_counter() - matched
        masks = torch.from_numpy(scene.masks)
        sides = masks.flatten(1).sum(1).sqrt() / max(scene.image.shape)
        hits += zip(sides.tolist(), (drawn_hits(masks, target.masks) >= 0.5).tolist(), strict=True)
    truth = coco_dataset(scenes, classes)
    ids = list(range(1, len(classes) + 1))
    results = [row for number, of_image in enumerate(found, 1) for row in coco_results(of_image, number, ids)]
    longer = max(scenes[0].image.shape)
    ap = {"all": _ap(truth, results, (0.0, 1.0), longer)}
    ap |= {name: _ap(truth, results, limits, longer) for name, limits in SIZES.items()}
    recall = {"all": 100 * float(np.mean([hit for _, hit in hits]))}
    for name, (low, high) in SIZES.items():
        recall[name] = 100 * float(np.mean([hit for side, hit in hits if low <= side < high]))
    rows, columns = engine.targets.grid(scenes[0].image.shape[:2])
    count = len(scenes)
    return Row(
        str(engine.preset.tiling),
        (rows, columns),
        ap,
        recall,
        (encoding / count, matching / count),
        again / count / (rows * columns),
    )


def _ap(truth: dict, results: list[dict], limits: tuple[float, float], longer: int) -> float:
    """nAP of the objects of a range of sizes, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = COCO()
    dataset.dataset = truth
    dataset.createIndex()
    evaluation = COCOeval(dataset, dataset.loadRes(results), "segm")
    evaluation.params.areaRng = [[(limit * longer) ** 2 for limit in limits]]
    evaluation.params.areaRngLbl = ["range"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    of_classes = [precision[:, :, k] for k in range(precision.shape[2]) if (precision[:, :, k] > -1).any()]
    return 100 * float(np.mean([each[each > -1].mean() for each in of_classes]))


def table(rows: Sequence[Row]) -> str:
    """Markdown table: AP and recall by size, and seconds."""
    names = ["all", *SIZES]
    head = ["tiles", "grid", *(f"AP, {name}" for name in names), *(f"recall, {name}" for name in names)]
    lines = [
        [
            row.tiles,
            f"{row.grid[0]} x {row.grid[1]}",
            *(f"{row.ap[name]:.1f}" for name in names),
            *(f"{row.recall[name]:.0f}" for name in names),
            f"{row.seconds[0]:.1f}",
            f"{row.seconds[1]:.1f}",
            f"{1000 * row.second_run:.1f}",
        ]
        for row in rows
    ]
    return markdown_table([*head, "s encoding", "s matching", "ms a tile, again"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=[name for name, world in WORLDS.items() if world.large], default="large")
    parser.add_argument("--tiles", nargs="+", default=["off", "auto"], help="auto, off, or rows and columns as in 3x4")
    parser.add_argument("--targets", type=int, default=12)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    rows = measure(WORLDS[args.world], args.tiles, args.targets, args.shots)
    print(f"\n{args.world}, {args.targets} images, {args.shots} references per class\n\n{table(rows)}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
