"""Compare the scorers (prototypes, a trained reference prompt, or both) on the benchmark of drawn scenes.

    python -m benchmarks.scorers

All use the same images, proposals and references. The report contains nAP by number of references, mean and standard
deviation over draws, and the accuracy of the prompt's presence scores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.measuring import draw_references
from nts.building import encode_references
from nts.memory import MemoryBank, MemoryEntry
from nts.metrics.coco import coco_results, evaluate
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.presets import get_preset
from nts.scorers import SCORERS, make_scorer
from nts.targets import EncodedTarget
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.loading import load_reference_prompt
from synthetic.scenes import NOVEL_SPECIES, Scene, coco_dataset, species_name, target_scenes

from .scenes import DRAWS, REFERENCES_PER_CLASS, figures, summary, table


def draw_memory(entries: Sequence[MemoryEntry], shots: int, draw: int, empty: MemoryBank) -> MemoryBank:
    """Memory of some of the entries of every class; the draws are those of :mod:`benchmarks.scenes`."""
    rng = np.random.default_rng([74, draw])
    bank = MemoryBank(empty.encoder, empty.preset)
    for number in NOVEL_SPECIES:
        of_class = [entry for entry in entries if entry.class_name == species_name(number)]
        for i in rng.permutation(len(of_class))[:shots]:
            bank.add(of_class[i])
    return bank


def find_all(truth: dict, segmenter: ReferenceSegmenter, targets: Sequence[EncodedTarget]) -> list[dict]:
    """COCO results of every target."""
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    in_order = [ids[name] for name in segmenter.classes]
    convention = segmenter.preset.box_convention
    return [
        result
        for image_id, target in enumerate(targets, start=1)
        for result in coco_results(segmenter.match(target), image_id, in_order, convention)
    ]


def presence_figures(
    scenes: Sequence[Scene],
    memories: Sequence[MemoryBank],
    mappers: Sequence[ClassMapper],
    targets: Sequence[EncodedTarget],
) -> dict[str, float]:
    """Agreement of the presence scores of all classes in all images with the ground truth.

    ``auc``: probability that a class that is present scores above one that is not; ``balanced accuracy`` of scores
    above 0.5: mean of the recalls of present and of absent classes.
    """
    there, scores = [], []
    for memory, mapper in zip(memories, mappers, strict=True):
        for scene, target in zip(scenes, targets, strict=True):
            assert target.embedding is not None
            shown = {species_name(number) for number in scene.species.tolist()}
            there += [name in shown for name in memory.classes]
            scores += mapper.maps(target.tokens, target.embedding).presence.tolist()
    present, score = np.array(there), np.array(scores)
    difference = score[present][:, None] - score[~present]
    above = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    right = ((score[present] > 0.5).mean() + (score[~present] <= 0.5).mean()) / 2
    return {"auc": float(above), "balanced accuracy": float(right)}


def run(
    targets: int = 120,
    shots: Sequence[int] = (1, 3, 5),
    draws: int = DRAWS,
    preset: str = "paper",
    prompt: str = "small",
    device: str = "auto",
) -> dict:
    """Run the comparison, print its table, and return its numbers."""
    encoder, segmenter = load_encoder("small", device), load_segmenter("small", device)
    trained, chosen = load_reference_prompt(prompt), get_preset(preset)
    trained.check_novel([species_name(number) for number in NOVEL_SPECIES])
    scenes = target_scenes(targets)
    truth = coco_dataset(scenes)
    encoded = [
        encode_target(scene.image, encoder, segmenter, chosen, keep_embedding=True)
        for scene in tqdm(scenes, desc="Encoding targets")
    ]
    references = draw_references(len(NOVEL_SPECIES), REFERENCES_PER_CLASS)
    entries = list(encode_references(references, encoder, chosen, keep_images=True))
    rows, presence = {}, {}
    for k in shots:
        memories = [draw_memory(entries, k, draw, MemoryBank(encoder.info, chosen.name)) for draw in range(draws)]
        for scorer in SCORERS:
            pipelines = [
                ReferenceSegmenter(
                    memory,
                    encoder,
                    segmenter,
                    chosen,
                    scorer=make_scorer(scorer, memory, encoder, segmenter, trained, chosen),
                )
                for memory in memories
            ]
            found = [find_all(truth, engine, encoded) for engine in tqdm(pipelines, desc=f"{k} references, {scorer}")]
            rows[f"{k}, {scorer}"] = summary(figures(evaluate(truth, results)) for results in found)
        mappers = [ClassMapper(trained, encoder, segmenter, whole_images(memory)) for memory in memories]
        presence[str(k)] = presence_figures(scenes, memories, mappers, encoded)
    print(table("references per class, scorer", rows))
    for k, told in presence.items():
        print(f"\nPresence with {k}: {', '.join(f'{name} {100 * value:.1f}' for name, value in told.items())}")
    return {
        "targets": targets,
        "draws": draws,
        "preset": preset,
        "prompt": trained.about,
        "rows": rows,
        "presence": presence,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=120)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--prompt", default="small", help="'small', or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    options = vars(args).copy()
    out = options.pop("out")
    numbers = run(**options)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
