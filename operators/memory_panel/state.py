"""The memory and the class that a person has chosen in the panel, and the inspection of that memory."""

from __future__ import annotations

import math
from typing import Any

from ..words import sentence

ALL, DISAGREEING = "all classes", "references that disagree"


def memories(ctx) -> dict[str, dict[str, Any]]:
    """Memories of the open dataset: ``{key: configuration}``."""
    from ...nts.fiftyone_adapter.runs import MEMORY, list_runs

    return {} if ctx.dataset is None else list_runs(ctx.dataset, MEMORY)


def memory_key(ctx) -> str | None:
    """The chosen memory."""
    return ctx.panel.get_state("header.memory")


def class_choice(ctx) -> str:
    """The chosen class, ``ALL`` or ``DISAGREEING``."""
    return ctx.panel.get_state("references.choices.class") or ALL


def page(ctx) -> int:
    """Number of the page in front, from 0."""
    return ctx.panel.get_state("page") or 0


def inspect(ctx):
    """Inspection of the chosen memory; if it cannot be read, ``None``, and the reason in the state."""
    from ...nts.fiftyone_adapter.errors import RunNotFound
    from ...nts.fiftyone_adapter.inspecting import inspect_memory
    from ...nts.memory import MemoryFileError

    if ctx.dataset is None or memory_key(ctx) is None:
        return None
    try:
        return inspect_memory(ctx.dataset, memory_key(ctx))
    except (RunNotFound, MemoryFileError) as error:
        ctx.panel.set_state("problem", sentence(error))
        return None


def origin(config: dict[str, Any]) -> str:
    """Size and origin of a memory in one line."""
    shots = sorted(set(config["shots"]))
    per_class = f"{shots[0]}" if len(shots) == 1 else f"{shots[0]} to {shots[-1]}"
    from ...nts.fiftyone_adapter.runs import label_fields

    fields = ", ".join(label_fields(config))
    source = f"labels of {fields}" if config["label_field"] else f"the file {config['source']}"
    created = config["created"].replace("T", " ")[:16]
    size = f"{sum(config['shots'])} references of {len(config['classes'])} classes, {per_class} each"
    made = f"encoder {config['encoder']} · preset {config['preset']} · built {created} UTC from {source}"
    if config.get("whole_images"):
        made += " · with whole images"
    return f"{size} · {made}"


def number(value: float) -> str:
    """A similarity; a dash for none."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """A margin with its sign: the true minus sign, which is as wide as the plus."""
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−")
