"""The outcome of the last job: words, a table, perhaps a plot, and what to do next."""

from __future__ import annotations

import fiftyone.operators.types as types

from .. import charts, outcomes, panels


def is_new(ctx) -> bool:
    """Whether the outcome of the last job is another one than that in the panel's state."""
    return _shown(ctx) != _id(_last(ctx))


def draw(ctx) -> None:
    """Read the outcome of the last job, if it is a new one."""
    last = _last(ctx)
    if _shown(ctx) == _id(last):
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
    panels.text(
        header,
        "title",
        f"{outcome['label']}: {outcome['status']}",
        color="error.main" if outcome["status"] == "failed" else "text.primary",
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


def _last(ctx) -> outcomes.Outcome | None:
    return None if ctx.dataset is None else outcomes.last(ctx)


def _id(outcome: outcomes.Outcome | None) -> str | None:
    return None if outcome is None else outcome.id


def _shown(ctx) -> str | None:
    return (ctx.panel.get_state("outcome") or {}).get("id")
