"""Outcomes of jobs, kept for the Runs panel."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PANEL = "runs_panel"
"""Name of the panel that shows them."""

_STORE, _LAST = "nts_outcomes", "last"


@dataclass(frozen=True)
class NextStep:
    """Something to do after a job: a form to open, or a panel.

    Attributes:
        label: of the button.
        operator: name of the operator whose form is opened; ``None`` for a panel.
        panel: name of the panel; ``None`` for an operator.
        params: values of the form, or the state of the panel.
        rest_of: name of a memory: first show the samples that no reference of it comes from.
    """

    label: str
    operator: str | None = None
    panel: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    rest_of: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        label: name of the operator.
        status: ``"done"``, ``"stopped"`` or ``"failed"``.
        summary: in words (Markdown).
        columns: key and heading of every column of the table.
        rows: of the table.
        plot: traces and layout of a plot.
        next_steps: what a person may want to do next.
        id: unique.
    """

    label: str
    status: str
    summary: str
    columns: Sequence[Sequence[str]] = ()
    rows: Sequence[dict[str, Any]] = ()
    plot: Sequence[Any] | None = None
    next_steps: Sequence[NextStep] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


def keep(ctx, outcome: Outcome) -> None:
    """Keep the outcome of the last job of a dataset."""
    ctx.store(_STORE).set(_LAST, as_plain(outcome))


def as_plain(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values."""
    return asdict(outcome)


def last(ctx) -> Outcome | None:
    """The outcome of the last job, unless it was dismissed."""
    kept = ctx.store(_STORE).get(_LAST)
    if kept is None:
        return None
    return Outcome(**{**kept, "next_steps": [NextStep(**step) for step in kept["next_steps"]]})


def dismiss(ctx) -> None:
    """Forget the outcome of the last job."""
    ctx.store(_STORE).delete(_LAST)
