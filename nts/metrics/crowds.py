"""Crowd flag of annotations."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

_TRUE = {"true", "t", "yes", "y", "on"}


def is_crowd(value: Any) -> bool:
    """Return whether the value of an ``iscrowd`` attribute marks a crowd.

    Exporters write the flag as a number, a boolean or text, and ``bool()`` is true for the text ``"0"``.

    Args:
        value: ``None``, NaN, empty text, zero and text such as ``"0"``, ``"0.0"``, ``"false"`` or ``"no"`` are no
            crowd. Other numbers are, also as text, as are ``"true"``, ``"t"``, ``"yes"``, ``"y"`` and ``"on"``, in any
            case and with spaces around them. Any other text is no crowd: an object is only left out of the evaluation
            if it is clearly marked.
    """
    if value is None:
        return False
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        try:
            value = float(word)
        except ValueError:
            return False
    if not isinstance(value, numbers.Number | np.bool_):
        return False
    return bool(value == value and value)  # NaN differs from itself
