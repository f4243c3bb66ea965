"""Train the small visual reference prompt on drawn scenes and photographs, with the training that users have.

    python -m training.train_reference_prompt --pool POOL --steps 3500 --out nts/small/reference_prompt.safetensors

The classes are species of the training range and those of the photographs; the best weights are chosen on a fifth of
them. No scene shows the benchmark's novel species.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from tqdm import tqdm

from nts.cache import TensorCache
from nts.models import SMALL, load_encoder, load_segmenter
from nts.vrp.training import FEATURES_BUDGET, FeatureStore, TrainingConfig, run_training, split_classes, train
from synthetic.natural import draw_natural_scene
from synthetic.scenes import TRAIN_SPECIES, draw_scene, write_coco

from .pool import STUFF, Pool, read_pool

OUT = SMALL / "reference_prompt.safetensors"
CLASSES_PER_SCENE = 4
NATURAL = 4
"""One of so many scenes is a natural one."""

LARGE = 0.01
"""Least part of a photograph that an object covers."""

NOT_LEARNED = ("facade", "mushrooms", "carpanels")
"""Sets of photographs with a class that is not an object, or with a single one of many small objects."""


def draw_data(folder: Path, classes: int, scenes: int, seed: int = 75) -> dict:
    """COCO dataset of scenes, each with instances of a few of the classes; drawn if it does not exist.

    One of :data:`NATURAL` is a natural scene.
    """
    labels = folder / "labels.json"
    if not labels.is_file():
        species = np.random.default_rng([seed]).choice(len(TRAIN_SPECIES), classes, replace=False).tolist()
        drawn = []
        for i in tqdm(range(scenes), desc="Drawing scenes"):
            pool = np.random.default_rng([seed, i]).choice(species, CLASSES_PER_SCENE, replace=False)
            drawn.append((draw_scene if i % NATURAL else draw_natural_scene)([seed, i], pool))
        write_coco(folder, drawn, species)
    dataset = json.loads(labels.read_text())
    for image in dataset["images"]:
        image["path"] = str(folder / "data" / image["file_name"])
    return dataset


def add_photographs(dataset: dict, pool: Pool) -> dict:
    """COCO dataset with the photographs of a pool added: large objects of their classes, except stuff."""
    images, annotations, categories = (list(dataset[name]) for name in ("images", "annotations", "categories"))
    class_ids: dict[str, int] = {}
    first_class = 1 + max(category["id"] for category in categories)
    next_image = 1 + max(image["id"] for image in images)
    for name, photographs in sorted(pool.sets.items()):
        if name in NOT_LEARNED:
            continue
        for photograph in photographs:
            height, width = photograph.size
            shown = [
                (label, rle)
                for label, rle in zip(photograph.classes, photograph.rles, strict=True)
                if not STUFF.search(label) and coco_mask.area(rle) >= LARGE * height * width
            ]
            if not shown:
                continue
            record = {"id": next_image, "file_name": photograph.path.name, "width": width, "height": height}
            images.append(record | {"path": str(photograph.path)})
            for label, rle in shown:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": next_image,
                        "category_id": class_ids.setdefault(label, first_class + len(class_ids)),
                        "segmentation": rle,
                        "area": float(coco_mask.area(rle)),
                        "bbox": coco_mask.toBbox(rle).tolist(),
                        "iscrowd": 0,
                    }
                )
            next_image += 1
    categories += [{"id": class_id, "name": f"photographed {label}"} for label, class_id in class_ids.items()]
    return {**dataset, "images": images, "annotations": annotations, "categories": categories}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, help="folder of photographs with masks, in COCO's layout")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--classes", type=int, default=2000)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, default=Path("runs/reference_prompt"), help="resumed if it exists")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    dataset = draw_data(args.run / "data", args.classes, args.scenes)
    if args.pool is not None:
        dataset = add_photographs(dataset, read_pool(args.pool, "train"))
    cache = TensorCache(args.run / "features", FEATURES_BUDGET)
    store = FeatureStore(load_encoder(), load_segmenter(), cache)
    # Scenes are plenty and have no orientation: mirroring would only double the cached features.
    config = TrainingConfig(steps=args.steps, seed=args.seed, flip=False)
    report = run_training(train(dataset, split_classes(dataset, seed=args.seed), store, args.run / "run", config))
    report.prompt.save(args.out)
    print(f"step {report.best_step}: mIoU {report.validation:.3f} on the validation classes; written to {args.out}")


if __name__ == "__main__":
    main()
