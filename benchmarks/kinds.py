"""Loss of nAP on drawn scenes when references are boxes, scribbles or points instead of masks.

    python -m benchmarks.kinds

Annotations are simulated from the reference masks and are identical in every run. Each kind is used raw, and promoted
to a mask by SAM2. The targets are encoded once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measuring import draw_references
from benchmarks.scenes import DRAWS, MERGING, REFERENCES_PER_CLASS, draw_prototypes, figures, match_all, summary, table
from nts.building import encode_references
from nts.datasets.annotations import EVALUATION, simulate_reference
from nts.memory import MemoryEntry
from nts.metrics.coco import evaluate
from nts.models import load_encoder, load_segmenter
from nts.pipeline import encode_target
from nts.presets import get_preset
from nts.promotion import promote
from nts.references import Kind, Reference
from synthetic.scenes import NOVEL_SPECIES, coco_dataset, target_scenes

ROWS: dict[str, tuple[Kind, int | None]] = {
    "box": ("box", None),
    "scribble (9 strokes)": ("scribble", None),
    "20 points": ("point", 20),
    "1 point": ("point", 1),
}
SEED = 20


def annotated(references: Sequence[Reference], kind: Kind, points: int | None) -> list[Reference]:
    """Simulate annotations of one kind for all references, each with its own random generator."""
    return [
        simulate_reference(reference, kind, np.random.default_rng([SEED, k]), EVALUATION, points=points)
        for k, reference in enumerate(references)
    ]


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks, bool `[H, W]`."""
    return float((one & other).sum() / (one | other).sum())


def run(
    targets: int = 120,
    shots: int = 3,
    draws: int = DRAWS,
    preset: str = "paper",
    points: int = 16,
    encoder: str = "small",
    segmenter: str = "small",
    device: str = "auto",
) -> dict:
    """Run the benchmark, print its tables, and return its numbers."""
    preset = get_preset(preset)
    preset = replace(preset, proposals=replace(preset.proposals, points_per_side=points))
    dino, sam = load_encoder(encoder, device), load_segmenter(segmenter, device)
    masks = draw_references(len(NOVEL_SPECIES), REFERENCES_PER_CLASS)
    references, promoted = {"mask": masks}, {}
    for name, (kind, count) in ROWS.items():
        raw = annotated(masks, kind, count)
        drawn = list(tqdm(promote(raw, sam), desc=f"Promoting: {name}", total=len(raw)))
        references |= {f"{name}, raw": raw, f"{name}, promoted": drawn}
        ious = [mask_iou(one.mask, truth.mask) for one, truth in zip(drawn, masks, strict=True)]
        promoted[name] = {
            "mean_iou": float(np.mean(ious)),
            "above_half": float(np.mean([iou > 0.5 for iou in ious])),
            "unpromoted": sum(not reference.promoted for reference in drawn),
        }

    scenes = target_scenes(targets)
    truth = coco_dataset(scenes)
    encoded = [encode_target(scene.image, dino, sam, preset) for scene in tqdm(scenes, desc="Encoding targets")]
    by_kind = {}
    for name, of_kind in tqdm(references.items(), desc="Matching"):
        entries = [entry for entry in encode_references(of_kind, dino, preset) if isinstance(entry, MemoryEntry)]
        vectors = torch.stack([entry.prototype for entry in entries])
        vectors = vectors.unflatten(0, (len(NOVEL_SPECIES), REFERENCES_PER_CLASS)).to(dino.device)
        prototypes = [draw_prototypes(vectors, shots, draw) for draw in range(draws)]
        found = (match_all(truth, encoded, p, MERGING["soft"], preset.box_convention) for p in prototypes)
        by_kind[name] = summary(figures(evaluate(truth, results)) for results in found)

    print(f"{targets} images, {len(NOVEL_SPECIES)} classes, {shots} references per class, {draws} draws\n")
    print(table("references", by_kind))
    print("\n| promoted | mean IoU with the true mask | above 0.5 | empty masks of SAM2 |\n|---|---:|---:|---:|")
    for name, row in promoted.items():
        shown = f"{100 * row['mean_iou']:.1f} | {100 * row['above_half']:.1f} %"
        print(f"| {name} | {shown} | {row['unpromoted']} of {len(masks)} |")
    return {
        "targets": targets,
        "shots": shots,
        "draws": draws,
        "preset": preset.name,
        "points_per_side": points,
        "encoder": dino.info.fingerprint,
        "segmenter": sam.fingerprint,
        "kinds": by_kind,
        "promoted": promoted,
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=120)
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--points", type=int, default=16, help="points per side of the prompt grid")
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--segmenter", default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = vars(parser.parse_args())
    out = options.pop("out")
    numbers = run(**options)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
