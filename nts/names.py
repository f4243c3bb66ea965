"""Lists of names as arguments."""

from __future__ import annotations

from collections.abc import Iterable


def as_names(names: str | Iterable[str] | None) -> list[str] | None:
    """A list of names, where a single string is one name.

    A string is an iterable of its letters, so ``classes="cat"`` would otherwise be read as ``["c", "a", "t"]``.

    Args:
        names: one name, several, or ``None`` for no choice, which is passed through.
    """
    if names is None:
        return None
    return [names] if isinstance(names, str) else list(names)
