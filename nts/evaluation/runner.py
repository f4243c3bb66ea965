"""Run of a protocol: both models once per target image, and every draw of references matched with their outputs.

Every run has its own folder::

    config.json           settings that affect the numbers; the folder of another run is refused
    references.safetensors, references.json   one encoded entry per distinct reference, and those left out
    episodes/             the episodes, for protocols that have them
    parts/00000.npz       counts of the first images, and so on; an interrupted run resumes after the last part
    predictions/          COCO results of every draw, if they are saved
    report.json, report.md

Masks are compared with the ground truth at once and never stored. Parts do not depend on the point of an interruption,
so a resumed run gives the numbers of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..cache import TensorCache
from ..datasets.protocol_data import ProtocolData
from ..encoder import Encoder
from ..segmenter import Segmenter
from ..utils.run_folder import RunError, claim, write_part
from .episode_run import EpisodeRun
from .instance_run import InstanceRun
from .protocol_run import ProtocolRun, Settings
from .report import write_report


def run(
    settings: Settings,
    data: ProtocolData,
    encoder: Encoder,
    segmenter: Segmenter,
    folder: Path,
    progress: Callable[[str], None] = print,
    cache: TensorCache | None = None,
) -> dict[str, Any]:
    """Run a protocol, or resume an interrupted run, and write its report.

    Args:
        settings: of the run.
        data: data set of the protocol.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        folder: of the run; created if it is missing.
        progress: called with messages.
        cache: of what the models make of references and targets; ``None`` for none.

    Returns:
        The numbers of ``report.json``.

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
    protocol_run = kind(settings, data, encoder, segmenter, folder, cache)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, protocol_run.config())
    protocol_run.prepare(progress)
    (folder / "parts").mkdir(exist_ok=True)
    units = protocol_run.units
    chunks = [units[start : start + settings.units_per_part] for start in range(0, len(units), settings.units_per_part)]
    parts = {folder / "parts" / f"{number:05d}.npz": chunk for number, chunk in enumerate(chunks)}
    done = sum(len(chunk) for part, chunk in parts.items() if part.is_file())
    with tqdm(total=len(units), initial=done, unit="image", desc=settings.protocol.name) as bar:
        for part, chunk in parts.items():
            if not part.is_file():
                write_part(part, protocol_run.evaluate(chunk, part.stem, bar.update))
    numbers = protocol_run.numbers(list(parts))
    progress(write_report(folder, numbers))
    return numbers
