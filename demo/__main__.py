"""Build a reference memory, segment and evaluate drawn scenes, and draw pictures of the results.

python -m demo          run the steps that are not done yet
python -m demo --app    and open the FiftyOne App on the result
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Read by FiftyOne on import: the plugin is this checkout.
os.environ.setdefault("FIFTYONE_PLUGINS_DIR", str(ROOT))
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")  # the bundled database is old enough to cause a warning

import fiftyone as fo  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from nts import fiftyone_adapter as nts  # noqa: E402
from nts.fiftyone_adapter import runs  # noqa: E402
from nts.fiftyone_adapter.colours import set_class_colours  # noqa: E402
from nts.fiftyone_adapter.jobs import Progress  # noqa: E402
from nts.images import read_image  # noqa: E402
from nts.pictures import class_colours, contact_sheet, draw_instances  # noqa: E402
from nts.recommendation import THRESHOLD  # noqa: E402
from synthetic.scenes import write_data_set  # noqa: E402

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


def main() -> None:
    """Run the steps that are not done yet, and print a report."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0])
    parser.add_argument("--app", action="store_true", help="open the FiftyOne App on the result")
    parser.add_argument("--targets", type=int, default=TARGETS, help="images to segment (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "output", help="folder for images and pictures")
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.out, arguments.targets)
    targets = dataset.match_tags("target")
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
    print_table({name: segment_and_evaluate(targets, field, options) for field, (name, options) in RUNS.items()}, SHOTS)
    for path in draw_pictures(dataset, arguments.out):
        print(f"Picture: {path}")
    if arguments.app:
        session = fo.launch_app(dataset)
        address = f"http://localhost:{session.server_port}"
        print(f"\nThe App shows {DATASET!r} at {address}. Press ` there for the operators, Ctrl-C here to stop.")
        session.wait(-1)
    else:
        print(f"\nThe dataset {DATASET!r} is stored in FiftyOne. Run `make app` to open it in the App with the plugin.")


class Bar:
    """Progress bar of a job."""

    def __init__(self, title: str) -> None:
        self._bar = tqdm(desc=f"{title:<17}", unit="", leave=True, dynamic_ncols=True)

    def update(self, progress: Progress) -> None:
        self._bar.total = progress.total
        self._bar.n = progress.done
        self._bar.refresh()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.total is not None:
            self._bar.n = self._bar.total
        self._bar.close()


def segment_and_evaluate(targets: fo.DatasetView, field: str, options: dict):
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


def print_table(results: dict, shots: int) -> None:
    """Print nAP in percent over all classes for each scorer, then per class for the first scorer."""
    result = next(iter(results.values()))
    classes = result.novel_classes
    print(f"\nnAP on {result.images} drawn scenes, {len(classes)} novel classes, {shots} references per class")
    print(f"{'':<19}{'masks':>8}{'AP50':>8}{'AP75':>8}{'boxes':>10}{'AP50':>8}{'AP75':>8}")
    rows = {f"all, {name}": (of.masks.novel, of.boxes.novel) for name, of in results.items()}
    rows |= {name: (result.masks.per_class[name], result.boxes.per_class[name]) for name in classes}
    for name, kinds in rows.items():
        masks, boxes = ["".join(f"{100 * ap:8.1f}" for ap in (of.ap, of.ap50, of.ap75)) for of in kinds]
        print(f"{name:<19}{masks}  {boxes}")
    print()


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


def draw_sample(sample: fo.Sample, field: str | None, colours: dict, minimum_confidence: float = 0.0):
    """Draw a sample with the masks of one field, captioned with their confidence if they have one."""
    image = read_image(sample.filepath)
    labels = sample[field].detections if field and sample[field] else []
    shown = [d for d in labels if d.label in colours and (d.confidence is None or d.confidence >= minimum_confidence)]
    masks = [d.to_segmentation(frame_size=image.shape[1::-1]).mask > 0 for d in shown]
    captions = [f"{d.confidence:.2f}" for d in shown if d.confidence is not None]
    stacked = np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool)
    return draw_instances(image, stacked, [d.label for d in shown], colours, captions)


if __name__ == "__main__":
    main()
