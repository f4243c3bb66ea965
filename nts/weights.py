"""Checks that the loaders of both models share."""

from __future__ import annotations

import torch


class WeightsNotFound(RuntimeError):
    """Weights that cannot be loaded. The message names the file and what is wrong with it, or how to get it."""


def check_finite(model: torch.nn.Module, source: str) -> None:
    """Refuse a model with NaN or infinite weights: every result would be NaN.

    Args:
        model: the loaded model.
        source: names the file in the message.

    Raises:
        WeightsNotFound: if a parameter or buffer is not finite.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsNotFound(f"{source} is damaged: {name} holds NaN or infinite values. Get the file again")


def first_line(error: Exception) -> str:
    """Type and first line of an error, for the end of a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def listed(names: list[str], most: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
