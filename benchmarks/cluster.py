"""Overhead of a Ray cluster on one machine: the same images in the local loop, and on one and two workers.

    python -m benchmarks.cluster --images 100

All run the small pair on drawn scenes, without a cache. The local loop has the threads that torch gives it; a worker
has one. The time to the first outcome is that of starting the cluster, the workers and their models; images per second
are counted from there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from benchmarks.measuring import draw_references, markdown_table
from nts.building import build_memory
from nts.cached_segmenter import CachedSegmenter
from nts.cluster.ray_executor import Pool, segment_on_ray
from nts.cluster.worker import Setup, Task
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT
from nts.utils.prefetch import prefetch
from synthetic.scenes import target_scenes

CLASSES = 5
SHOTS = 3


@dataclass(frozen=True)
class Run:
    """Times of a run.

    Attributes:
        name: of the executor.
        start: seconds until the first outcome.
        images_per_second: after it.
        instances: found in all images.
    """

    name: str
    start: float
    images_per_second: float
    instances: int


def timed(name: str, counts: Iterable[int]) -> Run:
    """Time a run that yields the number of instances of every image."""
    begin = time.perf_counter()
    first, found = None, []
    for count in counts:
        found.append(count)
        first = first or time.perf_counter()
    assert first is not None
    return Run(name, first - begin, (len(found) - 1) / (time.perf_counter() - first), sum(found))


def measure(images: int, folder: Path, workers: Iterable[int] = (1, 2)) -> list[Run]:
    """Segment drawn scenes by every executor."""
    paths = [folder / f"{number}.png" for number in range(images)]
    for path, scene in zip(paths, target_scenes(images), strict=True):
        Image.fromarray(scene.image).save(path)
    memory, _ = build_memory(draw_references(CLASSES, SHOTS), load_encoder("small", "cpu"))
    setup = Setup(memory.to_bytes(), "small", "small", DEFAULT, device="cpu", use_cache=False)

    def locally() -> Iterator[int]:
        models = load_encoder("small", "cpu"), load_segmenter("small", "cpu")
        cached = CachedSegmenter(ReferenceSegmenter(memory, *models), None)
        for _, fetched in prefetch(cached.fetch_file, paths):
            yield len(cached.segment(fetched.result()).instances)

    def on_ray(actors: int) -> Iterator[int]:
        tasks = [Task(path.name, str(path)) for path in paths]
        for outcome in segment_on_ray(tasks, setup, Pool(actors)):
            assert outcome.instances is not None, outcome.reason
            yield len(outcome.instances)

    runs = [timed("local", locally())]
    return runs + [timed(f"Ray, {count} workers" if count > 1 else "Ray, 1 worker", on_ray(count)) for count in workers]


def report(runs: list[Run]) -> str:
    """The runs as Markdown."""
    head = ["", "start, s", "images per second", "ms per image", "instances"]
    rows = [
        [
            run.name,
            f"{run.start:.1f}",
            f"{run.images_per_second:.2f}",
            f"{1e3 / run.images_per_second:.0f}",
            str(run.instances),
        ]
        for run in runs
    ]
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(args.images, Path(folder), args.workers)
    print(report(runs))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")


if __name__ == "__main__":
    main()
