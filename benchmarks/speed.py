"""Speed of the engine relative to the published recipe: time by stage, memory, and agreement of the results.

    python -m benchmarks.speed                          the shipped small pair on drawn scenes
    python -m benchmarks.speed --models released        released architectures, random weights, 640 x 480, 1024 prompts
    python -m benchmarks.speed --models released --encoder-size large --segmenter-size large --engine fast

Both run in one process on the same files and weights, in turn; medians are reported. The engine is timed within
:meth:`~nts.pipeline.ReferenceSegmenter.segment`, without the parts that go beyond the paper: :mod:`benchmarks.cost`
measures those. An untimed first round on one image warms up, measures the memory, and
counts the floating-point operations of the recipe.

With random weights, a given fraction of the prompts is made to exceed the threshold on the predicted IoU. Every random
mask has the whole image as its box, so NMS would leave one per class. It is disabled for both, and all survivors are
merged: more masks than on real images, and none small enough to benefit from the engine's tiles.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import Dinov2Model

from benchmarks.measuring import (
    ENCODER_SHAPES,
    RESULTS,
    SEGMENTER_CONFIGS,
    Pair,
    PeakMemory,
    Stopwatch,
    draw_images,
    draw_references,
    markdown_table,
    new_figure,
    peak_flops,
    random_pair,
    shown,
    small_pair,
    spread_predicted_iou,
    surroundings,
    synchronise,
    write_report,
)
from nts import pipeline
from nts.building import build_memory
from nts.encoder import Encoder
from nts.images import prepare_target
from nts.instances import Instances
from nts.method import PUBLISHED
from nts.metrics.coco import coco_results
from nts.pipeline import ReferenceSegmenter
from nts.presets import PAPER, Preset, get_preset
from nts.utils.devices import resolve_device, resolve_precision
from reference_implementation import published_pipeline
from reference_implementation.published_pipeline import Constants, Found

DECODE_FILE, RESIZE, DINO, SAM_ENCODER, SAM_DECODER, MATCH, WRITE = STAGES = (
    "decode the file",
    "resize and normalise",
    "DINOv2",
    "SAM2 encoder",
    "SAM2 decoder",
    "pool, match, merge",
    "encode masks (RLE)",
)
ENGINES = {"exact": PAPER.name}
"""Names of engine settings, other than those of presets."""
SAME_IOU = 0.95
"""IoU from which two masks of one class count as the same instance."""


class Meter(Protocol):
    """A measurement of a stage while it runs."""

    def time(self, stage: str, call: Any, *arguments: Any, **options: Any) -> Any:
        """Call, measure, and return the result."""


class FlopMeter:
    """Floating-point operations of every stage: two per multiply-add of products, convolutions and attention."""

    def __init__(self) -> None:
        self.flops: dict[str, int] = {}

    def time(self, stage: str, call: Any, *arguments: Any, **options: Any) -> Any:
        """Call, and count the multiply-adds."""
        with FlopCounterMode(display=False) as counter:
            result = call(*arguments, **options)
        self.flops[stage] = counter.get_total_flops()
        return result


@dataclass(frozen=True)
class Recipe:
    """Inputs of the published recipe: modules in single precision, prototypes ``[K, C]`` on their device."""

    dino: Dinov2Model
    sam: SAM2Base
    prototypes: Tensor
    constants: Constants


@dataclass(frozen=True)
class Comparison:
    """Agreement of two results for one image.

    Attributes:
        expected: instances by the recipe.
        found: instances by the engine.
        same_labels: both have the same labels, in any order.
        same_instances: each has its counterpart, of the same label and an IoU of :data:`SAME_IOU` or more.
        min_mask_iou: of an instance and its counterpart.
        max_score_difference: between an instance and its counterpart.
    """

    expected: int
    found: int
    same_labels: bool
    same_instances: bool
    min_mask_iou: float
    max_score_difference: float


def read_file(file: bytes) -> np.ndarray:
    """Pixels uint8 ``[H, W, 3]`` of a JPEG file."""
    return np.array(Image.open(io.BytesIO(file)).convert("RGB"))


def jpeg_file(image: np.ndarray) -> bytes:
    """JPEG file of pixels uint8 ``[H, W, 3]``."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=92)
    return file.getvalue()


