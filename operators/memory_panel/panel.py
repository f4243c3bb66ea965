"""The panel around its tabs: events, the chosen memory, and the header."""

from __future__ import annotations

from collections.abc import Iterable

import fiftyone.operators as foo
import fiftyone.operators.types as types
from fiftyone.operators.categories import Categories

from .. import panels
from ..words import sentence
from . import checks, references, similarity
from .state import ALL, inspect, memories, memory_key, origin, page

NAME = "memory_panel"
TABS = {"references": references, "classes": similarity, "checks": checks}
LABELS = {"references": "References", "classes": "Similarity of classes", "checks": "Check references"}


class MemoryPanel(foo.Panel):
    """Shows a :class:`nts.fiftyone_adapter.inspecting.MemoryInspection`.

    The person's choices are the panel's state. Pictures and plots are its data, sent when they change.
    """

    @property
    def config(self):
        return foo.PanelConfig(
            name=NAME,
            label="Reference memory",
            icon="photo_library",
            category=Categories.CURATE,
            surfaces="grid",
            allow_multiple=False,
            help_markdown="The references of a memory, the similarity of its classes, and references that disagree",
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def on_load(self, ctx) -> None:
        """Open on the memory that was chosen before, or the newest."""
        self._choose(ctx, memory_key(ctx))

    def on_change_dataset(self, ctx) -> None:
        """Another dataset has other memories."""
        self._choose(ctx, None)

    def on_memory(self, ctx) -> None:
        """Another memory."""
        self._choose(ctx, ctx.params["value"])

    def on_refresh(self, ctx) -> None:
        """Read the memories again."""
        self._choose(ctx, memory_key(ctx))

    def on_tab(self, ctx) -> None:
        """Another tab."""
        ctx.panel.set_state("tab", ctx.params["value"])
        self._draw(ctx)

    def on_class(self, ctx) -> None:
        """The references of another class, from the first page."""
        ctx.panel.set_state("references.choices.class", ctx.params["value"])
        ctx.panel.set_state("page", 0)
        self._draw(ctx)

    def on_disagreeing(self, ctx) -> None:
        """Show the samples of the references that disagree, worst first."""
        self._show(ctx, [check.entry for check in inspect(ctx).disagreeing])

    def on_page(self, ctx) -> None:
        """The previous or the next page."""
        ctx.panel.set_state("page", page(ctx) + ctx.params["step"])
        self._draw(ctx)

    def on_build(self, ctx) -> None:
        """Open the form of build reference memory."""
        ctx.prompt(f"{panels.PLUGIN}/build_reference_memory", on_success=self.on_refresh)

    def on_rebuild(self, ctx) -> None:
        """Open the form of build reference memory, with the name and the field of this one."""
        key = memory_key(ctx)
        field = memories(ctx)[key]["label_field"]
        params = {"memory_key": key, "overwrite": True} | ({"label_field": field} if field else {})
        ctx.prompt(f"{panels.PLUGIN}/build_reference_memory", params=params, on_success=self.on_refresh)

    def on_reference(self, ctx) -> None:
        """A picture shows its sample, and chooses the reference for the buttons below the header."""
        entry = inspect(ctx).entries[ctx.params["entry"]]
        ctx.panel.set_state("chosen", [entry.sample_id, entry.label_id])
        self._show(ctx, [ctx.params["entry"]])

    def on_remove(self, ctx) -> None:
        """Remove the chosen reference from the memory."""
        from ...nts.fiftyone_adapter import InputError
        from ...nts.fiftyone_adapter.adding_references import remove_references

        if (entry := self._chosen(ctx)) is None:
            return
        try:
            remove_references(ctx.dataset, memory_key(ctx), [entry])
        except InputError as error:
            ctx.ops.notify(sentence(error), variant="error")
            return
        ctx.panel.set_state("chosen", None)
        ctx.ops.notify(f"A reference of {entry.class_name} was removed from {memory_key(ctx)}", variant="success")
        self._draw(ctx)

    def on_move(self, ctx) -> None:
        """Open the form that gives the chosen reference another class."""
        if (entry := self._chosen(ctx)) is not None:
            params = {"memory_key": memory_key(ctx), "label_id": entry.label_id}
            ctx.prompt(f"{panels.PLUGIN}/move_reference", params=params, on_success=self.on_refresh)

    def on_release(self, ctx) -> None:
        """Choose no reference."""
        ctx.panel.set_state("chosen", None)

    def on_row(self, ctx) -> None:
        """A row shows its sample."""
        inspection = inspect(ctx)
        if ctx.params["row"] >= 0:
            self._show(ctx, [inspection.by_margin[ctx.params["row"]].entry])

    def on_cell(self, ctx) -> None:
        """A cell shows the references of its two classes."""
        inspection = inspect(ctx)
        names = {ctx.params["x"], ctx.params["y"]}
        self._show(ctx, [check.entry for check in inspection.of_classes(names)])

    def on_all(self, ctx) -> None:
        """Show the samples of all references."""
        self._show(ctx, range(len(inspect(ctx).entries)))

    # ---- state and data ----------------------------------------------------------------------------------------------

    def _choose(self, ctx, key: str | None) -> None:
        """Take a memory, by default the newest, and draw it."""
        known = memories(ctx)
        if key not in known:
            key = max(known, key=lambda name: known[name]["created"], default=None)
        if key != memory_key(ctx):
            ctx.panel.set_state("references.choices.class", ALL)
            ctx.panel.set_state("page", 0)
            ctx.panel.set_state("chosen", None)
        ctx.panel.set_state("header.memory", key)
        self._draw(ctx)

    def _show(self, ctx, entries: Iterable[int]) -> None:
        from ...nts.fiftyone_adapter.inspecting import references_view

        inspection = inspect(ctx)
        chosen = [inspection.entries[entry] for entry in entries]
        names = ", ".join(dict.fromkeys(entry.class_name for entry in chosen))
        content = f"references of {names if len(names) < 80 else f'{len(inspection.classes)} classes'}"
        panels.show(ctx, references_view(ctx.dataset, memory_key(ctx), chosen), content)

    def _chosen(self, ctx):
        """The chosen reference; ``None``, after a notification, if it is not in the memory any more."""
        inspection, chosen = inspect(ctx), ctx.panel.get_state("chosen")
        entries = () if inspection is None else inspection.entries
        found = next((entry for entry in entries if [entry.sample_id, entry.label_id] == chosen), None)
        if found is None:
            ctx.panel.set_state("chosen", None)
            ctx.ops.notify("This reference is not in the memory any more", variant="warning")
        return found

    def _draw(self, ctx) -> None:
        """Send the data of the tab in front."""
        inspection = inspect(ctx)
        if inspection is not None:
            TABS[_tab(ctx)].draw(ctx, inspection)

    # ---- layout ------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset is None:
            panels.empty(panel, "No dataset", "Open a dataset to see its reference memories.")
        elif not memories(ctx):
            panels.empty(
                panel,
                "No reference memory yet",
                "Choose a view with a few labelled objects of each class, and build a memory from it.",
                button="Build reference memory",
                on_click=self.on_build,
            )
        else:
            self._render_header(ctx, panel)
            inspection = inspect(ctx)
            if inspection is None:
                panels.empty(panel, "This memory cannot be read", ctx.panel.get_state("problem"))
            else:
                self._render_facts(ctx, panel, inspection)
                self._render_chosen(ctx, panel, inspection)
                content = panel.v_stack(_tab(ctx), gap=2, componentsProps=panels.FITTING)
                TABS[_tab(ctx)].render(self, ctx, inspection, content)
        return types.Property(panel, view=panels.root())

    def _render_header(self, ctx, panel: types.Object) -> None:
        template = panels.columns("minmax(0, 1fr) auto")
        header = panel.h_stack("header", gap=2, align_y="end", componentsProps=template)
        names = types.DropdownView(label="Memory")
        for key, config in memories(ctx).items():
            words = f"{sum(config['shots'])} references of {len(config['classes'])} classes"
            names.add_choice(key, label=key, description=words)
        header.enum("memory", names.values(), view=names, on_change=self.on_memory)
        refresh = types.IconButtonView(icon="refresh", title="Refresh", operator=self.on_refresh, variant="outlined")
        header.view("refresh", refresh)
        buttons = panel.h_stack("buttons", gap=1, componentsProps=panels.wrapping(120))
        buttons.btn("all", "Show in grid", icon="grid_view", on_click=self.on_all, variant="outlined")
        buttons.btn("rebuild", "Rebuild…", icon="replay", on_click=self.on_rebuild, variant="outlined")
        buttons.btn("build", "New…", icon="add", on_click=self.on_build, variant="outlined")

    def _render_chosen(self, ctx, panel: types.Object, inspection) -> None:
        chosen = ctx.panel.get_state("chosen")
        entry = next((each for each in inspection.entries if [each.sample_id, each.label_id] == chosen), None)
        if entry is None:
            return
        about = panel.h_stack("chosen", gap=1, align_y="center", componentsProps=panels.columns("minmax(0, 1fr) auto"))
        panels.text(about, "words", f"Chosen: a reference of {entry.class_name}", color="text.primary")
        release = types.IconButtonView(icon="close", title="Choose none", operator=self.on_release)
        about.view("release", release)
        row = panel.h_stack("chosen_buttons", gap=1, componentsProps=panels.wrapping(200))
        row.btn("remove", "Remove this reference", icon="delete", on_click=self.on_remove, variant="outlined")
        row.btn("move", "Move to class…", icon="label", on_click=self.on_move, variant="outlined")

    def _render_facts(self, ctx, panel: types.Object, inspection) -> None:
        from ...nts.fiftyone_adapter.inspecting import WITHOUT_NEGATIVES, count_negatives, missing_samples

        panels.caption(panel, "facts", origin(memories(ctx)[memory_key(ctx)]))
        negatives = count_negatives(inspection.negatives) if inspection.negatives else WITHOUT_NEGATIVES
        panels.caption(panel, "negatives", f"{negatives}.")
        missing = missing_samples(ctx.dataset, inspection)
        if missing:
            panel.view(
                "missing",
                types.Notice(
                    label=f"{missing} of {len(inspection.entries)} references have no sample in this dataset",
                    description="They count as the others do, but cannot be shown",
                ),
            )
        disagreeing = len(inspection.disagreeing)
        if disagreeing:
            row = panel.h_stack(
                "disagreement", gap=2, align_y="center", componentsProps=panels.columns("minmax(0, 1fr) auto")
            )
            words = (
                f"{disagreeing} of {len(inspection.entries)} references are more like another class than like their own"
            )
            panels.text(row, "words", words, color="error.main")
            row.btn("show", "Show them", on_click=self.on_disagreeing, variant="outlined")
        panels.tabs(panel, "tab", LABELS, default="references", on_change=self.on_tab)


class OpenMemoryPanel(panels.PanelButton):
    """The button above the grid that opens the panel."""

    panel = NAME

    @property
    def config(self):
        return self.button("Reference memory", "Open the panel of the reference memories", icon="references")


def _tab(ctx) -> str:
    return ctx.panel.get_state("tab") or "references"
