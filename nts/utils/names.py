"""Lists of names as arguments."""

from __future__ import annotations

from collections.abc import Iterable


def as_names(names: str | Iterable[str] | None) -> list[str] | None:
    """A list of names, where a single string is one name.

    A string is an iterable of its letters, so ``classes="cat"`` would otherwise be read as ``["c", "a", "t"]``.

    Args:
        names: one name, several, or ``None`` for no choice, which is passed through.

    Raises:
        ValueError: if something else than a text is among them.
    """
    if names is None:
        return None
    listed = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if wrong := [name for name in listed if not isinstance(name, str)]:
        raise ValueError(f"names must be texts, got {wrong[0]!r}")
    return listed
