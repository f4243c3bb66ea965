"""Parts of a run on a Ray cluster: workers evaluate, and the process of the run writes what they return."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cache import default_cache
from ..cluster.machine import machine
from ..cluster.ray_executor import DIED, Pool, run_on_ray
from ..datasets.protocol_data import ProtocolData
from ..models import load_encoder, load_segmenter
from ..utils.run_folder import RunError, differing_settings
from .protocol_run import Part, ProtocolRun, Settings, environment

_MOST_NAMED = 5
"""Parts that an error names."""


@dataclass(frozen=True, eq=False)
class PartsSetup:
    """Everything a worker needs to evaluate parts of a run as the process of the run would.

    Attributes:
        kind: class of the run.
        settings: of the run.
        data, prepared: see :meth:`.ProtocolRun.shared`.
        encoder, segmenter: names of the models; files must have the same path on all machines.
        device: type of the device of the run.
        precision: of the models.
        use_cache: use the cache of the worker's machine.
        environment: of the run, see :func:`.protocol_run.environment`.
    """

    kind: type[ProtocolRun]
    settings: Settings
    data: ProtocolData
    prepared: Any
    encoder: str
    segmenter: str
    device: str
    precision: str
    use_cache: bool
    environment: dict[str, Any]

    @classmethod
    def of(cls, run: ProtocolRun) -> PartsSetup:
        """Setup for the parts of a prepared run."""
        return cls(
            type(run),
            run.settings,
            *run.shared(),
            encoder=_from_anywhere(run.encoder.info.name),
            segmenter=_from_anywhere(run.segmenter.name),
            device=run.encoder.device.type,
            precision=run.encoder.precision,
            use_cache=run.cache is not None,
            environment=environment(run.encoder, run.segmenter),
        )

    def worker(self, threads: int) -> Callable[[Sequence[Sequence[int | str]]], Iterator[Part | str]]:
        """See :class:`nts.cluster.ray_executor.WorkerSetup`.

        Raises:
            RunError: if this machine would give other numbers than that of the run.
            WeightsNotFound: if a model is not found here.
        """
        torch.set_num_threads(threads)
        encoder = load_encoder(self.encoder, self.device, self.precision)
        segmenter = load_segmenter(self.segmenter, self.device, self.precision)
        found = differing_settings(self.environment, environment(encoder, segmenter))
        # Models are loaded from absolute paths here.
        if differences := [difference for difference in found if not difference[0].endswith(".name")]:
            words = ", ".join(f"{name}: {there} there, {here} here" for name, there, here in differences)
            raise RunError(f"this machine differs from that of the run in {words}")
        cache = default_cache() if self.use_cache else None
        run = self.kind(self.settings, self.data, encoder, segmenter, Path(os.devnull), cache)
        run.use(self.prepared)
        return lambda parts: (_evaluated(run, units) for units in parts)


def evaluate_on_ray(
    run: ProtocolRun, parts: Mapping[str, Sequence[int | str]], pool: Pool
) -> Generator[tuple[str, Part], None, None]:
    """Evaluate parts of a prepared run on the cluster, and yield them as they arrive.

    Args:
        run: the prepared run.
        parts: ids of their images, by their names.
        pool: of workers.

    Yields:
        the name and the result of each part, in any order.

    Raises:
        ClusterError: see :func:`~nts.cluster.ray_executor.run_on_ray`.
        RunError: after all others, if parts could not be evaluated; the message names their images.
    """
    failed: dict[str, str] = {}
    with closing(run_on_ray(parts, PartsSetup.of(run), pool)) as outcomes:
        for name, outcome in outcomes:
            if isinstance(outcome, Part):
                yield name, outcome
            else:
                failed[name] = outcome or DIED
    if failed:
        lines = [
            f"{name} ({', '.join(str(run.images[unit]['file_name']) for unit in parts[name])}): {failed[name]}"
            for name in sorted(failed)
        ]
        listed = "\n  ".join(lines[:_MOST_NAMED] + ["..."] * (len(lines) > _MOST_NAMED))
        raise RunError(
            f"{len(failed)} of {len(parts)} parts could not be evaluated:\n  {listed}\n"
            "The others are written. The same command tries these again."
        )


def _evaluated(run: ProtocolRun, units: Sequence[int | str]) -> Part | str:
    """Result of a part, or the reason that there is none."""
    try:
        return run.evaluate(units, lambda: None)
    except Exception as error:
        return f"{type(error).__name__}: {error} (on {machine()})"


def _from_anywhere(model: str) -> str:
    """Name of a model; a path as an absolute one, since workers have another working folder."""
    path = Path(model).expanduser()
    return str(path.absolute()) if model != "small" and path.exists() else model
