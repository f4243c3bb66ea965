"""Running a segmentation on a Ray cluster: the same loop over images, with another executor.

One writer, in the process of the job, owns the field; the workers see images and return instances.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence

from ..cached_segmenter import Segmented
from ..cluster.ray_executor import ADDRESS, ClusterError, Pool, is_installed, segment_on_ray
from ..cluster.worker import Outcome, Setup, Task
from ..images import ImageError, image_size, read_file
from ..pipeline import ReferenceSegmenter
from ..settled import Settled
from ..vrp.prompt import TrainedPrompt
from .config import SegmentationConfig
from .decisions import DecidedLabels
from .errors import InputError
from .image_job import Executor


def check_executor(config: SegmentationConfig) -> None:
    """Raise InputError if Ray is chosen and not installed."""
    if config.executor == "ray" and not is_installed():
        raise InputError("Ray is not installed: pip install 'ray[data]', or run locally", option="executor")


def has_cluster() -> bool:
    """Whether Ray is installed and its cluster named, so that forms offer it."""
    return is_installed() and bool(os.environ.get(ADDRESS))


def on_ray(
    engine: ReferenceSegmenter, config: SegmentationConfig, prompt: TrainedPrompt | None, decided: DecidedLabels
) -> Executor[Segmented]:
    """Executor on a Ray cluster.

    Args:
        engine: segments as the workers do.
        config: of the segmentation.
        prompt: the trained prompt of its scorer.
        decided: labels that a person has decided about.
    """
    setup = Setup(
        memory=engine.memory.to_bytes(),
        encoder=engine.encoder.info.name,
        segmenter=config.segmenter,
        preset=engine.preset,
        scorer=config.scorer,
        prompt=None if prompt is None else prompt.to_bytes(),
        device=_without_index(config.device),
        precision=engine.preset.precision_for(config.precision),
        compiled=config.compiled,
        use_cache=config.use_cache,
    )
    pool = Pool(config.actors, gpus=config.gpus_per_actor)

    def settled(sample_id: str, path: str) -> Settled | None:
        if not decided.has(sample_id):
            return None
        try:
            size = image_size(path, exif=engine.preset.exif, content=read_file(path))
        except ImageError:  # the worker meets it as well, and says so
            return None
        return decided.of(sample_id, size)

    def execute(todo: Sequence[tuple[str, str]]) -> Generator[tuple[str, Callable[[], Segmented]], None, None]:
        tasks = [Task(sample_id, path, settled(sample_id, path)) for sample_id, path in todo]
        try:
            for outcome in segment_on_ray(tasks, setup, pool):
                yield outcome.key, lambda outcome=outcome: _segmented(outcome)
        except ClusterError as error:
            raise InputError(str(error), option="executor") from error

    return execute


def _without_index(device: str) -> str:
    """Type of a device: a worker sees only the GPU that Ray assigned to it, as the first one."""
    return str(device).partition(":")[0]


def _segmented(outcome: Outcome) -> Segmented:
    """Convert the outcome of a worker, which has written its own cache; raises ImageError if it failed."""
    if outcome.instances is None:
        raise ImageError(outcome.reason)
    return Segmented(outcome.instances, from_cache=outcome.from_cache)
