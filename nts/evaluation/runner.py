"""One run of a protocol: both models once over every target image, every draw of references matched against that.

A run lives in a folder of its own::

    config.json           what decides the numbers; a folder that holds another run is refused
    references.safetensors, references.json   one encoded entry per distinct reference, and those that were left out
    episodes/             the episodes, for protocols that have them
    parts/00000.npz       what was counted in the first images, and so on: an interrupted run goes on after the last
    predictions/          COCO results of every draw, if asked for
    report.json, report.md

Masks are compared with the ground truth at once and never kept. Nothing that is kept depends on where a run was
interrupted, so its numbers are those of a run that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..datasets.layouts import ProtocolData
from ..encoder import Encoder
from ..segmenter import Segmenter
from .episode_run import EpisodeRun
from .instance_run import InstanceRun
from .protocol_run import ProtocolRun, Settings
from .report import write_report
from .run_folder import RunError, claim, write_part


def run(
    settings: Settings,
    data: ProtocolData,
    encoder: Encoder,
    segmenter: Segmenter,
    folder: Path,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a protocol, or go on with a run that was interrupted, and write its report.

    Args:
        settings: what to run.
        data: the protocol's data set.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        folder: of the run; made where it is missing.
        progress: is told what happens.

    Returns:
        the numbers of ``report.json``.

    Raises:
        RunError: if the folder holds another run, the settings do not fit the protocol, or a draw has no usable
            reference at all.
        ValueError: if references cannot be drawn, or ground truth cannot be matched.
    """
    if not settings.draws:
        raise RunError("at least one number of shots and one seed are needed")
    if settings.limit is not None and settings.limit < 1:
        raise RunError(f"the limit must be at least 1, got {settings.limit}")
    if not data.targets["images"]:
        raise RunError("there is no image to evaluate")
    kind: type[ProtocolRun] = EpisodeRun if settings.protocol.evaluator == "episodes" else InstanceRun
    job = kind(settings, data, encoder, segmenter, folder)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, job.config())
    job.prepare(progress)
    (folder / "parts").mkdir(exist_ok=True)
    units = job.units
    chunks = [units[start : start + settings.units_per_part] for start in range(0, len(units), settings.units_per_part)]
    parts = {folder / "parts" / f"{number:05d}.npz": chunk for number, chunk in enumerate(chunks)}
    done = sum(len(chunk) for part, chunk in parts.items() if part.is_file())
    with tqdm(total=len(units), initial=done, unit="image", desc=settings.protocol.name) as bar:
        for part, chunk in parts.items():
            if not part.is_file():
                write_part(part, job.evaluate(chunk, part.stem, bar.update))
    numbers = job.numbers(list(parts))
    progress(write_report(folder, numbers))
    return numbers
