"""Average precision of every draw of references, both models run once over every image."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..building import Skipped, encode_references
from ..datasets.layouts import has_mask, mask_of_annotation, read_annotated_image
from ..datasets.sampling import draw_references
from ..images import ImageError
from ..matching import pool_tokens
from ..memory import MemoryBank, MemoryEntry
from ..metrics.average_precision import accumulate, mean_of_known, summarise
from ..metrics.coco import coco_results, without_nan
from ..metrics.crowds import is_crowd
from ..metrics.lvis import match_lvis_image, summarise_lvis
from ..metrics.matches import IouType, Matches, concatenate, match_image
from ..pipeline import ReferenceSegmenter, encode_target
from ..promotion import promote_boxes
from ..references import InvalidReference, Reference
from ..targets import EncodedTarget
from ..utils.files import write_file
from .diagnostics import ModelDiagnostics, diagnose, nearest_classes, proposal_hits
from .protocol_run import Clock, Draw, ProtocolRun, image_identity, same_files
from .run_folder import RunError, lines_array, read_matches, read_parts

_REFERENCES_PER_SAVE = 256


class InstanceRun(ProtocolRun):
    """Average precision."""

    @cached_property
    def shown_too(self) -> set[int | str]:
        """Ids of the targets whose files hold references of some draw, wherever the files lie."""
        shown = {a["image_id"] for a in self.distinct_references}
        images = [image for image in self.data.references["images"] if image["id"] in shown]
        return same_files(self.data.targets["images"], images)

    @cached_property
    def candidates(self) -> list[int | str]:
        """Ids of the images to evaluate, without a limit: those that hold references are only for published tables."""
        ids = [image["id"] for image in self.data.targets["images"]]
        if not self.leaves_out_references:
            return ids
        ids = [image_id for image_id in ids if image_id not in self.shown_too]
        if not ids:
            raise RunError(
                "every image of the targets holds references, so nothing is left to evaluate: take other images as "
                "targets, or fewer references"
            )
        return ids

    @property
    def leaves_out_references(self) -> bool:
        """Whether targets that hold references are left out; a published protocol is kept as it is."""
        return self.settings.protocol.layout == "fiftyone"

    @cached_property
    def units(self) -> list[int | str]:
        return self.candidates[: self.settings.limit]

    def deviations(self) -> list[str]:
        images = len(self.candidates)
        few = [f"a try, on the first {len(self.units)} of {images} images only"] if len(self.units) < images else []
        return few + super().deviations()

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
            "references": [[image_identity(images[a["image_id"]]), a] for a in self.distinct_references],
        }

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Encode every distinct reference, and put together a memory for every draw."""
        bank, self.skipped_references = self._encoded_references()
        self.filled_references = sum(entry.kind == "box" for entry in bank.entries)
        entries = {entry.label_id: entry for entry in bank.entries}
        self.heads: dict[Draw, ReferenceSegmenter] = {}
        self.prototypes: dict[Draw, Tensor] = {}
        self.without_reference: dict[Draw, list[str]] = {}
        self.few_references: dict[Draw, dict[str, int]] = {}
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
            shown = Counter(entry.class_name for entry in memory.entries)
            self.few_references[draw] = {name: shown[name] for name in memory.classes if shown[name] < draw.shots}
            self.prototypes[draw] = memory.prototypes().to(self.encoder.device)
            self.heads[draw] = ReferenceSegmenter(memory, self.encoder, self.segmenter, self.settings.preset)
        # Draws share the proposals of an image, so where prompts are led by prototypes, it is by those of all draws.
        self._every_prototype = torch.cat(list(self.prototypes.values()))
        progress(f"{len(bank)} references encoded, {len(self.skipped_references)} left out")

    def _encoded_references(self) -> tuple[MemoryBank, list[str]]:
        """Entries of all distinct references, and the lines that tell of those left out.

        They are encoded in chunks that do not depend on where a run was interrupted: in another batch, the encoder
        would round differently.
        """
        file, progress = self.folder / "references.safetensors", self.folder / "references.json"
        bank, done = MemoryBank(self.encoder.info, self.settings.preset.name), 0
        skipped: list[str] = []
        if progress.is_file():
            bank, state = MemoryBank.load(file, self.encoder.info), json.loads(progress.read_text())
            done, skipped = state["done"], state["skipped"]
        references = self.distinct_references
        with tqdm(total=len(references), initial=done, unit="reference", desc="references") as bar:
            for start in range(done, len(references), _REFERENCES_PER_SAVE):
                chunk = references[start : start + _REFERENCES_PER_SAVE]
                for result in self._encode_references(chunk):
                    if isinstance(result, MemoryEntry):
                        bank.add(result)
                    else:
                        skipped.append(result)
                    bar.update()
                bank.save(file)
                state = {"done": start + len(chunk), "skipped": skipped}
                write_file(progress, json.dumps(state, indent=1).encode())
        return bank, skipped

    def _encode_references(self, annotations: Sequence[dict]) -> Iterator[MemoryEntry | str]:
        """The entry of every annotation, or why it has none; in any order."""
        unreadable: list[str] = []
        references = self._read_references(annotations, unreadable)
        for result in encode_references(references, self.encoder, self.settings.preset):
            if isinstance(result, Skipped):
                yield f"annotation {result.label_id} in image {result.sample_id}: {result.reason}"
            else:
                yield result
        yield from unreadable

    def _read_references(self, annotations: Sequence[dict], unreadable: list[str]) -> Iterator[Reference]:
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
                image = read_annotated_image(record, exif=exif)
            except ImageError as error:
                unreadable += [f"annotation {a['id']}: {error}" for a in of_image]
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
                    unreadable.append(f"annotation {annotation['id']} in {record['path']}: {error}")

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
        skipped, clock = [], Clock()
        for unit in units:
            clock.start()
            results: dict[Draw, list[dict]] = {draw: [] for draw in draws}
            try:
                image = read_annotated_image(self.images[unit], exif=self.settings.preset.exif)
                clock.lap("read")
                target = encode_target(
                    image, self.encoder, self.segmenter, self.settings.preset, prototypes=self._every_prototype
                )
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
        return arrays | {"skipped": lines_array(skipped), "seconds": clock.seconds}

    def _objects(self, image_id: int | str, target: EncodedTarget) -> _Objects:
        """How well the models know the objects of an image, crowds and those without a mask left out."""
        of_image = [a for a in self.annotations[image_id] if not is_crowd(a.get("iscrowd")) and has_mask(a)]
        if not of_image:
            return _Objects.none(len(self.heads))
        height, width = target.image_size
        masks = torch.from_numpy(np.stack([mask_of_annotation(a, height, width) for a in of_image]))
        masks = masks.to(self.encoder.device)
        order = {name: k for k, name in enumerate(self.classes.values())}
        nearest, features = [], pool_tokens(target.tokens, masks)
        for draw, head in self.heads.items():
            rows = torch.tensor([order[name] for name in head.classes], device=masks.device)
            found = nearest_classes(target.tokens, masks, self.prototypes[draw], features)
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
            rows = coco_results(instances.rows(new), image_id, class_ids, self.settings.preset.box_convention)
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
            self._join_predictions(parts)
        return self.common_numbers(parts, draws) | {
            "diagnostics": self._diagnostics(parts),
            "errors": self._errors(),
            "unit": "images",
            "images": len(self.units),
            "all_images": len(self.candidates),
            "objects": sum(not is_crowd(a.get("iscrowd")) for of_image in self.annotations.values() for a in of_image),
            "skipped_references": self.skipped_references,
            "per_class_figures": [f"{iou_type} {name}" for iou_type in protocol.iou_types for name in ("ap", "ap50")],
            "conventions": {
                "boxes": f"{preset.box_convention}"
                + (", one pixel short, as published" if preset.box_convention == "inclusive" else ""),
                **({"area of a result's mask": areas} if "masks" in protocol.iou_types else {}),
                "results that count": f"{protocol.max_detections} per image",
            },
            "notes": self._notes(),
        }

    def _numbers_of_draw(self, draw: Draw, parts: Sequence[Path]) -> dict[str, Any]:
        figures: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {name: {} for name in self.classes.values()}
        for iou_type in self.settings.protocol.iou_types:
            of_all, of_classes = self._summarise(read_matches(parts, f"{draw.key} {iou_type}"))
            figures |= {f"{iou_type} {name}": 100 * value for name, value in of_all.items()}
            for label, of_class in of_classes.items():
                per_class[label] |= {f"{iou_type} {name}": 100 * value for name, value in of_class.items()}
        return {
            "shots": draw.shots,
            "seed": draw.seed,
            "references": sum(map(len, self.references[draw].values())),
            "without_reference": self.without_reference[draw],
            "few_references": self.few_references[draw],
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
        for shots in dict.fromkeys(draw.shots for draw in self.settings.draws):
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
        if self.leaves_out_references and self.shown_too:
            notes.append(
                f"{len(self.shown_too)} images of the targets hold references too, by the content of their files, and "
                f"were left out: {self._named(self.shown_too)}."
            )
        elif both := sum(unit in self.shown_too for unit in self.units):
            notes.append(f"{both} of the images evaluated hold references too: figures are too good by that.")
        if self.data.box_references:
            notes.append("References without a mask got theirs from the segmenter, prompted by the box.")
        if self.filled_references:
            notes.append(f"Of {self.filled_references} boxes the segmenter drew nothing: the whole box was taken.")
        return notes

    def _named(self, image_ids: Collection[int | str]) -> str:
        """The files of some images, at most five of them."""
        names = [image["file_name"] for image in self.data.targets["images"] if image["id"] in image_ids]
        return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

    def _join_predictions(self, parts: Sequence[Path]) -> None:
        """One COCO results file per draw, of those of the parts."""
        for draw in self.settings.draws:
            rows = []
            for part in parts:
                path = self.folder / "predictions" / draw.key / f"{part.stem}.json"
                if not path.is_file():
                    raise RunError(f"{path} is missing: delete {part}, and run again")
                rows += json.loads(path.read_text())
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
        """No object."""
        return cls(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros((draws, 0), np.int64))

    @classmethod
    def concatenate(cls, several: Sequence[_Objects]) -> _Objects:
        """The objects of several images."""
        return cls(**{f.name: np.concatenate([getattr(o, f.name) for o in several], axis=-1) for f in fields(cls)})

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are kept in a part."""
        return {f"objects {f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def read(cls, parts: Sequence[Path]) -> _Objects:
        """The objects of all parts."""
        return cls(**{f.name: np.concatenate(read_parts(parts, f"objects {f.name}"), axis=-1) for f in fields(cls)})
