"""Run of a protocol: both models once per target image, and every draw of references matched with their outputs.

Every run has its own folder::

    config.json           settings that affect the numbers; the folder of another run is refused
    references.safetensors, references.json   one encoded entry per distinct reference, and those left out
    episodes/             the episodes, for protocols that have them
    parts/00000.npz       counts of the first images, and so on; an interrupted run resumes after the last part
    predictions/          COCO results of every draw, if they are saved
    report.json, report.md

Masks are compared with the ground truth at once and never stored. Parts do not depend on the point of an interruption,
so a resumed run gives the numbers of an uninterrupted one. Nor do they depend on each other, so that the workers of a
cluster can evaluate them; only this process writes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..cache import TensorCache
from ..cluster.ray_executor import Pool, check_installed
from ..datasets.protocol_data import ProtocolData
from ..encoder import Encoder
from ..segmenter import Segmenter
from ..utils.files import write_file
from ..utils.run_folder import RunError, claim, write_part
from .cluster import evaluate_on_ray
from .episode_run import EpisodeRun
from .instance_run import InstanceRun
from .protocol_run import Part, ProtocolRun, Settings
from .report import write_report


def run(
    settings: Settings,
    data: ProtocolData,
    encoder: Encoder,
    segmenter: Segmenter,
    folder: Path,
    progress: Callable[[str], None] = print,
    cache: TensorCache | None = None,
    pool: Pool | None = None,
) -> dict[str, Any]:
    """Run a protocol, or resume an interrupted run, and write its report.

    Args:
        settings: of the run.
        data: data set of the protocol.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        folder: of the run; created if it is missing.
        progress: called with messages.
        cache: of encoded references and targets; ``None`` for none. The workers of a
            cluster have the one of their machine instead.
        pool: workers on a Ray cluster, which evaluate the parts; this process does where ``None``. It does not affect
            the numbers, and a run may be resumed with another one.

    Returns:
        The numbers of ``report.json``.

    Raises:
        RunError: if the folder holds another run, the settings do not fit the protocol, or a draw has no usable
            reference at all, or workers could not evaluate some parts.
        ClusterError: if the cluster cannot be used.
        ValueError: if references cannot be drawn, or ground truth cannot be matched.
    """
    if pool is not None:
        check_installed()
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
    todo = {part.stem: chunk for part, chunk in parts.items() if not part.is_file()}
    done = len(units) - sum(map(len, todo.values()))
    with tqdm(total=len(units), initial=done, unit="image", desc=settings.protocol.name) as bar:
        if pool is None:
            for name, chunk in todo.items():
                _write(folder, name, protocol_run.evaluate(chunk, bar.update))
        else:
            with closing(evaluate_on_ray(protocol_run, todo, pool)) as evaluated:
                for name, result in evaluated:
                    _write(folder, name, result)
                    bar.update(len(todo[name]))
    numbers = protocol_run.numbers(list(parts))
    progress(write_report(folder, numbers))
    return numbers


def _write(folder: Path, name: str, part: Part) -> None:
    """Write a part, its predictions first: a part that is there is complete."""
    for draw, results in part.predictions.items():
        file = folder / "predictions" / draw / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, results)
    write_part(folder / "parts" / f"{name}.npz", part.arrays)
