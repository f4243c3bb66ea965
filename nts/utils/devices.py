"""Device and precision of the models."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_MOST_IMAGES = 8

PRECISIONS = ("auto", "fast", "float32", "bfloat16", "float16")


def resolve_device(device: str) -> torch.device:
    """Resolve a device name; ``"auto"`` prefers CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: if torch does not know the device, or this machine does not have it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{device!r} is not a device that torch knows; use 'auto', 'cpu' or 'cuda:0'") from error
    cuda = torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count()
    available = {"cpu": True, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    if not available.get(resolved.type, False):
        raise ValueError(f"the device {device!r} is not available on this machine; use 'auto' or 'cpu'")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Resolve the name of a precision to a dtype.

    ``"auto"`` is bfloat16 on GPUs that support it, and float32, the published precision, elsewhere. ``"fast"`` is
    bfloat16 also on CPUs with native instructions for it; on others bfloat16 would be slower.

    Raises:
        ValueError: if the name is not one of :data:`PRECISIONS`.
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
    """True if this CPU has native instructions for matrix products in bfloat16."""
    # Older versions of torch do not report capabilities.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; the host does not wait for the work that was queued on a GPU before."""
    # Copies to other devices than CUDA are not safe without waiting.
    return tensor.to(device, non_blocking=device.type == "cuda")


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the CPU that is copied to a CUDA device while the host and the device work; for others, as it is."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def images_per_batch(device: torch.device) -> int:
    """Number of images that the image encoders take at once.

    A GPU is started hundreds of times per call of an encoder, whatever the number of images. An image takes about 300
    MB in the largest one. On a CPU batches gain nothing.
    """
    if device.type != "cuda":
        return 1
    return min(_MOST_IMAGES, max(1, torch.cuda.get_device_properties(device).total_memory >> 31))


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Queue the work of a ``with`` block on a second stream of a CUDA device, and wait for it at the end.

    The default stream is shared by all threads: a thread that reads a result back there waits for everything that
    others have queued meanwhile.
    """
    if device.type != "cuda":
        yield
        return
    stream = _second_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to ``dtype``. In float32 nothing is cast, and CUDA's convolutions are computed in it."""
    if dtype != torch.float32:
        return torch.autocast(device.type, dtype)
    return exact_convolutions() if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Without TF32: by default, cuDNN's convolutions in single precision round their inputs to 10 bits of mantissa.

    The setting is the process's, so threads take turns.
    """
    with _convolving:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


_convolving = threading.RLock()


def halving(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Return ``function(batch)``, splitting the batch in halves recursively when the device runs out of memory.

    Args:
        function: maps each row of the batch independently.
        batch: ``[B, ...]``.

    Raises:
        torch.OutOfMemoryError: if a single row does not fit.
    """
    try:
        return function(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # After the except block: only now has the failed call released its memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.warning("out of memory on the device for a batch of %d: halving it", len(batch))
    middle = len(batch) // 2
    return torch.cat([halving(function, batch[:middle]), halving(function, batch[middle:])])
