"""Effect of the ``fast`` preset on nAP on drawn scenes, over draws of references, and the images that change.

    python -m benchmarks.fast

The exact path is compared with half precision and guided prompts, separately and together. Prompts are decoded
independently, so the proposals of guided prompts are selected from those of all prompts, and one encoding serves all
draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import RESULTS, draw_references, markdown_table, surroundings, write_report
from benchmarks.scenes import REFERENCES_PER_CLASS, draw_prototypes, figures
from benchmarks.speed import compare
from nts.building import encode_references
from nts.instances import Instances
from nts.matching import match_proposals
from nts.metrics.coco import coco_results, evaluate
from nts.models import load_encoder, load_segmenter
from nts.pipeline import encode_target
from nts.presets import FAST, PAPER, Preset
from nts.segmenter import Proposals, point_grid
from nts.segmenter.guidance import guided_points
from nts.targets import EncodedTarget
from nts.utils.devices import resolve_device, resolve_precision
from synthetic.scenes import NOVEL_SPECIES, coco_dataset, target_scenes


def guided(target: EncodedTarget, prototypes: Tensor, points_per_side: int, input_size: int) -> EncodedTarget:
    """Restrict the proposals of an encoded target to those of guided prompts."""
    which = guided_points(target.tokens, prototypes, points_per_side, FAST.proposals.guidance)
    points = {tuple(point) for point in point_grid(points_per_side, input_size)[which.cpu()].tolist()}
    proposals = target.proposals
    rows = [k for k, point in enumerate(proposals.points.tolist()) if tuple(point) in points]
    some = Proposals(proposals.mask_logits[rows], proposals.predicted_iou[rows], proposals.points[rows])
    return replace(target, proposals=some)


def run(
    targets: int = 120,
    shots: int = 3,
    draws: int = 5,
    preset: Preset = PAPER,
    device: str = "auto",
    output: Path | None = RESULTS,
    references_per_class: int = REFERENCES_PER_CLASS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers."""
    where = resolve_device(device)
    scenes = target_scenes(targets)
    truth = coco_dataset(scenes)
    category_ids = [category["id"] for category in truth["categories"]]
    encoded: dict[str, list[EncodedTarget]] = {}
    vectors: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for precision in ("float32", "fast"):
        encoder, segmenter = (
            load_encoder("small", where.type, precision),
            load_segmenter("small", where.type, precision),
        )
        began = time.perf_counter()
        encoded[precision] = [encode_target(scene.image, encoder, segmenter, preset) for scene in scenes]
        seconds[precision] = (time.perf_counter() - began) / targets
        references = encode_references(draw_references(len(NOVEL_SPECIES), references_per_class), encoder, preset)
        of_classes = torch.stack([entry.prototype for entry in references])
        vectors[precision] = of_classes.unflatten(0, (len(NOVEL_SPECIES), references_per_class)).to(where)

    def segment(precision: str, use_guided: bool, draw: int) -> list[Instances]:
        prototypes = draw_prototypes(vectors[precision], shots, draw)
        found = []
        for target in encoded[precision]:
            if use_guided:
                target = guided(target, prototypes, segmenter.points_per_side, segmenter.input_size)
            logits, predicted_iou = target.proposals.mask_logits, target.proposals.predicted_iou
            found.append(
                match_proposals(target.tokens, logits, predicted_iou, prototypes, target.image_size, preset.matching)
            )
        return found

    def nap(found: Sequence[Instances]) -> list[float]:
        results = [
            result
            for image_id, instances in enumerate(found, start=1)
            for result in coco_results(instances, image_id, category_ids, preset.box_convention)
        ]
        return figures(evaluate(truth, results))

    variants = {
        "half precision": ("fast", False),
        "guided prompts": ("float32", True),
        "both: the preset 'fast'": ("fast", True),
    }
    moved: dict[str, list[list[float]]] = {name: [] for name in variants}
    changed: dict[str, list[float]] = {name: [] for name in variants}
    exact_nap = []
    for draw in range(draws):
        exact = segment("float32", False, draw)
        exact_nap.append(nap(exact))
        for name, (precision, use_guided) in variants.items():
            found = segment(precision, use_guided, draw)
            moved[name].append((np.array(nap(found)) - exact_nap[-1]).tolist())
            changed[name].append(
                float(np.mean([not compare(a, b).same_instances for a, b in zip(exact, found, strict=True)]))
            )
    numbers = {
        "surroundings": surroundings(where),
        "precision": str(resolve_precision("fast", where)).removeprefix("torch."),
        "targets": targets,
        "shots": shots,
        "draws": draws,
        "seconds_to_encode": seconds,
        "exact": exact_nap,
        "moved": moved,
        "images_changed": changed,
    }
    if output is not None:
        write_report(output, "fast", numbers, report(numbers))
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    exact = 100 * np.array(numbers["exact"])
    rows = [["exact", f"{exact[:, 0].mean():.2f}", "", f"{exact[:, 3].mean():.2f}", "", ""]]
    for name, of_draws in numbers["moved"].items():
        moved = 100 * np.array(of_draws)
        means = (exact + moved).mean(0)
        rows.append(
            [
                name,
                f"{means[0]:.2f}",
                f"{moved[:, 0].mean():+.2f} ({moved[:, 0].min():+.2f} to {moved[:, 0].max():+.2f})",
                f"{means[3]:.2f}",
                f"{moved[:, 3].mean():+.2f} ({moved[:, 3].min():+.2f} to {moved[:, 3].max():+.2f})",
                f"{100 * np.mean(numbers['images_changed'][name]):.0f} %",
            ]
        )
    head = ["", "mask nAP", "change", "box nAP", "change", "images whose instances change"]
    return f"""## Effect of the fast preset

{numbers["targets"]} drawn scenes, {numbers["shots"]} references per class, {numbers["draws"]} draws: means, with the
extremes of the draws in parentheses. Small pair; half precision is {numbers["precision"]}.

{markdown_table(head, rows)}
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=120)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
