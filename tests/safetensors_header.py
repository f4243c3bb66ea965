"""Metadata in the header of safetensors files."""

from __future__ import annotations

import json
import struct


def read_header(data: bytes) -> dict[str, str]:
    """Metadata of a file."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def with_header(data: bytes, **changes: str | None) -> bytes:
    """Copy of a file with changed metadata; ``None`` removes an entry."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"] | changes
    header["__metadata__"] = {name: value for name, value in metadata.items() if value is not None}
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]
