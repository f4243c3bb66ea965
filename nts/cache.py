"""Tensors kept on disk by the content that they were made of, within a budget: what was computed once is read after.

A cache may be shared by processes, and may be deleted at any time. It never stops a run: what cannot be read counts as
missing, and what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import pack_tensors, unpack_tensors, write_file

logger = logging.getLogger(__name__)

_FORMAT = "nts-cache"
SCHEMA_VERSION = 1
"""Of what is kept. Another version has another folder, so that neither sees the other's files."""

_DEFAULT_FOLDER = Path("~/.cache/reference-segmentation")
_DEFAULT_GIGABYTES = 20.0
_EVICT_TO = 0.9


class _Damaged(ValueError):
    """A file that is not what it should be."""


def content_key(kind: str, **ingredients: Any) -> str:
    """A name for what is made of some ingredients: equal for equal ones, in any order.

    Args:
        kind: of what is kept; it begins the name.
        ingredients: everything that decides the content, as values that JSON knows.
    """
    plain = json.dumps(ingredients, sort_keys=True)
    return f"{kind}-{hashlib.blake2b(plain.encode(), digest_size=20).hexdigest()}"


class TensorCache:
    """A folder of tensors.

    Args:
        folder: made when something is first kept. Nothing else in it is touched.
        budget: bytes of files at most. When it is exceeded, those go that were not used for longest.
    """

    def __init__(self, folder: str | os.PathLike, budget: int) -> None:
        self.folder = Path(folder).expanduser() / f"v{SCHEMA_VERSION}"
        self.budget = budget
        self._written: int | None = None
        self._can_write = budget > 0

    def get(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The tensors and the header under a key; ``None`` if there are none."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)  # the time of last use, which decides what goes first
        except OSError:
            return None
        try:
            return unpack_tensors(data, _FORMAT, SCHEMA_VERSION, noun="cached tensor", source=str(path), error=_Damaged)
        except _Damaged as error:
            logger.warning("%s; it is made again", error)
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
        """Keep tensors under a key; as if nothing had happened where the disk does not let us."""
        if not self._can_write:
            return
        path = self._path(key)
        data = pack_tensors(tensors, _FORMAT, SCHEMA_VERSION, header or {})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, data, durable=False)
        except OSError as error:
            self._can_write = False
            logger.warning(
                "Nothing more is kept in %s: %s. Images will have to be encoded again", self.folder, error.strerror
            )
            return
        # Files that were there before, and those of other processes, are counted when our own make it necessary.
        self._written = self.size() if self._written is None else self._written + len(data)
        if self._written > self.budget:
            self._evict()

    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self._files())

    def count(self, kind: str = "") -> int:
        """Files, of all kinds or of one."""
        return sum(path.name.startswith(kind) for path, _, _ in self._files())

    def clear(self) -> tuple[int, int]:
        """Delete everything; returns how many files and bytes that were."""
        files = self._files()
        for path, _, _ in files:
            path.unlink(missing_ok=True)
        self._written = None
        self._can_write = self.budget > 0
        return len(files), sum(size for _, size, _ in files)

    def _path(self, key: str) -> Path:
        # A folder of a hundred thousand files is slow on some file systems.
        return self.folder / key[-2:] / f"{key}.safetensors"

    def _files(self) -> list[tuple[Path, int, float]]:
        """Path, bytes and time of last use. Another process may delete files meanwhile."""
        found = []
        for path in self.folder.glob("*/*.safetensors"):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            found.append((path, about.st_size, about.st_mtime))
        return found

    def _evict(self) -> None:
        files = sorted(self._files(), key=lambda file: file[2])
        left = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if left <= _EVICT_TO * self.budget:
                break
            path.unlink(missing_ok=True)
            left -= size
        self._written = left


def default_cache() -> TensorCache:
    """The user's cache: in the folder ``NTS_CACHE_DIR``, of ``NTS_CACHE_GB`` gigabytes, of which 0 switch it off.

    Raises:
        ValueError: if ``NTS_CACHE_GB`` is no number.
    """
    gigabytes = os.environ.get("NTS_CACHE_GB", "")
    try:
        budget = float(gigabytes) if gigabytes else _DEFAULT_GIGABYTES
    except ValueError as error:
        raise ValueError(f"NTS_CACHE_GB must be a number of gigabytes, got {gigabytes!r}") from error
    return TensorCache(os.environ.get("NTS_CACHE_DIR") or _DEFAULT_FOLDER, int(budget * 1e9))
