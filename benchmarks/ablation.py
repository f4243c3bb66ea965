"""Every part of the method, switched on one after the other and off one at a time, on worlds of drawn scenes.

    python -m benchmarks.ablation --worlds validation-1 validation-2 --shots 3
    python -m benchmarks.ablation --worlds benchmark --shots 1 3 5 10

Targets, references and crops are encoded once; every variant matches them again, with the same draws of references.
The columns are the mask nAP with its difference to the preset ``paper``, paired by draw; the AUROC of the best score on
each novel object against the best on each distractor and the background; F1 at the best threshold and at the
recommended one, which no target label has chosen; and the expected calibration error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring import markdown_table
from benchmarks.worlds import WORLDS, World, as_reference
from nts.building import build_memory
from nts.encoder import Encoder
from nts.instances import Instances
from nts.memory import MemoryBank, MemoryEntry, Negative
from nts.method import PUBLISHED
from nts.metrics.average_precision import accumulate, summarise
from nts.metrics.coco import coco_results
from nts.metrics.matches import match
from nts.metrics.reliability import reliability
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.presets import DEFAULT, PAPER, Preset
from nts.recommendation import THRESHOLD
from nts.segmenter import Segmenter
from nts.targets import Target
from synthetic.scenes import Scene, coco_dataset, species_name

REFERENCES_PER_CLASS = 30
STEPS: dict[str, tuple[str, ...]] = {
    "+ rank": ("rank",),
    "+ similarity": ("rank", "similarity"),
    "+ consensus": ("rank", "similarity", "consensus"),
    "+ crops": ("rank", "similarity", "consensus", "crops"),
}
"""Parts of the default that are switched on, one row after the other."""


@dataclass(frozen=True)
class Row:
    """Figures of a variant for one draw of references.

    Attributes:
        ap, ap50, ap75: of masks, over the novel classes, in percent.
        auroc: novel objects against everything else.
        best_f1: at the best threshold, by the labels of the targets.
        f1, precision, recall: at the recommended threshold, chosen without them.
        ece: expected calibration error of the probabilities.
        raw_ece: that of the scores.
    """

    ap: float
    ap50: float
    ap75: float
    auroc: float
    best_f1: float
    f1: float
    precision: float
    recall: float
    ece: float
    raw_ece: float


def measure(
    found: Sequence[Instances], probabilities: Sequence[Tensor], scenes: Sequence[Scene], classes: Sequence[int]
) -> Row:
    """Figures of the instances found in scenes.

    Args:
        found: instances of every scene, with labels that index ``classes``.
        probabilities: of the instances, by scene.
        scenes: with their objects.
        classes: the novel species.
    """
    truth = coco_dataset(scenes, classes)
    ids = list(range(1, len(classes) + 1))
    results = [row for number, of_image in enumerate(found, 1) for row in coco_results(of_image, number, ids)]
    matches = match(truth, results, ids, "masks")
    precision = summarise(accumulate(matches))
    probability = torch.cat(list(probabilities)).numpy()[matches.result]
    right = matches.true_positives()[0, 0]
    objects = len(truth["annotations"])
    order = np.argsort(-matches.score, kind="stable")
    hits = right[order].cumsum()
    best = (2 * hits / (np.arange(1, len(order) + 1) + objects)).max(initial=0)
    chosen = probability >= THRESHOLD
    hit, made = right[chosen].sum(), chosen.sum()
    return Row(
        ap=100 * precision.ap,
        ap50=100 * precision.ap50,
        ap75=100 * precision.ap75,
        auroc=separation(found, scenes, classes),
        best_f1=100 * best,
        f1=100 * 2 * hit / max(1, made + objects),
        precision=100 * hit / max(1, made),
        recall=100 * hit / objects,
        ece=reliability(probability, right).error,
        raw_ece=reliability(matches.score.clip(0, 1), right).error,
    )


def separation(found: Sequence[Instances], scenes: Sequence[Scene], classes: Sequence[int]) -> float:
    """AUROC of the best score on each novel object against that on each distractor and all scores on background."""
    novel, others = [], []
    for instances, scene in zip(found, scenes, strict=True):
        masks, truth = instances.masks.flatten(1).float(), torch.from_numpy(scene.masks).flatten(1).float()
        shared = masks @ truth.T
        iou, which = (shared / (masks.sum(1)[:, None] + truth.sum(1) - shared)).max(1)
        for number, species in enumerate(scene.species.tolist()):
            on_object = instances.scores[(which == number) & (iou >= 0.5)]
            if len(on_object):
                (novel if species in classes else others).append(float(on_object.max()))
        others += instances.scores[iou < 0.5].tolist()
    ranks = np.argsort(np.argsort([*novel, *others], kind="stable"), kind="stable")[: len(novel)] + 1
    return float((ranks.sum() - len(novel) * (len(novel) + 1) / 2) / (len(novel) * len(others)))


@dataclass(frozen=True)
class Encoded:
    """A world, encoded once.

    Attributes:
        world: the world.
        scenes: its targets.
        encoder: for crops that are missing.
        targets: by preset, encoded as the default and as the published preset demand.
        entries: references of every species, by preset.
        negatives: of the image of every reference, by sample id.
    """

    world: World
    scenes: list[Scene]
    encoder: Encoder
    targets: dict[str, list[Target]]
    entries: dict[str, dict[int, list[MemoryEntry]]]
    negatives: dict[str, list[Negative]]

    @property
    def classes(self) -> list[int]:
        """The novel species, in the order of a memory's classes."""
        return sorted(self.world.novel, key=species_name)

    def memory(self, preset: Preset, shots: int, draw: int, *, complete: bool) -> MemoryBank:
        """Memory of some of the references of every species; larger draws contain smaller ones."""
        rng = np.random.default_rng([74, draw])
        memory = MemoryBank(self.encoder.info, preset.name)
        for of_species in self.entries[_inputs(preset)].values():
            for k in rng.permutation(len(of_species))[:shots]:
                entry = of_species[k]
                memory.add(entry)
                memory.add_negatives(replace(each, sure=complete) for each in self.negatives.get(entry.sample_id, ()))
        return memory


