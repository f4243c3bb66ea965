"""Arguments that are lists of names."""

from __future__ import annotations

from collections.abc import Iterable


def as_names(names: str | Iterable[str] | None) -> list[str] | None:
    """Return names as a list; a single string is one name.

    A string is an iterable of letters, so ``classes="cat"`` would otherwise be read as ``["c", "a", "t"]``.

    Args:
        names: one name, several, or ``None``, which is returned unchanged.

    Raises:
        ValueError: if a name is not a string.
    """
    if names is None:
        return None
    listed = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise ValueError(f"names must be texts, got {wrong[0]!r}")
    return listed
