"""Folder of a resumable run: its configuration in ``config.json``, and finished parts as ``.npz`` files.

A run is resumed only under the configuration that it was begun with. Every file is written atomically, so an
interruption leaves finished parts or none.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_file


class RunError(ValueError):
    """A run that cannot be started or resumed. The message gives the reason and the remedy.

    Attributes:
        differences: one line per setting in which the run of the folder differs; empty for other errors.
    """

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differences = tuple(differences)


def claim(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a new run, or check that the run of the folder has the same one.

    Raises:
        RunError: if the folder holds another run; the message lists the differing settings.
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
    """Settings in which two configurations differ: dotted name, such as ``"preset.matching.nms_iou"``, and both values.

    A setting that one of them lacks has the value ``"nothing"`` there.
    """
    flat_a, flat_b = _flat(a), _flat(b)
    return [
        (name, flat_a.get(name, "nothing"), flat_b.get(name, "nothing"))
        for name in {**flat_a, **flat_b}
        if flat_a.get(name) != flat_b.get(name)
    ]


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a run.

    Raises:
        RunError: if the folder has none, or it is damaged.
    """
    try:
        return json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} is not the folder of a run: it has no config.json") from None
    except ValueError as error:
        raise RunError(f"{folder / 'config.json'} is damaged: {error}") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): value}


def write_part(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of a part atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())


def read_parts(parts: Sequence[Path], key: str) -> list[np.ndarray]:
    """One array of every part. The others, which may be large, are not read.

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


def lines_array(lines: Sequence[str]) -> np.ndarray:
    """Lines of text as an array of a part: uint8, JSON."""
    return np.frombuffer(json.dumps(list(lines)).encode(), np.uint8)


def read_lines(parts: Sequence[Path], key: str) -> list[str]:
    """Lines of all parts, see :func:`lines_array`.

    Raises:
        RunError: if a part is damaged; the message names it.
    """
    return [line for part in read_parts(parts, key) for line in json.loads(part.tobytes())]


def fingerprint(*values: Any) -> str:
    """SHA-256 of plain values, as hexadecimal digits."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True).encode())
    return digest.hexdigest()
