"""Numbers and nouns as they are shown."""

from __future__ import annotations

import math


def percent(value: float | None) -> str:
    """``0.4`` as ``"40.0"``; a dash for no number."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def plural(word: str, count: int) -> str:
    """The noun for a count: "class" for 1, "classes" for others."""
    return word if count == 1 else f"{word}{'es' if word.endswith('s') else 's'}"
