"""Jobs: generators that yield :class:`Progress` and return a report.

The App, delegated runs and Python run the same generator: the operators pass its progress on, :func:`run` is for
callers in Python. A generator that is closed early (a closed browser tab, Ctrl-C) saves its results so far.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

Report = TypeVar("Report")


@dataclass(frozen=True)
class Progress:
    """Progress of a job: ``done`` of ``total`` steps, and a label for the user."""

    done: int
    total: int
    label: str

    @property
    def fraction(self) -> float:
        """Progress in ``[0, 1]``."""
        return self.done / max(self.total, 1)


Job = Generator[Progress, None, Report]
OnProgress = Callable[[Progress], None] | None


def run(job: Job[Report], progress: OnProgress = None) -> Report:
    """Run a job to completion and return its report; ``progress`` is called at every step."""
    while True:
        try:
            step = next(job)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(step)


def first_few(reasons: Iterable[str], most: int = 3) -> str:
    """Join the first few distinct reasons, and count the rest."""
    reasons = list(dict.fromkeys(reasons))
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more
