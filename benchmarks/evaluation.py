"""Time of an evaluation by this project, pycocotools and FiftyOne, on one drawn data set in one run.

    python -m benchmarks.evaluation                          5,000 images; FiftyOne on the first 100 of them
    python -m benchmarks.evaluation --fiftyone-images 5000   all of them with FiftyOne too: hours

Every image has 100 predictions of 20 classes and about eight objects. All compute COCO's average precision of boxes and
masks from data in memory (FiftyOne: in its database). The arrays of pycocotools are compared with ours, element by
element. CPU seconds are those of this process, without FiftyOne's database.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from nts.metrics.average_precision import accumulate
from nts.metrics.bootstrap import paired_bootstrap
from nts.metrics.coco import NovelAP, evaluate, summarise_matches
from nts.metrics.matches import IouType, Matches, concatenate, match, match_image
from tools import private_mongod

WIDTH, HEIGHT = 640, 480
CLASSES = 20
OBJECTS = 8
PREDICTIONS = 100
RADII = (10, 100)
LAYOUTS = 500
"""Number of images with their own shapes, which others reuse with other classes and scores: drawing takes longer than
any evaluation."""
IOU_TYPES: dict[IouType, str] = {"boxes": "bbox", "masks": "segm"}

Result = TypeVar("Result")
DataSet = tuple[dict[str, Any], list[dict[str, Any]]]


def draw_data_set(images: int, seed: int = 0) -> DataSet:
    """Data set of ellipses; predictions are shifted copies of them, and ellipses on background.

    Half of the copies carry the right class. Scores are higher for right predictions than for wrong ones, on average.
    """
    rng = np.random.default_rng([5000, seed])
    layouts = [draw_layout(rng) for _ in tqdm(range(min(images, LAYOUTS)), desc="Drawing shapes")]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        objects, predictions, copied = layouts[(image_id - 1) % LAYOUTS]
        labels = rng.integers(1, CLASSES + 1, len(objects))
        predicted, scores = rng.integers(1, CLASSES + 1, PREDICTIONS), rng.random(PREDICTIONS)
        right = np.flatnonzero((copied >= 0) & (rng.random(PREDICTIONS) < 0.5))
        predicted[right], scores[right] = labels[copied[right]], np.sqrt(scores[right])
        annotations += [
            {"id": len(annotations) + i, "image_id": image_id, "category_id": label, "iscrowd": 0, **shape}
            for i, (label, shape) in enumerate(zip(labels.tolist(), objects, strict=True), start=1)
        ]
        results += [
            {
                "image_id": image_id,
                "category_id": label,
                "score": score,
                "bbox": shape["bbox"],
                "segmentation": shape["segmentation"],
            }
            for label, score, shape in zip(predicted.tolist(), scores.tolist(), predictions, strict=True)
        ]
    ground_truth = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k:02}"} for k in range(1, CLASSES + 1)],
    }
    return ground_truth, results


def draw_layout(rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[dict[str, Any]], np.ndarray]:
    """Objects of an image, its predictions, and the object that each prediction copies, -1 for none."""
    objects = draw_ellipses(rng, int(rng.poisson(OBJECTS)))
    predictions = draw_ellipses(rng, PREDICTIONS)
    copied = np.full(PREDICTIONS, -1)
    if len(objects):
        chosen = rng.random(PREDICTIONS) < 0.3
        copied[chosen] = rng.integers(0, len(objects), np.count_nonzero(chosen))
        predictions[chosen] = objects[copied[chosen]] + rng.normal(0, 4, (np.count_nonzero(chosen), 4))
        predictions[:, 2:] = np.clip(predictions[:, 2:], *RADII)
    return encode_ellipses(objects), encode_ellipses(predictions), copied


def draw_ellipses(rng: np.random.Generator, count: int) -> np.ndarray:
    """Centre and half axes in pixels, float64 ``[count, 4]``."""
    centres = rng.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    return np.concatenate([centres, np.exp(rng.uniform(*np.log(RADII), (count, 2)))], axis=1)


def encode_ellipses(ellipses: np.ndarray) -> list[dict[str, Any]]:
    """Ellipses as masks: RLE, box and area."""
    x, y = np.arange(WIDTH) + 0.5, np.arange(HEIGHT)[:, None] + 0.5
    shapes = []
    for centre_x, centre_y, a, b in ellipses:
        rle = coco_mask.encode(np.asfortranarray(((x - centre_x) / a) ** 2 + ((y - centre_y) / b) ** 2 <= 1, np.uint8))
        shapes.append(
            {
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "bbox": coco_mask.toBbox(rle).tolist(),
                "area": float(coco_mask.area(rle)),
            }
        )
    return shapes


def first_images(data: DataSet, count: int) -> DataSet:
    """First images of the data set."""
    ground_truth, results = data
    piece = {
        "images": ground_truth["images"][:count],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] <= count],
        "categories": ground_truth["categories"],
    }
    return piece, [result for result in results if result["image_id"] <= count]


def timed(call: Callable[[], Result]) -> tuple[Result, np.ndarray]:
    """Result of a call, its wall time, and the CPU time of this process, in seconds."""
    begin = np.array([time.perf_counter(), time.process_time()])
    result = call()
    return result, np.array([time.perf_counter(), time.process_time()]) - begin


def image_by_image(data: DataSet) -> NovelAP:
    """Evaluate image by image, as a streaming run does."""
    ground_truth, results = data
    class_ids = [category["id"] for category in ground_truth["categories"]]
    names = [category["name"] for category in ground_truth["categories"]]
    of_image: dict[int, tuple[list, list]] = {image["id"]: ([], []) for image in ground_truth["images"]}
    for items, side in ((ground_truth["annotations"], 0), (results, 1)):
        for item in items:
            of_image[item["image_id"]][side].append(item)

    def matches(iou_type: IouType) -> Matches:
        return concatenate(
            [
                match_image(annotations, found, class_ids, names, image_id, iou_type)
                for image_id, (annotations, found) in of_image.items()
            ]
        )

    return summarise_matches(matches("boxes"), matches("masks"))


def by_pycocotools(data: DataSet, iou_type: IouType) -> COCOeval:
    """Evaluate with pycocotools, as in its demo."""
    ground_truth, results = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground_truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), IOU_TYPES[iou_type])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def copy_of(data: DataSet, iou_type: IouType) -> DataSet:
    """Copy for pycocotools, which modifies its input, with one geometry only: see ``loadRes`` on areas."""
    ground_truth, results = data
    kept = ("image_id", "category_id", "score", "bbox" if iou_type == "boxes" else "segmentation")
    annotations = [dict(annotation) for annotation in ground_truth["annotations"]]
    return {**ground_truth, "annotations": annotations}, [{key: result[key] for key in kept} for result in results]


def difference(data: DataSet, iou_type: IouType, expected: COCOeval) -> float:
    """Largest difference between elements of pycocotools' arrays and ours."""
    curves = accumulate(match(*data, iou_type=iou_type))
    names = ("precision", "recall", "scores")
    return max(float(np.abs(getattr(curves, name) - expected.eval[name]).max()) for name in names)


