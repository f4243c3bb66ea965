"""Accuracy on drawn scenes: 10 novel species among 24 distractors, none of them seen in training.

    python -m benchmarks.scenes

Every target image is encoded once; its proposals are then matched with many draws of references. The report contains
the recall of the proposals, an upper bound for all later steps; nAP (average precision over the novel classes) by
number of references and for soft merging, NMS alone and neither; and an error analysis: nAP with perfect labels or
masks, types of false positives, and confusions between classes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring import draw_references
from nts.building import encode_references
from nts.evaluation.model_diagnostics import ModelDiagnostics, nearest_classes, proposal_hits
from nts.matching import MatchingConfig, match_proposals
from nts.memory import class_prototype
from nts.metrics.coco import NovelAP, coco_results, evaluate
from nts.metrics.error_types import ERROR_KINDS, Diagnostics, ErrorCounts, diagnose
from nts.metrics.matches import match
from nts.models import load_encoder, load_segmenter
from nts.pipeline import encode_target
from nts.presets import get_preset
from nts.targets import EncodedTarget
from synthetic.scenes import (
    DISTRACTOR_SPECIES,
    NOVEL_SPECIES,
    SIDE,
    Scene,
    coco_dataset,
    species_name,
    target_scenes,
)

SHOTS = (1, 2, 3, 5, 10)
DRAWS = 5
REFERENCES_PER_CLASS = 30
MERGING = {
    "soft": MatchingConfig(),
    "NMS only": MatchingConfig(merge_exponent=0),
    "none": MatchingConfig(nms_iou=1, merge_exponent=0),
}
SIZES = {"all": (0.0, 1.0), "small, < 8 %": (0.0, 0.08), "medium": (0.08, 0.16), "large, ≥ 16 %": (0.16, 1.0)}
"""Size bins by the longer side of the visible object over the image side; no object lies on a border."""
FIGURES = ("mask nAP", "mask nAP50", "mask nAP75", "box nAP", "box nAP50", "box nAP75")


def proposal_recall(scenes: Sequence[Scene], targets: Sequence[EncodedTarget]) -> dict[str, dict[str, float]]:
    """Proposal recall at IoU 0.5 and 0.75 by size, over all objects including distractors."""
    gathered = ModelDiagnostics((), SIZES)
    for scene, target in zip(scenes, targets, strict=True):
        longer = []
        for mask in scene.masks:
            ys, xs = mask.nonzero()
            longer.append((max(np.ptp(xs), np.ptp(ys)) + 1) / SIDE)
        logits = target.proposals.mask_logits
        gathered.add_proposals(longer, proposal_hits(torch.from_numpy(scene.masks), logits, target.image_size))
    return {
        row.area: {
            "objects": row.objects,
            "recall50": row.recall_50,
            "recall75": row.recall_75,
            "mean_best_iou": row.mean,
        }
        for row in gathered.summary().recall
    }


def draw_prototypes(references: Tensor, shots: int, draw: int) -> Tensor:
    """Class prototypes [K, C] from `shots` of the instance prototypes [K, R, C]; larger draws contain smaller ones."""
    rng = np.random.default_rng([74, draw])
    chosen = [rng.permutation(references.shape[1])[:shots] for _ in references]
    return torch.stack([class_prototype(vectors[i]) for vectors, i in zip(references, chosen, strict=True)])


def accuracy_on_true_masks(scenes: Sequence[Scene], targets: Sequence[EncodedTarget], prototypes: Tensor) -> float:
    """Accuracy of the nearest prototype on true masks of novel objects: the encoder alone."""
    gathered = ModelDiagnostics([species_name(number) for number in NOVEL_SPECIES])
    for scene, target in zip(scenes, targets, strict=True):
        labels = [NOVEL_SPECIES.index(n) if n in NOVEL_SPECIES else -1 for n in scene.species.tolist()]
        gathered.add_labels(labels, nearest_classes(target.tokens, torch.from_numpy(scene.masks), prototypes))
    return gathered.summary().accuracy


def match_all(
    truth: dict, targets: Sequence[EncodedTarget], prototypes: Tensor, config: MatchingConfig, box_convention: str
) -> list[dict]:
    """Match every target with the prototypes, and return COCO results."""
    category_ids = [category["id"] for category in truth["categories"]]
    results = []
    for image_id, target in enumerate(targets, start=1):
        proposals = target.proposals
        instances = match_proposals(
            target.tokens, proposals.mask_logits, proposals.predicted_iou, prototypes, target.image_size, config
        )
        results += coco_results(instances, image_id, category_ids, box_convention)
    return results


def figures(precision: NovelAP) -> list[float]:
    """Six numbers, in the order of FIGURES."""
    return [
        value for kind in (precision.masks.novel, precision.boxes.novel) for value in (kind.ap, kind.ap50, kind.ap75)
    ]


def summary(draws: Iterable[Sequence[float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over draws of references."""
    values = np.array(list(draws))
    return {
        name: {"mean": float(mean), "std": float(std)}
        for name, mean, std in zip(FIGURES, values.mean(0), values.std(0), strict=True)
    }


