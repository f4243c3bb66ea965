"""Errors of the adapter. Their messages are for the person who asked."""

from __future__ import annotations


class InputError(ValueError):
    """A request that cannot be fulfilled."""


class RunNotFound(ValueError):
    """A memory, segmentation or other run that the dataset does not have."""


class RunEnded(RunNotFound):
    """A run that lost what it was writing: it was deleted, or started again by somebody else."""
