"""The tab with pictures of the references, class by class."""

from __future__ import annotations

import math

import fiftyone.operators.types as types

from .. import charts, panels
from ..words import sentence
from .state import ALL, DISAGREEING, class_choice, memory_key, page, signed

_PER_PAGE = 24
_SIDE = 92  # of a thumbnail, in pixels of the page


def draw(ctx, inspection) -> None:
    from ...nts.fiftyone_adapter.inspecting import thumbnails

    shown = _shown(ctx, inspection)[0]
    pictures = thumbnails(ctx.dataset, memory_key(ctx), [inspection.entries[check.entry] for check in shown])
    problems = {
        f"e{check.entry}": picture.problem
        for check, picture in zip(shown, pictures, strict=True)
        if picture.uri is None
    }
    ctx.panel.set_state("problems", None)  # the App lays a value over the one before it, key by key
    ctx.panel.set_state("problems", problems)
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for check, picture in zip(shown, pictures, strict=True):
        if picture.uri is not None:
            groups.setdefault(_group(inspection, check), {})[f"e{check.entry}"] = {"image": picture.uri}
    for group, content in groups.items():
        panels.send(ctx, f"references.{group}", content)


def render(panel, ctx, inspection, content: types.Object) -> None:
    shown, first, total = _shown(ctx, inspection)
    _render_choices(panel, inspection, content, first, len(shown), total)
    problems = ctx.panel.get_state("problems") or {}
    by_class: dict[str, list] = {}
    for check in shown:
        by_class.setdefault(check.class_name, []).append(check)
    for name, checks in by_class.items():
        count = inspection.shots[name]
        title = f"{name} · {count} reference{'s' if count > 1 else ''}"
        panels.heading(content, f"{_group(inspection, checks[0])}_title", title)
        pictures = content.grid(_group(inspection, checks[0]), gap=1)
        for check in checks:
            _render_picture(panel, pictures, check, problems.get(f"e{check.entry}"))
        for check in checks:
            if check.agrees is False:
                words = f"Margin {signed(check.margin)}: {_verdict(check)}"
                panels.text(content, f"wrong{check.entry}", words, color="error.main", font_size="0.8rem")


def _render_choices(panel, inspection, content: types.Object, first: int, shown: int, total: int) -> None:
    choices = content.h_stack(
        "choices", gap=2, align_y="center", componentsProps=panels.columns("minmax(0, 320px) auto auto auto 1fr")
    )
    classes = types.AutocompleteView(label="Show", allow_user_input=False, allow_clearing=False)
    for name in [ALL, *([DISAGREEING] if inspection.disagreeing else []), *inspection.classes]:
        classes.add_choice(name, label=name)
    choices.enum("class", classes.values(), default=ALL, view=classes, on_change=panel.on_class)
    if total > _PER_PAGE:
        is_first, is_last = first == 0, first + _PER_PAGE >= total
        looks = {"on_click": panel.on_page, "variant": "outlined"}
        choices.btn("back", "Previous", params={"step": -1}, disabled=is_first, **looks)
        panels.text(choices, "pages", f"{first + 1}–{first + shown} of {total}")
        choices.btn("on", "Next", params={"step": 1}, disabled=is_last, **looks)


def _render_picture(panel, pictures: types.Object, check, problem: str | None) -> None:
    disagrees = check.agrees is False
    border = f"3px solid {charts.WRONG if disagrees else 'transparent'}"
    item = {"item": {"sx": {"width": _SIDE + 6}}}
    cell = pictures.v_stack(f"e{check.entry}", gap=0, componentsProps=item)
    tooltip = sentence(_verdict(check))
    if problem is None:
        style = {"width": _SIDE, "height": _SIDE, "objectFit": "contain", "border": border, "borderRadius": 6}
        cell.img(
            "image",
            on_click=panel.on_reference,
            params={"entry": check.entry},
            alt_text=tooltip,
            componentsProps={"image": {"title": tooltip, "style": style | {"cursor": "pointer"}}},
        )
    else:
        panels.text(cell, "problem", f"No picture: {problem}", font_size="0.75rem")
    margin = "" if math.isnan(check.margin) else f"margin {signed(check.margin)}"
    looks = {"color": "error.main" if disagrees else "text.tertiary", "font_size": "0.75rem"}
    panels.text(cell, "margin", margin or "the only one", **looks)


def _shown(ctx, inspection) -> tuple[list, int, int]:
    """References on the page in front, the number of the first of them, and the total on all pages."""
    chosen = class_choice(ctx)
    if chosen == DISAGREEING:
        checks = sorted(inspection.disagreeing, key=lambda check: check.class_name)
    else:
        checks = inspection.of_classes(inspection.classes if chosen == ALL else [chosen])
    pages = max(1, math.ceil(len(checks) / _PER_PAGE))
    first = _PER_PAGE * min(page(ctx), pages - 1)
    return checks[first : first + _PER_PAGE], first, len(checks)


def _group(inspection, check) -> str:
    """Name of the part of the panel with the pictures of a class. A class itself may have any name."""
    return f"class{inspection.classes.index(check.class_name)}"


def _verdict(check) -> str:
    from ...nts.fiftyone_adapter.inspecting import describe_check

    return describe_check(check)
