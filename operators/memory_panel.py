"""The panel of a reference memory: pictures of its references, how alike its classes are, and who disagrees."""

from __future__ import annotations

import math
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types
from fiftyone.operators.categories import Categories

from . import charts, panels
from .base import sentence

NAME = "memory_panel"
TABS = {"references": "References", "classes": "Likeness of classes", "checks": "Leave one out"}
ALL, DISAGREEING = "all classes", "references that disagree"
COLUMNS = {
    "class": "Class",
    "similarity": "To its own",
    "other": "Nearest other",
    "other_similarity": "To that",
    "margin": "Margin",
    "agrees": "Agrees",
}

_PER_PAGE = 24
_MOST_ROWS = 100
_MOST_CLASSES = 60  # of the heat map: 3,600 cells, still wide enough to be clicked
_SIDE = 92  # of a thumbnail, in pixels of the page
_DISAGREES = charts.WRONG


class MemoryPanel(foo.Panel):
    """Shows what :func:`nts.fiftyone_adapter.inspect_memory` finds.

    What a person chooses is the panel's state. Pictures and plots are its data, sent when what they show changes.
    """

    @property
    def config(self):
        return foo.PanelConfig(
            name=NAME,
            label="Reference memory",
            light_icon="/assets/references-light.svg",
            dark_icon="/assets/references-dark.svg",
            category=Categories.CURATE,
            surfaces="grid",
            allow_multiple=False,
            help_markdown="The references of a memory, how alike its classes are, and which references disagree",
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def on_load(self, ctx) -> None:
        """Open on the memory that was chosen before, or the newest."""
        self._choose(ctx, ctx.panel.get_state("header.memory"))

    def on_change_dataset(self, ctx) -> None:
        """Another dataset has other memories."""
        self._choose(ctx, None)

    def on_memory(self, ctx) -> None:
        """Another memory."""
        self._choose(ctx, ctx.params["value"])

    def on_refresh(self, ctx) -> None:
        """Read again what there is."""
        self._choose(ctx, ctx.panel.get_state("header.memory"))

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
        self._show(ctx, [check.entry for check in _inspection(ctx).disagreeing])

    def on_page(self, ctx) -> None:
        """The page before or after."""
        ctx.panel.set_state("page", _page(ctx) + ctx.params["step"])
        self._draw(ctx)

    def on_build(self, ctx) -> None:
        """Open the form of build reference memory."""
        ctx.prompt(f"{panels.PLUGIN}/build_reference_memory", on_success=self.on_refresh)

    def on_reference(self, ctx) -> None:
        """A picture shows its sample."""
        self._show(ctx, [ctx.params["entry"]])

    def on_row(self, ctx) -> None:
        """A row shows its sample."""
        inspection = _inspection(ctx)
        if ctx.params["row"] >= 0:
            self._show(ctx, [inspection.by_margin[ctx.params["row"]].entry])

    def on_cell(self, ctx) -> None:
        """A cell shows the references of its two classes."""
        inspection = _inspection(ctx)
        names = {ctx.params["x"], ctx.params["y"]}
        self._show(ctx, [check.entry for check in inspection.of_classes(names)])

    def on_all(self, ctx) -> None:
        """Show the samples of all references."""
        self._show(ctx, range(len(_inspection(ctx).entries)))

    # ---- state and data ----------------------------------------------------------------------------------------------

    def _choose(self, ctx, key: str | None) -> None:
        """Take a memory, the newest where ``key`` is none, and draw it."""
        memories = _memories(ctx)
        if key not in memories:
            key = max(memories, key=lambda name: memories[name]["created"], default=None)
        if key != ctx.panel.get_state("header.memory"):
            ctx.panel.set_state("references.choices.class", ALL)
            ctx.panel.set_state("page", 0)
        ctx.panel.set_state("header.memory", key)
        self._draw(ctx)

    def _show(self, ctx, entries) -> None:
        from ..nts.fiftyone_adapter import references_view

        inspection = _inspection(ctx)
        chosen = [inspection.entries[entry] for entry in entries]
        names = ", ".join(dict.fromkeys(entry.class_name for entry in chosen))
        what = f"references of {names if len(names) < 80 else f'{len(inspection.classes)} classes'}"
        panels.show(ctx, references_view(ctx.dataset, _key(ctx), chosen), what)

    def _draw(self, ctx) -> None:
        """Send the data of the tab in front."""
        inspection = _inspection(ctx)
        if inspection is not None:
            getattr(self, f"_draw_{_tab(ctx)}")(ctx, inspection)

    def _draw_references(self, ctx, inspection) -> None:
        from ..nts.fiftyone_adapter import thumbnails

        shown = _shown(ctx, inspection)[0]
        pictures = thumbnails(ctx.dataset, _key(ctx), [inspection.entries[check.entry] for check in shown])
        uris = {f"e{check.entry}": picture.uri for check, picture in zip(shown, pictures, strict=True) if picture.uri}
        problems = {
            f"e{check.entry}": picture.problem
            for check, picture in zip(shown, pictures, strict=True)
            if picture.uri is None
        }
        ctx.panel.set_state("problems", None)  # the App lays a value over the one before it, key by key
        ctx.panel.set_state("problems", problems)
        groups: dict[str, dict[str, dict[str, str]]] = {}
        for check in shown:
            name = f"e{check.entry}"
            if name in uris:
                groups.setdefault(_group(inspection, check), {})[name] = {"image": uris[name]}
        for group, content in groups.items():
            panels.send(ctx, f"references.{group}", content)

    def _draw_classes(self, ctx, inspection) -> None:
        rows = inspection.most_alike_classes(_MOST_CLASSES)
        names = [inspection.classes[row] for row in rows]
        values = inspection.similarities[rows][:, rows].round(3).tolist()
        trace = {
            "type": "heatmap",
            "x": names,
            "y": names,
            "z": values,
            "zmin": min(0.0, *(min(line) for line in values)),
            "zmax": 1.0,
            "colorscale": "Viridis",
            "colorbar": {"thickness": 12, "outlinewidth": 0, "tickfont": {"color": charts.MUTED}},
            "hovertemplate": "%{y} and %{x}: %{z:.2f}<extra></extra>",
            "xgap": 1,
            "ygap": 1,
        }
        if len(names) <= 12:
            trace.update(texttemplate="%{z:.2f}", textfont={"size": 11})
        panels.send(ctx, "classes.plot", [trace])

    def _draw_checks(self, ctx, inspection) -> None:
        panels.send(ctx, "checks.table", [_row(check) for check in inspection.by_margin[:_MOST_ROWS]])

    # ---- layout ------------------------------------------------------------------------------------------------------

    def render(self, ctx):
        panel = types.Object()
        if ctx.dataset is None:
            panels.empty(panel, "No dataset", "Open a dataset to see its reference memories.")
        elif not _memories(ctx):
            panels.empty(
                panel,
                "No reference memory yet",
                "Choose a view with a few labelled objects of each class, and build a memory from it.",
                button="Build reference memory",
                on_click=self.on_build,
            )
        else:
            self._render_header(ctx, panel)
            inspection = _inspection(ctx)
            if inspection is None:
                panels.empty(panel, "This memory cannot be read", ctx.panel.get_state("problem"))
            else:
                self._render_facts(ctx, panel, inspection)
                content = panel.v_stack(_tab(ctx), gap=2, componentsProps=panels.FITTING)
                getattr(self, f"_render_{_tab(ctx)}")(ctx, content, inspection)
        return types.Property(panel, view=panels.root())

    def _render_header(self, ctx, panel: types.Object) -> None:
        template = panels.columns("minmax(0, 1fr) auto auto auto")
        header = panel.h_stack("header", gap=2, align_y="end", componentsProps=template)
        names = types.DropdownView(label="Memory")
        for key, config in _memories(ctx).items():
            words = f"{sum(config['shots'])} references of {len(config['classes'])} classes"
            names.add_choice(key, label=key, description=words)
        header.enum("memory", names.values(), view=names, on_change=self.on_memory)
        header.btn("refresh", "Refresh", icon="refresh", on_click=self.on_refresh, variant="outlined")
        header.btn("all", "Show in grid", icon="grid_view", on_click=self.on_all, variant="outlined")
        header.btn("build", "Build", icon="add", on_click=self.on_build, variant="outlined")

    def _render_facts(self, ctx, panel: types.Object, inspection) -> None:
        from ..nts.fiftyone_adapter import missing_samples

        panels.caption(panel, "facts", _facts(_memories(ctx)[_key(ctx)]))
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
                "disagreement", gap=2, align_y="center", componentsProps=panels.columns("auto auto 1fr")
            )
            words = (
                f"{disagreeing} of {len(inspection.entries)} references are more like another class than like their own"
            )
            panels.text(row, "words", words, color="error.main")
            row.btn("show", "Show them", on_click=self.on_disagreeing, variant="outlined")
        panels.tabs(panel, "tab", TABS, default="references", on_change=self.on_tab)

    def _render_references(self, ctx, content: types.Object, inspection) -> None:
        shown, first, total = _shown(ctx, inspection)
        choices = content.h_stack(
            "choices", gap=2, align_y="center", componentsProps=panels.columns("minmax(0, 320px) auto auto auto 1fr")
        )
        classes = types.AutocompleteView(label="Show", allow_user_input=False, allow_clearing=False)
        for name in [ALL, *([DISAGREEING] if inspection.disagreeing else []), *inspection.classes]:
            classes.add_choice(name, label=name)
        choices.enum("class", classes.values(), default=ALL, view=classes, on_change=self.on_class)
        if total > _PER_PAGE:
            back, on = first > 0, first + _PER_PAGE < total
            choices.btn(
                "back", "Before", on_click=self.on_page, params={"step": -1}, disabled=not back, variant="outlined"
            )
            panels.text(choices, "pages", f"{first + 1}–{first + len(shown)} of {total}")
            choices.btn("on", "Next", on_click=self.on_page, params={"step": 1}, disabled=not on, variant="outlined")
        problems = ctx.panel.get_state("problems") or {}
        by_class: dict[str, list] = {}
        for check in shown:
            by_class.setdefault(check.class_name, []).append(check)
        for name, checks in by_class.items():
            wrong = [check for check in checks if check.agrees is False]
            count = inspection.shots[name]
            title = f"{name} · {count} reference{'s' if count > 1 else ''}"
            panels.heading(content, f"{_group(inspection, checks[0])}_title", title)
            pictures = content.grid(_group(inspection, checks[0]), gap=1)
            for check in checks:
                self._render_picture(pictures, check, problems.get(f"e{check.entry}"))
            for check in wrong:
                words = f"Margin {_signed(check.margin)}: {_verdict(check)}"
                panels.text(content, f"wrong{check.entry}", words, color="error.main", font_size="0.8rem")

    def _render_picture(self, pictures: types.Object, check, problem: str | None) -> None:
        disagrees = check.agrees is False
        border = f"3px solid {_DISAGREES if disagrees else 'transparent'}"
        item = {"item": {"sx": {"width": _SIDE + 6}}}
        cell = pictures.v_stack(f"e{check.entry}", gap=0, componentsProps=item)
        tooltip = sentence(_verdict(check))
        if problem is None:
            style = {"width": _SIDE, "height": _SIDE, "objectFit": "contain", "border": border, "borderRadius": 6}
            cell.img(
                "image",
                on_click=self.on_reference,
                params={"entry": check.entry},
                alt_text=tooltip,
                componentsProps={"image": {"title": tooltip, "style": style | {"cursor": "pointer"}}},
            )
        else:
            panels.text(cell, "problem", f"No picture: {problem}", font_size="0.75rem")
        margin = "" if math.isnan(check.margin) else f"margin {_signed(check.margin)}"
        looks = {"color": "error.main" if disagrees else "text.tertiary", "font_size": "0.75rem"}
        panels.text(cell, "margin", margin or "the only one", **looks)

    def _render_classes(self, ctx, content: types.Object, inspection) -> None:
        count = min(len(inspection.classes), _MOST_CLASSES)
        if count < 2:
            panels.empty(content, "One class", "There is no other class that it could be mistaken for.")
            return
        caption = "Cosine of class prototypes: the nearer to 1, the harder to tell apart. Click a cell to see both."
        if count < len(inspection.classes):
            caption += f" The {count} classes that are most alike to another one, of {len(inspection.classes)}."
        panels.heading(content, "title", "How alike the classes are", caption)
        side = max(280, min(760, 160 + 34 * count))
        content.plot(
            "plot",
            layout=charts.layout(
                side,
                margin={"t": 8, "r": 8, "b": 8, "l": 8},
                xaxis={"automargin": True, "showgrid": False, "tickangle": -45, "type": "category"},
                yaxis={"automargin": True, "showgrid": False, "autorange": "reversed", "type": "category"},
            ),
            config=charts.CONFIG,
            on_click=self.on_cell,
        )

    def _render_checks(self, ctx, content: types.Object, inspection) -> None:
        total = len(inspection.checks)
        caption = (
            "Each reference against the prototypes of the others, smallest margin first. Click a row to see its sample."
        )
        if total > _MOST_ROWS:
            caption += f" The first {_MOST_ROWS} of {total}."
        panels.heading(content, "title", "What the other references say of each", caption)
        panels.table(content, COLUMNS, on_click_row=self.on_row)


