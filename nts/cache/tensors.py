"""LRU cache of tensors on disk, keyed by content.

A cache may be shared by processes, and may be deleted at any time. It never stops a run: a file that cannot be read
counts as missing, and one that cannot be written is skipped. Writes are not flushed to the disk, so a power failure may
truncate files; a checksum detects them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.files import pack_tensors, unpack_tensors, write_file

logger = logging.getLogger(__name__)

_FORMAT = "nts-cache"
SCHEMA_VERSION = 1
"""Version of the cached content. Every version has its own folder."""

_DEFAULT_FOLDER = Path("~/.cache/reference-segmentation")
_DEFAULT_GIGABYTES = 20.0
_EVICT_TO = 0.9
_COUNT_AFTER = 1 / 32
_ABANDONED_AFTER = 3600.0  # seconds


class _Damaged(ValueError):
    """A cache file with unexpected content."""


def content_key(kind: str, **ingredients: Any) -> str:
    """Key of cached content: a hash of everything that determines it, in any order.

    Args:
        kind: of the content; prefix of the key.
        ingredients: everything that determines the content, as JSON values.
    """
    plain = json.dumps(ingredients, sort_keys=True)
    return f"{kind}-{hashlib.blake2b(plain.encode(), digest_size=20).hexdigest()}"


class TensorCache:
    """A folder of tensors.

    Args:
        folder: created with the first file. Other files in it are not touched.
        budget: maximum size in bytes, exceeded by up to 1/32 for every other process that writes at the same time. The
            least recently used files are deleted first.
    """

    def __init__(self, folder: str | os.PathLike, budget: int) -> None:
        self.folder = Path(folder).expanduser() / f"v{SCHEMA_VERSION}"
        self.budget = budget
        self._used: int | None = None
        self._not_counted = 0
        self._can_write = budget > 0

    def get(self, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Return the tensors and the header stored under a key; ``None`` if there are none."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        # The time of last use decides which files are evicted. A file on which it cannot be set is used all the same.
        with suppress(OSError):
            os.utime(path)
        try:
            return _unpack(key, data, str(path))
        except _Damaged as error:
            logger.warning("%s; it is made again", error)
            _remove(path)
            return None

    def put(self, key: str, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
        """Store tensors under a key; failures to write are logged once, not raised."""
        if not self._can_write:
            return
        path = self._path(key)
        data = _pack(key, tensors, header or {})
        if len(data) > self.budget:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, data, durable=False)
        except FileNotFoundError:
            return  # another process has just removed the folder
        except OSError as error:
            self._can_write = False
            logger.warning(
                "The cache cannot be written to %s: %s. Images will be encoded again by later runs",
                self.folder,
                error.strerror,
            )
            return
        self._account(len(data))

    def _account(self, written: int) -> None:
        """Add a file to the used space, and evict files if that exceeds the budget.

        Files of other processes are noticed only by counting all files, which is repeated from time to time.
        """
        self._not_counted += written
        if self._used is None or self._not_counted > _COUNT_AFTER * self.budget:
            self._used, self._not_counted = self.size(), 0
        if self._used + self._not_counted > self.budget:
            self._evict()

    def size(self) -> int:
        """Total size in bytes."""
        return sum(size for _, size, _ in self._files())

    def count(self, kind: str = "") -> int:
        """Number of files, of all kinds or of one."""
        return sum(path.name.startswith(kind) for path, _, _ in self._files())

    def clear(self) -> tuple[int, int]:
        """Delete everything; returns the number of files and bytes."""
        removed = [size for path, size, _ in self._files() if _remove(path)]
        self._remove_abandoned()
        self._used, self._not_counted = None, 0
        self._can_write = self.budget > 0
        return len(removed), sum(removed)

    def _path(self, key: str) -> Path:
        # A folder of a hundred thousand files is slow on some file systems.
        return self.folder / key[-2:] / f"{key}.safetensors"

    def _files(self) -> list[tuple[Path, int, float]]:
        """Path, size in bytes and time of last use; files that another process deletes meanwhile are left out."""
        found = []
        for path in self.folder.glob("*/*.safetensors"):
            try:
                about = path.stat()
            except OSError:
                continue
            found.append((path, about.st_size, about.st_mtime))
        return found

    def _evict(self) -> None:
        files = sorted(self._files(), key=lambda file: file[2])
        left = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if left <= _EVICT_TO * self.budget:
                break
            if _remove(path):
                left -= size
        self._remove_abandoned()
        self._used, self._not_counted = left, 0

    def _remove_abandoned(self) -> None:
        """Remove files that were left half-written by processes that ended, judged by their age."""
        for path in self.folder.glob("*/.*.safetensors.*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                    path.unlink()


def _pack(key: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    # Not `contiguous()`: it keeps the strides of a dimension of one element, which no other type can view.
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    about = {**header, "key": key, "checksum": _checksum(tensors)}
    return pack_tensors(tensors, _FORMAT, SCHEMA_VERSION, about)


def _unpack(key: str, data: bytes, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, header = unpack_tensors(data, _FORMAT, SCHEMA_VERSION, noun="cached tensor", source=source, error=_Damaged)
    if header.get("key") != key:
        raise _Damaged(f"{source} holds something else")
    if header.get("checksum") != _checksum(tensors):
        raise _Damaged(f"{source} is damaged")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    checksum = 0
    for _, value in sorted(tensors.items()):
        if value.numel():
            checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _remove(path: Path) -> bool:
    """Remove a file; returns whether it is gone. Another process may have removed it, or may have it open."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def default_cache() -> TensorCache:
    """Return the user's cache: in the folder ``NTS_CACHE_DIR``, of ``NTS_CACHE_GB`` gigabytes; 0 disables it.

    Raises:
        ValueError: if ``NTS_CACHE_GB`` is not a number.
    """
    gigabytes = os.environ.get("NTS_CACHE_GB", "")
    try:
        budget = float(gigabytes) if gigabytes else _DEFAULT_GIGABYTES
    except ValueError as error:
        raise ValueError(f"NTS_CACHE_GB must be a number of gigabytes, got {gigabytes!r}") from error
    return TensorCache(os.environ.get("NTS_CACHE_DIR") or _DEFAULT_FOLDER, int(budget * 1e9))
