"""A process that segments images for another one: it loads models and memory once."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import torch

from ..cache import default_cache
from ..cached_segmenter import CachedSegmenter
from ..images import failure
from ..instances import Instances
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter
from ..presets import Preset
from ..scorers import make_scorer
from ..settled import Settled
from ..vrp.prompt import TrainedPrompt
from .transfer import dumps, loads


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
    """Segments images by a setup.

    Args:
        setup: bytes of a :class:`Setup`.
        threads: of torch.
    """

    def __init__(self, setup: bytes, threads: int = 1) -> None:
        torch.set_num_threads(max(1, threads))
        made: Setup = loads(setup)
        memory = MemoryBank.from_bytes(made.memory)
        models = (
            load_encoder(made.encoder, made.device, made.precision),
            load_segmenter(made.segmenter, made.device, made.precision, compiled=made.compiled),
        )
        prompt = None if made.prompt is None else TrainedPrompt.from_bytes(made.prompt)
        scorer = make_scorer(made.scorer, memory, *models, prompt, made.preset)
        segmenter = ReferenceSegmenter(memory, *models, made.preset, scorer=scorer)
        self._cached = CachedSegmenter(segmenter, default_cache() if made.use_cache else None)

    def __call__(self, task: bytes) -> bytes:
        """Segment an image: bytes of a :class:`Task` to bytes of an :class:`Outcome`. Failures are outcomes as well."""
        given: Task = loads(task)
        try:
            found = self._cached.segment(self._cached.fetch_file(given.path), given.settled)
            self._cached.store(found)
        except Exception as error:
            return dumps(Outcome(given.key, reason=f"{failure(given.path, error)} (on {machine()})"))
        return dumps(Outcome(given.key, found.instances, found.from_cache))


def machine() -> str:
    """Name of this machine, and of its process."""
    return f"{socket.gethostname()}, process {os.getpid()}"
