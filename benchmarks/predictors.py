"""Predictors on drawn scenes: novel and base classes, every kind of annotation, 1 and 5 references.

    python -m benchmarks.predictors

Novel classes are those of the benchmark of scenes, on which nothing was trained. Base classes are some of those that
the reference prompt was trained on, or chosen by. Thresholds are chosen on validation species: of the baselines for
every kind of annotation, of the others for masks. Controls are shown a wrong class, or nothing marked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from nts.datasets.annotated_images import ANNOTATIONS, Annotation, parse_annotations
from nts.datasets.episode_lists import draw_lists
from nts.evaluation.predictor_evaluation import evaluate_predictors
from nts.evaluation.predictor_run import predictor_rows
from nts.evaluation.predictor_table import PredictorTable
from nts.evaluation.predictors import TRAINING_FREE
from nts.models import load_encoder, load_segmenter
from nts.presets import get_preset
from nts.vrp.loading import load_reference_prompt
from synthetic.episodes import drawn_images
from synthetic.scenes import NOVEL_SPECIES, TRAIN_SPECIES, VALIDATION_SPECIES, species_name

BASE_CLASSES = 10
VALIDATION = tuple(VALIDATION_SPECIES[:20:2])


def run(
    episodes: int = 150,
    validation_episodes: int = 40,
    shots: Sequence[int] = (1, 5),
    annotations: Sequence[Annotation] = ANNOTATIONS,
    preset: str = "default",
    encoder: str = "small",
    segmenter: str = "small",
    prompt: str = "small",
    device: str = "auto",
    images_per_class: int = 12,
) -> PredictorTable:
    """Run the benchmark, print its tables, and return them."""
    dino, sam = load_encoder(encoder, device), load_segmenter(segmenter, device)
    preset, trained = get_preset(preset), load_reference_prompt(prompt)
    trained.check_novel([species_name(number) for number in NOVEL_SPECIES])
    seen = [number for number in TRAIN_SPECIES if species_name(number) in trained.classes][:BASE_CLASSES]
    numbers = {"references_per_class": images_per_class, "targets_per_class": images_per_class}
    references, targets = drawn_images((*NOVEL_SPECIES, *seen), **numbers)
    first_base = 1 + len(NOVEL_SPECIES)
    groups = {
        "novel": range(1, first_base),
        "base": range(first_base, first_base + len(seen)),
    }
    began = time.perf_counter()
    others = drawn_images(VALIDATION, **numbers, seed=1)
    (by,) = draw_lists(*others, {"validation": range(1, 1 + len(VALIDATION))}, shots=[1], count=validation_episodes)
    rows, thresholds = predictor_rows(dino, sam, preset, trained, (*others, by), annotations, progress=print)
    lists = draw_lists(references, targets, groups, shots=shots, count=episodes)
    with tqdm(total=len(lists) * episodes, desc="Predictors", unit="episode") as bar:
        table = evaluate_predictors(
            references,
            targets,
            lists,
            groups,
            rows,
            annotations=annotations,
            segmenter=sam,
            against=TRAINING_FREE,
            about={
                "episodes": episodes,
                "preset": preset.name,
                "prompt": trained.about,
                "thresholds": thresholds,
                "encoder": dino.info.fingerprint,
                "segmenter": sam.fingerprint,
            },
            tick=bar.update,
        )
    seconds = time.perf_counter() - began
    print(f"{episodes} episodes in each list, {seconds:.0f} s\n\n{table.to_markdown()}")
    print("Thresholds, chosen on validation species:")
    for name, of_row in thresholds.items():
        print(f"* {name}: {', '.join(f'{annotation} {value}' for annotation, value in of_row.items())}")
    return replace(table, about={**table.about, "seconds": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=150, help="in every list (%(default)s)")
    parser.add_argument("--validation-episodes", type=int, default=40, help="to choose thresholds by (%(default)s)")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--annotations", nargs="+", help='as in the table, "box" or "box promoted" (all)')
    parser.add_argument("--preset", default="default")
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--segmenter", default="small")
    parser.add_argument("--prompt", default="small", help="'small', or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="write the table there as JSON")
    args = parser.parse_args()
    options = vars(args).copy()
    out = options.pop("out")
    options["annotations"] = parse_annotations(args.annotations) if args.annotations else ANNOTATIONS
    table = run(**options)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(table.to_json())


if __name__ == "__main__":
    main()
