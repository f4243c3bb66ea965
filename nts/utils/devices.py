"""Where the models run, and in which precision."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fast", "float32", "bfloat16", "float16")


def resolve_device(device: str) -> torch.device:
    """``"auto"`` takes CUDA where there is one, then Apple's MPS, then the CPU.

    Raises:
        ValueError: if a device is named that torch does not know, or this machine does not have.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{device!r} is no device that torch knows; use 'auto', 'cpu' or 'cuda:0'") from error
    cuda = torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count()
    available = {"cpu": True, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    if not available.get(resolved.type, False):
        raise ValueError(f"the device {device!r} is not available on this machine; use 'auto' or 'cpu'")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The precision of a name.

    ``"auto"`` is bfloat16 on GPUs that compute in it, and float32, the publication's precision, everywhere else.
    ``"fast"`` is bfloat16 on CPUs that have instructions for it, too; on others it would be slower.

    Raises:
        ValueError: if the precision is none of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision in ("auto", "fast"):
        computes_in_it = {
            "cuda": device.type == "cuda" and torch.cuda.is_bf16_supported(),
            "cpu": precision == "fast" and cpu_has_bfloat16(),
        }
        return torch.bfloat16 if computes_in_it.get(device.type, False) else torch.float32
    return getattr(torch, precision)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own."""
    capabilities: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # older versions of torch do not tell
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Mixed precision in ``dtype``; nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def halving(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """``function(batch)``; in halves, and halves of these, where the device has not the memory for all at once.

    Args:
        function: gives one row for every row of the batch, whatever the others.
        batch: ``[B, ...]``.

    Raises:
        torch.OutOfMemoryError: if there is not even the memory for one.
    """
    try:
        return function(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Only here has the failed call let go of what it held.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.warning("a batch of %d does not fit into the device's memory: it is halved", len(batch))
    middle = len(batch) // 2
    return torch.cat([halving(function, batch[:middle]), halving(function, batch[middle:])])
