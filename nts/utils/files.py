"""Atomic writing of files, and tagged ``.safetensors`` files."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file atomically.

    Args:
        path: the file.
        data: its content.
        durable: wait until the data is on disk. Otherwise a power failure may leave a damaged file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def content_id(content: bytes) -> str:
    """Identity of a file's content: its size in bytes and a hash, independent of the file's name.

    Memories store it. Cache keys have :func:`nts.images.digest_content`, the hash alone.
    """
    return f"{len(content)}-{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def same_content(paths: Sequence[str | os.PathLike], contents: Iterable[str]) -> set[int]:
    """Indices of the files whose content is among ``contents``.

    Only files of a matching size are read. Files that cannot be read do not match.

    Args:
        paths: paths of the files.
        contents: identities by :func:`content_id`.
    """
    contents = set(contents)
    sizes = {int(content.partition("-")[0]) for content in contents}
    return {index for index, path in enumerate(paths) if _size(path) in sizes and _content_id(path) in contents}


def same_files(paths: Sequence[str | os.PathLike], others: Iterable[str | os.PathLike]) -> set[int]:
    """Indices of the files whose content is that of one of ``others``.

    Only files of a matching size are read. Files that cannot be read do not match.
    """
    sizes = {_size(path) for path in paths}
    contents = {_content_id(path) for path in others if _size(path) in sizes}
    return same_content(paths, {content for content in contents if content is not None})


def _size(path: str | os.PathLike) -> int | None:
    """Size of a file in bytes; ``None`` if there is no such file."""
    try:
        return os.path.getsize(path) if os.path.isfile(path) else None
    except OSError:
        return None


def _content_id(path: str | os.PathLike) -> str | None:
    try:
        return content_id(Path(path).read_bytes())
    except OSError:
        return None


def pack_tensors(tensors: Mapping[str, Tensor], tag: str, schema_version: int, header: Mapping[str, str]) -> bytes:
    """Serialise tensors and a header as ``.safetensors``, with a format tag and a schema version."""
    return save_safetensors(dict(tensors), {"format": tag, "schema_version": str(schema_version), **header})


def unpack_tensors(
    data: bytes, tag: str, newest: int, *, noun: str, source: str, error: type[ValueError]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the header of a file written by :func:`pack_tensors`.

    Args:
        data: content of the file.
        tag: required format tag.
        newest: newest schema version that can be read.
        noun: name of the format in messages, for example "memory".
        source: name of the file in messages.
        error: exception to raise if the content is damaged, of another format, or of a newer schema.
    """
    try:
        tensors = load_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, OverflowError) as reason:
        raise error(f"{source} is damaged or no {noun} file: {reason}") from reason
    if header.get("format") != tag:
        raise error(f"{source} is a .safetensors file, but no {noun}: its format tag is not {tag!r}")
    schema_version = header.get("schema_version", "")
    if not schema_version.isdigit():
        raise error(f"{source} is damaged: its schema version is {schema_version!r}")
    if int(schema_version) > newest:
        raise error(
            f"{source} has schema version {schema_version}, but this version of the plugin reads up to "
            f"{newest}: update the plugin"
        )
    return tensors, header
