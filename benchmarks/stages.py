"""Where the time of one image goes: seconds for every stage of the pipeline, medians over the target scenes.

python -m benchmarks.stages
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from nts.evaluation.coco import coco_results
from nts.images import prepare_target
from nts.models import load_encoder, load_segmenter
from nts.pipeline import EncodedTarget, ReferenceSegmenter, build_memory
from nts.presets import get_preset
from nts.references import Reference
from nts.small.scenes import NOVEL_SPECIES, reference_scenes, species_name, target_scenes

Result = TypeVar("Result")


class Stopwatch:
    """Seconds of every stage, over many images."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._device = device

    def time(self, stage: str, call: Callable[..., Result], *arguments: object, **options: object) -> Result:
        """Call, and note how long it took, the device's work included."""
        begin = time.perf_counter()
        result = call(*arguments, **options)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.setdefault(stage, []).append(time.perf_counter() - begin)
        return result


def run(
    targets: int = 20, encoder: str = "small", segmenter: str = "small", preset: str = "default"
) -> dict[str, float]:
    """Time every stage; prints a table and returns the median seconds per image of each."""
    preset = get_preset(preset)
    dino, sam = load_encoder(encoder), load_segmenter(segmenter)
    references = [
        Reference(scene.image, species_name(number), scene.masks[0])
        for number in NOVEL_SPECIES
        for scene in reference_scenes(number, 3)
    ]
    engine = ReferenceSegmenter(build_memory(references, dino, preset)[0], dino, sam, preset)
    watch = Stopwatch(dino.device)
    for scene in target_scenes(targets):
        file = io.BytesIO()
        Image.fromarray(scene.image).save(file, "jpeg", quality=92)
        image = watch.time("decode the file", lambda file=file: np.array(Image.open(file).convert("RGB")))
        encoder_input, segmenter_input = watch.time(
            "resize and normalise", prepare_target, image, dino.info.input_size, sam.input_size
        )
        tokens = watch.time("DINOv2", dino.encode, encoder_input[None])[0]
        embedding = watch.time("SAM2 encoder", sam.embed, segmenter_input)
        proposals = watch.time("SAM2 decoder", sam.propose, embedding, preset.proposals)
        instances = watch.time("match and merge", engine.match, EncodedTarget(tokens, proposals, image.shape[:2]))
        watch.time("encode masks (RLE)", coco_results, instances, 0, range(len(engine.classes)))
    medians = {stage: statistics.median(seconds) for stage, seconds in watch.seconds.items()}
    total = sum(medians.values())
    threads = torch.get_num_threads()
    print(f"{targets} images of 256 x 256, {len(engine.classes)} classes, {dino.device}, {threads} threads")
    print("\n| stage | ms per image | share |\n|---|---:|---:|")
    for stage, seconds in (*medians.items(), ("all", total)):
        print(f"| {stage} | {1000 * seconds:.1f} | {100 * seconds / total:.0f} % |")
    return medians


def main() -> None:
    """Read the options, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--segmenter", default="small")
    parser.add_argument("--preset", default="default")
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
