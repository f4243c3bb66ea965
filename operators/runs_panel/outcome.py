"""The outcome of the last job: words, a table, perhaps a plot, and what to do next."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import charts, outcomes, panels


def draw(ctx) -> None:
    """Read the outcome of the last job, if it is a new one."""
    last = None if ctx.dataset is None else outcomes.last(ctx)
    if (ctx.panel.get_state("outcome") or {}).get("id") == (last and last.id):
        return
    ctx.panel.set_state("outcome", None if last is None else outcomes.as_plain(last))
    if last is not None:
        panels.send(ctx, "outcome_of_last.table", list(last.rows))
        if last.plot is not None:
            panels.send(ctx, "outcome_of_last.plot", last.plot[0])


def render(panel, ctx, content: types.Object) -> None:
    """Lay out the outcome in the panel's state."""
    outcome = ctx.panel.get_state("outcome")
    header = content.h_stack("header", gap=1, align_y="center", componentsProps=panels.columns("minmax(0, 1fr) auto"))
    title = {"done": "done", "stopped": "stopped", "failed": "failed"}[outcome["status"]]
    panels.text(
        header,
        "title",
        f"{outcome['label']}: {title}",
        color="error.main" if title == "failed" else "text.primary",
        bold=True,
        font_size="1.05rem",
    )
    dismiss = types.IconButtonView(icon="close", title="Dismiss", operator=panel.on_dismiss)
    header.view("dismiss", dismiss)
    content.md(outcome["summary"], name="summary")
    if outcome["columns"] and outcome["rows"]:
        panels.table(content, dict(outcome["columns"]))
    if outcome["plot"]:
        content.plot("plot", layout=outcome["plot"][1], config=charts.CONFIG)
    if outcome["next_steps"]:
        row = content.h_stack("next", gap=1, componentsProps=panels.wrapping(150))
        for number, step in enumerate(outcome["next_steps"]):
            row.btn(
                f"step{number}",
                step["label"],
                on_click=panel.on_next_step,
                params={"step": number},
                variant="contained" if number == 0 else "outlined",
            )
