"""One run of a protocol: both models once over every target image, every draw of references matched against that.

A run lives in a folder of its own::

    config.json           what decides the numbers; a folder that holds another run is refused
    references.safetensors, references.json   one encoded entry per distinct reference, and those that were left out
    episodes/             the episodes, for protocols that have them
    parts/00000.npz       what was counted in the first images, and so on: an interrupted run goes on after the last
    predictions/          COCO results of every draw, if asked for
    report.json, report.md

Masks are compared with the ground truth at once and never kept. Nothing that is kept depends on where a run was
interrupted, so its numbers are those of a run that was not.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..encoder import Encoder
from ..images import ImageError, read_image
from ..instances import Instances
from ..memory import MemoryBank
from ..pipeline import EncodedTarget, ReferenceSegmenter, Skipped, encode_references, encode_target
from ..presets import Preset
from ..promotion import promote_boxes
from ..references import InvalidReference, Reference
from ..segmenter import Segmenter
from .average_precision import accumulate, mean_of_known, summarise
from .bootstrap import LEVEL, paired_bootstrap
from .coco import coco_results, without_nan
from .diagnostics import ModelDiagnostics, diagnose, nearest_classes, proposal_hits
from .episodes import (
    EPISODES_PER_FOLD,
    Episode,
    EpisodeImages,
    PaintedInstances,
    draw_episodes,
    evaluate_episodes,
    mask_of_annotation,
    read_annotated_image,
    read_episodes,
    write_episodes,
)
from .layouts import ProtocolData, has_mask
from .lvis import match_lvis_image, summarise_lvis
from .matches import IouType, Matches, ResultAreas, concatenate, match_image
from .protocols import Protocol, describe, get_protocol
from .report import compare_with_published, summarise_seeds, write_file, write_report
from .sampling import draw_references
from .semantic import PAINT_THRESHOLD, bootstrap_episodes, summarise_episodes

UNITS_PER_PART = 50
_ENTRIES_PER_SAVE = 256


class RunError(ValueError):
    """A run that cannot be begun or gone on with. The message says why, and what to do."""


@dataclass(frozen=True)
class Draw:
    """One draw of references, or one list of episodes; ``seed`` is ``None`` where the references are fixed."""

    shots: int
    seed: int | None

    @property
    def key(self) -> str:
        """As in names of files."""
        return f"{self.shots}shot" + ("" if self.seed is None else f"-seed{self.seed}")


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        protocol: see :mod:`nts.evaluation.protocols`.
        shots: numbers of references per class.
        seeds: of the draws; without effect where the references are fixed.
        preset: how images are read, masks proposed and matched.
        precision: of the models, in words, for the report.
        limit: only the first so many images (of every list, so many episodes).
        save_predictions: keep the COCO results of every draw.
        units_per_part: so many images are lost at most when a run is interrupted.
        episodes: how many in a list.
        threshold: instances of at least this score are painted (episodes).
        side: compare masks at so many pixels squared (episodes); at the image's own size where ``None``.
    """

    protocol: Protocol
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    preset: Preset
    precision: str = "float32"
    limit: int | None = None
    save_predictions: bool = False
    units_per_part: int = UNITS_PER_PART
    episodes: int = EPISODES_PER_FOLD
    threshold: float = PAINT_THRESHOLD
    side: int | None = None

    @property
    def draws(self) -> tuple[Draw, ...]:
        seeds = (None,) if self.protocol.draw == "shot-files" else self.seeds
        return tuple(Draw(shots, seed) for shots in self.shots for seed in seeds)

    @property
    def result_areas(self) -> ResultAreas:
        """Where boxes are published ones, so are the areas by which masks are small, medium or large."""
        return "box" if self.preset.box_convention == "inclusive" else "own"