def fiftyone_dataset(data: DataSet) -> Any:
    """Data set in a separate FiftyOne database."""
    os.environ |= {
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }
    private_mongod.start()
    import fiftyone as fo

    ground_truth, results = data
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}

    def detection(item: dict[str, Any]) -> fo.Detection:
        x, y, width, height = (int(value) for value in item["bbox"])
        mask = coco_mask.decode(item["segmentation"])[y : y + height, x : x + width]
        box = [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]
        score = {"confidence": item["score"]} if "score" in item else {}
        return fo.Detection(label=names[item["category_id"]], bounding_box=box, mask=mask.astype(bool), **score)

    fields: dict[int, tuple[list, list]] = {image["id"]: ([], []) for image in ground_truth["images"]}
    for items, side in ((ground_truth["annotations"], 0), (results, 1)):
        for item in items:
            fields[item["image_id"]][side].append(detection(item))
    dataset = fo.Dataset()
    for image_id, (truth, found) in tqdm(fields.items(), desc="Filling FiftyOne's database"):
        sample = fo.Sample(filepath=f"/drawn/{image_id}.jpg")
        sample.metadata = fo.ImageMetadata(width=WIDTH, height=HEIGHT)
        sample["ground_truth"], sample["predictions"] = fo.Detections(detections=truth), fo.Detections(detections=found)
        dataset.add_sample(sample)
    return dataset


