"""Running jobs in a panel: their progress, a button to stop each, and a timer that looks for changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fiftyone.operators.types as types

from . import panels

JOBS = "jobs"
"""State of the panel: the running jobs."""

_WHILE_RUNNING, _OTHERWISE = 1000, 2000  # milliseconds between two looks


def look(ctx, makes: str | None = None) -> bool:
    """Read the running jobs into the panel's state; returns whether one has begun or ended since the last look.

    Args:
        ctx: context of the panel.
        makes: only the job that makes this field or run.
    """
    from ..nts.fiftyone_adapter.running import running_jobs

    before = ctx.panel.get_state(JOBS) or []
    found = [] if ctx.dataset is None else running_jobs(ctx.dataset)
    now = [
        {
            "id": job.id,
            "title": f"{job.label}: {job.makes}",
            "words": "stopping after this step" if job.stopping else job.words,
            "stopping": job.stopping,
            "fraction": job.fraction,
        }
        for job in found
        if makes in (None, job.makes)
    ]
    if now != before:
        ctx.panel.set_state(JOBS, now)
    return [job["id"] for job in now] != [job["id"] for job in before]


def stop(ctx) -> None:
    """Ask the job of a button to stop."""
    from ..nts.fiftyone_adapter.running import request_stop

    request_stop(ctx.dataset, ctx.params["job"])


def render(ctx, content: types.Object, on_stop: Callable) -> None:
    """A line for every running job."""
    for number, job in enumerate(_jobs(ctx)):
        row = content.h_stack(
            f"job{number}", gap=2, align_y="center", componentsProps=panels.columns("minmax(0, 1fr) auto")
        )
        words = row.v_stack("words", gap=0, componentsProps=panels.FITTING)
        panels.text(words, "title", job["title"], color="text.primary")
        panels.caption(words, "progress", f"{job['fraction']:.0%} · {job['words']}")
        row.btn(
            "stop",
            "Stop",
            icon="stop",
            on_click=on_stop,
            params={"job": job["id"]},
            variant="outlined",
            disabled=job["stopping"],
            title="Stop after the current step. What is done stays, and the next run goes on from there",
        )


def watch(ctx, panel: types.Object, on_look: Callable) -> None:
    """A timer that calls `on_look`, often while jobs run."""
    interval = _WHILE_RUNNING if _jobs(ctx) else _OTHERWISE
    panel.view("watch", types.TimerView(interval=interval, on_interval=on_look))


def _jobs(ctx) -> Sequence[dict[str, Any]]:
    return ctx.panel.get_state(JOBS) or []
