"""Files of an evaluation run, see :mod:`nts.evaluation.runner` for the layout of its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..metrics.matches import Matches, concatenate
from ..utils import run_folder
from ..utils.run_folder import RunError, fingerprint, read_parts

_RENAMED = {"head": "predictor"}
"""Settings that were renamed after runs had been stored with them."""

_WITHOUT_EFFECT = (
    "datasets/protocols.py",
    "datasets/published.py",
    "evaluation/__main__.py",
    "evaluation/comparison.py",
    "evaluation/markdown.py",
    "evaluation/predictor_run.py",
    "evaluation/predictor_table.py",
    "evaluation/report.py",
    "heatmaps.py",
    "inspection.py",
    "metrics/bootstrap.py",
)
"""Modules that read, print or draw, and change no part of a run."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run, under current names.

    Raises:
        RunError: if the folder has none, or it is damaged.
    """
    return {_RENAMED.get(name, name): value for name, value in run_folder.read_config(folder).items()}


def finished_numbers(folder: Path) -> dict[str, Any]:
    """Report of a finished run.

    Raises:
        RunError: if the folder holds no run, or an unfinished one.
    """
    read_config(folder)
    report = folder / "report.json"
    if not report.is_file():
        raise RunError(f"the run in {folder} has not finished: run it again to resume it")
    return json.loads(report.read_text())


def parts_of(folder: Path) -> list[Path]:
    """Parts of a run, in their order."""
    return sorted((folder / "parts").glob("*.npz"))


def read_matches(parts: Sequence[Path], key: str) -> Matches:
    """Matches of all parts as one.

    Raises:
        RunError: if a part is damaged; the message names it.
    """
    return concatenate([Matches.from_bytes(part.tobytes()) for part in read_parts(parts, key)])


@cache
def code_fingerprint() -> str:
    """SHA-256 of the source of the engine, without the FiftyOne adapter and modules that change no numbers."""
    root = Path(__file__).parents[1]
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    return fingerprint(
        [
            [name, files[name].read_text(encoding="utf-8")]
            for name in sorted(files)
            if name not in _WITHOUT_EFFECT and not name.startswith("fiftyone_adapter/")
        ]
    )
