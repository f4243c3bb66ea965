"""The panel around its tabs: events, choices, and the header."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types
from fiftyone.operators.categories import Categories

from .. import panels
from ..words import sentence
from . import choices, compare, confidence, curves, errors, shots, summary

NAME = "nap_panel"
TABS = {
    "summary": summary,
    "curves": curves,
    "confidence": confidence,
    "errors": errors,
    "shots": shots,
    "compare": compare,
}
LABELS = {name: name.capitalize() for name in TABS}


class NAPPanel(foo.Panel):
    """Shows a :class:`nts.fiftyone_adapter.evaluation_results.StoredEvaluation`.

    The person's choices are the panel's state. Plots and tables are its data: every event sends the data of the tab in
    front, and no more.
    """

    @property
    def config(self):
        return foo.PanelConfig(
            name=NAME,
            label="nAP",
            icon="leaderboard",
            category=Categories.ANALYZE,
            surfaces="grid",
            allow_multiple=False,
            help_markdown="Average precision over novel classes, from the results of *Evaluate nAP*",
        )

    # ---- events of the header ----------------------------------------------------------------------------------------

    def on_load(self, ctx) -> None:
        """Open on the evaluation that was chosen before, or the newest, if there is a new one since."""
        self._choose(ctx, None if self._has_new(ctx) else ctx.panel.get_state("header.run"))

    def on_change_dataset(self, ctx) -> None:
        """Another dataset has other evaluations."""
        self._choose(ctx, None)

    def on_run(self, ctx) -> None:
        """Another evaluation."""
        self._choose(ctx, ctx.params["value"])

    def on_choice(self, ctx) -> None:
        """Another value of one of the inputs."""
        ctx.panel.set_state(ctx.params["path"], ctx.params["value"])
        self._draw(ctx)
        shown = ctx.panel.get_state("outcome")
        if ctx.params["path"] == confidence.THRESHOLD and shown:  # the grid follows the slider
            self._show(ctx, confidence.samples_of_outcome, shown)

    def on_tab(self, ctx) -> None:
        """Another tab."""
        if ctx.params["value"] != _tab(ctx):
            ctx.panel.set_state("outcome", None)
            ctx.panel.set_state("tab", ctx.params["value"])
            self._draw(ctx)

    def on_refresh(self, ctx) -> None:
        """Read the evaluations again."""
        self.on_load(ctx)

    def on_evaluate(self, ctx) -> None:
        """Open the form of evaluate nAP."""
        ctx.prompt(f"{panels.PLUGIN}/evaluate_nap", on_success=self.on_refresh)

    def on_next_step(self, ctx) -> None:
        """Open the form of the operator to run first."""
        ctx.prompt(f"{panels.PLUGIN}/{choices.next_step(ctx.dataset)[0]}", on_success=self.on_refresh)

    # ---- clicks in the tabs ------------------------------------------------------------------------------------------

    def on_table(self, ctx) -> None:
        """A row shows the samples of its class; a heading sorts the rows by its column, or reverses them."""
        if ctx.params["row"] >= 0:
            self._show(ctx, summary.samples_of_row, ctx.params["row"])
        elif self._clicked(ctx) is not None:
            summary.order_by(ctx, ctx.params["column"])
            self._draw(ctx)

    def on_class_bar(self, ctx) -> None:
        """A bar shows the samples of its class."""
        self._show(ctx, summary.samples_of_class, str(ctx.params["y"]))

    def on_outcome(self, ctx) -> None:
        """Show right, wrong or missed objects at the chosen confidence."""
        ctx.panel.set_state("outcome", ctx.params["outcome"])
        self._show(ctx, confidence.samples_of_outcome, ctx.params["outcome"])

    def on_error_bar(self, ctx) -> None:
        """A bar shows the samples with wrong predictions of its kind."""
        # The first trace is the longer bar of all predictions.
        self._show(ctx, errors.samples_of_kind, ctx.params["y"], above=ctx.params["trace_idx"] == 1)

    def on_confusion_cell(self, ctx) -> None:
        """A cell shows its samples, with the objects and predictions that it counts."""
        self._show(ctx, errors.samples_of_cell, str(ctx.params["x"]), str(ctx.params["y"]))

    def on_shots_point(self, ctx) -> None:
        """A point is an evaluation: open it."""
        key = shots.evaluation_of_point(ctx, ctx.params["trace_idx"], ctx.params["idx"])
        if key is not None:
            self._choose(ctx, key)

    # ---- state -------------------------------------------------------------------------------------------------------

    def _choose(self, ctx, key: str | None) -> None:
        """Take an evaluation, by default the newest, and draw it."""
        if ctx.dataset is None:
            return
        keys = choices.evaluations(ctx.dataset)
        ctx.panel.set_state("newest", choices.newest(keys))
        ctx.panel.set_state("header.run", key if key in keys else next(iter(keys), None))
        evaluation = self._evaluation(ctx)
        if evaluation is not None:
            confidence.begin(ctx, evaluation)
            for path in ("curves.choices.classes", "confidence.choices.class"):
                choices.forget_other_classes(ctx, path, evaluation.classes)
        self._draw(ctx)

    def _has_new(self, ctx) -> bool:
        """Whether the newest evaluation is another one than when the panel was drawn before."""
        seen = ctx.panel.get_state("newest")
        return ctx.dataset is not None and seen is not None and seen != choices.newest(choices.evaluations(ctx.dataset))

    def _evaluation(self, ctx):
        """The chosen evaluation; ``None``, and the reason in the state, if there is none to show."""
        from ...nts.fiftyone_adapter import InputError
        from ...nts.fiftyone_adapter.errors import RunNotFound
        from ...nts.fiftyone_adapter.evaluation_results import open_evaluation

        key = ctx.panel.get_state("header.run")
        if ctx.dataset is None or key is None:
            return None
        try:
            return open_evaluation(ctx.dataset, key)
        except (InputError, RunNotFound) as error:
            ctx.panel.set_state("problem", sentence(error))
            return None

    def _clicked(self, ctx):
        """The chosen evaluation; if it was deleted since it was drawn, notify, and draw another."""
        evaluation = self._evaluation(ctx)
        if evaluation is None:
            ctx.ops.notify(f"There is no evaluation {ctx.panel.get_state('header.run')} any more", variant="warning")
            self._choose(ctx, None)
        return evaluation

    def _show(self, ctx, samples_of: Callable[..., tuple[Any, str]], *clicked: Any, **how: Any) -> None:
        """Show the samples of a click, or notify why they cannot be shown."""
        from ...nts.fiftyone_adapter import InputError

        if (evaluation := self._clicked(ctx)) is None:
            return
        try:
            view, content = samples_of(ctx, evaluation, *clicked, **how)
        except InputError as error:
            ctx.ops.notify(sentence(error), variant="error")
        else:
            fields = [evaluation.config["ground_truth_field"], evaluation.config["predictions_field"]]
            panels.show(ctx, view, content, where="in this evaluation", fields=fields)

    def _draw(self, ctx) -> None:
        """Send the data of the tab in front."""
        tab = _tab(ctx)
        if (evaluation := self._evaluation(ctx)) is not None:
            TABS[tab].draw(ctx, evaluation)

    # ---- layout ------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset is None:
            panels.empty(panel, "No dataset", "Open a dataset to see its evaluations.")
        elif not choices.evaluations(ctx.dataset):
            self._render_next_step(ctx, panel)
        else:
            self._render_header(ctx, panel)
            self._render_tab(ctx, panel)
        return types.Property(panel, view=panels.root())

    def _render_next_step(self, ctx, content: types.Object) -> None:
        _, label, text = choices.next_step(ctx.dataset)
        panels.empty(content, "No evaluation yet", text, button=label, on_click=self.on_next_step)

    def _render_header(self, ctx, panel: types.Object) -> None:
        template = panels.columns("minmax(0, 1fr) 100px auto auto")
        header = panel.h_stack("header", gap=1, align_y="end", componentsProps=template)
        names = types.DropdownView(label="Evaluation")
        for key, words in choices.evaluations(ctx.dataset).items():
            names.add_choice(key, label=words)
        header.enum("run", names.values(), view=names, on_change=self.on_run)
        kinds = types.DropdownView(label="IoU of")
        for key, label in choices.IOU_TYPES.items():
            kinds.add_choice(key, label=label)
        header.enum("iou_type", kinds.values(), default="masks", view=kinds, on_change=self.on_choice)
        refresh = types.IconButtonView(icon="refresh", title="Refresh", operator=self.on_refresh, variant="outlined")
        header.view("refresh", refresh)
        new = types.IconButtonView(icon="add", title="Evaluate nAP", operator=self.on_evaluate, variant="outlined")
        header.view("evaluate", new)
        panels.tabs(panel, "tabs", LABELS, default=_tab(ctx), on_change=self.on_tab)

    def _render_tab(self, ctx, panel: types.Object) -> None:
        tab = _tab(ctx)
        content = panel.v_stack(tab, gap=2, componentsProps=panels.FITTING)
        if (evaluation := self._evaluation(ctx)) is not None:
            TABS[tab].render(self, ctx, evaluation, content)
        elif ctx.panel.get_state("header.run") is None:
            self._render_next_step(ctx, content)
        else:
            problem = ctx.panel.get_state("problem")
            title = "This evaluation cannot be shown"
            panels.empty(content, title, problem, button="Evaluate nAP", on_click=self.on_evaluate)


def _tab(ctx) -> str:
    tab = ctx.panel.get_state("tab")
    return tab if tab in TABS else "summary"


class OpenNAPPanel(panels.PanelButton):
    """The button above the grid that opens the panel."""

    panel = NAME

    @property
    def config(self):
        return self.button("nAP", "Open the panel of the evaluations", icon="nap")
