"""The folder of a run, see :mod:`nts.evaluation.runner`: what it holds, whose it is, and how it is read again."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.matches import Matches, concatenate
from ..utils.files import write_file


class RunError(ValueError):
    """A run that cannot be begun or gone on with. The message says why, and what to do.

    Attributes:
        differences: in words, where a folder holds a run of other settings.
    """

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differences = tuple(differences)


def claim(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a new run, or make sure that an old one is the same.

    Raises:
        RunError: if the folder holds another run; the message says what differs.
    """
    path = folder / "config.json"
    config = json.loads(json.dumps(config))
    if not path.is_file():
        if (folder / "parts").exists():
            raise RunError(f"{folder} has parts of a run, but no config.json: choose another folder")
        write_file(path, json.dumps(config, indent=1).encode() + b"\n")
        return
    if differences := differing_settings(read_config(folder), config):
        words = [f"{name}: {there} there, {here} now" for name, there, here in differences]
        listed = "\n  ".join(words)
        raise RunError(
            f"{folder} holds another run. It differs in\n  {listed}\nChoose another folder, or delete this one.", words
        )


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two configurations differ: the name of the setting, ``"preset.matching.nms_iou"``, and both values."""
    flat_a, flat_b = _flat(a), _flat(b)
    return [
        (name, flat_a.get(name, "nothing"), flat_b.get(name, "nothing"))
        for name in {**flat_a, **flat_b}
        if flat_a.get(name) != flat_b.get(name)
    ]


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        RunError: if the folder holds none.
    """
    try:
        return json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} is no folder of a run: it has no config.json") from None
    except ValueError as error:
        raise RunError(f"{folder / 'config.json'} is damaged: {error}") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): value}


def write_part(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of a part at once or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())


def read_parts(parts: Sequence[Path], key: str) -> list[np.ndarray]:
    """One array of every part; the others, which may be large, are not read.

    Raises:
        RunError: if a part is damaged; the message names it.
    """
    arrays = []
    for part in parts:
        try:
            with np.load(part, allow_pickle=False) as stored:
                arrays.append(stored[key])
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{part} is damaged: delete it, and run again ({error})") from error
    return arrays


def read_matches(parts: Sequence[Path], key: str) -> Matches:
    """The matches of all parts as one."""
    return concatenate([Matches.from_bytes(part.tobytes()) for part in read_parts(parts, key)])


def lines_array(lines: Sequence[str]) -> np.ndarray:
    """Lines of text as an array of a part."""
    return np.frombuffer(json.dumps(list(lines)).encode(), np.uint8)


def finished_numbers(folder: Path) -> dict[str, Any]:
    """The report of a run.

    Raises:
        RunError: if the folder holds no run, or one that has not come to its end.
    """
    read_config(folder)
    report = folder / "report.json"
    if not report.is_file():
        raise RunError(f"the run in {folder} has not finished: run it again, and it goes on")
    return json.loads(report.read_text())


def parts_of(folder: Path) -> list[Path]:
    """The parts of a run, in their order."""
    return sorted((folder / "parts").glob("*.npz"))


def fingerprint(*values: Any) -> str:
    """SHA-256 of plain values."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()


@cache
def code_fingerprint() -> str:
    """Hash of the engine's source, without what only reads, prints or draws; once, as the code is loaded once."""
    root = Path(__file__).parents[1]
    files = sorted([*root.glob("*.py"), *root.glob("evaluation/*.py"), *root.glob("vrp/*.py")])
    told = {
        "report.py",
        "__main__.py",
        "bootstrap.py",
        "comparison.py",
        "protocols.py",
        "inspection.py",
        "heatmaps.py",
        "head_run.py",
        "head_table.py",
    }
    return fingerprint([[file.name, file.read_text(encoding="utf-8")] for file in files if file.name not in told])
