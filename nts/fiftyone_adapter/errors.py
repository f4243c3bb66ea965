"""Errors of the adapter, with messages for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Invalid input: a view, field, name or setting that cannot be used.

    Args:
        message: the problem and the remedy.
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
    """The dataset has no memory, segmentation or other run of a name."""


class RunEnded(RunNotFound):
    """A running job lost its run: it was deleted, or started again elsewhere."""


class JobStopped(Exception):
    """A job was stopped on request. What it had finished is stored."""
