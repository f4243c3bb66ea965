"""A process that segments images for another one: it loads models and memory once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from ..cache import default_cache
from ..cached_segmenter import CachedSegmenter
from ..cached_targets import Fetched
from ..images import failure
from ..instances import Instances
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter
from ..presets import Preset
from ..scorers import make_scorer
from ..settled import Settled
from ..utils.prefetch import prefetch_together
from ..vrp.prompt import TrainedPrompt
from .machine import machine


@dataclass(frozen=True)
class Setup:
    """Everything a worker needs to segment images as the calling process would.

    Attributes:
        memory: bytes of the memory.
        encoder, segmenter: names of the models; files must have the same path on all machines.
        preset: of the segmentation.
        scorer: name of the scorer.
        prompt: bytes of the trained prompt, for scorers that need one.
        device: as of a segmentation; ``"auto"`` takes the GPU that the worker has been given.
        precision: of the models.
        compiled: see :func:`nts.models.load_segmenter`.
        use_cache: use the cache of the worker's machine.
    """

    memory: bytes
    encoder: str
    segmenter: str
    preset: Preset
    scorer: str = "prototype"
    prompt: bytes | None = None
    device: str = "auto"
    precision: str = "auto"
    compiled: bool = False
    use_cache: bool = True

    def worker(self, threads: int) -> Worker:
        """See :class:`nts.cluster.ray_executor.WorkerSetup`."""
        torch.set_num_threads(threads)
        return Worker(self)


@dataclass(frozen=True)
class Task:
    """An image to segment.

    Attributes:
        key: names it.
        path: file or address of the image.
        settled: objects that a person has decided about.
    """

    key: str
    path: str
    settled: Settled | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a task.

    Attributes:
        key: of the task.
        instances: found in the image; ``None`` if it could not be segmented.
        from_cache: no model ran.
        reason: why it could not be segmented, with the file and the machine.
    """

    key: str
    instances: Instances | None = None
    from_cache: bool = False
    reason: str = ""


class Worker:
    """Segments images by a setup."""

    def __init__(self, setup: Setup) -> None:
        memory = MemoryBank.from_bytes(setup.memory)
        models = (
            load_encoder(setup.encoder, setup.device, setup.precision),
            load_segmenter(setup.segmenter, setup.device, setup.precision, compiled=setup.compiled),
        )
        prompt = None if setup.prompt is None else TrainedPrompt.from_bytes(setup.prompt)
        scorer = make_scorer(setup.scorer, memory, *models, prompt, setup.preset)
        segmenter = ReferenceSegmenter(memory, *models, setup.preset, scorer=scorer)
        self._cached = CachedSegmenter(segmenter, default_cache() if setup.use_cache else None)

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Segment images, on a GPU several at once. Failures are outcomes as well, which come in the order of tasks."""
        cached = self._cached

        def fetch(task: Task) -> Fetched:
            return cached.fetch_file(task.path)

        # On a CPU nothing is read ahead: the worker has no processor to spare for that.
        fetched = prefetch_together(fetch, tasks, cached.encode_together, cached.images_per_batch, ahead=False)
        with closing(fetched) as images:
            for task, image_of in images:
                yield self._outcome(task, image_of)

    def _outcome(self, task: Task, image_of: Callable[[], Fetched]) -> Outcome:
        try:
            found = self._cached.segment(image_of(), task.settled)
            self._cached.store(found)
        except Exception as error:
            return Outcome(task.key, reason=f"{failure(task.path, error)} (on {machine()})")
        return Outcome(task.key, found.instances, found.from_cache)