def run(
    settings: Settings,
    data: ProtocolData,
    encoder: Encoder,
    segmenter: Segmenter,
    folder: Path,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a protocol, or go on with a run that was interrupted, and write its report.

    Args:
        settings: what to run.
        data: the protocol's data set.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        folder: of the run; made where it is missing.
        progress: is told what happens.

    Returns:
        the numbers of ``report.json``.

    Raises:
        RunError: if the folder holds another run, the settings do not fit the protocol, or a draw has no usable
            reference at all.
        ValueError: if references cannot be drawn, or ground truth cannot be matched.
    """
    if not settings.draws:
        raise RunError("at least one number of shots and one seed are needed")
    kind = _EpisodeRun if settings.protocol.evaluator == "episodes" else _InstanceRun
    job = kind(settings, data, encoder, segmenter, folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, job.config())
    job.prepare(progress)
    (folder / "parts").mkdir(exist_ok=True)
    units = job.units
    chunks = [units[start : start + settings.units_per_part] for start in range(0, len(units), settings.units_per_part)]
    parts = {folder / "parts" / f"{number:05d}.npz": chunk for number, chunk in enumerate(chunks)}
    done = sum(len(chunk) for part, chunk in parts.items() if part.is_file())
    with tqdm(total=len(units), initial=done, unit="image", desc=settings.protocol.name) as bar:
        for part, chunk in parts.items():
            if not part.is_file():
                _write_part(part, job.evaluate(chunk, part.stem, bar.update))
    numbers = job.numbers(list(parts))
    progress(write_report(folder, numbers))
    return numbers


class _Job(ABC):
    """What the two kinds of runs have in common; a unit is a target image."""

    def __init__(
        self, settings: Settings, data: ProtocolData, encoder: Encoder, segmenter: Segmenter, folder: Path
    ) -> None:
        self.settings, self.data, self.folder = settings, data, folder
        self.encoder, self.segmenter = encoder, segmenter
        names = {category["id"]: category["name"] for category in data.targets["categories"]}
        self.classes = {class_id: names[class_id] for class_id in data.class_ids}
        self.images = {image["id"]: image for image in data.targets["images"]}

    @property
    @abstractmethod
    def units(self) -> Sequence[int | str]:
        """Ids of the target images, in the order of the run."""

    @abstractmethod
    def drawn(self) -> Any:
        """What identifies all draws, as plain values."""

    @abstractmethod
    def prepare(self, progress: Callable[[str], None]) -> None:
        """Whatever comes before the first target."""

    @abstractmethod
    def evaluate(self, units: Sequence[int | str], name: str, tick: Callable[[], Any]) -> dict[str, np.ndarray]:
        """Evaluate some images: the arrays of their part."""

    @abstractmethod
    def numbers(self, parts: Sequence[Path]) -> dict[str, Any]:
        """Put the parts together."""

    def config(self) -> dict[str, Any]:
        """Everything that decides the numbers."""
        settings, preset = self.settings, self.settings.preset
        annotations = [a for a in self.data.targets["annotations"] if a["category_id"] in self.classes]
        return {
            "protocol": settings.protocol.name,
            "classes": list(self.classes.values()),
            "shots": list(settings.shots),
            "seeds": [draw.seed for draw in settings.draws if draw.shots == settings.shots[0]],
            "limit": settings.limit,
            "targets": _hash([_image_identity(self.images[unit]) for unit in self.units], annotations),
            "references": _hash(self.drawn()),
            "encoder": asdict(self.encoder.info),
            "segmenter": {
                "name": self.segmenter.name,
                "fingerprint": self.segmenter.fingerprint,
                "input_size": self.segmenter.input_size,
            },
            "points_per_side": preset.proposals.points_per_side or self.segmenter.points_per_side,
            "preset": asdict(preset),
            "device": self.encoder.device.type,
            "precision": settings.precision,
            "torch": torch.__version__,
            "code": _code(),
            "save_predictions": settings.save_predictions,
            "units_per_part": settings.units_per_part,
        }

    def common_numbers(self, parts: Sequence[Path], draws: list[dict[str, Any]]) -> dict[str, Any]:
        """The entries of the report that both kinds of runs have."""
        protocol, draws = self.settings.protocol, without_nan(draws)
        summary = summarise_seeds(draws)
        seconds = np.sum(_read_parts(parts, "seconds"), axis=0)
        return {
            "title": protocol.title,
            "protocol": protocol.name,
            "description": describe(protocol),
            "limit": self.settings.limit,
            "headline": protocol.headline,
            "classes": list(self.classes.values()),
            "config": self.config(),
            "draws": draws,
            "summary": summary,
            "comparison": compare_with_published(protocol, draws, summary),
            "skipped": [line for part in _read_parts(parts, "skipped") for line in json.loads(part.tobytes())],
            "time": {
                "seconds": float(seconds.sum()),
                "images_per_second": len(self.units) / float(seconds.sum()),
                "read_seconds": float(seconds[0]),
                "encode_seconds": float(seconds[1]),
                "match_seconds": float(seconds[2]),
            },
        }


# ----------------------------------------------------------------------------------------------------------------------
# Instances


class _InstanceRun(_Job):
    """Average precision."""

    @cached_property
    def units(self) -> list[int | str]:
        return [image["id"] for image in self.data.targets["images"]][: self.settings.limit]

    @cached_property
    def references(self) -> dict[Draw, dict[int, list[dict]]]:
        """Of every draw the annotations by class id."""
        draws = self.settings.draws
        return {d: draw_references(self.settings.protocol, self.data, d.shots, d.seed or 0) for d in draws}

    @cached_property
    def distinct_references(self) -> list[dict]:
        """Every annotation of any draw once, those of an image one after the other."""
        distinct = {a["id"]: a for drawn in self.references.values() for of_class in drawn.values() for a in of_class}
        order = {image["id"]: i for i, image in enumerate(self.data.references["images"])}
        return sorted(distinct.values(), key=lambda annotation: order[annotation["image_id"]])

    def drawn(self) -> Any:
        images = {image["id"]: image for image in self.data.references["images"]}
        return {
            "draws": {
                draw.key: {class_id: [a["id"] for a in of_class] for class_id, of_class in drawn.items()}
                for draw, drawn in self.references.items()
            },
            "references": [[_image_identity(images[a["image_id"]]), a] for a in self.distinct_references],
        }

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Encode every distinct reference, and put together a memory for every draw."""
        bank, self.skipped_references = self._encoded_references()
        self.filled_references = sum(entry.kind == "box" for entry in bank.entries)
        entries = {entry.label_id: entry for entry in bank.entries}
        self.heads: dict[Draw, ReferenceSegmenter] = {}
        self.prototypes: dict[Draw, Tensor] = {}
        self.without_reference: dict[Draw, list[str]] = {}
        for draw, drawn in self.references.items():
            memory = MemoryBank(self.encoder.info, self.settings.preset.name)
            for of_class in drawn.values():
                for time_drawn, annotation in enumerate(of_class):
                    if entry := entries.get(str(annotation["id"])):
                        # A bank keeps one entry per label; LVIS's rule draws an annotation again where it has too few.
                        memory.add(replace(entry, label_id=f"{entry.label_id} {time_drawn}"))
            if not len(memory):
                raise RunError(f"none of the references of {draw.key} could be used: {self.skipped_references[0]}")
            self.without_reference[draw] = [name for name in self.classes.values() if name not in memory.classes]
            self.prototypes[draw] = memory.prototypes().to(self.encoder.device)
            self.heads[draw] = ReferenceSegmenter(memory, self.encoder, self.segmenter, self.settings.preset)
        progress(f"{len(bank)} references encoded, {len(self.skipped_references)} left out")

    def _encoded_references(self) -> tuple[MemoryBank, list[str]]:
        file, complete = self.folder / "references.safetensors", self.folder / "references.json"
        if complete.is_file():
            return MemoryBank.load(file, self.encoder.info), json.loads(complete.read_text())["skipped"]
        if file.is_file():
            bank = MemoryBank.load(file, self.encoder.info)
        else:
            bank = MemoryBank(self.encoder.info, self.settings.preset.name)
        there = {entry.label_id for entry in bank.entries}
        missing = [annotation for annotation in self.distinct_references if str(annotation["id"]) not in there]
        skipped: list[str] = []
        references = self._read_references(missing, skipped)
        results = encode_references(references, self.encoder, self.settings.preset)
        for result in tqdm(results, total=len(missing), unit="reference", desc="references"):
            if isinstance(result, Skipped):
                skipped.append(f"annotation {result.label_id} in image {result.sample_id}: {result.reason}")
                continue
            bank.add(result)
            if len(bank) % _ENTRIES_PER_SAVE == 0:
                bank.save(file)
        bank.save(file)
        write_file(complete, json.dumps({"skipped": skipped}, indent=1).encode())
        return bank, skipped

    def _read_references(self, annotations: Sequence[dict], skipped: list[str]) -> Iterator[Reference]:
        """Read references image by image; masks that are missing are got from the boxes."""
        images = {image["id"]: image for image in self.data.references["images"]}
        names = {category["id"]: category["name"] for category in self.data.references["categories"]}
        exif = self.settings.preset.exif
        by_image: dict[int | str, list[dict]] = {}
        for annotation in annotations:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for image_id, of_image in by_image.items():
            record = images[image_id]
            try:
                # CD-FSOD's files and the like may not say how large an image is.
                known = "height" in record and "width" in record
                image = read_annotated_image(record, exif=exif) if known else read_image(record["path"], exif=exif)
            except ImageError as error:
                skipped += [f"annotation {a['id']}: {error}" for a in of_image]
                continue
            boxes = [a["bbox"] for a in of_image if not has_mask(a)]
            drawn = promote_boxes(image, boxes, self.segmenter) if boxes else None
            promoted = iter(zip(drawn.masks, drawn.filled.tolist(), strict=True) if drawn else ())
            for annotation in of_image:
                try:
                    if has_mask(annotation):
                        mask, filled = mask_of_annotation(annotation, *image.shape[:2]), False
                    else:
                        mask, filled = next(promoted)
                    yield Reference(
                        image,
                        names[annotation["category_id"]],
                        mask,
                        box=tuple(annotation["bbox"]),
                        kind="box" if filled else "mask",
                        sample_id=str(image_id),
                        label_id=str(annotation["id"]),
                    )
                except InvalidReference as error:
                    skipped.append(f"annotation {annotation['id']} in {record['path']}: {error}")

    @cached_property
    def annotations(self) -> dict[int | str, list[dict]]:
        """Ground truth of the classes evaluated, by image id."""
        by_image: dict[int | str, list[dict]] = {unit: [] for unit in self.units}
        for annotation in self.data.targets["annotations"]:
            if annotation["category_id"] in self.classes and annotation["image_id"] in by_image:
                by_image[annotation["image_id"]].append(annotation)
        return by_image

    def evaluate(self, units: Sequence[int | str], name: str, tick: Callable[[], Any]) -> dict[str, np.ndarray]:
        draws, iou_types = self.settings.draws, self.settings.protocol.iou_types
        matches: dict[str, list[Matches]] = {f"{d.key} {iou_type}": [] for d in draws for iou_type in iou_types}
        predictions: dict[Draw, list[dict]] = {draw: [] for draw in draws}
        objects = [_Objects.none(len(draws))]
        skipped, clock = [], _Clock()
        for unit in units:
            clock.start()
            results: dict[Draw, list[dict]] = {draw: [] for draw in draws}
            try:
                image = read_annotated_image(self.images[unit], exif=self.settings.preset.exif)
                clock.lap("read")
                target = encode_target(image, self.encoder, self.segmenter, self.settings.preset)
                clock.lap("encode", self.encoder.device)
                results = self._results(unit, target)
                objects.append(self._objects(unit, target))
            except ImageError as error:
                skipped.append(str(error))
            for draw in draws:
                for iou_type in iou_types:
                    matches[f"{draw.key} {iou_type}"].append(self._match(unit, results[draw], iou_type))
                if self.settings.save_predictions:
                    predictions[draw] += results[draw]
            clock.lap("match")
            tick()
        if self.settings.save_predictions:
            for draw, rows in predictions.items():
                part = self.folder / "predictions" / draw.key / f"{name}.json"
                part.parent.mkdir(parents=True, exist_ok=True)
                write_file(part, json.dumps(rows).encode())
        arrays = {key: np.frombuffer(concatenate(of_draw).to_bytes(), np.uint8) for key, of_draw in matches.items()}
        arrays |= _Objects.concatenate(objects).arrays()
        return arrays | {"skipped": _text(skipped), "seconds": clock.seconds}

    def _objects(self, image_id: int | str, target: EncodedTarget) -> _Objects:
        """How well the models know the objects of an image, crowds and those without a mask left out."""
        of_image = [a for a in self.annotations[image_id] if not a.get("iscrowd", 0) and has_mask(a)]
        if not of_image:
            return _Objects.none(len(self.heads))
        height, width = target.image_size
        masks = torch.from_numpy(np.stack([mask_of_annotation(a, height, width) for a in of_image]))
        masks = masks.to(self.encoder.device)
        order = {name: k for k, name in enumerate(self.classes.values())}
        nearest = []
        for draw, head in self.heads.items():
            rows = torch.tensor([order[name] for name in head.classes], device=masks.device)
            found = nearest_classes(target.tokens, masks, self.prototypes[draw])
            nearest.append(torch.where(found < 0, -1, rows[found]).cpu().numpy())
        return _Objects(
            areas=np.array([a["area"] for a in of_image], np.float64),
            labels=np.array([order[self.classes[a["category_id"]]] for a in of_image], np.int64),
            best_iou=proposal_hits(masks, target.proposals.mask_logits, (height, width)).cpu().numpy(),
            nearest=np.stack(nearest),
        )

    def _results(self, image_id: int | str, target: EncodedTarget) -> dict[Draw, list[dict]]:
        """The COCO results of every draw. Draws choose among the same proposals, so each mask is encoded once."""
        ids = {name: class_id for class_id, name in self.classes.items()}
        encoded: dict[int, dict] = {}
        results = {}
        for draw, head in self.heads.items():
            instances = head.match(target)
            proposals = instances.proposals.tolist()
            new = [row for row, proposal in enumerate(proposals) if proposal not in encoded]
            class_ids = [ids[name] for name in head.classes]
            rows = coco_results(_rows(instances, new), image_id, class_ids, self.settings.preset.box_convention)
            encoded |= {proposals[row]: result for row, result in zip(new, rows, strict=True)}
            labels, scores = instances.labels.tolist(), instances.scores.tolist()
            results[draw] = [
                {**encoded[proposal], "category_id": class_ids[label], "score": score}
                for proposal, label, score in zip(proposals, labels, scores, strict=True)
            ]
        return results

    def _match(self, image_id: int | str, results: list[dict], iou_type: IouType) -> Matches:
        record, areas = self.images[image_id], self.settings.result_areas
        class_ids, classes = list(self.classes), list(self.classes.values())
        truth = self.annotations[image_id]
        if self.settings.protocol.evaluator == "lvis":
            return match_lvis_image(truth, results, class_ids, classes, record, iou_type, result_areas=areas)
        return match_image(
            truth,
            results,
            class_ids,
            classes,
            image_id,
            iou_type,
            image_size=(record["height"], record["width"]),
            max_detections=self.settings.protocol.max_detections,
            result_areas=areas,
        )

    def numbers(self, parts: Sequence[Path]) -> dict[str, Any]:
        draws = [self._numbers_of_draw(draw, parts) for draw in self.settings.draws]
        preset, protocol = self.settings.preset, self.settings.protocol
        areas = {"box": "of the box, as published", "own": "of the mask"}[self.settings.result_areas]
        if self.settings.save_predictions:
            self._join_predictions()
        return self.common_numbers(parts, draws) | {
            "diagnostics": self._diagnostics(parts),
            "errors": self._errors(),
            "unit": "images",
            "images": len(self.units),
            "all_images": len(self.data.targets["images"]),
            "objects": sum(not a.get("iscrowd", 0) for of_image in self.annotations.values() for a in of_image),
            "skipped_references": self.skipped_references,
            "per_class_figures": [f"{iou_type} {name}" for iou_type in protocol.iou_types for name in ("ap", "ap50")],
            "conventions": {
                "boxes": f"{preset.box_convention}"
                + (", one pixel short, as published" if preset.box_convention == "inclusive" else ""),
                "area of a result's mask": areas,
                "results that count": f"{protocol.max_detections} per image",
            },
            "notes": self._notes(),
        }

    def _numbers_of_draw(self, draw: Draw, parts: Sequence[Path]) -> dict[str, Any]:
        figures: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {name: {} for name in self.classes.values()}
        for iou_type in self.settings.protocol.iou_types:
            of_all, of_classes = self._summarise(_read_matches(parts, draw, iou_type))
            figures |= {f"{iou_type} {name}": 100 * value for name, value in of_all.items()}
            for label, of_class in of_classes.items():
                per_class[label] |= {f"{iou_type} {name}": 100 * value for name, value in of_class.items()}
        return {
            "shots": draw.shots,
            "seed": draw.seed,
            "references": sum(map(len, self.references[draw].values())),
            "without_reference": self.without_reference[draw],
            "figures": figures,
            "per_class": per_class,
        }

    def _diagnostics(self, parts: Sequence[Path]) -> dict[str, Any] | None:
        """What the models alone could do, in percent; ``None`` where no object has a mask."""
        objects = _Objects.read(parts)
        if not len(objects.areas):
            return None
        of_proposals = ModelDiagnostics(list(self.classes.values()))
        of_proposals.add_proposals(objects.areas, torch.from_numpy(objects.best_iou))
        recall = [asdict(row) for row in of_proposals.summary().recall]
        accuracy = []
        for shots in self.settings.shots:
            shares = []
            for draw, nearest in zip(self.settings.draws, objects.nearest, strict=True):
                if draw.shots == shots:
                    of_labels = ModelDiagnostics(list(self.classes.values()))
                    of_labels.add_labels(objects.labels, torch.from_numpy(nearest))
                    shares.append(of_labels.summary().accuracy)
            std = float(np.std(shares, ddof=1)) if len(shares) > 1 else math.nan
            figure = {"mean": 100 * float(np.mean(shares)), "std": 100 * std}
            accuracy.append({"shots": shots, "objects": len(objects.labels), "accuracy": figure})
        for row in recall:
            row |= {name: 100 * row[name] for name in ("recall_50", "recall_75", "mean")}
        return without_nan({"recall": recall, "accuracy_on_true_masks": accuracy})

    def _errors(self) -> list[dict[str, Any]]:
        """What the predictions get wrong, of every draw; it takes predictions that were kept."""
        if not self.settings.save_predictions or self.settings.protocol.evaluator != "coco":
            return []
        evaluated = set(self.units)
        truth = self.data.targets | {
            "images": [image for image in self.data.targets["images"] if image["id"] in evaluated],
            "annotations": [a for a in self.data.targets["annotations"] if a["image_id"] in evaluated],
        }
        rows = []
        for draw in self.settings.draws:
            results = json.loads((self.folder / "predictions" / f"{draw.key}.json").read_text())
            for iou_type in self.settings.protocol.iou_types:
                found = diagnose(truth, results, self.data.class_ids, iou_type).to_dict()
                rows.append({"shots": draw.shots, "seed": draw.seed} | found)
        return rows

    def _summarise(self, matches: Matches) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """The figures of all classes, and of every class."""
        if self.settings.protocol.evaluator == "lvis":
            curves = accumulate(matches, (matches.max_detections,))
            frequency = {category["name"]: category["frequency"] for category in self.data.targets["categories"]}
            of_all = asdict(summarise_lvis(curves, [frequency[name] for name in matches.classes]))
            precision = curves.precision[:, :, :, curves.areas.index("all"), 0]
            return of_all, {
                name: {"ap": mean_of_known(precision[:, :, k]), "ap50": mean_of_known(precision[0, :, k])}
                for k, name in enumerate(matches.classes)
            }
        curves = accumulate(matches)
        return asdict(summarise(curves)), {
            name: asdict(summarise(curves, [k])) for k, name in enumerate(matches.classes)
        }

    def _notes(self) -> list[str]:
        notes = list(self.data.notes)
        shown = {a["image_id"] for a in self.distinct_references}
        paths = {image["path"] for image in self.data.references["images"] if image["id"] in shown}
        if both := sum(self.images[unit]["path"] in paths for unit in self.units):
            notes.append(f"{both} of the images evaluated hold references too: figures are too good by that.")
        if self.data.box_references:
            notes.append("References without a mask got theirs from the segmenter, prompted by the box.")
        if self.filled_references:
            notes.append(f"Of {self.filled_references} boxes the segmenter drew nothing: the whole box was taken.")
        return notes

    def _join_predictions(self) -> None:
        """One COCO results file per draw, of those of the parts."""
        for draw in self.settings.draws:
            rows = []
            for part in sorted((self.folder / "predictions" / draw.key).glob("*.json")):
                rows += json.loads(part.read_text())
            write_file(self.folder / "predictions" / f"{draw.key}.json", json.dumps(rows).encode())


@dataclass(frozen=True, eq=False)
class _Objects:
    """Objects with masks, and how well the models know them.

    Attributes:
        areas: float64 ``[m]``, in square pixels.
        labels: int64 ``[m]``, position of their class.
        best_iou: float64 ``[m]``, of any proposal.
        nearest: int64 ``[D, m]``, position of the class that the true mask is most alike to, for every draw.
    """

    areas: np.ndarray
    labels: np.ndarray
    best_iou: np.ndarray
    nearest: np.ndarray

    @classmethod
    def none(cls, draws: int) -> _Objects:
        return cls(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros((draws, 0), np.int64))

    @classmethod
    def concatenate(cls, several: Sequence[_Objects]) -> _Objects:
        return cls(**{f.name: np.concatenate([getattr(o, f.name) for o in several], axis=-1) for f in fields(cls)})

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are kept in a part."""
        return {f"objects {f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def read(cls, parts: Sequence[Path]) -> _Objects:
        return cls(**{f.name: np.concatenate(_read_parts(parts, f"objects {f.name}"), axis=-1) for f in fields(cls)})


def _rows(instances: Instances, rows: Sequence[int]) -> Instances:
    index = torch.tensor(rows, dtype=torch.int64, device=instances.scores.device)
    return Instances(**{field.name: getattr(instances, field.name)[index] for field in fields(Instances)})


# ----------------------------------------------------------------------------------------------------------------------
# Episodes


class _EpisodeRun(_Job):
    """mIoU and FB-IoU."""

    @cached_property
    def episodes(self) -> dict[Draw, list[Episode]]:
        data, settings = self.data, self.settings
        return {
            draw: draw_episodes(
                data.references,
                data.targets,
                data.class_ids,
                shots=draw.shots,
                seed=draw.seed or 0,
                count=settings.episodes,
            )[: settings.limit]
            for draw in settings.draws
        }

    @cached_property
    def units(self) -> list[int | str]:
        targets = {episode.target for episodes in self.episodes.values() for episode in episodes}
        return [image["id"] for image in self.data.targets["images"] if image["id"] in targets]

    def drawn(self) -> Any:
        return {draw.key: [asdict(episode) for episode in episodes] for draw, episodes in self.episodes.items()}

    def config(self) -> dict[str, Any]:
        settings = self.settings
        if settings.save_predictions:
            raise RunError("predictions are kept of instances, not of episodes: leave --save-predictions out")
        return super().config() | {
            "episodes": settings.episodes,
            "threshold": settings.threshold,
            "side": settings.side,
        }

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Write the lists of episodes, and make the head."""
        (self.folder / "episodes").mkdir(exist_ok=True)
        for draw, episodes in self.episodes.items():
            path = self.folder / "episodes" / f"{draw.key}.json"
            write_episodes(path, episodes, protocol=self.settings.protocol.name, shots=draw.shots, seed=draw.seed)
        preset = self.settings.preset
        self.head = PaintedInstances(self.encoder, self.segmenter, preset, self.settings.threshold)
        self.reference_images = EpisodeImages(self.data.references, exif=preset.exif)
        self.target_images = EpisodeImages(self.data.targets, exif=preset.exif, keep=1)
        progress(f"{sum(map(len, self.episodes.values()))} episodes on {len(self.units)} images")

    def evaluate(self, units: Sequence[int | str], name: str, tick: Callable[[], Any]) -> dict[str, np.ndarray]:
        by_target: dict[int | str, list[tuple[int, int, Episode]]] = {unit: [] for unit in units}
        for d, episodes in enumerate(self.episodes.values()):
            for number, episode in enumerate(episodes):
                if episode.target in by_target:
                    by_target[episode.target].append((d, number, episode))
        rows, skipped, clock = [], [], _Clock()
        for on_target in by_target.values():
            clock.start()
            asked = [episode for _, _, episode in on_target]
            outcomes = evaluate_episodes(
                asked, self.reference_images, self.target_images, self.head, side=self.settings.side
            )
            for (d, number, _), outcome in zip(on_target, outcomes, strict=True):
                rows.append([d, number, *asdict(outcome.counts).values()])
                if outcome.error:
                    skipped.append(f"episode {number} of {self.settings.draws[d].key}: {outcome.error}")
            clock.lap("encode", self.encoder.device)
            tick()
        return {
            "episodes": np.array(rows, np.int64).reshape(-1, 6),
            "skipped": _text(skipped),
            "seconds": clock.seconds,
        }

    def numbers(self, parts: Sequence[Path]) -> dict[str, Any]:
        counts = np.concatenate(_read_parts(parts, "episodes"))
        draws = []
        for d, (draw, episodes) in enumerate(self.episodes.items()):
            class_ids = [episode.class_id for episode in episodes]
            accuracy = summarise_episodes(class_ids, _of_draw(counts, d), self.classes)
            draws.append(
                {
                    "shots": draw.shots,
                    "seed": draw.seed,
                    "references": draw.shots * len(episodes),
                    "without_reference": list(accuracy.without_episodes),
                    "figures": {"miou": 100 * accuracy.miou, "fb-iou": 100 * accuracy.fb_iou},
                    "per_class": {name: {"iou": 100 * value} for name, value in accuracy.per_class.items()},
                    "episodes": accuracy.episodes,
                }
            )
        settings = self.settings
        size = "the image's own size" if settings.side is None else f"{settings.side} x {settings.side} pixels"
        return self.common_numbers(parts, draws) | {
            "unit": "episodes",
            "images": len(next(iter(self.episodes.values()))),
            "all_images": settings.episodes,
            "objects": len(counts),
            "diagnostics": None,
            "errors": [],
            "skipped_references": [],
            "per_class_figures": ["iou"],
            "conventions": {
                "painted": f"instances of a score of at least {settings.threshold}",
                "masks compared at": size,
            },
            "notes": list(self.data.notes),
        }


def _of_draw(rows: np.ndarray, draw: int) -> np.ndarray:
    """From rows of draw, number and four counts, in any order, the counts of one draw by number: int64 ``[E, 4]``."""
    rows = rows[rows[:, 0] == draw]
    return rows[rows[:, 1].argsort()][:, 2:]


# ----------------------------------------------------------------------------------------------------------------------
# Two runs


def compare_runs(
    a: Path,
    b: Path,
    *,
    figures: Sequence[str] = ("ap", "ap50", "ap75"),
    draws: int = 1000,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """The differences between two finished runs, ``b`` less ``a``, with 95 % intervals by bootstrap over images.

    Every draw of references that both have is compared for itself, on the images (or episodes) that both evaluated.

    Args:
        a, b: folders of the runs.
        figures: which of :data:`nts.evaluation.bootstrap.FIGURES`, for boxes and for masks; of episodes always both.
        draws: samples of images.
        shots: only these, where given.
        seeds: only these, where given.

    Returns:
        a row for every draw and figure: ``shots``, ``seed``, ``figure``, ``a``, ``b``, ``difference``, ``low`` and
        ``high`` in percent, ``p_better`` and ``samples``, the number of images or episodes.

    Raises:
        RunError: if one has not finished, or nothing can be compared.
        ValueError: if a figure is unknown, or the ground truth differs.
    """
    runs = [_finished(folder) for folder in (a, b)]
    protocols = {numbers["config"]["protocol"] for numbers in runs}
    if len(protocols) > 1:
        raise RunError(f"runs of different protocols cannot be compared: {' and '.join(sorted(protocols))}")
    there = [{Draw(draw["shots"], draw["seed"]): draw["figures"] for draw in numbers["draws"]} for numbers in runs]
    common = [
        draw
        for draw in there[0]
        if draw in there[1] and (not shots or draw.shots in shots) and (not seeds or draw.seed in seeds)
    ]
    if not common:
        raise RunError(f"{a} and {b} have no draw of references in common (of those asked for)")
    protocol = get_protocol(protocols.pop())
    rows = []
    for draw in tqdm(common, unit="draw", desc="bootstrap"):
        if protocol.evaluator == "episodes":
            rows += _compare_episodes(a, b, draw, draws)
            continue
        for iou_type in protocol.iou_types:
            first, second = (_read_matches(_parts(folder), draw, iou_type) for folder in (a, b))
            for figure in figures:
                found = paired_bootstrap(first, second, figure=figure, draws=draws)
                name = f"{iou_type} {figure}"
                rows.append(
                    {
                        "shots": draw.shots,
                        "seed": draw.seed,
                        "figure": name,
                        "a": there[0][draw].get(name),
                        "b": there[1][draw].get(name),
                        "difference": 100 * found.difference,
                        "low": 100 * found.low,
                        "high": 100 * found.high,
                        "p_better": found.p_better,
                        "samples": found.images,
                    }
                )
    return without_nan(rows)


def _compare_episodes(a: Path, b: Path, draw: Draw, draws: int) -> list[dict[str, Any]]:
    lists = [read_episodes(folder / "episodes" / f"{draw.key}.json") for folder in (a, b)]
    if lists[0] != lists[1]:
        raise RunError(f"{a} and {b} were not asked the same episodes in {draw.key}")
    counts = []
    for folder in (a, b):
        keys = [Draw(d["shots"], d["seed"]) for d in _finished(folder)["draws"]]
        rows = np.concatenate(_read_parts(_parts(folder), "episodes"))
        counts.append(_of_draw(rows, keys.index(draw)))
    class_ids = [episode.class_id for episode in lists[0]]
    accuracy = [summarise_episodes(class_ids, c, {k: str(k) for k in sorted(set(class_ids))}) for c in counts]
    drawn = bootstrap_episodes(class_ids, *counts, draws=draws)
    values = {"miou": [x.miou for x in accuracy], "fb-iou": [x.fb_iou for x in accuracy]}
    return [
        {
            "shots": draw.shots,
            "seed": draw.seed,
            "figure": figure,
            "a": 100 * first,
            "b": 100 * second,
            "difference": 100 * (second - first),
            "low": 100 * float(np.nanquantile(drawn[figure], (1 - LEVEL) / 2)),
            "high": 100 * float(np.nanquantile(drawn[figure], (1 + LEVEL) / 2)),
            "p_better": float(np.mean((drawn[figure] > 0) + 0.5 * (drawn[figure] == 0))),
            "samples": len(class_ids),
        }
        for figure, (first, second) in values.items()
    ]


def _finished(folder: Path) -> dict[str, Any]:
    """The numbers of a run that has come to its end."""
    read_config(folder)
    report = folder / "report.json"
    if not report.is_file():
        raise RunError(f"the run in {folder} has not finished: run it again, and it goes on")
    return json.loads(report.read_text())


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / "parts").glob("*.npz"))


