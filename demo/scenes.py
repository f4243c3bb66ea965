"""Drawn scenes: build a memory, segment with every scorer, evaluate, and draw pictures."""

from __future__ import annotations

import os
from pathlib import Path

import fiftyone as fo

from nts import fiftyone_adapter as nts
from nts.fiftyone_adapter import runs
from nts.fiftyone_adapter.colours import set_class_colours
from nts.metrics.coco import NovelAP
from nts.pictures import class_colours, contact_sheet
from nts.recommendation import THRESHOLD
from synthetic.scenes import write_data_set

from .showing import Bar, draw_sample, print_table

DATASET = "reference-segmentation-demo"
MEMORY = "demo"
PREDICTIONS = "nts_demo"
RUNS: dict[str, tuple[str, dict]] = {
    PREDICTIONS: ("default", {}),
    f"{PREDICTIONS}_paper": ("paper", {"preset": "paper"}),
    f"{PREDICTIONS}_vrp": ("prompt (VRP)", {"scorer": "vrp", "reference_prompt": "small"}),
    f"{PREDICTIONS}_both": ("both", {"scorer": "both", "reference_prompt": "small"}),
}
"""Runs by the field of their predictions: names in the table, and options."""
SHOTS = 5
TARGETS = 30


def run(out: Path, targets: int) -> fo.Dataset:
    """Run the steps that are not done yet, and print a report; returns the dataset."""
    dataset = load_dataset(out, targets)
    view = dataset.match_tags("target")
    if not runs.list_runs(dataset, runs.MEMORY).get(MEMORY, {}).get("whole_images"):
        with Bar("Reference memory") as bar:
            report = nts.build_reference_memory(
                dataset.match_tags("reference"),
                "ground_truth",
                MEMORY,
                keep_images=True,
                overwrite=True,  # replaces a memory of an earlier version, without whole images
                progress=bar.update,
            )
        print(
            f"  {sum(report.shots.values())} references of {len(report.shots)} classes, {len(report.skipped)} skipped"
        )
    results = {name: segment_and_evaluate(view, field, options) for field, (name, options) in RUNS.items()}
    first = next(iter(results.values()))
    print_table(
        f"nAP on {first.images} drawn scenes, {len(first.novel_classes)} novel classes, {SHOTS} references per class",
        results,
    )
    for path in draw_pictures(dataset, out):
        print(f"Picture: {path}")
    return dataset


def segment_and_evaluate(targets: fo.DatasetView, field: str, options: dict) -> NovelAP:
    """Segment the targets into a field, and evaluate it; the evaluation is named after the field."""
    with Bar(f"{RUNS[field][0]:<12}") as bar:
        report = nts.auto_segment_view(targets, MEMORY, field, progress=bar.update, **options)
    print(f"  {report.segmented} images segmented, {report.resumed} already done, {len(report.failed)} failed")
    if report.recommendation is not None:
        print(f"  {report.shown.words}")
    with Bar("Evaluation") as bar:
        return nts.evaluate_nap(
            targets, field, "ground_truth", eval_key=f"{field}_nap", overwrite=True, progress=bar.update
        ).result


def load_dataset(folder: Path, targets: int) -> fo.Dataset:
    """Load the drawn dataset, with tags for references and targets; draw and import it first if necessary."""
    if fo.dataset_exists(DATASET):
        dataset = fo.load_dataset(DATASET)
        if len(dataset.match_tags("target")) == targets and all(map(os.path.exists, dataset.values("filepath"))):
            return dataset
        dataset.delete()
    print("Drawing scenes ...")
    labels = write_data_set(folder / "data", targets=targets, references_per_class=SHOTS)
    dataset = fo.Dataset(DATASET, persistent=True)
    for split, tag in (("references", "reference"), ("targets", "target")):
        dataset.add_dir(
            dataset_type=fo.types.COCODetectionDataset,
            data_path=str(labels[split].parent / "data"),
            labels_path=str(labels[split]),
            label_types=["segmentations"],
            label_field="ground_truth",
            tags=tag,
            progress=False,
        )
        dataset.save_view(split, dataset.match_tags(tag))
    # The App reads colours when it opens a dataset, so they are set before the predictions exist.
    set_class_colours(dataset, ["ground_truth", PREDICTIONS], dataset.distinct("ground_truth.detections.label"))
    return dataset


def draw_pictures(dataset: fo.Dataset, folder: Path) -> list[Path]:
    """Draw two contact sheets: one reference per class, and targets as image, ground truth and prediction."""
    colours = class_colours(nts.load_memory(dataset, MEMORY).classes)
    references = list(dataset.match_tags("reference").sort_by("filepath"))
    cells = [draw_sample(sample, "ground_truth", colours) for sample in references[::SHOTS]]
    sheets = {"references": contact_sheet([cells[:5], cells[5:10]], [""] * 5, colours, "One reference of each class")}

    targets = dataset.match_tags("target").sort_by("filepath").limit(6)
    rows = [
        [
            draw_sample(sample, None, colours),
            draw_sample(sample, "ground_truth", colours),
            draw_sample(sample, f"{PREDICTIONS}_paper", colours, minimum_confidence=0.6),
            draw_sample(sample, PREDICTIONS, colours, minimum_confidence=THRESHOLD),
        ]
        for sample in targets
    ]
    headings = ["image", "ground truth", "paper, cosine of 0.6 or more", "default, recommended threshold"]
    sheets["predictions"] = contact_sheet(rows, headings, colours, "Novel classes found from a few references")
    paths = []
    for name, sheet in sheets.items():
        paths.append(folder / f"{name}.png")
        sheet.save(paths[-1])
    return paths
