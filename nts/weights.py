"""Checks of loaded weights, shared by both models."""

from __future__ import annotations

import torch


class WeightsNotFound(RuntimeError):
    """Weights cannot be loaded; the message names the file and the reason, or where to get it."""


def check_finite(model: torch.nn.Module, source: str) -> None:
    """Raise an error if a model has NaN or infinite weights.

    Args:
        model: the loaded model.
        source: name of the file in the error message.

    Raises:
        WeightsNotFound: if a parameter or buffer is not finite.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsNotFound(f"{source} is damaged: {name} holds NaN or infinite values. Get the file again")


def first_line(error: Exception) -> str:
    """Type and first line of an error, for use in a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def listed(names: list[str], most: int = 4) -> str:
    """The first ``most`` names of a list, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
