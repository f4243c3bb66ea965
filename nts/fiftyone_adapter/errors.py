"""Errors of the adapter, with messages for the user."""

from __future__ import annotations


class InputError(ValueError):
    """Invalid input: a view, field, name or setting that cannot be used."""


class RunNotFound(ValueError):
    """The dataset has no memory, segmentation or other run of a name."""


class RunEnded(RunNotFound):
    """A running job lost its run: it was deleted, or started again elsewhere."""
