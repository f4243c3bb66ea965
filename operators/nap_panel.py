"""The nAP panel: figures of an evaluation, where they come from, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types
from fiftyone.operators.categories import Categories

from . import charts
from .base import sentence

PLUGIN = "@nts/reference-segmentation"
TABS = {
    "summary": "Summary",
    "curves": "Curves",
    "confidence": "Confidence",
    "errors": "Errors",
    "shots": "Shots",
    "compare": "Compare",
    "runs": "Runs",
}
IOU_TYPES = {"masks": "Masks", "boxes": "Boxes"}
IOUS = {"mean": "mean over .50:.95", "0.5": ".50", "0.75": ".75"}
ALL = "All novel"
OUTCOMES = {"tp": "Right", "fp": "Wrong", "fn": "Missed"}
COLUMNS = {
    "class": "Class",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar_100": "AR100",
    "objects": "Objects",
    "predictions": "Predictions",
}
REPAIRS = {
    "ap_if_masks_perfect": "If every mask fitted",
    "ap_if_labels_perfect": "If every label were right",
    "ap": "As it is",
}
ERRORS = {
    "wrong_class": ("Wrong class", "on an object of another class"),
    "poor_localisation": ("Poor localisation", "on an object of its class, IoU below .50"),
    "duplicate": ("Duplicate", "the object is found by a better one"),
    "distractor": ("Distractor", "on an object of a class that is not evaluated"),
    "background": ("Background", "on nothing that is labelled"),
}
MISSED_OBJECT, DISTRACTOR, BACKGROUND = "(missed)", "(distractor)", "(background)"
RUN_COLUMNS = {"key": "Name", "what": "What", "status": "Status", "created": "Made (UTC)"}

_MOST_BARS = 40
_MOST_CONFUSED = 25
_MOST_CURVES = 5


class NAPPanel(foo.Panel):
    """Shows what :mod:`nts.fiftyone_adapter.stored_evaluation` reads.

    What a person chooses is the panel's state. What is drawn is its data: every event sends the data of the tab in
    front, and no more.
    """

    @property
    def config(self):
        return foo.PanelConfig(
            name="nap_panel",
            label="nAP",
            icon="leaderboard",
            category=Categories.ANALYZE,
            surfaces="grid",
            allow_multiple=False,
            help_markdown="Average precision over novel classes, from the results of *Evaluate nAP*",
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def on_load(self, ctx) -> None:
        """Open on the evaluation that was chosen before, or the newest."""
        self._choose(ctx, ctx.panel.get_state("header.run"))

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

    def on_tab(self, ctx) -> None:
        """Another tab."""
        if ctx.params["value"] != _tab(ctx):
            ctx.panel.set_state("tab", ctx.params["value"])
            self._draw(ctx)

    def on_refresh(self, ctx) -> None:
        """Read again what there is."""
        self._choose(ctx, ctx.panel.get_state("header.run"))

    def on_evaluate(self, ctx) -> None:
        """Open the form of evaluate nAP."""
        ctx.prompt(f"{PLUGIN}/evaluate_nap", on_success=self.on_refresh)

    def on_next_step(self, ctx) -> None:
        """Open the form of what has to be done first."""
        ctx.prompt(f"{PLUGIN}/{_next_step(ctx.dataset)[0]}", on_success=self.on_refresh)

    def on_table(self, ctx) -> None:
        """A row shows the samples of its class; a heading orders the rows by its column, and once more turns them."""
        row, column = ctx.params["row"], ctx.params["column"]
        if (evaluation := self._clicked(ctx)) is None:
            return
        if row >= 0:
            name = _rows(evaluation, _iou_type(ctx), ctx.panel.get_state("sort"))[row]["class"]
            self._show_class(ctx, evaluation, name)
            return
        key = list(COLUMNS)[column]
        earlier, descending = ctx.panel.get_state("sort") or (None, False)
        ctx.panel.set_state("sort", [key, not descending if key == earlier else key != "class"])
        self._draw(ctx)

    def on_class_bar(self, ctx) -> None:
        """A bar shows the samples of its class."""
        if (evaluation := self._clicked(ctx)) is not None:
            self._show_class(ctx, evaluation, ctx.params["y"])

    def on_outcome(self, ctx) -> None:
        """Show what is right, wrong or missed at the chosen confidence."""
        from ..nts.fiftyone_adapter import InputError

        outcome = ctx.params["outcome"]
        if (evaluation := self._clicked(ctx)) is None:
            return
        name = _class(ctx, "confidence.choices.class")
        names = None if name is None else [name]
        try:
            view = evaluation.samples_where(ctx.dataset, outcome, names=names, threshold=_threshold(ctx, evaluation))
        except InputError as error:
            ctx.ops.notify(sentence(error), variant="error")
            return
        _show(ctx, view, f"{OUTCOMES[outcome].lower()} objects of {name or 'the novel classes'}")

    def on_error_bar(self, ctx) -> None:
        """A bar shows the samples with wrong predictions of its kind."""
        from ..nts.fiftyone_adapter import InputError

        if (evaluation := self._clicked(ctx)) is None:
            return
        kind = next(kind for kind, (label, _) in ERRORS.items() if label == ctx.params["y"])
        # The longer bar behind, of all predictions, comes first.
        above = {"threshold": evaluation.diagnostics["confidence"]} if ctx.params["trace_idx"] == 1 else {}
        try:
            view = evaluation.samples_with_error(ctx.dataset, kind, **above)
        except InputError as error:
            ctx.ops.notify(sentence(error), variant="error")
            return
        _show(ctx, view, f"predictions {ERRORS[kind][1]}")

    def on_confusion_cell(self, ctx) -> None:
        """A cell shows its samples, with the objects and predictions that it counts."""
        predicted, true = ctx.params["x"], ctx.params["y"]
        if (evaluation := self._clicked(ctx)) is None:
            return
        rows, columns = _confusion_names(evaluation)
        view = evaluation.samples_confused(ctx.dataset, rows.index(predicted), columns.index(true))
        if predicted == MISSED_OBJECT:
            _show(ctx, view, f"{true} missed")
        else:
            _show(ctx, view, f"{true} found" if true == predicted else f"{true} taken for {predicted}")

    def on_shots_point(self, ctx) -> None:
        """A point is an evaluation: open it."""
        if (evaluation := self._clicked(ctx)) is None:
            return
        points = _against_shots(ctx, evaluation).points
        if ctx.params["trace_idx"] == 0:
            self._choose(ctx, points[ctx.params["idx"]][2])

    def on_open_run(self, ctx) -> None:
        """Open an evaluation of the list."""
        if (run := self._listed(ctx)) is None:
            return
        if run.kind == "evaluation" and run.status == "complete":
            ctx.panel.set_state("tab", "summary")
            # The App's row of tabs keeps to itself which is in front: only a new row follows.
            ctx.panel.set_state("tabs_made", (ctx.panel.get_state("tabs_made") or 0) + 1)
            self._choose(ctx, run.key)
        else:
            ctx.ops.notify(f"{sentence(run.kind)} {run.key}: {run.status}", variant="info")

    def on_delete_run(self, ctx) -> None:
        """Open the form that deletes a run of the list, and says what goes with it."""
        if (run := self._listed(ctx)) is None:
            return
        argument = {"memory": "memory_key", "segmentation": "output_field", "evaluation": "eval_key"}[run.kind]
        ctx.prompt(f"{PLUGIN}/delete_{run.kind}", params={argument: run.key}, on_success=self.on_refresh)

    def _listed(self, ctx):
        """The run in the row that was clicked; where it was deleted since it was listed, the list is drawn anew."""
        kind, key = ctx.panel.get_state("listed")[ctx.params["row"]]
        run = next((run for run in _runs(ctx) if (run.kind, run.key) == (kind, key)), None)
        if run is None:
            ctx.ops.notify(f"There is no {kind} {key} any more", variant="warning")
            self._draw(ctx)
        return run

    # ---- state -------------------------------------------------------------------------------------------------------

    def _choose(self, ctx, key: str | None) -> None:
        """Take an evaluation, the newest where ``key`` is none, and draw it."""
        if ctx.dataset is None:
            return
        keys = _evaluations(ctx.dataset)
        key = key if key in keys else next(iter(keys), None)
        ctx.panel.set_state("header.run", key)
        if key is not None:
            evaluation = self._evaluation(ctx)
            if evaluation is not None:
                best = evaluation.best_threshold(_iou_type(ctx))
                ctx.panel.set_state("confidence.choices.threshold", round(best, 3))
                for path in ("curves.choices.classes", "confidence.choices.class"):
                    _forget_other_classes(ctx, path, evaluation.classes)
        self._draw(ctx)

    def _evaluation(self, ctx):
        """The chosen evaluation, or ``None`` if there is none that can be shown."""
        from ..nts.fiftyone_adapter import InputError, RunNotFound, open_evaluation

        key = ctx.panel.get_state("header.run")
        if ctx.dataset is None or key is None:
            return None
        try:
            return open_evaluation(ctx.dataset, key)
        except (InputError, RunNotFound) as error:
            ctx.panel.set_state("problem", sentence(error))
            return None

    def _clicked(self, ctx):
        """The chosen evaluation; where it was deleted since it was drawn, this is said, and another is drawn."""
        evaluation = self._evaluation(ctx)
        if evaluation is None:
            ctx.ops.notify(f"There is no evaluation {ctx.panel.get_state('header.run')} any more", variant="warning")
            self._choose(ctx, None)
        return evaluation

    def _show_class(self, ctx, evaluation, name: str) -> None:
        names = [name] if name in evaluation.classes else evaluation.config["classes"]
        _show(ctx, evaluation.samples_with(ctx.dataset, names), name)

    # ---- data --------------------------------------------------------------------------------------------------------

    def _draw(self, ctx) -> None:
        """Send the data of the tab in front."""
        tab = _tab(ctx)
        if tab == "runs":
            runs = _runs(ctx)
            ctx.panel.set_state("listed", [[run.kind, run.key] for run in runs])
            _send(ctx, "runs.table", [_printed_run(run) for run in runs])
            return
        evaluation = self._evaluation(ctx)
        if evaluation is not None:
            getattr(self, f"_draw_{tab}")(ctx, evaluation)

    def _draw_summary(self, ctx, evaluation) -> None:
        iou_type = _iou_type(ctx)
        rows = _rows(evaluation, iou_type, ctx.panel.get_state("sort"))
        _send(ctx, "summary.table", [_printed(row) for row in rows])
        shown = _barred(evaluation, iou_type)
        values = [100 * evaluation.summary(iou_type, name)["ap"] for name in shown]
        ap50 = [100 * evaluation.summary(iou_type, name)["ap50"] for name in shown]
        colour = charts.MASKS if iou_type == "masks" else charts.BOXES
        series = {"AP50": (ap50, charts.MUTED), "AP": (values, colour)}
        _send(ctx, "summary.bars", charts.bars(shown, series))

    def _draw_curves(self, ctx, evaluation) -> None:
        iou_type, iou = _iou_type(ctx), ctx.panel.get_state("curves.choices.iou") or "mean"
        chosen = ctx.panel.get_state("curves.choices.classes") or _best_and_worst(evaluation, iou_type)
        traces = []
        for name, colour in zip([None, *chosen[:_MOST_CURVES]], charts.SERIES, strict=False):
            curve = evaluation.curve(iou_type, iou, name)
            if curve is not None:
                hover = "recall %{x:.2f}, precision %{y:.3f}"
                traces.append(charts.line(name or ALL, *curve, colour, width=1.5 if name else 3.5, hover=hover))
        _send(ctx, "curves.plot", traces)

    def _draw_confidence(self, ctx, evaluation) -> None:
        iou_type, name = _iou_type(ctx), _class(ctx, "confidence.choices.class")
        thresholds, counted = evaluation.confidences(iou_type), evaluation.all_counted(iou_type, name)
        lines = {
            "Precision": ("precision", charts.MASKS),
            "Recall": ("recall", charts.BOXES),
            "F1": ("f1", charts.RIGHT),
        }
        traces = [
            charts.line(label, thresholds, [_number(getattr(each, figure)) for each in counted], colour)
            for label, (figure, colour) in lines.items()
        ]
        _send(ctx, "confidence.plot", traces)

    def _draw_errors(self, ctx, evaluation) -> None:
        found = evaluation.diagnostics
        values = [None if found[name] is None else 100 * found[name] for name in REPAIRS]
        colours = [charts.MUTED, charts.MUTED, charts.MASKS]
        oracles = charts.bars(list(REPAIRS.values()), {"AP": (values, charts.MASKS)}, colours=colours)
        _send(ctx, "errors.oracles", oracles)
        counts = {
            "All predictions": ([found["errors"]["total"][kind] for kind in ERRORS], charts.MUTED),
            f"Confidence {found['confidence']:.2f} and above": (
                [found["errors_above"]["total"][kind] for kind in ERRORS],
                charts.WRONG,
            ),
        }
        _send(ctx, "errors.kinds", charts.bars([name for name, _ in ERRORS.values()], counts, unit="%{x}"))
        if evaluation.content["models"] is not None:
            _send(ctx, "errors.proposals", _proposal_bars(evaluation.content["models"]["recall"]))
        rows, columns = _confusion_names(evaluation)
        shown_rows, shown_columns = _most_confused(evaluation)
        table = [[found["confusion"][row][column] for row in shown_rows] for column in shown_columns]
        heat = charts.heat(
            [columns[column] for column in shown_columns],
            [rows[row] for row in shown_rows],
            table,
            "ground truth %{y}<br>prediction %{x}<br>%{z}<extra></extra>",
        )
        _send(ctx, "errors.confusion", heat)

    def _draw_shots(self, ctx, evaluation) -> None:
        shots = _against_shots(ctx, evaluation)
        colour = charts.MASKS if _iou_type(ctx) == "masks" else charts.BOXES
        deviations = [100 * deviation for _, _, deviation in shots.means]
        here = [evaluation.key == key for _, _, key in shots.points]
        single = {
            "type": "scatter",
            "mode": "markers",
            "name": "One evaluation",
            "x": [at for at, _, _ in shots.points],
            "y": [100 * value for _, value, _ in shots.points],
            "text": [key for _, _, key in shots.points],
            "marker": {"color": [colour if chosen else charts.MUTED for chosen in here], "size": 8},
            "hovertemplate": "%{text}: %{y:.1f}<extra></extra>",
        }
        mean = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "Mean ± standard deviation",
            "x": [at for at, _, _ in shots.means],
            "y": [100 * value for _, value, _ in shots.means],
            "error_y": {
                "type": "data",
                "array": deviations,
                "thickness": 1.5,
            },
            "line": {"color": colour, "width": 2},
            "marker": {"size": 9},
            "hovertemplate": "%{x} references per class: %{y:.1f}<extra></extra>",
        }
        _send(ctx, "shots.plot", [single, mean])

    def _draw_compare(self, ctx, evaluation) -> None:
        comparison = self._comparison(ctx, evaluation)
        if comparison is None:
            return
        from ..nts.fiftyone_adapter import COMPARED_FIGURES

        rows = []
        for figure, interval in comparison.figures.items():
            value = evaluation.summary(_iou_type(ctx))[figure]
            rows.append(
                {
                    "figure": COMPARED_FIGURES[figure],
                    "difference": _signed(interval.difference),
                    "interval": f"{_signed(interval.low)} … {_signed(interval.high)}",
                    "better": f"{100 * interval.p_better:.0f} %",
                    "value": _percent(value),
                }
            )
        _send(ctx, "compare.table", rows)
        ordered = sorted(comparison.classes, key=comparison.classes.__getitem__, reverse=True)
        ordered = _ends(ordered)
        values = [100 * comparison.classes[name] for name in ordered]
        colours = [charts.RIGHT if value >= 0 else charts.WRONG for value in values]
        bars = charts.bars(ordered, {"AP": (values, charts.MUTED)}, unit="%{x:+.1f}", colours=colours)
        _send(ctx, "compare.bars", bars)

    def _comparison(self, ctx, evaluation):
        """The comparison with the chosen other evaluation; ``None``, and the reason in the state, if there is none."""
        from ..nts.fiftyone_adapter import InputError, RunNotFound, compare_evaluations, open_evaluation

        other = ctx.panel.get_state("compare.choices.other")
        if other not in _others(ctx, evaluation):
            return None
        try:
            return compare_evaluations(open_evaluation(ctx.dataset, other), evaluation, _iou_type(ctx))
        except (InputError, RunNotFound) as error:
            ctx.panel.set_state("compare.problem", sentence(error))
            return None

    # ---- layout ------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset is None:
            _empty(panel, "No dataset", "Open a dataset to see its evaluations.")
        elif not _runs(ctx):
            self._render_first_step(ctx, panel)
        else:
            self._render_header(ctx, panel)
            self._render_tab(ctx, panel)
        root = types.GridView(orientation="vertical", gap=2, pad=2, componentsProps=_columns("minmax(0, 1fr)"))
        return types.Property(panel, view=root)

    def _render_first_step(self, ctx, panel: types.Object) -> None:
        _, label, text = _next_step(ctx.dataset)
        stack = _empty(panel, "No evaluation yet", text)
        stack.btn("next_step", label, on_click=self.on_next_step, variant="contained", **_CENTERED)

    def _render_header(self, ctx, panel: types.Object) -> None:
        keys = _evaluations(ctx.dataset)
        header = panel.h_stack(
            "header", gap=2, align_y="end", componentsProps=_columns("minmax(0, 1fr) 110px auto auto")
        )
        names = types.DropdownView(label="Evaluation")
        for key, words in keys.items():
            names.add_choice(key, label=f"{key}   {words}")
        header.enum("run", names.values(), view=names, on_change=self.on_run)
        kinds = types.DropdownView(label="IoU of")
        for key, label in IOU_TYPES.items():
            kinds.add_choice(key, label=label)
        header.enum("iou_type", kinds.values(), default="masks", view=kinds, on_change=self.on_choice)
        refresh = types.IconButtonView(icon="refresh", title="Read again", operator=self.on_refresh, variant="outlined")
        header.view("refresh", refresh)
        header.btn("evaluate", "Evaluate nAP", icon="add", on_click=self.on_evaluate, variant="outlined")
        tabs = types.TabsView(
            componentsProps={"tab": {"sx": {"minWidth": 0, "minHeight": 44, "px": 1.25, "fontSize": "0.9rem"}}}
        )
        for key, label in TABS.items():
            tabs.add_choice(key, label=label)
        name = f"tabs_{ctx.panel.get_state('tabs_made') or 0}"
        panel.enum(name, tabs.values(), default=_tab(ctx), view=tabs, on_change=self.on_tab)

    def _render_tab(self, ctx, panel: types.Object) -> None:
        tab = _tab(ctx)
        content = panel.v_stack(tab, gap=2, componentsProps=_columns("minmax(0, 1fr)"))
        if tab == "runs":
            self._render_runs(content)
            return
        evaluation = self._evaluation(ctx)
        if evaluation is not None:
            getattr(self, f"_render_{tab}")(ctx, evaluation, content)
            return
        if ctx.panel.get_state("header.run") is None:
            _, label, text = _next_step(ctx.dataset)
            stack = _empty(content, "No evaluation yet", text)
            stack.btn("next_step", label, on_click=self.on_next_step, variant="contained", **_CENTERED)
        else:
            stack = _empty(content, "This evaluation cannot be shown", ctx.panel.get_state("problem"))
            stack.btn("again", "Evaluate nAP", on_click=self.on_evaluate, variant="contained", **_CENTERED)

    def _render_summary(self, ctx, evaluation, content: types.Object) -> None:
        masks, boxes = evaluation.summary("masks"), evaluation.summary("boxes")
        chosen = evaluation.summary(_iou_type(ctx))
        tiles = {
            "Mask nAP": (masks["ap"], "IoU .50:.95"),
            "Box nAP": (boxes["ap"], "IoU .50:.95"),
            "AP50": (chosen["ap50"], f"{_iou_type(ctx)}, IoU .50"),
            "AP75": (chosen["ap75"], f"{_iou_type(ctx)}, IoU .75"),
            "AR100": (chosen["ar_100"], f"{_iou_type(ctx)}, recall"),
        }
        _tiles(content, {label: (_percent(value), caption) for label, (value, caption) in tiles.items()})
        _caption(content, "protocol", evaluation.protocol)
        for number, note in enumerate(evaluation.content["notes"]):
            content.view(f"note{number}", types.Notice(label=sentence(note)))
        shown = _barred(evaluation, _iou_type(ctx))
        hidden = len(evaluation.classes) - len(shown)
        _heading(content, "bars_title", "AP per class", "Click a bar or a row to see its samples.")
        if hidden:
            _caption(content, "bars_hidden", f"The best and the worst {_MOST_BARS // 2}; all are in the table.")
        content.plot(
            "bars",
            layout=charts.layout(
                90 + 26 * len(shown),
                barmode="overlay",
                bargap=0.35,
                xaxis=charts.axis("AP, with AP50 behind it (%)", range=[0, 100]),
            ),
            config=charts.CONFIG,
            on_click=self.on_class_bar,
        )
        table = types.TableView(on_click_cell=self.on_table, componentsProps=_TABLE)
        for key, label in COLUMNS.items():
            table.add_column(key, label=label)
        content.list("table", types.Object(), view=table)

    def _render_curves(self, ctx, evaluation, content: types.Object) -> None:
        choices = content.h_stack("choices", gap=2, componentsProps=_columns("200px minmax(0, 1fr)"))
        ious = types.DropdownView(label="IoU")
        for key, label in IOUS.items():
            ious.add_choice(key, label=label)
        choices.enum("iou", ious.values(), default="mean", view=ious, on_change=self.on_choice)
        classes = types.DropdownView(
            label=f"Classes, at most {_MOST_CURVES}; else the best and the worst", multiple=True
        )
        for name in evaluation.classes:
            classes.add_choice(name, label=name)
        choices.list("classes", types.String(), view=classes, on_change=self.on_choice)
        content.plot(
            "plot",
            layout=charts.layout(
                400,
                showlegend=True,
                xaxis=charts.axis("Recall", range=[0, 1.01]),
                yaxis=charts.axis("Precision", range=[0, 1.03]),
            ),
            config=charts.CONFIG,
        )
        _caption(content, "protocol", f"{evaluation.protocol} · precision at 101 recalls")

    def _render_confidence(self, ctx, evaluation, content: types.Object) -> None:
        choices = content.h_stack("choices", gap=2, align_y="center", componentsProps=_columns("minmax(0, 1fr) 220px"))
        slider = types.SliderView(label="Confidence", value_precision=3)
        choices.float("threshold", min=0.0, max=1.0, view=slider, on_change=self.on_choice)
        classes = types.DropdownView(label="Class")
        for name in [ALL, *evaluation.classes]:
            classes.add_choice(name, label=name)
        choices.enum("class", classes.values(), default=ALL, view=classes, on_change=self.on_choice)
        threshold, iou_type = _threshold(ctx, evaluation), _iou_type(ctx)
        counted = evaluation.counted(iou_type, threshold, _class(ctx, "confidence.choices.class"))
        _tiles(
            content,
            {
                "Precision": (_percent(counted.precision), f"{counted.right} of {counted.right + counted.wrong} right"),
                "Recall": (_percent(counted.recall), f"{counted.right} of {counted.right + counted.missed} found"),
                "F1": (_percent(counted.f1), f"above {threshold:.2f}"),
            },
        )
        buttons = content.h_stack("outcomes", gap=1, componentsProps=_columns("auto auto auto 1fr"))
        for outcome, count in (("tp", counted.right), ("fp", counted.wrong), ("fn", counted.missed)):
            label = f"{OUTCOMES[outcome]} ({count})"
            buttons.btn(outcome, label, on_click=self.on_outcome, params={"outcome": outcome}, variant="outlined")
        content.plot(
            "plot",
            layout=charts.layout(
                320,
                showlegend=True,
                hovermode="x unified",
                shapes=[charts.upright(threshold)],
                xaxis=charts.axis("Confidence", range=[0, 1]),
                yaxis=charts.axis("", range=[0, 1.03]),
            ),
            config=charts.CONFIG,
        )
        text = f"At IoU .50 of {iou_type}, all novel classes counted together. The slider begins where F1 is largest."
        _caption(content, "protocol", text)

    def _render_errors(self, ctx, evaluation, content: types.Object) -> None:
        found = evaluation.diagnostics
        over = "novel and base classes" if evaluation.config["base_classes"] else "novel classes"
        caption = f"AP of masks over {over}, if one kind of error were repaired"
        _heading(content, "oracles_title", "Where precision is lost", caption)
        content.plot(
            "oracles",
            layout=charts.layout(170, bargap=0.35, xaxis=charts.axis("AP (%)", range=[0, 100])),
            config=charts.CONFIG,
        )
        _heading(content, "kinds_title", "Wrong predictions, by what they are on", "Click a bar to see its samples.")
        content.plot(
            "kinds",
            layout=charts.layout(
                250,
                barmode="overlay",
                bargap=0.35,
                showlegend=True,
                xaxis=charts.axis("Predictions"),
            ),
            config=charts.CONFIG,
            on_click=self.on_error_bar,
        )
        meanings = [f"{label}: {meaning}" for label, meaning in ERRORS.values()]
        _caption(content, "kinds_meaning", " · ".join(meanings))
        _, columns = _most_confused(evaluation)
        text = f"Predictions of confidence {found['confidence']:.2f} and above, where F1 is largest. Click a cell."
        if len(columns) < len(evaluation.classes) + 2:
            text += f" The {_MOST_CONFUSED} classes with most confusions."
        _heading(content, "confusion_title", "What is taken for what", text)
        content.plot(
            "confusion",
            layout=charts.layout(
                150 + 24 * len(columns),
                xaxis=charts.axis("Prediction", side="bottom", tickangle=-45, showgrid=False),
                yaxis=charts.axis("Ground truth", autorange="reversed", showgrid=False),
            ),
            config=charts.CONFIG,
            on_click=self.on_confusion_cell,
        )
        _heading(content, "models_title", "What the models lose", "Both models beside the ground truth")
        models = evaluation.content["models"]
        if models is None:
            text = (
                "Not measured: switch on 'Diagnose the models' when you evaluate. It takes as long as segmenting did."
            )
            _caption(content, "models_none", text)
            return
        recall = models["recall"][0]
        _tiles(
            content,
            {
                "Objects proposed": (_percent(recall["recall_50"]), f"of {recall['objects']}, IoU .50 or more"),
                "Proposed well": (_percent(recall["recall_75"]), "IoU .75 or more"),
                "Classes found": (_percent(models["accuracy"]), f"of {models['objects']} true masks, by the encoder"),
            },
        )
        content.plot(
            "proposals",
            layout=charts.layout(
                260,
                barmode="overlay",
                bargap=0.35,
                showlegend=True,
                xaxis=charts.axis("Objects that some proposal covers (%)", range=[0, 100]),
            ),
            config=charts.CONFIG,
        )

    def _render_shots(self, ctx, evaluation, content: types.Object) -> None:
        shots = _against_shots(ctx, evaluation)
        if len(shots.means) < 2:
            _empty(
                content,
                "One number of references so far",
                "Build memories with other numbers of references per class (with several draws of each, to see the "
                "spread), segment the same samples with them, and evaluate: their nAP is drawn here.",
            )
            return
        content.plot(
            "plot",
            layout=charts.layout(
                360,
                showlegend=True,
                xaxis=charts.axis("References per class", tickvals=[at for at, _, _ in shots.means]),
                yaxis=charts.axis(f"nAP of {_iou_type(ctx)} (%)", rangemode="tozero"),
            ),
            config=charts.CONFIG,
            on_click=self.on_shots_point,
        )
        text = f"{evaluation.protocol} · click a point to open its evaluation"
        if shots.left_out:
            text += f" · not drawn, being of other classes, samples or mixed numbers: {', '.join(shots.left_out)}"
        _caption(content, "protocol", text)

    def _render_compare(self, ctx, evaluation, content: types.Object) -> None:
        others = _others(ctx, evaluation)
        if not others:
            text = "Segment the same samples with other settings or another memory, and evaluate them, too."
            _empty(content, "Nothing to compare with", text)
            return
        choices = content.h_stack("choices", gap=2, componentsProps=_columns("minmax(0, 1fr)"))
        names = types.DropdownView(label=f"How much better is {evaluation.key} than")
        for key, words in others.items():
            names.add_choice(key, label=f"{key}   {words}")
        choices.enum("other", names.values(), view=names, on_change=self.on_choice)
        if ctx.panel.get_state("compare.choices.other") not in others:
            return
        comparison = self._comparison(ctx, evaluation)
        if comparison is None:
            _empty(content, "These two cannot be compared", ctx.panel.get_state("compare.problem"))
            return
        table = types.TableView(componentsProps=_TABLE)
        headings = {
            "figure": "",
            "value": evaluation.key,
            "difference": "Difference",
            "interval": "95 % interval",
            "better": "Draws in which it is better",
        }
        for key, label in headings.items():
            table.add_column(key, label=label)
        content.list("table", types.Object(), view=table)
        interval = comparison.figures["ap"]
        text = f"Paired bootstrap: {interval.draws} draws of the {interval.images} images that both evaluated"
        if interval.left_out:
            text += f"; {interval.left_out} images that only one evaluated are left out"
        _caption(content, "protocol", f"{text}. An interval without 0 is more than chance. {evaluation.protocol}")
        _heading(content, "bars_title", "Difference of AP per class", "Click a bar to see its samples.")
        content.plot(
            "bars",
            layout=charts.layout(
                90 + 24 * min(len(comparison.classes), _MOST_BARS),
                bargap=0.35,
                xaxis=charts.axis("Points of AP", zeroline=True),
            ),
            config=charts.CONFIG,
            on_click=self.on_class_bar,
        )

    def _render_runs(self, content: types.Object) -> None:
        _heading(content, "title", "Memories, segmentations and evaluations", "Click a row to open an evaluation.")
        table = types.TableView(on_click_row=self.on_open_run, componentsProps=_TABLE, actions_label=" ")
        for key, label in RUN_COLUMNS.items():
            table.add_column(key, label=label)
        table.add_row_action("delete", self.on_delete_run, icon="delete", tooltip="Delete …")
        content.list("table", types.Object(), view=table)


# ---- what there is ---------------------------------------------------------------------------------------------------


def _runs(ctx) -> list:
    from ..nts.fiftyone_adapter import list_runs

    return list_runs(ctx.dataset)


def _evaluations(dataset) -> dict[str, str]:
    """Complete evaluations, the newest first, with time and status in words."""
    from ..nts.fiftyone_adapter import list_runs

    found = [run for run in list_runs(dataset) if run.kind == "evaluation"]
    return {
        run.key: f"{run.created.replace('T', ' ')[:16]}   {run.status}"
        for run in found
        if run.status == "complete" or run.status.startswith("made by")
    }


def _others(ctx, evaluation) -> dict[str, str]:
    return {key: words for key, words in _evaluations(ctx.dataset).items() if key != evaluation.key}


def _against_shots(ctx, evaluation):
    from ..nts.fiftyone_adapter import against_shots

    return against_shots(ctx.dataset, evaluation, _iou_type(ctx))


def _next_step(dataset) -> tuple[str, str, str]:
    """The operator to run next, the label of its button, and what to say."""
    from ..nts.fiftyone_adapter import list_memories, list_segmentations

    if not list_memories(dataset):
        text = "First label a few objects of each class, and build a reference memory from them."
        return "build_reference_memory", "Build reference memory", text
    if not list_segmentations(dataset):
        text = "There is a reference memory. Next, segment the samples that have ground truth with it."
        return "auto_segment_view", "Auto-segment view", text
    text = "There is a segmentation. Evaluate it against the ground truth, and its average precision is shown here."
    return "evaluate_nap", "Evaluate nAP", text


# ---- what is chosen --------------------------------------------------------------------------------------------------


def _tab(ctx) -> str:
    tab = ctx.panel.get_state("tab")
    return tab if tab in TABS else "summary"


def _iou_type(ctx) -> str:
    chosen = ctx.panel.get_state("header.iou_type")
    return chosen if chosen in IOU_TYPES else "masks"


def _class(ctx, path: str) -> str | None:
    name = ctx.panel.get_state(path)
    return None if name in (None, ALL) else name


def _threshold(ctx, evaluation) -> float:
    chosen = ctx.panel.get_state("confidence.choices.threshold")
    return evaluation.best_threshold(_iou_type(ctx)) if chosen is None else float(chosen)


def _forget_other_classes(ctx, path: str, classes: Sequence[str]) -> None:
    """Classes that were chosen for an evaluation of other classes are chosen no more."""
    chosen = ctx.panel.get_state(path)
    if isinstance(chosen, list):
        ctx.panel.set_state(path, [name for name in chosen if name in classes])
    elif chosen is not None and chosen not in classes:
        ctx.panel.set_state(path, ALL)


def _send(ctx, path: str, value: list) -> None:
    """Send data of the panel.

    The App keeps a copy of what it shows in the state, and lays new data over it element by element: without this, a
    shorter list would keep the end of a longer one.
    """
    ctx.panel.set_state(path, None)
    ctx.panel.set_data(path, value)


# ---- numbers as they are shown ---------------------------------------------------------------------------------------


def _rows(evaluation, iou_type: str, order: Sequence | None) -> list[dict[str, Any]]:
    """The table of classes: all novel ones first, then each, in the chosen order."""
    rows = [_row(evaluation, iou_type, name) for name in evaluation.classes]
    if order is not None:
        key, descending = order
        known = [row for row in rows if row[key] is not None]
        known.sort(key=lambda row: row[key], reverse=descending)
        rows = known + [row for row in rows if row[key] is None]
    total = {name: sum(row[name] for row in rows if row["novel"]) for name in ("objects", "predictions")}
    return [{"class": ALL, **evaluation.summary(iou_type), **total}, *rows]


def _row(evaluation, iou_type: str, name: str) -> dict[str, Any]:
    counts = {"objects": evaluation.objects(name), "predictions": evaluation.predictions(name)}
    novel = name in evaluation.config["classes"]
    return {"class": name, "novel": novel, **evaluation.summary(iou_type, name), **counts}


def _printed(row: dict[str, Any]) -> dict[str, str]:
    figures = {key: _percent(row[key]) for key in ("ap", "ap50", "ap75", "ar_100")}
    name = row["class"] if row.get("novel", True) else f"{row['class']} (base)"
    return {"class": name, **figures, "objects": str(row["objects"]), "predictions": str(row["predictions"])}


def _printed_run(run) -> dict[str, str]:
    made = run.created.replace("T", " ")[:16]
    return {"key": run.key, "what": f"{sentence(run.kind)}. {run.details}", "status": run.status, "created": made}


def _barred(evaluation, iou_type: str) -> list[str]:
    """Classes with an AP, by falling AP; the best and the worst where there are very many."""
    aps = {name: evaluation.summary(iou_type, name)["ap"] for name in evaluation.classes}
    return _ends(sorted((name for name in aps if aps[name] is not None), key=lambda name: -aps[name]))


def _proposal_bars(recall: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [row for row in recall if row["objects"]]
    values = {at: [100 * row[f"recall_{at}"] for row in known] for at in (50, 75)}
    series = {"IoU .50 or more": (values[50], charts.MUTED), "IoU .75 or more": (values[75], charts.RIGHT)}
    return charts.bars([f"{row['area']} ({row['objects']})" for row in known], series)


def _confusion_names(evaluation) -> tuple[list[str], list[str]]:
    """Names of the rows (predicted) and columns (true) of the confusion."""
    classes = evaluation.diagnostics["classes"]
    return [*classes, MISSED_OBJECT], [*classes, DISTRACTOR, BACKGROUND]


def _most_confused(evaluation) -> tuple[list[int], list[int]]:
    """Rows and columns of the confusion to show: all, or those of the classes with most confusions."""
    confusion, classes = evaluation.diagnostics["confusion"], len(evaluation.diagnostics["classes"])
    errors = [sum(confusion[k]) + sum(row[k] for row in confusion) - 2 * confusion[k][k] for k in range(classes)]
    most = sorted(sorted(range(classes), key=lambda k: -errors[k])[:_MOST_CONFUSED])
    return [*most, classes], [*most, classes, classes + 1]


def _best_and_worst(evaluation, iou_type: str) -> list[str]:
    names = _barred(evaluation, iou_type)
    return names if len(names) <= _MOST_CURVES else [*names[:3], *names[-2:]]


def _ends(names: list[str]) -> list[str]:
    return names if len(names) <= _MOST_BARS else names[: _MOST_BARS // 2] + names[-_MOST_BARS // 2 :]


def _percent(value: float | None) -> str:
    from ..nts.fiftyone_adapter import percent

    return percent(value)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# ---- parts of the layout ---------------------------------------------------------------------------------------------

_TABLE = {
    "table": {"sx": {"minWidth": 0}},
    "tableBodyRow": {"hover": True, "sx": {"cursor": "pointer", "&:last-child td": {"border": 0}}},
    "tableHeadCell": {"sx": {"cursor": "pointer", "fontSize": "0.85rem", "whiteSpace": "nowrap", "px": 1.5}},
    "tableBodyCell": {"sx": {"fontSize": "0.9rem", "px": 1.5}},
    "tableContainer": {"sx": {"overflowX": "auto"}},
}


_CENTERED = {"componentsProps": {"container": {"sx": {"display": "flex", "justifyContent": "center"}}}}
_TABS = {"tab": {"sx": {"minWidth": 0, "minHeight": 44, "px": 1.25, "fontSize": "0.9rem"}}}


def _columns(template: str) -> dict[str, Any]:
    return {"grid": {"sx": {"gridTemplateColumns": template}}}


def _tiles(content: types.Object, tiles: dict[str, tuple[str, str]]) -> None:
    """Large numbers side by side, each with its name above and what it is below."""
    columns = {"gridTemplateColumns": "repeat(auto-fit, minmax(104px, 1fr))", "gridAutoFlow": "row"}
    row = content.h_stack("tiles", gap=1, align_y="stretch", componentsProps={"grid": {"sx": columns}})
    for number, (label, (value, caption)) in enumerate(tiles.items()):
        tile = row.v_stack(f"tile{number}", gap=0, variant="outline", pad=1.5)
        tile.view("label", types.TextView(title=label, color="text.secondary", font_size="0.85rem", padding=0))
        tile.view("value", types.TextView(title=value, color="text.primary", font_size="1.9rem", bold=True, padding=0))
        tile.view("caption", types.TextView(title=caption, color="text.tertiary", font_size="0.75rem", padding=0))


def _heading(content: types.Object, name: str, title: str, caption: str) -> None:
    stack = content.v_stack(name, gap=0)
    stack.view("title", types.TextView(title=title, color="text.primary", font_size="1.05rem", bold=True, padding=0))
    stack.view("caption", types.TextView(title=caption, color="text.tertiary", font_size="0.8rem", padding=0))


def _caption(content: types.Object, name: str, text: str) -> None:
    content.view(name, types.TextView(title=text, color="text.tertiary", font_size="0.8rem", padding=0))


def _empty(content: types.Object, title: str, text: str) -> types.Object:
    """Say what is missing and what to do; returns the place for a button under it."""
    stack = content.v_stack("empty", gap=1, align_x="center", pad_y=6)
    title_view = types.TextView(title=title, color="text.primary", font_size="1.3rem", bold=True, align="center")
    stack.view("title", title_view)
    stack.view("text", types.TextView(title=text, color="text.secondary", font_size="1rem", align="center"))
    return stack


def _show(ctx, view, what: str) -> None:
    """Show a view in the grid, or say that there is nothing in it."""
    count = view.count()
    if count == 0:
        ctx.ops.notify(f"No samples with {what}", variant="info")
        return
    ctx.ops.set_view(view)
    ctx.ops.notify(f"{count} samples with {what}", variant="info")