def run_recipe(recipe: Recipe, file: bytes, meter: Meter) -> tuple[Found, int]:
    """Run the published recipe from file to encoded masks; return its result and the number of proposals."""
    device, constants = recipe.prototypes.device, recipe.constants
    image = meter.time(DECODE_FILE, read_file, file)
    sizes = recipe.dino.config.image_size, recipe.sam.image_size
    encoder_input, segmenter_input = meter.time(RESIZE, prepare_target, image, *sizes, antialias=False)
    tokens = meter.time(DINO, published_pipeline.encode_tokens, recipe.dino, encoder_input.to(device))
    pyramid = meter.time(SAM_ENCODER, published_pipeline.encode_image, recipe.sam, segmenter_input.to(device))
    points = published_pipeline.prompt_grid(constants.points_per_side, recipe.sam.image_size, device)
    logits, predicted_iou = meter.time(
        SAM_DECODER, published_pipeline.propose, recipe.sam, pyramid, points, constants.iou_threshold
    )
    found = meter.time(
        MATCH,
        published_pipeline.match,
        tokens,
        logits,
        predicted_iou,
        recipe.prototypes,
        image.shape[:2],
        constants,
    )
    meter.time(WRITE, write_masks, found)
    return found, len(logits)


def write_masks(found: Found) -> list[dict[str, Any]]:
    """Encode masks as RLE, one at a time."""
    masks = found.masks.cpu().numpy().astype(np.uint8)
    return [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]


def run_engine(engine: ReferenceSegmenter, file: bytes, watch: Stopwatch) -> Instances:
    """Run the engine from file to encoded masks."""
    image = watch.time(DECODE_FILE, read_file, file)
    with stages_timed(engine, watch):
        instances = engine.segment(image)
    watch.time(WRITE, coco_results, instances, 0, range(len(engine.classes)), engine.preset.box_convention)
    return instances


