"""Train the small visual reference prompt on drawn scenes, with the training that users have.

    python -m training.train_reference_prompt --steps 3500 --out nts/small/reference_prompt.safetensors

The classes are species of the training range; the best weights are chosen on a fifth of them. No scene shows the
benchmark's novel species.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from nts.cache import TensorCache
from nts.models import SMALL, load_encoder, load_segmenter
from nts.vrp.training import FEATURES_BUDGET, FeatureStore, TrainingConfig, run_training, split_classes, train
from synthetic.scenes import TRAIN_SPECIES, draw_scene, write_coco

OUT = SMALL / "reference_prompt.safetensors"
CLASSES_PER_SCENE = 4


def draw_data(folder: Path, classes: int, scenes: int, seed: int = 75) -> dict:
    """COCO dataset of scenes, each with instances of a few of the classes; drawn if it does not exist."""
    labels = folder / "labels.json"
    if not labels.is_file():
        species = np.random.default_rng([seed]).choice(len(TRAIN_SPECIES), classes, replace=False).tolist()
        drawn = []
        for i in tqdm(range(scenes), desc="Drawing scenes"):
            pool = np.random.default_rng([seed, i]).choice(species, CLASSES_PER_SCENE, replace=False)
            drawn.append(draw_scene([seed, i], pool))
        write_coco(folder, drawn, species)
    dataset = json.loads(labels.read_text())
    for image in dataset["images"]:
        image["path"] = str(folder / "data" / image["file_name"])
    return dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    cache = TensorCache(args.run / "features", FEATURES_BUDGET)
    store = FeatureStore(load_encoder(), load_segmenter(), cache)
    # Scenes are plenty and have no orientation: mirroring would only double the cached features.
    config = TrainingConfig(steps=args.steps, seed=args.seed, flip=False)
    report = run_training(train(dataset, split_classes(dataset, seed=args.seed), store, args.run / "run", config))
    report.prompt.save(args.out)
    print(f"step {report.best_step}: mIoU {report.validation:.3f} on the validation classes; written to {args.out}")


if __name__ == "__main__":
    main()
