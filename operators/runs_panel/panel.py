"""The panel: events, buttons and layout."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types
from fiftyone.operators.categories import Categories

from .. import job_progress, outcomes, panels
from ..panels_beside import open_panel
from ..words import sentence
from . import outcome, stored

NAME = outcomes.PANEL


class RunsPanel(foo.Panel):
    """Shows jobs at work (:mod:`nts.fiftyone_adapter.running`), the outcome of the last one, and the stored runs."""

    @property
    def config(self):
        return foo.PanelConfig(
            name=NAME,
            label="Runs",
            icon="checklist",
            category=Categories.CURATE,
            surfaces="grid",
            allow_multiple=False,
            help_markdown="Jobs at work, with a button to stop them, and everything that they stored in this dataset",
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def on_load(self, ctx) -> None:
        """Read everything."""
        self._draw(ctx)

    def on_change_dataset(self, ctx) -> None:
        """Another dataset has other runs."""
        self._draw(ctx)

    def on_refresh(self, ctx) -> None:
        """Read everything again."""
        self._draw(ctx)

    def on_look(self, ctx) -> None:
        """Look at the running jobs; when one has begun or ended, read everything again.

        A short one may have done both since the last look: then it has left an outcome.
        """
        if job_progress.look(ctx) or outcome.is_new(ctx):
            self._draw(ctx)

    def on_stop(self, ctx) -> None:
        """Ask a job to stop."""
        job_progress.stop(ctx)
        job_progress.look(ctx)

    def on_dismiss(self, ctx) -> None:
        """Forget the outcome."""
        outcomes.dismiss(ctx)
        outcome.draw(ctx)

    def on_next_step(self, ctx) -> None:
        """Open the form or the panel of a next step."""
        step = outcomes.NextStep(**ctx.panel.get_state("outcome")["next_steps"][ctx.params["step"]])
        if step.rest_of is not None:
            self._show_rest(ctx, step.rest_of)
        if step.panel is not None:
            open_panel(ctx, step.panel, step.params)
        else:
            self._prompt(ctx, step.operator, step.params)

    def on_open(self, ctx) -> None:
        """Open the panel of a run of the list."""
        run = self._listed(ctx)
        if run is None:
            return
        if run.kind in stored.PANELS and run.status in ("complete", "incomplete"):
            panel, choice = stored.PANELS[run.kind]
            open_panel(ctx, panel, {"header": {choice: run.key}})
        else:
            ctx.ops.notify(f"{sentence(run.kind)} {run.key}: {run.status}", variant="info")

    def on_delete(self, ctx) -> None:
        """Open the form that deletes a run of the list."""
        if (run := self._listed(ctx)) is not None:
            operator, argument = stored.DELETING[run.kind]
            self._prompt(ctx, operator, {argument: run.key})

    def on_export(self, ctx) -> None:
        """Open the form that writes a run of the list to a file."""
        if (run := self._listed(ctx)) is None:
            return
        if run.kind in stored.EXPORTING:
            operator, argument = stored.EXPORTING[run.kind]
            self._prompt(ctx, operator, {argument: run.key})
        else:
            ctx.ops.notify("Only memories and reference prompts are exported", variant="info")

    def on_tool(self, ctx) -> None:
        """Open the form of an operator."""
        self._prompt(ctx, ctx.params["operator"], {})

    # ---- state and data ----------------------------------------------------------------------------------------------

    def _draw(self, ctx) -> None:
        if ctx.dataset is not None:
            job_progress.look(ctx)
            outcome.draw(ctx)
            stored.draw(ctx)

    def _listed(self, ctx):
        """The run in the row that was clicked; if it was deleted since it was listed, draw the list again."""
        run = stored.of_row(ctx, ctx.params["row"]) if ctx.params["row"] >= 0 else None
        if run is None:
            self._draw(ctx)
        return run

    def _prompt(self, ctx, operator: str, params: dict[str, Any]) -> None:
        ctx.prompt(f"{panels.PLUGIN}/{operator}", params=params, on_success=self.on_refresh)

    def _show_rest(self, ctx, memory_key: str) -> None:
        """Show the samples that no reference of a memory comes from, and select none."""
        from ...nts.fiftyone_adapter.errors import RunNotFound
        from ...nts.fiftyone_adapter.inspecting import rest_of

        try:
            rest = rest_of(ctx.dataset, memory_key)
        except RunNotFound as error:
            ctx.ops.notify(sentence(error), variant="warning")
            return
        ctx.ops.clear_selected_samples()
        if rest.count():
            ctx.ops.set_view(rest)

    # ---- layout ------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset is None:
            panels.empty(panel, "No dataset", "Open a dataset to see its runs.")
            return types.Property(panel, view=panels.root())
        job_progress.render(ctx, panel, self.on_stop)
        if ctx.panel.get_state("outcome") and not ctx.panel.get_state(job_progress.JOBS):
            outcome.render(self, ctx, panel.v_stack("outcome_of_last", gap=1, componentsProps=panels.FITTING))
        if ctx.panel.get_state("listed"):
            stored.render(self, panel.v_stack("stored", gap=2, componentsProps=panels.FITTING))
        else:
            words = "Choose a view with a few labelled objects of each class, and build a memory from it."
            panels.empty(panel, "Nothing stored yet", words)
        self._render_tools(panel)
        job_progress.watch(ctx, panel, self.on_look)
        return types.Property(panel, view=panels.root())

    def _render_tools(self, panel: types.Object) -> None:
        row = panel.h_stack("tools", gap=1, componentsProps=panels.wrapping(150))
        for operator, label, icon in (
            ("import_memory", "Import memory…", "upload"),
            ("import_reference_prompt", "Import reference prompt…", "upload"),
            ("clear_cache", "Clear cache…", "cleaning_services"),
        ):
            row.btn(
                operator, label, icon=icon, on_click=self.on_tool, params={"operator": operator}, variant="outlined"
            )


class OpenRunsPanel(panels.PanelButton):
    """The button above the grid that opens the panel."""

    panel = NAME

    @property
    def config(self):
        return self.button("Runs", "Open the panel of running jobs and stored results", icon="runs")