@contextlib.contextmanager
def stages_timed(engine: ReferenceSegmenter, watch: Stopwatch) -> Iterator[None]:
    """Time the stages called within the engine."""
    stages = (
        (pipeline, "prepare_target", RESIZE),
        (engine.encoder, "encode", DINO),
        (engine.segmenter, "embed", SAM_ENCODER),
        (engine.segmenter, "propose", SAM_DECODER),
        (engine, "match", MATCH),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, stage in stages:
            stack.enter_context(patch.object(owner, name, watch.timed(stage, getattr(owner, name))))
        yield


def compare(expected: Found | Instances, found: Instances) -> Comparison:
    """Match every instance to the free one of the same label with the highest IoU."""
    a, b = expected.masks.flatten(1).float(), found.masks.flatten(1).float()
    shared = a @ b.T
    iou = shared / (a.sum(1)[:, None] + b.sum(1)[None, :] - shared).clamp(min=1)
    iou[expected.labels[:, None] != found.labels[None, :]] = -1
    ious, differences = [], []
    for row in range(min(iou.shape) and len(iou)):
        column = int(iou[row].argmax())
        if iou[row, column] > 0:
            ious.append(float(iou[row, column]))
            differences.append(abs(float(expected.scores[row] - found.scores[column])))
            iou[:, column] = -1
    same_number = len(ious) == len(expected.scores) == len(found)
    return Comparison(
        expected=len(expected.scores),
        found=len(found),
        same_labels=sorted(expected.labels.tolist()) == sorted(found.labels.tolist()),
        same_instances=same_number and min(ious, default=1.0) >= SAME_IOU,
        min_mask_iou=min(ious, default=1.0),
        max_score_difference=max(differences, default=0.0),
    )


def as_published(preset: Preset, constants: Constants) -> Preset:
    """Preset with the recipe's image preparation, references and constants, to compare the computation alone."""
    return replace(
        preset,
        exif=PAPER.exif,
        antialias=PAPER.antialias,
        patch_weights=PAPER.patch_weights,
        box_convention=PAPER.box_convention,
        proposals=replace(
            preset.proposals,
            points_per_side=constants.points_per_side,
            iou_threshold=constants.iou_threshold,
            add_no_mem_embed=False,
        ),
        matching=replace(preset.matching, nms_iou=constants.nms_iou, max_instances=constants.max_instances),
        method=PUBLISHED,
    )


def make_rivals(pair: Pair, preset: Preset, constants: Constants, shots: int) -> tuple[Recipe, ReferenceSegmenter]:
    """The recipe, with its own copy of the weights in single precision, and the engine."""
    device = pair.encoder.device
    references = draw_references(10, shots)
    dino, sam = copy.deepcopy(pair.encoder._model), copy.deepcopy(pair.segmenter._model)
    memory, _ = build_memory(references, Encoder(dino, pair.encoder.info.name, device, torch.float32), PAPER)
    recipe = Recipe(dino, sam, memory.prototypes().to(device), constants)
    memory, _ = build_memory(references, pair.encoder, preset)
    return recipe, ReferenceSegmenter(memory, pair.encoder, pair.segmenter, preset)


def run(
    models: str = "small",
    engine: str = "exact",
    device: str = "auto",
    precision: str | None = None,
    images: int | None = None,
    repeats: int | None = None,
    encoder_size: str = "small",
    segmenter_size: str = "tiny",
    points_per_side: int | None = None,
    survivors: float = 0.5,
    output: Path | None = RESULTS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers.

    Args:
        models: ``"small"`` or ``"released"``.
        engine: ``"exact"``, or the name of a preset.
        device: as in torch, or ``"auto"``.
        precision: of the engine; ``None`` for single if ``engine`` is exact, else the preset's.
        images: number of images; ``None`` for 10, or 1 with the released models on a CPU.
        repeats: of every image, by both; ``None`` for 3, or 1 with the released models on a CPU.
        encoder_size: of random DINOv2s.
        segmenter_size: of random SAM2s.
        points_per_side: of the prompt grid; ``None`` for the models' own.
        survivors: surviving fraction of prompts, with random models.
        output: folder for the report; ``None`` writes nothing.
    """
    small = models == "small"
    where = resolve_device(device)
    precision = precision or ("float32" if engine in ENGINES else get_preset(engine).precision)
    dtype = resolve_precision(precision, where)
    height, width = (256, 256) if small else (480, 640)
    slow = not small and where.type == "cpu"
    files = [jpeg_file(image) for image in draw_images(images or (1 if slow else 10), (height, width))]
    repeats = repeats or (1 if slow else 3)

    pair = small_pair(where.type, precision) if small else random_pair(encoder_size, segmenter_size, where, dtype)
    pair = replace(pair, points_per_side=points_per_side or pair.points_per_side)
    constants = Constants(points_per_side=pair.points_per_side)
    if not small:
        threshold = spread_predicted_iou(pair, read_file(files[0]), survivors)
        constants = replace(constants, iou_threshold=threshold, nms_iou=1.0)
    preset = as_published(get_preset(ENGINES.get(engine, engine)), constants)
    recipe, rival = make_rivals(pair, preset, constants, shots=3 if small else 1)

    flops, memory = FlopMeter(), {}
    with PeakMemory(where) as used:
        run_recipe(recipe, files[0], flops)
    memory["recipe"] = used.peak
    with PeakMemory(where) as used:
        run_engine(rival, files[0], Stopwatch(where))
    memory["engine"] = used.peak

    watches = {"recipe": Stopwatch(where), "engine": Stopwatch(where)}
    totals: dict[str, list[float]] = {"recipe": [], "engine": []}
    comparisons, proposals = [], []
    for repeat in range(repeats):
        for file in tqdm(files, desc=f"Round {repeat + 1} of {repeats}"):
            synchronise(where)
            began = time.perf_counter()
            expected, of_image = run_recipe(recipe, file, watches["recipe"])
            between = time.perf_counter()
            found = run_engine(rival, file, watches["engine"])
            totals["recipe"].append(between - began)
            totals["engine"].append(time.perf_counter() - between)
            if repeat == 0:
                comparisons.append(compare(expected, found))
                proposals.append(of_image)

    numbers = {
        "models": pair.name,
        "engine": engine,
        "precision": str(dtype).removeprefix("torch."),
        "surroundings": surroundings(where),
        "image_size": [height, width],
        "images": len(files),
        "repeats": repeats,
        "prompts": constants.points_per_side**2,
        "proposals": float(np.mean(proposals)),
        "constants": asdict(constants),
        "seconds": {who: {"median": float(np.median(all_)), "all": all_} for who, all_ in totals.items()},
        "ratio": float(np.median(totals["recipe"]) / np.median(totals["engine"])),
        "ratio_range": [float(pick(np.divide(totals["recipe"], totals["engine"]))) for pick in (np.min, np.max)],
        "memory": memory,
        "peak_flops": {"recipe": peak_flops(where, torch.float32), "engine": peak_flops(where, dtype)},
        "stages": stage_rows(watches, flops.flops),
        "equality": equality(comparisons),
    }
    if output is not None:
        name = "small" if small else f"released_{encoder_size}_{segmenter_size}"
        name = f"speed_{name}" if engine == "exact" else f"speed_{name}_{engine}"
        write_report(output, name, numbers, report(numbers))
        plot(numbers, output / f"{name}.png")
    return numbers


def stage_rows(watches: dict[str, Stopwatch], flops: dict[str, int]) -> list[dict[str, Any]]:
    """Median seconds of every stage by both, and the operations of the recipe."""
    rows = []
    for stage in STAGES:
        recipe, engine = (float(np.median(watches[who].seconds[stage])) for who in ("recipe", "engine"))
        rows.append({"stage": stage, "recipe": recipe, "engine": engine, "flops": flops[stage]})
    return rows


def equality(comparisons: list[Comparison]) -> dict[str, Any]:
    """Summary of all comparisons."""
    different = sum(not comparison.same_instances for comparison in comparisons)
    return {
        "images": len(comparisons),
        "images_differing": different,
        "share_differing": different / len(comparisons),
        "instances": sum(comparison.expected for comparison in comparisons),
        "same_labels": all(comparison.same_labels for comparison in comparisons),
        "min_mask_iou": min(comparison.min_mask_iou for comparison in comparisons),
        "max_score_difference": max(comparison.max_score_difference for comparison in comparisons),
    }


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    place, same = numbers["surroundings"], numbers["equality"]
    recipe, engine = (numbers["seconds"][who]["median"] for who in ("recipe", "engine"))
    height, width = numbers["image_size"]

    def of_peak(who: str, seconds: float, flops: int) -> str:
        peak = numbers["peak_flops"][who]
        return f"{100 * flops / seconds / peak:.1f} %" if peak and flops else ""

    rows = [
        [
            row["stage"],
            *(shown(1000 * row[who]) for who in ("recipe", "engine")),
            f"{row['recipe'] / row['engine']:.1f}",
            shown(row["flops"] / 1e9) if row["flops"] else "",
            *(of_peak(who, row[who], row["flops"]) for who in ("recipe", "engine")),
        ]
        for row in numbers["stages"]
    ]
    work = sum(row["flops"] for row in numbers["stages"])
    rows.append(
        ["whole image", shown(1000 * recipe), shown(1000 * engine), f"**{numbers['ratio']:.1f}**", shown(work / 1e9)]
        + [of_peak("recipe", recipe, work), of_peak("engine", engine, work)]
    )
    head = ["stage", "recipe, ms", "engine, ms", "times faster", "GFLOP of the recipe", "of the peak", "engine"]
    megabytes = {who: f"{value / 2**20:,.0f} MiB" for who, value in numbers["memory"].items()}
    low, high = numbers["ratio_range"]
    return f"""## Speed: {numbers["models"]}, engine {numbers["engine"]!r} in {numbers["precision"]}

{numbers["images"]} images of {width} x {height}, {numbers["repeats"]} times by each in turn.
{numbers["prompts"]} prompts, {numbers["proposals"]:.0f} proposals per image.
{place["device"]}, {place["processor"]}, {place["threads"]} threads, torch {place["torch"]}. Medians.

{markdown_table(head, rows)}

Image by image the engine is {low:.1f} to {high:.1f} times as fast. "Of the peak" is the rate of the recipe's arithmetic
relative to the peak of the device; an engine that needs less arithmetic can exceed 100 %.

Peak memory without the models: recipe {megabytes["recipe"]}, engine {megabytes["engine"]}.

Agreement: {same["images_differing"]} of {same["images"]} images differ in their instances.
{same["instances"]} instances; labels {"equal" if same["same_labels"] else "differ"}; the lowest IoU of a mask and its
counterpart is {same["min_mask_iou"]:.5f}, the largest score difference {same["max_score_difference"]:.1e}.
"""


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Bar chart of the stages, on a logarithmic scale."""
    figure, (panel,) = new_figure(1, width=7)
    rows = [*numbers["stages"]]
    rows.append({"stage": "whole image"} | {who: numbers["seconds"][who]["median"] for who in ("recipe", "engine")})
    positions = np.arange(len(rows))[::-1]
    for who, shift, label in (("recipe", 0.2, "published recipe"), ("engine", -0.2, f"engine ({numbers['engine']})")):
        panel.barh(positions + shift, [1000 * row[who] for row in rows], 0.38, label=label)
    panel.set(xscale="log", xlabel="milliseconds per image", yticks=positions, yticklabels=[r["stage"] for r in rows])
    panel.set_title(f"{numbers['models']}: {numbers['ratio']:.1f} times as fast", fontsize="medium")
    panel.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=("small", "released"), default="small")
    parser.add_argument("--engine", default="exact", help="'exact', or the name of a preset")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", help="of the engine; single if exact, else that of the preset")
    parser.add_argument("--images", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--encoder-size", choices=tuple(ENCODER_SHAPES), default="small")
    parser.add_argument("--segmenter-size", choices=tuple(SEGMENTER_CONFIGS), default="tiny")
    parser.add_argument("--points-per-side", type=int)
    parser.add_argument(
        "--survivors", type=float, default=0.5, help="surviving fraction of prompts, with random models"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
