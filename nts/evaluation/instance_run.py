"""Average precision of every draw of references; both models run once per image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache import content_key
from ..cached_targets import CachedTargets, Fetched
from ..datasets.coco_records import check_size, of_images
from ..datasets.protocol_data import ProtocolData, same_images
from ..datasets.sampling import draw_references
from ..images import ImageError, digest, read_image
from ..memory import MemoryBank
from ..method import PARTS, PUBLISHED
from ..metrics.average_precision import accumulate, mean_of_known, summarise
from ..metrics.coco import coco_results
from ..metrics.crowds import is_crowd
from ..metrics.error_types import diagnose
from ..metrics.lvis import match_lvis_image, summarise_lvis
from ..metrics.matches import IouType, Matches, concatenate, match_image, renumber
from ..pipeline import ReferenceSegmenter, TargetEncoder, prepare_image
from ..targets import EncodedTarget, Target
from ..tiling import ObjectSize
from ..utils.files import write_file
from ..utils.prefetch import prefetch_together
from ..utils.run_folder import RunError, lines_array
from .calibrated import calibration_numbers
from .instance_objects import EvaluatedObjects, SeenObjects, objects_with_masks
from .instance_references import ReferenceEncoder
from .protocol_run import Clock, Draw, Part, ProtocolRun, image_identity
from .run_folder import read_matches

OBJECTS = "objects"
"""Kind of cached content, see :func:`nts.cache.content_key`."""


class InstanceRun(ProtocolRun):
    """Run of a protocol of instances: average precision, per draw of references."""

    @cached_property
    def shown_too(self) -> set[int | str]:
        """Ids of the targets that show references of some draw, by the content of their files."""
        shown = {a["image_id"] for a in self.distinct_references}
        images = [image for image in self.data.references["images"] if image["id"] in shown]
        return same_images(self.data.targets["images"], images)

    @cached_property
    def candidates(self) -> list[int | str]:
        """Ids of the images to evaluate, without the limit. Images of references count in published protocols only."""
        ids = [image["id"] for image in self.data.targets["images"]]
        if not self.leaves_out_references:
            return ids
        ids = [image_id for image_id in ids if image_id not in self.shown_too]
        if not ids:
            raise RunError(
                "every image of the targets shows references, so nothing is left to evaluate: use other images as "
                "targets, or fewer references"
            )
        return ids

    @property
    def leaves_out_references(self) -> bool:
        """Return whether targets that show references are left out, which no published protocol does."""
        return self.settings.protocol.layout == "fiftyone"

    @cached_property
    def units(self) -> list[int | str]:
        return self.candidates[: self.settings.limit]

    def deviations(self) -> list[str]:
        images = len(self.candidates)
        few = [f"limited to the first {len(self.units)} of {images} images"] if len(self.units) < images else []
        return few + super().deviations()

    @cached_property
    def references(self) -> dict[Draw, dict[int, list[dict]]]:
        """Annotations of every draw by class id."""
        draws = self.settings.draws
        return {d: draw_references(self.settings.protocol, self.data, d.shots, d.seed or 0) for d in draws}

    @cached_property
    def distinct_references(self) -> list[dict]:
        """Annotations of all draws, each once, and those of an image in a row."""
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
        """Encode every distinct reference, and build a memory for every draw."""
        references = ReferenceEncoder(
            self.data.references,
            self.encoder,
            self.segmenter,
            self.settings.preset,
            self.data.class_ids,
            self.settings.complete_labels,
            self.settings.background,
            self.cache,
        )
        bank, self.skipped_references, self.skipped_background = references.encode_resumably(
            self.distinct_references, self.folder
        )
        self.filled_references = sum(entry.kind == "box" for entry in bank.entries)
        entries = {entry.label_id: entry for entry in bank.entries}
        memories: dict[Draw, MemoryBank] = {}
        self.without_reference: dict[Draw, list[str]] = {}
        self.few_references: dict[Draw, dict[str, int]] = {}
        for draw, drawn in self.references.items():
            memory = MemoryBank(self.encoder.info, self.settings.preset.name)
            for of_class in drawn.values():
                for time_drawn, annotation in enumerate(of_class):
                    if entry := entries.get(str(annotation["id"])):
                        # A bank has one entry per label, but LVIS's rule repeats annotations of rare classes.
                        memory.add(replace(entry, label_id=f"{entry.label_id} {time_drawn}"))
            images = {entry.sample_id for entry in memory.entries}
            memory.add_negatives(n for n in bank.negatives if n.sample_id in images or n.source == "background image")
            if not len(memory):
                raise RunError(f"none of the references of {draw.key} could be used: {self.skipped_references[0]}")
            self.without_reference[draw] = [name for name in self.classes.values() if name not in memory.classes]
            shown = Counter(entry.class_name for entry in memory.entries)
            self.few_references[draw] = {name: shown[name] for name in memory.classes if shown[name] < draw.shots}
            memories[draw] = memory
        self.sizes = [entry.size for entry in bank.entries if entry.size is not None]
        self._match_with(memories)
        progress(f"{len(bank)} references encoded, {len(self.skipped_references)} left out")

    def shared(self) -> tuple[ProtocolData, tuple[dict[Draw, bytes], list[ObjectSize]]]:
        # The references are encoded, so their images and annotations, often most of the data, are not needed.
        references = of_images(self.data.references, ())
        data = replace(self.data, references=references, targets=of_images(self.data.targets, self.units))
        return data, ({draw: matcher.memory.to_bytes() for draw, matcher in self.matchers.items()}, self.sizes)

    def use(self, prepared: tuple[dict[Draw, bytes], list[ObjectSize]]) -> None:
        memories, self.sizes = prepared
        self.units = list(self.images)
        self._match_with({draw: MemoryBank.from_bytes(memory) for draw, memory in memories.items()})

    def _match_with(self, memories: dict[Draw, MemoryBank]) -> None:
        preset, device = self.settings.preset, self.encoder.device
        self.matchers = {
            draw: ReferenceSegmenter(memory, self.encoder, self.segmenter, preset) for draw, memory in memories.items()
        }
        self.prototypes = {draw: memory.prototypes().to(device) for draw, memory in memories.items()}
        # Draws share the proposals of an image, so the prototypes of all draws guide the prompts, and the sizes of all
        # references decide on tiles.
        everything = torch.cat(list(self.prototypes.values()))
        self.targets = CachedTargets(
            TargetEncoder(self.encoder, self.segmenter, preset, prototypes=everything, sizes=self.sizes), self.cache
        )

    @cached_property
    def annotations(self) -> dict[int | str, list[dict]]:
        """Ground truth of the evaluated classes, by image id."""
        by_image: dict[int | str, list[dict]] = {unit: [] for unit in self.units}
        for annotation in self.data.targets["annotations"]:
            if annotation["category_id"] in self.classes and annotation["image_id"] in by_image:
                by_image[annotation["image_id"]].append(annotation)
        return by_image

    def evaluate(self, units: Sequence[int | str], tick: Callable[[], Any]) -> Part:
        draws, iou_types = self.settings.draws, self.settings.protocol.iou_types
        matches: dict[str, list[Matches]] = {f"{d.key} {iou_type}": [] for d in draws for iou_type in iou_types}
        predictions: dict[Draw, list[dict]] = {draw: [] for draw in draws}
        objects = [EvaluatedObjects.none(len(draws))]
        skipped, from_cache, clock = [], 0, Clock()

        def encode(images: Sequence[Fetched]) -> list[Fetched]:
            clock.lap("read")
            encoded = self.targets.encode_together(images)
            clock.lap("encode", self.encoder.device)
            return encoded

        # On a CPU a file is read when its image is due, so that the time of reading is told apart.
        images = prefetch_together(self._fetch, units, encode, self.targets.images_per_batch, ahead=False)
        with closing(images):
            for unit, image_of in images:
                results: dict[Draw, list[dict]] = {draw: [] for draw in draws}
                try:
                    fetched = image_of()
                    clock.lap("read")
                    target = self.targets.encode(fetched)
                    clock.lap("encode", self.encoder.device)
                    results = self._results(unit, target)
                    objects.append(self._objects(unit, fetched, target))
                    self.targets.store(fetched.key, target, from_cache=fetched.from_cache)
                    from_cache += fetched.from_cache
                except ImageError as error:
                    skipped.append(str(error))
                for draw in draws:
                    for iou_type in iou_types:
                        matches[f"{draw.key} {iou_type}"].append(self._match(unit, results[draw], iou_type))
                    if self.settings.save_predictions:
                        predictions[draw] += results[draw]
                clock.lap("match")
                tick()
                clock.start()
        saved = predictions if self.settings.save_predictions else {}
        files = {draw.key: json.dumps(rows).encode() for draw, rows in saved.items()}
        arrays = {key: np.frombuffer(concatenate(of_draw).to_bytes(), np.uint8) for key, of_draw in matches.items()}
        arrays |= EvaluatedObjects.concatenate(objects).arrays()
        counted = {"skipped": lines_array(skipped), "from_cache": np.array([from_cache]), "seconds": clock.seconds}
        return Part(arrays | counted, files)

    def _fetch(self, unit: int | str) -> Fetched:
        """Read an image; raises ImageError if it cannot be used."""
        fetched = self.targets.fetch_file(self.images[unit]["path"])
        check_size(self.images[unit], fetched.image_size)
        return fetched

    def _objects(self, unit: int | str, fetched: Fetched, target: EncodedTarget | Target) -> EvaluatedObjects:
        """Objects of an image; their features and proposals come from the cache, if it has them."""
        shown, masks = objects_with_masks(self.annotations[unit], target.image_size)
        if not shown:
            return EvaluatedObjects.none(len(self.settings.draws))
        key, found = None, None
        if self.cache is not None:
            key = content_key(OBJECTS, target=fetched.key, masks=digest(np.packbits(masks.numpy())))
            found = self.cache.get(key)
        if found is not None:
            seen = SeenObjects(**found[0])
        else:
            tokens = self._tokens(unit) if isinstance(target, Target) else target.tokens
            seen = SeenObjects.of_target(masks, target, tokens)
            if self.cache is not None and key is not None:
                self.cache.put(key, vars(seen))
        of_draws = [(matcher.classes, self.prototypes[draw]) for draw, matcher in self.matchers.items()]
        return EvaluatedObjects.of_image(shown, seen, self.classes, of_draws)

    def _tokens(self, unit: int | str) -> Tensor:
        """Patch tokens ``[h, w, C]`` of an image whose target holds none."""
        image = read_image(self.images[unit]["path"], exif=self.settings.preset.exif)
        prepared = prepare_image(image, self.encoder, self.segmenter, self.settings.preset)
        return self.encoder.encode(prepared.encoder_input[None])[0]

    def _results(self, image_id: int | str, target: EncodedTarget | Target) -> dict[Draw, list[dict]]:
        """COCO results of every draw. Draws share the proposals, so each mask is encoded once."""
        ids = {name: class_id for class_id, name in self.classes.items()}
        encoded: dict[int, dict] = {}
        results = {}
        for draw, matcher in self.matchers.items():
            instances = matcher.match(target)
            proposals = instances.proposals.tolist()
            new = [row for row, proposal in enumerate(proposals) if proposal not in encoded]
            class_ids = [ids[name] for name in matcher.classes]
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
            "diagnostics": EvaluatedObjects.read(parts).summary(
                list(self.classes.values()), [draw.shots for draw in self.settings.draws]
            ),
            "errors": self._errors(parts),
            "unit": "images",
            "images": len(self.units),
            "all_images": len(self.candidates),
            "objects": sum(not is_crowd(a.get("iscrowd")) for of_image in self.annotations.values() for a in of_image),
            "skipped_references": self.skipped_references,
            "skipped_background": self.skipped_background,
            "per_class_figures": [f"{iou_type} {name}" for iou_type in protocol.iou_types for name in ("ap", "ap50")],
            "conventions": {
                "boxes": f"{preset.box_convention}"
                + (", one pixel short, as published" if preset.box_convention == "inclusive" else ""),
                **({"area of a result's mask": areas} if "masks" in protocol.iou_types else {}),
                "results that count": f"{protocol.max_detections} per image",
                **self._method(),
            },
            "notes": self._notes(),
        }

    def _method(self) -> dict[str, str]:
        """Parts of the method that go beyond the paper, and what they rest on."""
        method = self.settings.preset.method
        parts = [part for part in PARTS if getattr(method, part) != getattr(PUBLISHED, part)]
        rows = {"beyond the paper": ", ".join(parts)} if parts else {}
        if method.negatives:
            labels = "complete" if self.settings.complete_labels else "possibly incomplete"
            used = len(self.settings.background) - len(self.skipped_background)
            rows["negatives"] = f"labels of the reference images {labels}, {used} background images"
        return rows

    def _numbers_of_draw(self, draw: Draw, parts: Sequence[Path]) -> dict[str, Any]:
        figures: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {name: {} for name in self.classes.values()}
        calibrated = None
        for iou_type in self.settings.protocol.iou_types:
            matches = read_matches(parts, f"{draw.key} {iou_type}")
            if iou_type == self.settings.protocol.iou_types[-1]:
                calibrated = calibration_numbers(self.matchers[draw].calibration, matches)
            of_all, of_classes = self._summarise(matches)
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
            "calibration": calibrated,
        }

    def _errors(self, parts: Sequence[Path]) -> list[dict[str, Any]]:
        """Error types of the predictions of every draw; none unless predictions are saved."""
        if not self.settings.save_predictions or self.settings.protocol.evaluator != "coco":
            return []
        rows_of: dict[int | str, list[int]] = {unit: [] for unit in self.units}
        annotations = [a for a in self.data.targets["annotations"] if a["image_id"] in rows_of]
        for row, annotation in enumerate(annotations):
            if annotation["category_id"] in self.classes:
                rows_of[annotation["image_id"]].append(row)
        images = [image for image in self.data.targets["images"] if image["id"] in rows_of]
        truth = self.data.targets | {"images": images, "annotations": annotations}
        # Images were matched one by one, in the order of the units, without the annotations of distractors.
        gt_rows = np.array([row for of_image in rows_of.values() for row in of_image], np.int64)
        found = []
        for draw in self.settings.draws:
            results = json.loads((self.folder / "predictions" / f"{draw.key}.json").read_text())
            for iou_type in self.settings.protocol.iou_types:
                matches = read_matches(parts, f"{draw.key} {iou_type}")
                matches = renumber(matches, np.arange(len(results)), gt_rows, len(results), len(annotations))
                errors = diagnose(matches, truth, results, self.data.class_ids).to_dict()
                found.append({"shots": draw.shots, "seed": draw.seed} | errors)
        return found

    def _summarise(self, matches: Matches) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Figures over all classes, and of every class."""
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
                f"{len(self.shown_too)} images of the targets show references too, by the content of their files, and "
                f"were left out: {self._named(self.shown_too)}."
            )
        elif both := sum(unit in self.shown_too for unit in self.units):
            notes.append(f"{both} of the evaluated images show references too, which inflates the figures.")
        if self.data.box_references:
            notes.append("Masks of references without one were predicted by the segmenter from the box.")
        if shown := self._background_shown:
            notes.append(
                f"{len(shown)} of the evaluated images are background images too, which inflates the figures: "
                f"{self._named(shown)}."
            )
        if self.filled_references:
            notes.append(f"Of {self.filled_references} boxes the segmenter predicted no mask: the whole box was used.")
        return notes

    @cached_property
    def _background_shown(self) -> set[int | str]:
        """Ids of evaluated images that are background images, by the content of their files."""
        background = [{"path": str(path)} for path in self.settings.background]
        return same_images([self.images[unit] for unit in self.units], background) if background else set()

    def _named(self, image_ids: Collection[int | str]) -> str:
        """File names of some images, at most five."""
        names = [image["file_name"] for image in self.data.targets["images"] if image["id"] in image_ids]
        return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

    def _join_predictions(self, parts: Sequence[Path]) -> None:
        """Join the predictions of all parts into one COCO results file per draw."""
        for draw in self.settings.draws:
            rows = []
            for part in parts:
                path = self.folder / "predictions" / draw.key / f"{part.stem}.json"
                if not path.is_file():
                    raise RunError(f"{path} is missing: delete {part}, and run again")
                rows += json.loads(path.read_text())
            write_file(self.folder / "predictions" / f"{draw.key}.json", json.dumps(rows).encode())
