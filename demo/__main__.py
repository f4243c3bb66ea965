"""The whole job on drawn scenes: reference memory, segmentation, nAP, and pictures of it.

python -m demo          run it, or what of it was not done yet
python -m demo --app    then open the FiftyOne App on the result
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# FiftyOne reads these when it is imported: the plugin is this very checkout.
os.environ.setdefault("FIFTYONE_PLUGINS_DIR", str(ROOT))
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")  # the database that comes with it is old enough to warn

import fiftyone as fo  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from nts import fiftyone_adapter as nts  # noqa: E402
from nts.fiftyone_adapter import runs  # noqa: E402
from nts.fiftyone_adapter.colours import set_class_colours  # noqa: E402
from nts.fiftyone_adapter.jobs import Progress  # noqa: E402
from nts.images import read_image  # noqa: E402
from nts.pictures import class_colours, contact_sheet, draw_instances  # noqa: E402
from synthetic.scenes import write_data_set  # noqa: E402

DATASET = "reference-segmentation-demo"
MEMORY = "demo"
PREDICTIONS = "nts_demo"
EVALUATION = "demo_nap"
SCORERS = {"prototype": "prototypes", "vrp": "prompt (VRP)", "both": "both"}
"""What judges proposals, and what it is called in the table."""
SHOTS = 5
TARGETS = 30


def main() -> None:
    """Run what has not been done yet, and report."""
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
                overwrite=True,  # one of an earlier version, without whole images
                progress=bar.update,
            )
        print(
            f"  {sum(report.shots.values())} references of {len(report.shots)} classes, {len(report.skipped)} left out"
        )
    print_table({SCORERS[scorer]: segment_and_evaluate(targets, scorer) for scorer in SCORERS}, SHOTS)
    for path in draw_pictures(dataset, arguments.out):
        print(f"Picture: {path}")
    if arguments.app:
        session = fo.launch_app(dataset)
        address = f"http://localhost:{session.server_port}"
        print(f"\nThe App shows {DATASET!r} at {address}. Press ` there for the operators, Ctrl-C here to end.")
        session.wait(-1)
    else:
        print(f"\nThe dataset {DATASET!r} is kept in FiftyOne: `make app` opens the App on it, with the plugin.")


class Bar:
    """A progress bar that follows a job."""

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


def segment_and_evaluate(targets: fo.DatasetView, scorer: str):
    """The nAP of a scorer on the targets; its predictions and its evaluation have its name."""
    by_prompt = scorer != "prototype"
    field, key = (f"{PREDICTIONS}_{scorer}", f"{EVALUATION}_{scorer}") if by_prompt else (PREDICTIONS, EVALUATION)
    options = {"scorer": scorer, "reference_prompt": "small"} if by_prompt else {}
    with Bar(f"By {SCORERS[scorer]}") as bar:
        report = nts.auto_segment_view(targets, MEMORY, field, progress=bar.update, **options)
    print(f"  {report.segmented} images segmented, {report.resumed} were done before, {len(report.failed)} failed")
    with Bar("Evaluation") as bar:
        return nts.evaluate_nap(
            targets, field, "ground_truth", eval_key=key, overwrite=True, progress=bar.update
        ).result


def load_dataset(folder: Path, targets: int) -> fo.Dataset:
    """The drawn data set in FiftyOne, with tags for references and targets; drawn and imported where it is not yet."""
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
    # The App reads colours when it opens a dataset, so they are there before the predictions are.
    set_class_colours(dataset, ["ground_truth", PREDICTIONS], dataset.distinct("ground_truth.detections.label"))
    return dataset


def print_table(results: dict, shots: int) -> None:
    """nAP over all classes by each scorer, then for each class by the first, in percent."""
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
    """Two contact sheets: some references, and targets as image, ground truth and prediction."""
    colours = class_colours(nts.load_memory(dataset, MEMORY).classes)
    references = list(dataset.match_tags("reference").sort_by("filepath"))
    cells = [draw_sample(sample, "ground_truth", colours) for sample in references[::SHOTS]]
    sheets = {"references": contact_sheet([cells[:5], cells[5:10]], [""] * 5, colours, "One reference of each class")}

    targets = dataset.match_tags("target").sort_by("filepath").limit(6)
    rows = [
        [
            draw_sample(sample, None, colours),
            draw_sample(sample, "ground_truth", colours),
            draw_sample(sample, PREDICTIONS, colours),
        ]
        for sample in targets
    ]
    headings = ["image", "ground truth", "prediction, with score (drawn from 0.6)"]
    sheets["predictions"] = contact_sheet(rows, headings, colours, "Novel classes found from a few references")
    paths = []
    for name, sheet in sheets.items():
        paths.append(folder / f"{name}.png")
        sheet.save(paths[-1])
    return paths


def draw_sample(sample: fo.Sample, field: str | None, colours: dict, minimum_score: float = 0.6):
    """A sample with the masks of one field; with captions, where they have a confidence."""
    image = read_image(sample.filepath)
    labels = sample[field].detections if field and sample[field] else []
    shown = [d for d in labels if d.label in colours and (d.confidence is None or d.confidence >= minimum_score)]
    masks = [d.to_segmentation(frame_size=image.shape[1::-1]).mask > 0 for d in shown]
    captions = [f"{d.confidence:.2f}" for d in shown if d.confidence is not None]
    stacked = np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool)
    return draw_instances(image, stacked, [d.label for d in shown], colours, captions)


if __name__ == "__main__":
    main()
