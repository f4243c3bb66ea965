"""Stage times under CPU contention, with the decoder's chunks run sequentially and in parallel.

    python -m benchmarks.contention                     the shipped small pair
    python -m benchmarks.contention --models released   released architectures, 8 x 8 of the prompts

The benchmark starts the busy processes itself; each occupies one core. The decoder alternates between two modes on the
same embedding: sequential chunks with all intra-op threads in each operation, and parallel chunks as in the engine on a
CPU. The other stages are those of the engine. Medians are reported.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import (
    ENCODER_SHAPES,
    RESULTS,
    SEGMENTER_CONFIGS,
    Pair,
    Stopwatch,
    draw_images,
    draw_references,
    float32_pair,
    markdown_table,
    shown,
    spread_predicted_iou,
    surroundings,
    write_report,
)
from nts.building import build_memory
from nts.images import prepare_target
from nts.masks import draw_masks
from nts.matching import match_proposals, pool_tokens
from nts.segmenter import ImageEmbedding, ProposalConfig, Proposals
from nts.utils.threads import in_one_thread

SEQUENTIAL, PARALLEL = "SAM2 decoder, sequential chunks", "SAM2 decoder, parallel chunks"
SEQUENTIAL_BYTES = 16 << 20
"""Image tokens per chunk, in bytes, for intra-op threads."""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Start processes that each occupy one core, for the duration of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def propose_sequentially(pair: Pair, embedding: ImageEmbedding, config: ProposalConfig) -> Proposals:
    """Proposals of chunks decoded sequentially, with torch's intra-op threads in every operation."""
    segmenter = pair.segmenter
    chunk = max(1, min(256, SEQUENTIAL_BYTES // (4 * embedding.features.numel())))
    before, segmenter._parallel = segmenter._parallel, False
    try:
        return segmenter.propose(embedding, replace(config, prompts_per_chunk=chunk))
    finally:
        segmenter._parallel = before


def run(
    models: str = "small",
    points_per_side: int | None = None,
    busy: Sequence[int] = (0, 1, 2),
    repeats: int = 5,
    encoder_size: str = "small",
    segmenter_size: str = "tiny",
    survivors: float = 0.5,
    output: Path | None = RESULTS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers.

    Args:
        models: ``"small"`` or ``"released"``.
        points_per_side: of the prompt grid; ``None`` for 16 with the small pair and 8 with the released models.
        busy: numbers of busy processes; the first is the baseline.
        repeats: of every stage.
        encoder_size: of random DINOv2s.
        segmenter_size: of random SAM2s.
        survivors: surviving fraction of prompts, with random models.
        output: folder for the report; ``None`` writes nothing.
    """
    small, cpu = models == "small", torch.device("cpu")
    size = (256, 256) if small else (480, 640)
    image = draw_images(1, size)[0]
    pair = float32_pair(models, encoder_size, segmenter_size, cpu)
    pair = replace(pair, points_per_side=points_per_side or (16 if small else 8))
    threshold = 0.4 if small else spread_predicted_iou(pair, image, survivors)
    config = ProposalConfig(pair.points_per_side, threshold)
    stages = stages_of(pair, image, config)

    proposals, expected = stages[PARALLEL](), stages[SEQUENTIAL]()
    seconds: dict[int, dict[str, float]] = {}
    for count in busy:
        watch = Stopwatch(cpu)
        with busy_processes(count):
            for _ in range(repeats):
                for stage, call in stages.items():
                    watch.time(stage, call)
        seconds[count] = {stage: float(torch.tensor(times).median()) for stage, times in watch.seconds.items()}
    quiet = seconds[busy[0]]
    numbers = {
        "models": pair.name,
        "surroundings": surroundings(cpu),
        "image_size": list(size),
        "prompts": pair.points_per_side**2,
        "proposals": len(proposals),
        "same_prompts_survive": torch.equal(proposals.points, expected.points),
        "repeats": repeats,
        "busy": list(busy),
        "stages": [
            {
                "stage": stage,
                "seconds": [seconds[count][stage] for count in busy],
                "ratio": [seconds[count][stage] / quiet[stage] for count in busy],
            }
            for stage in stages
        ],
        "gain": [seconds[count][SEQUENTIAL] / seconds[count][PARALLEL] for count in busy],
    }
    if output is not None:
        write_report(output, f"contention_{models}", numbers, report(numbers))
    return numbers


def stages_of(pair: Pair, image: Any, config: ProposalConfig) -> dict[str, Callable[[], Any]]:
    """Callables for the stages of an image; their inputs are computed in advance."""
    encoder, segmenter = pair.encoder, pair.segmenter
    pixels, segmenter_pixels = prepare_target(image, encoder.info.input_size, segmenter.input_size, antialias=False)
    tokens, embedding = encoder.encode(pixels[None])[0], segmenter.embed(segmenter_pixels)
    proposals = segmenter.propose(embedding, config)
    prototypes = build_memory(draw_references(3, 1), encoder)[0].prototypes()
    features = pool_tokens(tokens, proposals.mask_logits > 0)
    size = image.shape[:2]

    def one_thread(stage: Callable[[], Any]) -> Callable[[], Any]:
        """Run the stage in one thread, as :class:`~nts.pipeline.ReferenceSegmenter` does."""
        return partial(in_one_thread, stage, encoder.device)

    return {
        "DINOv2": partial(encoder.encode, pixels[None]),
        "SAM2 encoder": partial(segmenter.embed, segmenter_pixels),
        SEQUENTIAL: partial(propose_sequentially, pair, embedding, config),
        PARALLEL: partial(segmenter.propose, embedding, config),
        "pool": one_thread(lambda: pool_tokens(tokens, proposals.mask_logits > 0)),
        "match and merge": one_thread(
            partial(
                match_proposals,
                tokens,
                proposals.mask_logits,
                proposals.predicted_iou,
                prototypes,
                size,
                features=features,
            )
        ),
        "draw masks": one_thread(partial(draw_masks, proposals.mask_logits, size)),
    }


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    place = numbers["surroundings"]
    height, width = numbers["image_size"]
    quiet, *busy = numbers["busy"]
    rows = [
        [row["stage"], shown(1000 * row["seconds"][0])]
        + [
            cell
            for second, ratio in zip(row["seconds"][1:], row["ratio"][1:], strict=True)
            for cell in (shown(1000 * second), f"{ratio:.2f} ×")
        ]
        for row in numbers["stages"]
    ]
    gains = ["**speed-up of parallel chunks**", f"**{numbers['gain'][0]:.2f} ×**"]
    gains += [cell for gain in numbers["gain"][1:] for cell in (f"**{gain:.2f} ×**", "")]
    head = ["stage", f"{quiet} busy processes, ms", *(cell for count in busy for cell in (f"{count} busy, ms", ""))]
    return f"""## CPU contention: {numbers["models"]}

One image of {width} x {height}, {numbers["prompts"]} prompts, {numbers["proposals"]} above the threshold.
{place["processor"]}, {place["cores"]} cores, {place["threads"]} threads, torch {place["torch"]}, single precision.
Medians of {numbers["repeats"]}, and the ratio to {quiet} busy processes.

{markdown_table(head, [*rows, gains])}
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=("small", "released"), default="small")
    parser.add_argument("--points-per-side", type=int)
    parser.add_argument("--busy", type=int, nargs="+", default=(0, 1, 2), help="numbers of busy processes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder-size", choices=tuple(ENCODER_SHAPES), default="small")
    parser.add_argument("--segmenter-size", choices=tuple(SEGMENTER_CONFIGS), default="tiny")
    parser.add_argument(
        "--survivors", type=float, default=0.5, help="surviving fraction of prompts, with random models"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