# ----------------------------------------------------------------------------------------------------------------------
# The folder of a run


def _claim(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a new run, or make sure that an old one is the same."""
    path = folder / "config.json"
    config = json.loads(json.dumps(config))
    if not path.is_file():
        if (folder / "parts").exists():
            raise RunError(f"{folder} has parts of a run, but no config.json: choose another --out")
        write_file(path, json.dumps(config, indent=1).encode() + b"\n")
        return
    there = _flat(read_config(folder))
    here = _flat(config)
    differences = [
        f"{key}: {there.get(key, 'nothing')} there, {here.get(key, 'nothing')} now"
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise RunError(
            f"{folder} holds another run. It differs in\n  " + "\n  ".join(differences) + "\nChoose another --out, "
            "or delete that folder."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        RunError: if the folder holds none.
    """
    try:
        return json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} is no folder of a run: it has no config.json") from None
    except ValueError as error:
        raise RunError(f"{folder / 'config.json'} is damaged: {error}") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): value}


def _write_part(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())


def _read_parts(parts: Sequence[Path], key: str) -> list[np.ndarray]:
    """One array of every part; the others, which may be large, are not read."""
    arrays = []
    for part in parts:
        try:
            with np.load(part, allow_pickle=False) as stored:
                arrays.append(stored[key])
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{part} is damaged: delete it, and run again ({error})") from error
    return arrays