def _inputs(preset: Preset) -> str:
    """Name of the preset that prepares the inputs of another one."""
    return PAPER.name if not preset.antialias else DEFAULT.name


def encode(
    world: World, targets: int, references: int, encoder: Encoder, segmenter: Segmenter, *, clean: bool = True
) -> Encoded:
    """Encode the targets of a world, and references of every species, see :meth:`World.references`."""
    scenes = world.targets(targets)
    encoded = {
        preset.name: [
            encode_target(scene.image, encoder, segmenter, preset).compact()
            for scene in tqdm(scenes, desc=f"{world.name}, {preset.name}")
        ]
        for preset in (PAPER, DEFAULT)
    }
    entries: dict[str, dict[int, list[MemoryEntry]]] = {PAPER.name: {}, DEFAULT.name: {}}
    negatives: dict[str, list[Negative]] = {}
    for species in tqdm(world.novel, desc=f"{world.name}, references"):
        made = [
            as_reference(scene, species, k)
            for k, scene in enumerate(world.references(species, references, clean=clean))
        ]
        entries[PAPER.name][species] = list(build_memory(made, encoder, PAPER)[0].entries)
        memory, _ = build_memory(made, encoder, DEFAULT, segmenter=segmenter)
        entries[DEFAULT.name][species] = list(memory.entries)
        for negative in memory.negatives:
            negatives.setdefault(negative.sample_id, []).append(negative)
    return Encoded(world, scenes, encoder, encoded, entries, negatives)


def evaluate(
    encoded: Encoded, segmenter: Segmenter, preset: Preset, shots: int, draw: int, *, complete: bool = True
) -> Row:
    """Match all targets with one draw of references, and measure."""
    memory = encoded.memory(preset, shots, draw, complete=complete)
    engine = ReferenceSegmenter(memory, encoded.encoder, segmenter, preset)
    found = [engine.match(target) for target in encoded.targets[_inputs(preset)]]
    probabilities = [instances.scores for instances in found]
    if engine.calibration is not None:
        calibration = engine.calibration.shifted(torch.cat(probabilities))
        probabilities = [calibration.probabilities(scores) for scores in probabilities]
    return measure(found, probabilities, encoded.scenes, encoded.classes)


def variants() -> dict[str, tuple[Preset, bool]]:
    """Presets by the name of their row, and whether the reference images count as labelled completely."""
    published = replace(DEFAULT, method=PUBLISHED)
    default = DEFAULT.method
    rows: dict[str, tuple[Preset, bool]] = {"paper": (PAPER, True)}
    for name, parts in STEPS.items():
        rows[name] = (
            replace(published, method=replace(PUBLISHED, **{part: getattr(default, part) for part in parts})),
            True,
        )
    rows["+ negatives, complete"] = DEFAULT, True
    rows["default"] = DEFAULT, False
    for part in STEPS["+ crops"]:
        rows[f"default - {part}"] = DEFAULT.without(part), False
    rows["default, diffusion"] = replace(DEFAULT, method=replace(default, merging="diffusion")), False
    return rows


def table(rows: dict[str, list[Row]]) -> str:
    """Markdown table: means over draws, and the paired difference of the AP to the first row with its deviation."""
    head = ["", "mask nAP", "to paper", *(field.name for field in fields(Row) if field.name != "ap")]
    base = np.array([row.ap for row in next(iter(rows.values()))])
    lines = []
    for name, draws in rows.items():
        values = np.array([astuple(row) for row in draws]).mean(0)
        difference = np.array([row.ap for row in draws]) - base
        cells = [f"{value:.3f}" if value < 1 else f"{value:.1f}" for value in values[1:]]
        lines.append([name, f"{values[0]:.1f}", f"{difference.mean():+.1f} ± {difference.std():.1f}", *cells])
    return markdown_table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=["validation-1", "validation-2"])
    parser.add_argument("--shots", type=int, nargs="+", default=[3])
    parser.add_argument("--targets", type=int, default=120)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--variants", nargs="+", help="rows of the table (all)")
    parser.add_argument(
        "--unlabelled", action="store_true", help="reference images with unlabelled objects of the novel species"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    encoder, segmenter = load_encoder("small"), load_segmenter("small")
    chosen = {name: row for name, row in variants().items() if args.variants is None or name in args.variants}
    numbers = {}
    for name in args.worlds:
        world, clean = WORLDS[name], not args.unlabelled
        encoded = encode(world, args.targets, REFERENCES_PER_CLASS, encoder, segmenter, clean=clean)
        for shots in args.shots:
            rows = {
                variant: [
                    evaluate(encoded, segmenter, preset, shots, draw, complete=complete) for draw in range(args.draws)
                ]
                for variant, (preset, complete) in tqdm(chosen.items(), desc=f"{name}, {shots} shots")
            }
            print(f"\n{name}, {shots} references per class, {args.draws} draws\n\n{table(rows)}\n")
            numbers[f"{name}, {shots}"] = {variant: [asdict(row) for row in draws] for variant, draws in rows.items()}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
