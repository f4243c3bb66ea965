"""Loop over images that all jobs share: resuming, recording failures and writing in the background.

An executor runs the models on the images, and yields what it finds: here, with prefetching, or on a cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import fiftyone as fo

from ..images import failure
from ..utils.prefetch import BackgroundWriter, prefetch_together
from . import runs
from .documents import Document
from .errors import InputError
from .jobs import Job, Progress, first_few
from .label_writer import LabelWriter
from .runs import Collection

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")

Executor = Callable[[Sequence[tuple[str, str]]], Generator[tuple[str, Callable[[], Output]], None, None]]
"""From ids and paths of samples to the ids in any order, each with a function that returns the output, or raises."""


@dataclass(frozen=True)
class ImagesDone:
    """Outcome of a loop over images.

    Attributes:
        done: images that got their labels now.
        resumed: images that had them from an earlier run.
        failed: ``{sample id: reason}``; a reason names the file.
        seconds: duration of the loop.
    """

    done: int
    resumed: int
    failed: dict[str, str]
    seconds: float


def image_job(
    view: Collection,
    paths: Mapping[str, str],
    writer: LabelWriter,
    execute: Executor[Output],
    to_labels: Callable[[Output], Sequence[fo.Label | Document]],
    *,
    verb: str,
    limit: int | None = None,
    counts: Mapping[str, str] | None = None,
) -> Job[ImagesDone]:
    """Label the images that have no labels yet.

    If the executor or ``to_labels`` fails on an image, the failure is recorded and the job continues.

    Args:
        view: dataset or view of the images.
        paths: ``{sample id: file}`` by :func:`paths_by_id`.
        writer: writes the labels; it knows the images that have theirs.
        execute: runs the models, for example :func:`locally`.
        to_labels: makes the labels or their documents, one per field of the writer; called in the writing thread.
        verb: past participle for messages: "segmented".
        limit: label only the first images.
        counts: see :meth:`.LabelWriter.close`.

    Raises:
        InputError: if every image failed.
        RunEnded: if the run was deleted or restarted by another job.
    """
    chosen = dict(islice(paths.items(), limit))
    done = writer.done() & set(chosen)
    todo = [(sample_id, path) for sample_id, path in chosen.items() if sample_id not in done]
    failed: dict[str, str] = {}

    def fail(sample_id: str, path: str, error: Exception) -> None:
        failed[sample_id] = reason = failure(path, error)
        logger.warning("not %s: %s", verb, reason)
        writer.add_failure(sample_id, reason)

    def write(sample_id: str, path: str, output: Output) -> None:
        try:
            labels = to_labels(output)
        except Exception as error:
            fail(sample_id, path, error)
        else:
            writer.add(sample_id, labels)

    begin = time.monotonic()
    with runs.explained(view, *writer.all_fields):
        try:
            with BackgroundWriter() as background, closing(execute(todo)) as outputs:
                for number, (sample_id, output_of) in enumerate(outputs):
                    yield Progress(len(done) + number, len(chosen), _pace(number, len(todo), time.monotonic() - begin))
                    path = chosen[sample_id]
                    try:
                        output = output_of()
                    except Exception as error:
                        background.do(partial(fail, sample_id, path, error))
                    else:
                        background.do(partial(write, sample_id, path, output))
            writer.write()
            yield Progress(len(chosen), len(chosen), f"{len(chosen)} images done")
        finally:
            writer.close(list(paths), **(counts or {}))
    if failed and len(failed) == len(chosen):
        raise InputError(f"none of the {len(chosen)} images could be {verb}: {first_few(failed.values())}")
    return ImagesDone(len(todo) - len(failed), len(done), failed, time.monotonic() - begin)


def locally(
    read: Callable[[str, str], Input],
    process: Callable[[Input], Output],
    *,
    together: Callable[[list[Input]], Sequence[Input]] | None = None,
    batch: int = 1,
) -> Executor[Output]:
    """Executor in this process.

    Args:
        read: reads the file of a sample, given its id and path, and prepares it for the models; called in prefetching
            threads.
        process: runs the models; called in the caller's thread, image by image.
        together, batch: work on several inputs at once, before they are processed one by one; see
            :func:`~nts.utils.prefetch.prefetch_together`.
    """

    def execute(todo: Sequence[tuple[str, str]]) -> Generator[tuple[str, Callable[[], Output]], None, None]:
        with closing(prefetch_together(lambda item: read(*item), todo, together, batch)) as fetched:
            for (sample_id, _), input_of in fetched:
                yield sample_id, lambda input_of=input_of: process(input_of())

    return execute


def paths_by_id(view: Collection) -> dict[str, str]:
    """``{sample id: filepath}`` in the order of a view; a sample that occurs several times counts once.

    Call it before a job declares its fields: a view may filter on a field that is about to be written.
    """
    return dict(zip(*view.values(["id", "filepath"]), strict=True))


def _pace(done: int, total: int, seconds: float) -> str:
    """Progress, pace and remaining time: "12/40 images, 1.3 s each, 36 s left"."""
    if done == 0:
        return f"{done}/{total} images"
    each = seconds / done
    left = each * (total - done)
    return f"{done}/{total} images, {each:.2g} s each, " + (
        f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left"
    )
