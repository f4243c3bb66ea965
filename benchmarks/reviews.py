"""A simulated reviewer: how much every decision about a prediction teaches, by the order of the predictions.

    python -m benchmarks.reviews --worlds validation-1 --shots 1 3

Half of the targets are reviewed, ten predictions at a time, and the memory is taught after every ten; the figures are
those of the other half, of which nothing is ever reviewed. The reviewer knows the truth: a prediction of the right
object and class is accepted, one of the right object and another novel class gets this class, one of a distractor or
of the background is rejected, and one with a wrong outline teaches nothing. With ``--errors 0.1``, a tenth of the
decisions is wrong: accepted for rejected, and rejected for accepted. A decision takes a person about two seconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.ablation import Encoded, encode, measure
from benchmarks.measuring import markdown_table
from benchmarks.worlds import WORLDS
from nts.building import encode_references
from nts.crops import embed_crops
from nts.instances import Instances
from nts.memory import MemoryBank, MemoryEntry, Negative
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT
from nts.references import Reference
from nts.review_order import centred, most_instructive, teaching_values
from nts.segmenter import Segmenter
from nts.settled import Settled
from synthetic.scenes import Scene, species_name

BATCH = 10
CLICKS = (0, 10, 20, 50, 100)
SECONDS = 2.0
"""Time of a person for a decision."""
RIGHT_IOU = 0.5
ELSEWHERE_IOU = 0.2
"""Below this IoU with all novel objects, a prediction is of something else; above, its outline is wrong."""


@dataclass(frozen=True)
class Prediction:
    """An undecided prediction.

    Attributes:
        image: index of the reviewed scene.
        label: index of its class.
        score: its probability of being right.
        raw: its score.
        predicted_iou: of its mask.
        feature: ``[C]``, of its crop.
        mask: bool ``[H, W]``.
    """

    image: int
    label: int
    score: float
    raw: float
    predicted_iou: float
    feature: Tensor
    mask: Tensor


def _instructive(predictions: Sequence[Prediction], memory: MemoryBank, rng: np.random.Generator) -> list[int]:
    known = [entry.prototype for entry in memory.entries] + [negative.prototype for negative in memory.negatives]
    scores = torch.tensor([each.raw for each in predictions])
    values = teaching_values(scores, torch.tensor([each.predicted_iou for each in predictions]))
    features = torch.stack([each.feature for each in predictions])
    return most_instructive(values, *centred(features, torch.stack(known)), BATCH).tolist()


def _confident(predictions: Sequence[Prediction], memory: MemoryBank, rng: np.random.Generator) -> list[int]:
    return np.argsort([-each.score for each in predictions], kind="stable")[:BATCH].tolist()


def _unsure(predictions: Sequence[Prediction], memory: MemoryBank, rng: np.random.Generator) -> list[int]:
    return np.argsort([abs(each.score - 0.5) for each in predictions], kind="stable")[:BATCH].tolist()


def _random(predictions: Sequence[Prediction], memory: MemoryBank, rng: np.random.Generator) -> list[int]:
    return rng.permutation(len(predictions))[:BATCH].tolist()


Order = Callable[[Sequence[Prediction], MemoryBank, np.random.Generator], list[int]]
ORDERS: dict[str, Order] = {
    "teach me first": _instructive,
    "most confident": _confident,
    "least sure": _unsure,
    "random": _random,
}


@dataclass(frozen=True)
class Row:
    """Figures after some decisions, of images that are never reviewed, in percent.

    Attributes:
        decisions: number of them.
        ap: mask nAP.
        f1: at the recommended threshold.
    """

    decisions: int
    ap: float
    f1: float


@dataclass
class Review:
    """A review of half of the targets of a world.

    Attributes:
        encoded: the world.
        memory: what was learnt.
        rng: for random orders and errors.
        errors: share of decisions that are wrong.
        decided: masks and blocked classes of decided predictions, by image.
        count: decisions so far.
    """

    encoded: Encoded
    memory: MemoryBank
    rng: np.random.Generator
    errors: float
    decided: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    count: int = 0

    @property
    def _reviewed(self) -> int:
        return len(self.encoded.scenes) // 2

    def predictions(self, engine: ReferenceSegmenter) -> list[Prediction]:
        """Undecided predictions on the reviewed half, with probabilities as scores, as in the Review panel."""
        targets = self.encoded.targets[DEFAULT.name][: self._reviewed]
        of_images = [engine.match(target, self._settled(image)) for image, target in enumerate(targets)]
        scores = [found.scores for found in of_images]
        if engine.calibration is not None:
            calibration = engine.calibration.shifted(torch.cat(scores))
            scores = [calibration.probabilities(each) for each in scores]
        return [
            Prediction(
                image,
                int(found.labels[k]),
                float(scores[image][k]),
                float(found.scores[k]),
                float(found.predicted_iou[k]),
                found.compared[k],
                found.masks[k],
            )
            for image, found in enumerate(of_images)
            for k in range(len(found))
        ]

    def figures(self, engine: ReferenceSegmenter) -> Row:
        """Figures of the other half."""
        others = slice(self._reviewed, None)
        found: list[Instances] = [engine.match(target) for target in self.encoded.targets[DEFAULT.name][others]]
        scores = [instances.scores for instances in found]
        if engine.calibration is not None:
            calibration = engine.calibration.shifted(torch.cat(scores))
            scores = [calibration.probabilities(each) for each in scores]
        row = measure(found, scores, self.encoded.scenes[others], self.encoded.classes)
        return Row(self.count, row.ap, row.f1)

    def decide(self, prediction: Prediction) -> None:
        """Decide about a prediction as a person does who knows the truth, and teach it."""
        scene, classes = self.encoded.scenes[prediction.image], self.encoded.classes
        species, iou = _truth(prediction.mask, scene, classes)
        blocked = torch.zeros(len(classes), dtype=torch.bool)
        blocked[prediction.label] = True
        self.count += 1
        accept = species in classes and iou >= RIGHT_IOU
        if self.rng.uniform() < self.errors:
            accept, species = not accept, classes[prediction.label]
            iou = 1.0 if accept else 0.0
        if accept:
            self._accept(prediction, scene, species_name(species))
            blocked[:] = True
        elif iou < ELSEWHERE_IOU or species not in classes:
            self._reject(prediction, scene)
        self.decided.setdefault(prediction.image, []).append((prediction.mask, blocked))

    def _accept(self, prediction: Prediction, scene: Scene, name: str) -> None:
        label_id = f"decision-{self.count}"
        reference = Reference(
            scene.image, name, prediction.mask.numpy(), sample_id=f"target-{prediction.image}", label_id=label_id
        )
        for entry in encode_references([reference], self.encoded.encoder):
            if isinstance(entry, MemoryEntry):
                self.memory.add(entry)

    def _reject(self, prediction: Prediction, scene: Scene) -> None:
        rows, columns = (prediction.mask.any(1 - axis).nonzero()[:, 0] for axis in (0, 1))
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        crop = prediction.mask[box[1] : box[3], box[0] : box[2]]
        (prototype,) = embed_crops(scene.image, [crop], box[None], self.encoded.encoder)
        self.memory.add_negatives(
            [Negative(prototype, "rejected", True, f"target-{prediction.image}", f"decision-{self.count}")]
        )

    def _settled(self, image: int) -> Settled | None:
        if image not in self.decided:
            return None
        masks, classes = zip(*self.decided[image], strict=True)
        return Settled.of_masks(masks, torch.stack(classes), tuple(masks[0].shape))


def _truth(mask: Tensor, scene: Scene, classes: Sequence[int]) -> tuple[int, float]:
    """Species of the object that a mask covers best, and its IoU; novel species are preferred below 0.5."""
    inside, objects = mask.flatten().float(), torch.from_numpy(scene.masks).flatten(1).float()
    if len(objects) == 0:
        return -1, 0.0
    shared = objects @ inside
    iou = shared / (objects.sum(1) + inside.sum() - shared)
    if iou.max() < RIGHT_IOU:
        iou = iou * torch.tensor([species in classes for species in scene.species.tolist()])
    best = int(iou.argmax())
    return int(scene.species[best]), float(iou[best])


def review(
    encoded: Encoded, segmenter: Segmenter, shots: int, draw: int, order: Order, errors: float, clicks: Sequence[int]
) -> list[Row]:
    """Figures after each of the numbers of decisions."""
    memory = encoded.memory(DEFAULT, shots, draw, complete=False)
    session = Review(encoded, memory, np.random.default_rng([75, draw]), errors)
    rows = []
    while True:
        engine = ReferenceSegmenter(memory, encoded.encoder, segmenter, DEFAULT)
        if session.count in clicks:
            rows.append(session.figures(engine))
        if session.count >= max(clicks):
            return rows
        predictions = session.predictions(engine)
        for k in order(predictions, memory, session.rng)[: max(clicks) - session.count]:
            session.decide(predictions[k])


def table(results: dict[str, list[list[Row]]]) -> str:
    """Markdown table: mask nAP and F1, means over draws, by order and number of decisions."""
    clicks = [row.decisions for row in next(iter(results.values()))[0]]
    lines = []
    for name, draws in results.items():
        ap, f1 = (np.array([[getattr(row, which) for row in rows] for rows in draws]) for which in ("ap", "f1"))
        gain = ap - ap[:, :1]
        cells = [
            f"{a:.1f} ({g:+.1f} ± {d:.1f}), {f:.1f}"
            for a, g, d, f in zip(ap.mean(0), gain.mean(0), gain.std(0), f1.mean(0), strict=True)
        ]
        lines.append([name, *cells])
    head = [f"{count} ({count * SECONDS:.0f} s)" for count in clicks]
    return markdown_table(["mask nAP, F1 after", *head], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=["validation-1"])
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--targets", type=int, default=120)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--errors", type=float, nargs="+", default=[0.0, 0.1], help="shares of wrong decisions")
    parser.add_argument("--orders", nargs="+", choices=list(ORDERS), default=list(ORDERS))
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    encoder, segmenter = load_encoder("small"), load_segmenter("small")
    numbers = {}
    for name in args.worlds:
        encoded = encode(WORLDS[name], args.targets, max(args.shots) * 4, encoder, segmenter, clean=False)
        for shots in args.shots:
            for errors in args.errors:
                results = {
                    order: [
                        review(encoded, segmenter, shots, draw, ORDERS[order], errors, CLICKS)
                        for draw in tqdm(range(args.draws), desc=f"{name}, {shots} shots, {order}")
                    ]
                    for order in args.orders
                }
                title = f"{name}, {shots} references per class, {errors:.0%} of the decisions wrong"
                print(f"\n{title}, {args.draws} draws\n\n{table(results)}\n", flush=True)
                numbers[title] = {key: [[asdict(row) for row in rows] for rows in d] for key, d in results.items()}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