def table(head: str, rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown table in percent, mean ± standard deviation, with one row per name and one column per figure."""
    lines = [f"| {head} | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{100 * row[f]['mean']:.1f} ± {100 * row[f]['std']:.1f}" for f in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def losses(draws: Sequence[Diagnostics], most_confused: int = 6) -> dict:
    """Error analysis, averaged over draws of references: oracles, false positives by type, and top confusions."""
    classes, distractors = draws[0].classes, len(draws[0].classes)
    confusion = np.mean([draw.confusion for draw in draws], axis=0)
    between = confusion[:distractors, :distractors] * ~np.eye(distractors, dtype=bool)
    commonest = np.argsort(-between, axis=None, kind="stable")[:most_confused]
    pairs = [np.unravel_index(i, between.shape) for i in commonest if between.flat[i] > 0]

    def mean(counts: Sequence[ErrorCounts]) -> dict[str, float]:
        totals = [of_draw.total() for of_draw in counts]
        return {name: float(np.mean([total[name] for total in totals])) for name in totals[0]}

    return {
        "ap": float(np.mean([draw.ap for draw in draws])),
        "ap_if_labels_perfect": float(np.mean([draw.ap_if_labels_perfect for draw in draws])),
        "ap_if_masks_perfect": float(np.mean([draw.ap_if_masks_perfect for draw in draws])),
        "confidence": float(np.mean([draw.confidence for draw in draws])),
        "errors": mean([draw.errors for draw in draws]),
        "errors_above": mean([draw.errors_above for draw in draws]),
        "confused": [
            {
                "predicted": classes[row],
                "true": classes[column],
                "objects": float(between[row, column]),
                "of": float(confusion[:, column].sum()),
            }
            for row, column in pairs
        ],
    }


def print_losses(loss: dict, shots: int) -> None:
    """Print the tables of :func:`losses`."""
    print(f"\n| masks, {shots} references | AP |\n|---|---:|")
    for name, words in (
        ("ap", "measured"),
        ("ap_if_labels_perfect", "with perfect labels"),
        ("ap_if_masks_perfect", "with perfect masks"),
    ):
        print(f"| {words} | {100 * loss[name]:.1f} |")
    print(f"\n| predictions at IoU 0.5 | all | score {loss['confidence']:.2f} or more (best F1) |\n|---|---:|---:|")
    for name in ("right", *ERROR_KINDS):
        print(f"| {name.replace('_', ' ')} | {loss['errors'][name]:.0f} | {loss['errors_above'][name]:.0f} |")
    print(f"| (missed objects) | {loss['errors']['missed']:.0f} | {loss['errors_above']['missed']:.0f} |")
    print("\nMost confused: ", end="")
    print(
        "; ".join(
            f"{row['true']} called {row['predicted']} {row['objects']:.1f} of {row['of']:.0f}"
            for row in loss["confused"]
        )
    )


def run(
    targets: int = 120,
    shots: Sequence[int] = SHOTS,
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
    scenes = target_scenes(targets)
    truth = coco_dataset(scenes)

    began = time.perf_counter()
    encoded = [encode_target(scene.image, dino, sam, preset) for scene in tqdm(scenes, desc="Encoding targets")]
    seconds = (time.perf_counter() - began) / len(scenes)
    references = draw_references(len(NOVEL_SPECIES), REFERENCES_PER_CLASS)
    vectors = torch.stack([entry.prototype for entry in encode_references(references, dino, preset)])
    vectors = vectors.unflatten(0, (len(NOVEL_SPECIES), REFERENCES_PER_CLASS)).to(dino.device)

    recall = proposal_recall(scenes, encoded)
    per_image = float(np.mean([len(target.proposals) for target in encoded]))
    print(
        f"{targets} images, {len(truth['annotations'])} novel objects, preset {preset.name!r}, {points}×{points} points"
    )
    print(f"{per_image:.0f} proposals per image, {seconds:.2f} s per image for both models\n")
    print("| objects | number | recall at IoU 0.5 | recall at IoU 0.75 | mean best IoU |\n|---|---|---|---|---|")
    for name, row in recall.items():
        shown = [f"{100 * row[key]:.1f}" for key in ("recall50", "recall75", "mean_best_iou")]
        print(f"| {name} | {row['objects']} | {' | '.join(shown)} |")

    everything = coco_dataset(scenes, (*NOVEL_SPECIES, *DISTRACTOR_SPECIES))
    novel_ids = [category["id"] for category in truth["categories"]]
    middle = 3 if 3 in shots else shots[0]
    by_shots, accuracy = {}, {}
    for k in shots:
        prototypes = [draw_prototypes(vectors, k, draw) for draw in range(draws)]
        accuracy[str(k)] = float(np.mean([accuracy_on_true_masks(scenes, encoded, p) for p in prototypes]))
        found = [match_all(truth, encoded, p, MERGING["soft"], preset.box_convention) for p in prototypes]
        by_shots[str(k)] = summary(figures(evaluate(truth, results)) for results in found)
        if k == middle:
            matches = [match(everything, results, novel_ids) for results in found]
            diagnoses = [diagnose(m, everything, r, novel_ids) for m, r in zip(matches, found, strict=True)]
    print(f"\n{table('references per class', by_shots)}")
    print("\nAccuracy on true masks: ", end="")
    print(", ".join(f"{100 * value:.1f} % with {k} references" for k, value in accuracy.items()))

    by_merging = {"soft": by_shots[str(middle)]}
    prototypes = [draw_prototypes(vectors, middle, draw) for draw in range(draws)]
    for name in ("NMS only", "none"):
        found = (match_all(truth, encoded, p, MERGING[name], preset.box_convention) for p in prototypes)
        by_merging[name] = summary(figures(evaluate(truth, results)) for results in found)
    print(f"\n{table(f'merging, {middle} references', by_merging)}")
    loss = losses(diagnoses)
    print_losses(loss, middle)

    return {
        "targets": targets,
        "novel_objects": len(truth["annotations"]),
        "preset": preset.name,
        "points_per_side": points,
        "draws": draws,
        "encoder": dino.info.fingerprint,
        "segmenter": sam.fingerprint,
        "proposals_per_image": per_image,
        "seconds_per_image": seconds,
        "proposal_recall": recall,
        "accuracy_on_true_masks": accuracy,
        "shots": by_shots,
        "merging": by_merging,
        "losses": loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=120)
    parser.add_argument("--shots", type=int, nargs="+", default=list(SHOTS))
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--points", type=int, default=16, help="points per side of the prompt grid")
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--segmenter", default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    options = vars(args).copy()
    out = options.pop("out")
    numbers = run(**options)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