def _read_matches(parts: Sequence[Path], draw: Draw, iou_type: IouType) -> Matches:
    return concatenate([Matches.from_bytes(part.tobytes()) for part in _read_parts(parts, f"{draw.key} {iou_type}")])


def _text(lines: Sequence[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(list(lines)).encode(), np.uint8)


class _Clock:
    """Seconds spent reading, in the models, and matching."""

    PHASES = ("read", "encode", "match")

    def __init__(self) -> None:
        self.seconds = np.zeros(len(self.PHASES))
        self.start()

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, phase: str, device: torch.device | None = None) -> None:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        self.seconds[self.PHASES.index(phase)] += now - self._last
        self._last = now


def _image_identity(record: Mapping[str, Any]) -> list[Any]:
    """An image without the place where it lies."""
    path = Path(record["path"])
    size = path.stat().st_size if path.is_file() else None
    return [record["id"], record["file_name"], record.get("width"), record.get("height"), size]


def _hash(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


@cache
def _code() -> str:
    """Hash of the engine's source, without what only reads or prints the numbers; once, as the code is loaded once."""
    root = Path(__file__).parents[1]
    files = sorted([*root.glob("*.py"), *root.glob("evaluation/*.py")])
    told = {"report.py", "__main__.py", "bootstrap.py", "protocols.py"}
    return _hash([[file.name, file.read_text(encoding="utf-8")] for file in files if file.name not in told])
