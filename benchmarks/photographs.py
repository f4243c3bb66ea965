"""Accuracy of a pair of models on real photographs, in folders of COCO's layout.

    python -m benchmarks.photographs FOLDER --sets nuts pets --shots 5

A set is a folder with ``images/`` and ``annotations.json`` that has a mask for every object. The references of a draw
come from few images, and these are no targets. The columns are

* the accuracy of the nearest prototype on true masks, by the encoder and by a colour histogram, which needs no model;
* the recall of the proposals at IoU 0.5, over all objects;
* for every preset the mask AP50, AP, and precision and recall at the recommended threshold.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring import markdown_table
from nts.building import build_memory
from nts.datasets.coco_records import mask_of_annotation
from nts.encoder import Encoder
from nts.evaluation.model_diagnostics import nearest_classes, proposal_hits
from nts.images import read_image
from nts.metrics.average_precision import accumulate, summarise
from nts.metrics.coco import coco_results
from nts.metrics.matches import match
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.presets import get_preset
from nts.recommendation import THRESHOLD
from nts.references import Reference
from nts.segmenter import Segmenter

BINS = 8  # per channel of the colour histogram


@dataclass(frozen=True)
class PhotographSet:
    """Photographs with the masks of their objects.

    Attributes:
        name: of the set.
        folder: with ``images/``.
        dataset: in COCO's format.
    """

    name: str
    folder: Path
    dataset: dict

    @classmethod
    def read(cls, folder: Path, min_objects: int = 1) -> PhotographSet:
        """Read a folder with ``annotations.json``; crowds, and classes with fewer objects, are left out."""
        dataset = json.loads((folder / "annotations.json").read_text())
        objects = [annotation for annotation in dataset["annotations"] if not annotation.get("iscrowd")]
        counts = Counter(annotation["category_id"] for annotation in objects)
        kept = [annotation for annotation in objects if counts[annotation["category_id"]] >= min_objects]
        return cls(folder.name, folder, {**dataset, "annotations": kept})

    @cached_property
    def objects(self) -> dict[int, list[dict]]:
        """Annotations by image id."""
        found: dict[int, list[dict]] = {image["id"]: [] for image in self.dataset["images"]}
        for annotation in self.dataset["annotations"]:
            found[annotation["image_id"]].append(annotation)
        return found

    @cached_property
    def names(self) -> dict[int, str]:
        """Class names by category id, of classes that occur."""
        used = {annotation["category_id"] for annotation in self.dataset["annotations"]}
        return {each["id"]: each["name"] for each in self.dataset["categories"] if each["id"] in used}

    @cached_property
    def records(self) -> dict[int, dict]:
        """Entries of ``images`` by id."""
        return {image["id"]: image for image in self.dataset["images"]}

    def image(self, image_id: int) -> np.ndarray:
        """uint8 ``[H, W, 3]``."""
        return read_image(self.folder / "images" / self.records[image_id]["file_name"])

    def masks(self, image_id: int) -> np.ndarray:
        """bool ``[n, H, W]``, of :attr:`objects`."""
        height, width = self.records[image_id]["height"], self.records[image_id]["width"]
        return np.array([mask_of_annotation(each, height, width) for each in self.objects[image_id]]).reshape(
            -1, height, width
        )


@dataclass(frozen=True)
class Draw:
    """References of every class, and targets that show none of them.

    Attributes:
        references: annotations.
        targets: image ids.
    """

    references: tuple[dict, ...]
    targets: tuple[int, ...]


def draw(photographs: PhotographSet, shots: int, seed: int, images: int) -> Draw:
    """Draw references from as few images as possible: each image gives one reference of each class that it shows."""
    rng = np.random.default_rng([81, seed])
    order = rng.permutation(sorted(photographs.objects)).tolist()
    wanted = dict.fromkeys(photographs.names, shots)
    chosen: list[dict] = []
    used = []
    for image_id in order:
        here = []
        for category in sorted(wanted):
            of_class = [each for each in photographs.objects[image_id] if each["category_id"] == category]
            if of_class and wanted[category]:
                here.append(max(of_class, key=lambda each: each["area"]))
                wanted[category] -= 1
        chosen += here
        used += [image_id] if here else []
    targets = [image_id for image_id in order if image_id not in used and photographs.objects[image_id]]
    return Draw(tuple(chosen), tuple(targets[:images]))


def colour_histogram(image: np.ndarray, mask: np.ndarray) -> Tensor:
    """Square root of the colour histogram of a region, ``[BINS ** 3]``."""
    shades = (image[mask] // (256 // BINS)).astype(int)
    counts = np.bincount((shades[:, 0] * BINS + shades[:, 1]) * BINS + shades[:, 2], minlength=BINS**3)
    return torch.from_numpy(counts / max(1, counts.sum())).sqrt().float()


@dataclass(frozen=True)
class Row:
    """Figures of a preset for one draw, in percent.

    Attributes:
        ap50, ap: of masks.
        precision, recall: at the recommended threshold, which no target label has chosen.
    """

    ap50: float
    ap: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Report:
    """Figures of a set for one draw, in percent.

    Attributes:
        right: right classes on true masks, mean over classes, by the encoder.
        right_by_colour: the same by colour histograms.
        proposals: recall at IoU 0.5.
        rows: by preset.
    """

    right: float
    right_by_colour: float
    proposals: float
    rows: dict[str, Row]


def measure(
    photographs: PhotographSet, drawn: Draw, encoder: Encoder, segmenter: Segmenter, presets: Sequence[str]
) -> Report:
    """Build memories of the references, and measure on the targets."""
    references = _references(photographs, drawn)
    categories = sorted(photographs.names, key=lambda i: photographs.names[i])
    histograms = torch.stack(
        [
            F.normalize(
                torch.stack([colour_histogram(r.image, r.mask) for r in references if r.class_name == name]), dim=1
            ).mean(0)
            for name in (photographs.names[i] for i in categories)
        ]
    )
    hits, answers, by_colour, truth = [], [], [], []
    rows: dict[str, Row] = {}
    for name in presets:
        preset = get_preset(name)
        memory, _ = build_memory(references, encoder, preset, segmenter=segmenter)
        engine = ReferenceSegmenter(memory, encoder, segmenter, preset)
        results, scores = [], []
        for image_id in tqdm(drawn.targets, desc=f"{photographs.name}, {name}", leave=False):
            image = photographs.image(image_id)
            target = encode_target(image, encoder, segmenter, preset)
            if not rows:
                masks = torch.from_numpy(photographs.masks(image_id))
                hits.append(proposal_hits(masks, target.proposals.mask_logits, target.image_size))
                answers.append(nearest_classes(target.tokens, masks, memory.prototypes()))
                colours = torch.stack([colour_histogram(image, mask) for mask in masks.numpy()])
                by_colour.append((colours @ F.normalize(histograms, dim=1).T).argmax(1))
                truth += [categories.index(each["category_id"]) for each in photographs.objects[image_id]]
            found = engine.match(target.compact())
            results += coco_results(found, image_id, categories)
            scores.append(found.scores)
        rows[name] = _row(photographs, drawn, results, torch.cat(scores), engine)
    labels = torch.tensor(truth)
    return Report(
        right=_mean_of_classes(torch.cat(answers) == labels, labels),
        right_by_colour=_mean_of_classes(torch.cat(by_colour) == labels, labels),
        proposals=100 * float((torch.cat(hits) >= 0.5).double().mean()),
        rows=rows,
    )


def _references(photographs: PhotographSet, drawn: Draw) -> list[Reference]:
    references, images = [], {}
    for annotation in drawn.references:
        image_id = annotation["image_id"]
        if image_id not in images:
            images[image_id] = photographs.image(image_id)
        image = images[image_id]
        references.append(
            Reference(
                image,
                photographs.names[annotation["category_id"]],
                mask_of_annotation(annotation, *image.shape[:2]),
                sample_id=str(image_id),
                label_id=str(annotation["id"]),
            )
        )
    return references


def _row(
    photographs: PhotographSet, drawn: Draw, results: list[dict], scores: Tensor, engine: ReferenceSegmenter
) -> Row:
    chosen = set(drawn.targets)
    truth = {
        **photographs.dataset,
        "images": [image for image in photographs.dataset["images"] if image["id"] in chosen],
        "annotations": [each for each in photographs.dataset["annotations"] if each["image_id"] in chosen],
    }
    categories = sorted(photographs.names)
    matches = match(truth, results, categories, "masks")
    precision = summarise(accumulate(matches))
    probability = scores if engine.calibration is None else engine.calibration.shifted(scores).probabilities(scores)
    shown = probability.numpy()[matches.result] >= THRESHOLD
    right = matches.true_positives()[0, 0][shown].sum()
    return Row(
        ap50=100 * precision.ap50,
        ap=100 * precision.ap,
        precision=100 * right / max(1, shown.sum()),
        recall=100 * right / max(1, len(truth["annotations"])),
    )


def _mean_of_classes(right: Tensor, labels: Tensor) -> float:
    return 100 * float(torch.stack([right[labels == k].double().mean() for k in labels.unique()]).mean())


def table(reports: dict[str, list[Report]]) -> str:
    """Markdown table: means over draws, a row for each set."""
    presets = list(next(iter(reports.values()))[0].rows)
    head = ["set", "right class", "colour histogram", "proposals"]
    head += [f"{name} {column}" for name in presets for column in ("AP50", "AP", "precision", "recall")]
    lines = []
    for name, draws in reports.items():
        cells = [[each.right, each.right_by_colour, each.proposals] for each in draws]
        for of_draw, each in zip(cells, draws, strict=True):
            of_draw += [value for preset in presets for value in asdict(each.rows[preset]).values()]
        lines.append([name, *(f"{value:.1f}" for value in np.array(cells).mean(0))])
    return markdown_table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with a folder for every set")
    parser.add_argument("--sets", nargs="+", help="names of sets (all)")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--images", type=int, default=40, help="largest number of targets of a set")
    parser.add_argument("--min-objects", type=int, default=1, help="leave out classes with fewer objects in a set")
    parser.add_argument("--presets", nargs="+", default=["default"])
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--segmenter", default="small")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    encoder, segmenter = load_encoder(args.encoder), load_segmenter(args.segmenter)
    folders = sorted(file.parent for file in args.folder.glob("*/annotations.json"))
    reports = {}
    for folder in folders:
        if args.sets is None or folder.name in args.sets:
            photographs = PhotographSet.read(folder, args.min_objects)
            reports[folder.name] = [
                measure(photographs, draw(photographs, args.shots, seed, args.images), encoder, segmenter, args.presets)
                for seed in range(args.draws)
            ]
    print(f"{args.shots} references per class, {args.draws} draws\n\n{table(reports)}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        numbers = {name: [asdict(report) for report in draws] for name, draws in reports.items()}
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