class OpenMemoryPanel(panels.PanelButton):
    """The button above the grid that opens the panel."""

    panel = NAME

    @property
    def config(self):
        return self.button("Reference memory", "Open the panel of the reference memories", icon="references")


def _memories(ctx) -> dict[str, dict[str, Any]]:
    from ..nts.fiftyone_adapter import list_memories

    return {} if ctx.dataset is None else list_memories(ctx.dataset)


def _key(ctx) -> str | None:
    return ctx.panel.get_state("header.memory")


def _tab(ctx) -> str:
    return ctx.panel.get_state("tab") or "references"


def _page(ctx) -> int:
    return ctx.panel.get_state("page") or 0


def _inspection(ctx):
    """What is found in the chosen memory; ``None``, and the reason in the state, where it cannot be read."""
    from ..nts.fiftyone_adapter import RunNotFound, inspect_memory
    from ..nts.memory import MemoryFileError

    if ctx.dataset is None or _key(ctx) is None:
        return None
    try:
        return inspect_memory(ctx.dataset, _key(ctx))
    except (RunNotFound, MemoryFileError) as error:
        ctx.panel.set_state("problem", sentence(error))
        return None


def _shown(ctx, inspection) -> tuple[list, int, int]:
    """The references of the page in front, the number of the first of them, and how many there are on all pages."""
    chosen = ctx.panel.get_state("references.choices.class") or ALL
    if chosen == DISAGREEING:
        checks = sorted(inspection.disagreeing, key=lambda check: check.class_name)
    else:
        checks = inspection.of_classes(inspection.classes if chosen == ALL else [chosen])
    pages = max(1, math.ceil(len(checks) / _PER_PAGE))
    first = _PER_PAGE * min(_page(ctx), pages - 1)
    return checks[first : first + _PER_PAGE], first, len(checks)