def run(images: int = 5000, fiftyone_images: int = 100, draws: int = 1000) -> list[dict[str, Any]]:
    """Time all evaluations, print a table, and return its rows."""
    data = draw_data_set(images)
    sizes = sorted({min(fiftyone_images, images), images} - {0})
    print(f"{images} images, {len(data[0]['annotations'])} objects, {len(data[1])} predictions, {CLASSES} classes")
    print(
        "\n| evaluation of boxes and masks | images | boxes | masks | seconds | CPU | times ours | largest difference |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    rows: list[dict[str, Any]] = []

    def report(who: str, count: int, aps: tuple[float, float], took: np.ndarray, apart: float | None = None) -> None:
        seconds, cpu = took.tolist()
        ours = next((row["cpu_seconds"] for row in rows if row["images"] == count), cpu)
        row = {"who": who, "images": count, "boxes_ap": aps[0], "masks_ap": aps[1]}
        rows.append(row | {"seconds": seconds, "cpu_seconds": cpu, "largest_difference": apart})
        shown = [f"{100 * ap:.3f}" for ap in aps] + [f"{seconds:.1f}", f"{cpu:.1f}", f"{cpu / ours:.1f}"]
        print(f"| {who} | {count} | {' | '.join(shown)} | {'' if apart is None else f'{apart:g}'} |", flush=True)

    for count in sizes:
        piece = first_images(data, count)
        for who, how in (("ours", lambda p: evaluate(*p)), ("ours, image by image", image_by_image)):
            found, took = timed(lambda how=how, piece=piece: how(piece))
            report(who, count, (found.boxes.novel.ap, found.masks.novel.ap), took)
        total, aps, apart = np.zeros(2), [], []
        for iou_type in IOU_TYPES:
            copied = copy_of(piece, iou_type)
            evaluation, took = timed(lambda copied=copied, iou_type=iou_type: by_pycocotools(copied, iou_type))
            apart.append(difference(piece, iou_type, evaluation))
            aps.append(float(evaluation.stats[0]))
            total += took
        report("pycocotools", count, (aps[0], aps[1]), total, max(apart))
    if fiftyone_images:
        count = min(fiftyone_images, images)
        dataset = fiftyone_dataset(first_images(data, count))
        total, aps = np.zeros(2), []
        for use_masks in (False, True):
            found, took = timed(
                lambda use_masks=use_masks: dataset.evaluate_detections(
                    "predictions", "ground_truth", method="coco", compute_mAP=True, use_masks=use_masks
                )
            )
            aps.append(float(found.mAP()))
            total += took
        dataset.delete()
        report("FiftyOne's evaluate_detections", count, (aps[0], aps[1]), total)

    worse = [{**result, "score": result["score"] ** 0.5 if result["category_id"] % 2 else 0.0} for result in data[1]]
    a, b = match(data[0], worse, iou_type="masks"), match(*data, iou_type="masks")
    interval, (seconds, cpu) = timed(lambda: paired_bootstrap(a, b, draws=draws))
    rows.append({"who": "paired bootstrap", "images": images, "draws": draws, "seconds": seconds, "cpu_seconds": cpu})
    print(f"\nPaired bootstrap of mask AP, {draws} draws of {images} images: {seconds:.1f} s, {cpu:.1f} s of them CPU.")
    low, high = 100 * interval.low, 100 * interval.high
    print(f"Difference {100 * interval.difference:.2f}, 95 % of the draws between {low:.2f} and {high:.2f}.")
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--fiftyone-images", type=int, default=100, help="0 leaves FiftyOne out")
    parser.add_argument("--draws", type=int, default=1000, help="of the paired bootstrap")
    parser.add_argument("--out", type=Path, help="write the numbers there as JSON")
    args = parser.parse_args()
    rows = run(args.images, args.fiftyone_images, args.draws)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
