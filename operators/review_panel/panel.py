"""The panel: events, buttons and layout."""

from __future__ import annotations

from dataclasses import asdict

import fiftyone.operators as foo
import fiftyone.operators.types as types
from fiftyone.operators.categories import Categories

from .. import charts, job_progress, panels
from ..base import STARTED
from ..label_selection import label_ids, lassoed_labels, selected_labels, shown_field
from ..words import sentence
from . import choices, modal

NAME = "review_panel"
ASK_ABOVE = 50
"""Decisions about more labels than these are confirmed first, unless they are selected."""


class ReviewPanel(foo.Panel):
    """Reviews the predictions of a segmentation, see :mod:`nts.fiftyone_adapter.decisions`.

    The person's choices are the panel's state. Decisions are stored with the dataset, and so is what *Undo* takes back.
    """

    @property
    def config(self):
        return foo.PanelConfig(
            name=NAME,
            label="Review",
            icon="flag",
            category=Categories.CURATE,
            surfaces="grid modal",
            allow_multiple=False,
            help_markdown="Accept, reject or correct predictions, and teach the memory",
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def on_load(self, ctx) -> None:
        """Open on the field that was chosen before, or the newest."""
        ctx.panel.set_state(modal.STATE, ctx.current_sample is not None)
        ctx.panel.set_state("selected", len(ctx.selected or ()))
        self._choose(ctx, choices.field(ctx))
        if ctx.panel.get_state(modal.STATE):
            modal.read_selection(ctx)  # labels may have been selected before the panel was opened

    def on_change_dataset(self, ctx) -> None:
        """Another dataset has other predictions."""
        self._choose(ctx, None)

    def on_change_selected(self, ctx) -> None:
        """Other patches are selected: the buttons say how many.

        The App may send this with the state from before the last decision, so the labels are read again.
        """
        ctx.panel.set_state("selected", len(ctx.selected or ()))
        self._draw(ctx)

    def on_change_selected_labels(self, ctx) -> None:
        """Other labels are selected in the open sample."""
        if ctx.panel.get_state(modal.STATE):
            modal.read_selection(ctx)
        else:
            ctx.panel.set_state("selected", len(ctx.selected_labels or ctx.selected or ()))

    def on_look(self, ctx) -> None:
        """Look at the running update; when it has ended, read the predictions again."""
        if self._is_there(ctx) and job_progress.look(ctx, makes=choices.field(ctx)):
            self._draw(ctx)

    def on_stop(self, ctx) -> None:
        """Ask the running update to stop."""
        job_progress.stop(ctx)
        job_progress.look(ctx, makes=choices.field(ctx))

    def on_field(self, ctx) -> None:
        """Another field."""
        self._deselect(ctx)
        self._choose(ctx, ctx.params["value"])
        self._show(ctx)

    def on_choice(self, ctx) -> None:
        """Another class, decision, order or confidence."""
        self._deselect(ctx)
        path, value = ctx.params["path"], ctx.params["value"]
        if path == choices.ORDER and choices.TEACH in (value, ctx.panel.get_state(path)):
            # Much can be learnt from predictions of little confidence.
            ctx.panel.set_state(choices.THRESHOLD, 0.0 if value == choices.TEACH else choices.recommended(ctx))
        ctx.panel.set_state(choices.QUEUE, [])
        ctx.panel.set_state(path, value)
        self._draw(ctx)
        self._show(ctx)

    def on_show_all(self, ctx) -> None:
        """Show the undecided predictions of all classes and confidences."""
        self._deselect(ctx)
        ctx.panel.set_state(choices.QUEUE, [])
        ctx.panel.set_state(choices.CLASS, choices.ALL)
        ctx.panel.set_state(choices.THRESHOLD, 0.0)
        self.on_start(ctx)

    def on_start(self, ctx) -> None:
        """Show the predictions as patches."""
        self._draw(ctx)
        self._show(ctx)

    def on_decide(self, ctx) -> None:
        """Decide about the selected predictions, or about all that are shown."""
        decision, field = ctx.params["decision"], choices.field(ctx)
        if not self._is_there(ctx):
            return
        chosen = selected_labels(ctx, field)
        ids = label_ids(choices.labels(ctx), field) if chosen is None else chosen
        if chosen is None and ctx.panel.get_state("selected"):
            # The button spoke of a few: it must not decide about all.
            ctx.panel.set_state("selected", 0)
            ctx.ops.notify("The selection is gone: select the predictions again", variant="warning")
        elif chosen is None and not self._shows_predictions(ctx):
            ctx.ops.notify(
                "The grid shows something else: select patches in it, or click Show in grid", variant="warning"
            )
        elif not ids:
            ctx.ops.notify("There is nothing to decide about", variant="warning")
        elif chosen is None and len(ids) > ASK_ABOVE and ctx.panel.get_state("asking") != [decision, len(ids)]:
            ctx.panel.set_state("asking", [decision, len(ids)])
        else:
            self._decide(ctx, ids, decision)

    def on_cancel(self, ctx) -> None:
        """Decide nothing after all."""
        ctx.panel.set_state("asking", None)

    def on_change_class(self, ctx) -> None:
        """Open the form with the classes, for the selected predictions."""
        if not self._is_there(ctx):
            return
        if selected_labels(ctx, choices.field(ctx)) is None:
            ctx.ops.notify("Select the predictions of another class first", variant="warning")
        else:
            params = {"predictions_field": choices.field(ctx), "action": "corrected"}
            ctx.prompt(f"{panels.PLUGIN}/decide_predictions", params=params, on_success=self.on_refresh)

    def on_edit(self, ctx) -> None:
        """Open the sample of a selected prediction in FiftyOne's annotation, with the prediction selected."""
        if not self._is_there(ctx):
            return
        found = choices.first_selected(ctx)
        if found is None:
            ctx.ops.notify("Select the prediction to edit first", variant="warning")
            return
        if ctx.view._is_generated:
            # Patches cannot be annotated, and the App finds no sample that its view does not have yet.
            ctx.panel.set_state("editing", list(found))
            ctx.ops.set_view(ctx.dataset.select(found[0]))
        else:
            self._edit(ctx, *found)

    def on_change_view(self, ctx) -> None:
        """Once the grid shows the sample of the prediction to edit, open it."""
        editing = ctx.panel.get_state("editing")
        if editing and not ctx.view._is_generated:
            ctx.panel.set_state("editing", None)
            self._edit(ctx, *editing)

    def on_use(self, ctx) -> None:
        """Open the form that adds the selected labels to a memory, as references or negatives."""
        ctx.prompt(f"{panels.PLUGIN}/add_references", params={"use_as": ctx.params["use_as"]})

    def on_undo(self, ctx) -> None:
        """Take back the last decision, wherever it was made, if it is the one that the button names."""
        from ...nts.fiftyone_adapter.decisions import undo_last
        from ...nts.fiftyone_adapter.errors import InputError

        named = ctx.panel.get_state(choices.UNDO)
        if named is None or not self._is_there(ctx):
            return
        try:
            report = undo_last(ctx.dataset, choices.field(ctx), named["id"])
        except InputError as error:
            ctx.ops.notify(sentence(error), variant="warning")
        else:
            if report is not None:
                ctx.ops.notify(_undone(report), variant="warning" if report.changed else "info")
        self._refresh(ctx)

    def on_teach(self, ctx) -> None:
        """Teach the memory what was decided, and segment again: a job with its own progress."""
        if not self._is_there(ctx):
            return
        self._draw(ctx)
        if words := _facts(ctx).unteachable:
            ctx.ops.notify(words, variant="warning")
        else:
            if not self._shows_predictions(ctx):
                self._show(ctx)  # an update deletes the map
            ctx.prompt(
                f"{panels.PLUGIN}/update_predictions",
                params={"predictions_field": choices.field(ctx), STARTED: True},
                on_success=self.on_taught,
                on_error=self.on_refresh,
                skip_prompt=True,
            )

    def on_taught(self, ctx) -> None:
        """Show the new predictions, from the recommended confidence on."""
        ctx.panel.set_state(choices.QUEUE, [])
        ctx.panel.set_state(choices.UPDATES, choices.updates(ctx) + 1)
        if not choices.in_batches(ctx):
            ctx.panel.set_state(choices.THRESHOLD, choices.recommended(ctx))
        self.on_refresh(ctx)

    def on_copy(self, ctx) -> None:
        """Open the form that copies accepted predictions to another field."""
        if self._is_there(ctx):
            params = {"predictions_field": choices.field(ctx)}
            ctx.prompt(f"{panels.PLUGIN}/copy_accepted", params=params, on_success=self.on_refresh)

    def on_map(self, ctx) -> None:
        """Open the form that maps the predictions for FiftyOne's Embeddings panel."""
        if self._is_there(ctx):
            ctx.prompt(f"{panels.PLUGIN}/index_predictions", params={"predictions_field": choices.field(ctx)})

    def on_refresh(self, ctx) -> None:
        """Read the predictions again."""
        self._choose(ctx, choices.field(ctx))
        self._refresh(ctx)

    def on_segment(self, ctx) -> None:
        """Open the form of auto-segment view."""
        ctx.prompt(f"{panels.PLUGIN}/auto_segment_view", on_success=self.on_refresh)

    # ---- state and data ----------------------------------------------------------------------------------------------

    def _choose(self, ctx, field: str | None) -> None:
        """Take a field, by default the newest, from the recommended confidence on."""
        known = choices.segmentations(ctx)
        name = field if field in known else next(iter(known), None)
        # The App may hold the state of another dataset, whose field has the same name.
        reviewed = None if name is None else [str(ctx.dataset._doc.id), name]
        if reviewed != ctx.panel.get_state("reviewed"):
            ctx.panel.set_state("reviewed", reviewed)
            ctx.panel.set_state(choices.CLASS, choices.ALL)
            ctx.panel.set_state(choices.QUEUE, [])
            ctx.panel.set_state(choices.FIELD, name)
            ctx.panel.set_state(choices.THRESHOLD, choices.recommended(ctx))
        ctx.panel.set_state(choices.FIELD, name)
        self._draw(ctx)

    def _is_there(self, ctx) -> bool:
        """Whether the chosen field still exists; if not, notify, and choose another."""
        from ...nts.fiftyone_adapter.locking import refresh

        field = choices.field(ctx)
        if field in choices.segmentations(ctx):
            return True
        refresh(ctx.dataset)  # a run that is stored again is gone for a moment, but not outside its lock
        if field in choices.segmentations(ctx):
            return True
        # The App shows nothing but an error if it reads a view of a field that is gone.
        ctx.ops.clear_view()
        ctx.ops.notify(f"There is no segmentation {field} any more", variant="warning")
        self._choose(ctx, None)
        return False

    def _decide(self, ctx, ids: list[str], decision: str) -> None:
        from ...nts.fiftyone_adapter.decisions import decide, last_step

        field = choices.field(ctx)
        count = len(decide(ctx.dataset, field, decision, ids))
        too_many = ", too many to take back" if count and last_step(ctx.dataset, field) is None else ""
        ctx.ops.notify(f"{_labels(count)} {decision}{too_many}", variant="success")
        self._refresh(ctx)

    def _edit(self, ctx, sample_id: str, label_id: str) -> None:
        ctx.trigger("open_sample", {"id": sample_id, "mode": "annotate"})
        ctx.ops.set_selected_labels([{"label_id": label_id, "sample_id": sample_id, "field": choices.field(ctx)}])

    def _refresh(self, ctx) -> None:
        self._draw(ctx)
        if ctx.panel.get_state(modal.STATE):
            # The grid stays as it is below the open sample.
            ctx.ops.clear_selected_labels()
            ctx.ops.reload_samples()
            return
        self._deselect(ctx)
        # Without it, the App goes on with the patches from before: a selection among the new ones finds no label.
        ctx.ops.reload_dataset()
        self._show(ctx)

    def _shows_predictions(self, ctx) -> bool:
        """Whether the grid shows neither the map of the predictions nor what is in a lasso."""
        field = choices.field(ctx)
        return shown_field(ctx.view, field) in (field, None) and lassoed_labels(ctx.view, field) is None

    def _deselect(self, ctx) -> None:
        """Select nothing. The App keeps patches selected that it does not show any more."""
        if ctx.selected:
            ctx.ops.clear_selected_samples()
        ctx.panel.set_state("selected", 0)

    def _show(self, ctx) -> None:
        """Show the predictions in the grid."""
        if choices.field(ctx) is None:
            return
        view = choices.patches(ctx)
        if view.count():
            ctx.ops.set_view(view)
            # Other fields would cover the prediction that is reviewed.
            ctx.ops.set_active_fields([choices.field(ctx)])
        else:
            ctx.ops.clear_view()
            ctx.ops.notify("Nothing left to show here", variant="info")

    def _draw(self, ctx) -> None:
        """Read the labels, and send the histogram of their confidences."""
        from ...nts.fiftyone_adapter.decisions import declare_decisions

        field = choices.field(ctx)
        if field not in choices.segmentations(ctx):
            return
        declare_decisions(ctx.dataset, field)
        job_progress.look(ctx, makes=field)
        facts, queue = choices.read(ctx)
        ctx.panel.set_state("facts", asdict(facts))
        ctx.panel.set_state(choices.QUEUE, queue)
        ctx.panel.set_state(choices.UNDO, choices.last_decision(ctx))
        ctx.panel.set_state("asking", None)
        edges = [i / choices.BINS for i in range(choices.BINS + 1)]
        details = [(count,) for count in facts.histogram]
        bars = charts.columns(edges, facts.histogram, charts.MASKS, details, "%{customdata[0]} predictions")
        panels.send(ctx, "histogram", [bars])

    # ---- layout ------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset is None:
            panels.empty(panel, "No dataset", "Open a dataset to review its predictions.")
        elif choices.field(ctx) not in choices.segmentations(ctx):
            words = "Segment some images with a memory, then accept or reject what was found."
            panels.empty(panel, "No predictions yet", words, button="Auto-segment view", on_click=self.on_segment)
        elif ctx.panel.get_state(modal.STATE):
            modal.render(self, ctx, panel)
        else:
            self._render_header(ctx, panel)
            job_progress.render(ctx, panel, self.on_stop)
            self._render_choices(ctx, panel)
            self._render_buttons(ctx, panel)
            job_progress.watch(ctx, panel, self.on_look)
        return types.Property(panel, view=panels.root())

    def _render_header(self, ctx, panel: types.Object) -> None:
        header = panel.h_stack("header", gap=2, align_y="end", componentsProps=panels.columns("minmax(0, 1fr) auto"))
        names = types.DropdownView(label="Predictions")
        for name, made in choices.segmentations(ctx).items():
            names.add_choice(name, label=name, description=f"memory {made['memory_key']}")
        header.enum("field", names.values(), view=names, on_change=self.on_field)
        header.btn("start", "Show in grid", icon="grid_view", on_click=self.on_start, variant="outlined")
        counts = _facts(ctx).decisions
        decided = sum(counts.values()) - counts[choices.UNDECIDED]
        each = ", ".join(f"{count} {name}" for name, count in counts.items() if name != choices.UNDECIDED and count)
        words = f"{decided} of {sum(counts.values())} decided" + (f": {each}" if each else "")
        panels.text(panel, "progress", words, color="text.primary")

    def _render_choices(self, ctx, panel: types.Object) -> None:
        row = panel.h_stack("choices", gap=1, align_y="end", componentsProps=panels.wrapping(145))
        decisions = types.DropdownView(label="Decision")
        for name in choices.DECISIONS:
            decisions.add_choice(name, label=sentence(name))
        row.enum("decision", decisions.values(), default=choices.UNDECIDED, view=decisions, on_change=self.on_choice)
        classes = types.DropdownView(label="Class")
        for name in [choices.ALL, *_facts(ctx).classes]:
            classes.add_choice(name, label=name)
        row.enum("class", classes.values(), default=choices.ALL, view=classes, on_change=self.on_choice)
        orders = types.DropdownView(label="Order")
        for name, label in choices.ORDERS.items():
            orders.add_choice(name, label=label)
        row.enum("order", orders.values(), default="confident", view=orders, on_change=self.on_choice)
        if choices.decision(ctx) != choices.UNDECIDED:
            return
        slider = types.SliderView(label="Confidence", value_precision=2)
        panel.float("threshold", min=0.0, max=1.0, view=slider, on_change=self.on_choice)
        threshold, recommended = choices.threshold(ctx), choices.recommended(ctx)
        marks = [charts.upright(threshold)] + ([charts.upright(recommended)] if recommended else [])
        panel.plot(
            "histogram",
            layout=charts.layout(
                110,
                shapes=marks,
                annotations=[charts.upright_label(recommended, "recommended")] if recommended else [],
                xaxis=charts.axis("", range=[0, 1]),
                yaxis=charts.axis("", showticklabels=False, type="log"),
            ),
            config=charts.CONFIG,
        )

    def _render_buttons(self, ctx, panel: types.Object) -> None:
        facts = _facts(ctx)
        selected = ctx.panel.get_state("selected") or 0
        if selected or facts.shown:
            self._render_decisions(ctx, panel, facts, selected)
        else:
            self._render_nothing_left(ctx, panel, facts)
        if asking := ctx.panel.get_state("asking"):
            decision, count = asking
            verb = next(label for label, _, of_button, _ in choices.BUTTONS.values() if of_button == decision)
            confirm = panel.h_stack("confirm", gap=1, align_y="center", componentsProps=panels.columns("1fr auto auto"))
            panels.text(confirm, "words", f"{verb} {count} labels at once?", color="text.primary")
            decide = {"on_click": self.on_decide, "params": {"decision": decision}}
            confirm.btn("yes", f"{verb} {count}", variant="contained", **decide)
            confirm.btn("no", "Cancel", on_click=self.on_cancel, variant="outlined")
        if facts.unteachable:
            panels.text(panel, "unteachable", facts.unteachable, color="text.primary")
        more = panel.h_stack("more", gap=1, componentsProps=panels.wrapping(130))
        choices.undo_button(ctx, more, self.on_undo)
        more.btn(
            "teach",
            f"Update ({facts.new} new)",
            icon="school",
            on_click=self.on_teach,
            variant="outlined",
            disabled=not facts.new,
            title="Accepted predictions become references, rejected ones negatives; the undecided are found again",
        )
        more.btn(
            "copy",
            "Copy accepted to…",
            icon="content_copy",
            on_click=self.on_copy,
            variant="outlined",
            disabled=not facts.decisions["accepted"] + facts.decisions["corrected"],
        )
        more.btn(
            "map",
            "Map…",
            icon="scatter_plot",
            on_click=self.on_map,
            variant="outlined",
            title="Show the predictions among references and negatives, in FiftyOne's Embeddings panel",
        )

    def _render_decisions(self, ctx, panel: types.Object, facts: choices.Facts, selected: int) -> None:
        """The buttons for what is selected, or else for all that is shown."""
        words = f"{_labels(facts.shown)} shown"
        if facts.precision is not None:
            words += f", expected precision {facts.precision:.0%}"
        panels.text(panel, "shown", words)
        which = f"{selected} selected" if selected else f"all {facts.shown}"
        row = panel.h_stack("decide", gap=1, componentsProps=panels.wrapping(130))
        for name, (label, icon, decision, tooltip) in choices.BUTTONS.items():
            row.btn(
                name,
                label if name == "outline" else f"{label} {which}",
                icon=icon,
                on_click=self.on_decide,
                params={"decision": decision},
                variant="contained" if name == "accept" else "outlined",
                title=tooltip,
            )
        row.btn("change", "Change class…", icon="label", on_click=self.on_change_class, variant="outlined")
        row.btn(
            "edit",
            "Edit outline",
            icon="edit",
            on_click=self.on_edit,
            variant="outlined",
            disabled=not selected,
            title="Open the sample in FiftyOne's annotation. An edited prediction counts as corrected",
        )

    def _render_nothing_left(self, ctx, panel: types.Object, facts: choices.Facts) -> None:
        """Why no prediction is shown."""
        total, left = sum(facts.decisions.values()), facts.decisions[choices.UNDECIDED]
        if choices.decision(ctx) != choices.UNDECIDED:
            panels.empty(panel, "Nothing to show", "No prediction has this decision and class.")
        elif not left:
            words = f"All {_labels(total)} are decided." if total else "The field has no labels."
            panels.empty(panel, "Nothing left to review", words)
        else:
            words = f"{_labels(left)} of another class or with less confidence "
            words += "is undecided." if left == 1 else "are undecided."
            panels.empty(panel, "Nothing left here", words, button="Show all undecided", on_click=self.on_show_all)


class OpenReviewPanel(panels.PanelButton):
    """The button above the grid that opens the panel."""

    panel = NAME

    @property
    def config(self):
        return self.button("Review", "Open the panel in which predictions are accepted and rejected", icon="review")


def _facts(ctx) -> choices.Facts:
    """The facts that the last event has read."""
    return choices.Facts(**ctx.panel.get_state("facts"))


def _undone(report) -> str:
    """What an undo has done, in words."""
    words = [f"{_labels(report.restored)} as before"]
    if report.changed:
        words.append(f"{report.changed} changed since, which stay as they are")
    if report.gone:
        words.append(f"{report.gone} not there any more")
    return ", ".join(words)


def _labels(count: int) -> str:
    return "1 label" if count == 1 else f"{count} labels"