def _group(inspection, check) -> str:
    """The name of the part of the panel with the pictures of a class: a class may be called anything."""
    return f"class{inspection.classes.index(check.class_name)}"


def _facts(config: dict[str, Any]) -> str:
    """Where a memory comes from, in one line."""
    shots = sorted(set(config["shots"]))
    per_class = f"{shots[0]}" if len(shots) == 1 else f"{shots[0]} to {shots[-1]}"
    origin = f"labels of {config['label_field']}" if config["label_field"] else f"the file {config['source']}"
    created = config["created"].replace("T", " ")[:16]
    size = f"{sum(config['shots'])} references of {len(config['classes'])} classes, {per_class} each"
    made = f"encoder {config['encoder']} · preset {config['preset']} · built {created} UTC from {origin}"
    if config.get("whole_images"):
        made += " · with whole images"
    return f"{size} · {made}"


def _verdict(check) -> str:
    from ..nts.fiftyone_adapter import describe_check

    return describe_check(check)


def _row(check) -> dict[str, str]:
    return {
        "id": str(check.entry),
        "class": check.class_name,
        "similarity": _number(check.similarity),
        "other": check.other or "–",
        "other_similarity": _number(check.other_similarity),
        "margin": _signed(check.margin),
        "agrees": {True: "yes", False: "no", None: "the only one"}[check.agrees],
    }


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    """With its sign, and with the true minus sign, which is as wide as the plus."""
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−")
