"""Errors of the adapter. Their messages are for the person who asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A request that cannot be fulfilled.

    Args:
        message: what is wrong and what to do.
        option: name of the argument that is to blame, if it is one; forms mark its input.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


@contextmanager
def blaming(option: str) -> Iterator[None]:
    """Name the argument to blame in an InputError that names none."""
    try:
        yield
    except InputError as error:
        error.option = error.option or option
        raise


class RunNotFound(ValueError):
    """A memory, segmentation or other run that the dataset does not have."""


class RunEnded(RunNotFound):
    """A run that lost what it was writing: it was deleted, or started again by somebody else."""
