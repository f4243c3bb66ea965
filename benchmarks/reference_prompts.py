"""Ablation of the reference prompt: equally trained variants, evaluated on the same episodes of novel classes.

    python -m benchmarks.reference_prompts

The paper's ablations (loss, Table 5; queries, Table 6 and Figure 6; shots, Table 7), and those of this project's
changes. All variants share seed, images and number of steps: the table compares them within a budget, not after full
training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from nts.cache import TensorCache
from nts.datasets.episode_lists import draw_lists
from nts.evaluation.predictor_evaluation import Row, evaluate_predictors
from nts.evaluation.predictors import PromptedMap
from nts.evaluation.shared_encodings import SharedEncodings
from nts.models import load_encoder, load_segmenter
from nts.vrp.model import VRPConfig, paper
from nts.vrp.prompt import TrainedPrompt
from nts.vrp.training import (
    FEATURES_BUDGET,
    PAPER,
    FeatureStore,
    TrainingConfig,
    default_vrp,
    run_training,
    split_classes,
    train,
)
from synthetic.episodes import drawn_images
from synthetic.scenes import NOVEL_SPECIES
from training.train_reference_prompt import draw_data

OURS = "ours"


def variants(ours: VRPConfig, config: TrainingConfig) -> dict[str, tuple[VRPConfig, TrainingConfig]]:
    """Variants by name; each differs from the default only in the setting that its name states."""
    published = replace(
        PAPER,
        steps=config.steps,
        seed=config.seed,
        peak_rate=config.peak_rate,
        warmup=config.warmup,
        check_every=config.check_every,
        validation_episodes=config.validation_episodes,
    )
    bare = replace(ours, bare_priors=False)
    return {
        OURS: (ours, config),
        "BCE alone": (ours, replace(config, loss="bce")),
        "Dice alone": (ours, replace(config, loss="dice")),
        "queries begin as the prototype": (replace(ours, query_init="prototype"), config),
        "4 queries": (replace(ours, queries=4), config),
        "50 queries": (replace(ours, queries=50), config),
        "no dense prompt": (replace(ours, dense_prompt=False), config),
        "the published prior": (
            replace(ours, normalise_prior=False, background_prior=False, bare_priors=False),
            config,
        ),
        "no bare priors": (bare, config),
        "nearest rasterisation": (replace(ours, rasterisation="nearest"), config),
        "one reference per episode": (ours, replace(config, most_shots=1)),
        "shots concatenated": (replace(ours, shots="concatenate"), config),
        "the published choices": (paper(ours), published),
    }


def train_all(folder: Path, steps: int, classes: int, scenes: int, names: Sequence[str]) -> dict[str, TrainedPrompt]:
    """Train the variants, resuming an interrupted call."""
    dataset = draw_data(folder / "data", classes, scenes)
    cache = TensorCache(folder / "features", FEATURES_BUDGET)
    store = FeatureStore(load_encoder(), load_segmenter(), cache)
    config = TrainingConfig(steps=steps, flip=False, check_every=max(1, steps // 4), validation_episodes=60)
    split = split_classes(dataset)
    prompts = {}
    for name, (vrp, of_variant) in variants(default_vrp(store), config).items():
        if names and name not in names:
            continue
        with tqdm(total=steps, desc=name) as bar:
            training = train(dataset, split, store, folder / name.replace(" ", "-"), of_variant, vrp)
            report = run_training(training, lambda step, bar=bar: bar.update(step.step - bar.n))
        prompts[name] = report.prompt
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--classes", type=int, default=2000)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--variants", nargs="+", default=[], metavar="NAME", help="train only these")
    parser.add_argument("--run", type=Path, default=Path("runs/reference_prompt_variants"), help="resumed if it exists")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    prompts = train_all(args.run, args.steps, args.classes, args.scenes, args.variants)
    encoder, segmenter = load_encoder(), load_segmenter()
    references, targets = drawn_images(NOVEL_SPECIES)
    groups = {"novel": [category["id"] for category in targets.dataset["categories"]]}
    lists = draw_lists(references, targets, groups, shots=(1, 5), count=args.episodes)
    encodings = SharedEncodings(encoder, segmenter)
    rows = {name: Row(PromptedMap(encodings, prompt)) for name, prompt in prompts.items()}
    with tqdm(total=2 * args.episodes, desc="Episodes") as bar:
        table = evaluate_predictors(
            references, targets, lists, groups, rows, against=OURS if OURS in rows else "", tick=bar.update
        )
    print(table.to_markdown())
    (args.run / "table.json").write_text(table.to_json())


if __name__ == "__main__":
    main()
