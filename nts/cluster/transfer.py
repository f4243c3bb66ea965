"""Objects of the engine as bytes, between processes in which it may have different names.

In the App the engine is a part of the plugin's package, elsewhere it is ``nts``. Pickles name classes by their modules,
so these names are changed on arrival.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

_PACKAGE = __name__.removesuffix(".cluster.transfer")


def dumps(value: Any) -> bytes:
    """Bytes of an object, for :func:`loads` in another process."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def loads(data: bytes) -> Any:
    """Inverse of :func:`dumps`. Like any pickle, the bytes must come from a process that is trusted."""
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        _, ours, inner = f".{module}".rpartition(".nts.")
        return super().find_class(f"{_PACKAGE}.{inner}" if ours else module, name)
