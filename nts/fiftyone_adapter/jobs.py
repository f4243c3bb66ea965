"""What a job is: a generator that yields its :class:`Progress` and returns its report.

The App, a delegated run and Python all run the same generator: the operators pass its progress on, :func:`run` is for
everyone else. A generator that is closed before its end (a browser tab that was shut, Ctrl-C) keeps what it has done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

Report = TypeVar("Report")


@dataclass(frozen=True)
class Progress:
    """How far a job is: ``done`` of ``total`` steps, and in words."""

    done: int
    total: int
    label: str

    @property
    def fraction(self) -> float:
        """In ``[0, 1]``."""
        return self.done / max(self.total, 1)


Job = Generator[Progress, None, Report]
OnProgress = Callable[[Progress], None] | None


def run(job: Job[Report], progress: OnProgress = None) -> Report:
    """Run a job to its end and return its report; ``progress`` is called at every step."""
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(step)


def first_few(reasons: Iterable[str], most: int = 3) -> str:
    """The first few different reasons, and how many more there are."""
    reasons = list(dict.fromkeys(reasons))
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more
