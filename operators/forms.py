"""Parts of forms that several operators share. Each gives a reason if it has nothing to offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone.operators.types as types
from fiftyone.operators.cache import execution_cache

from .base import sentence


def refuse(inputs: types.Object, title: str, reason: object) -> None:
    """Show why the operator cannot be run here, and disable its button."""
    warning = inputs.view("problem", types.Warning(label=title, description=sentence(reason)))
    warning.invalid = True
    warning.error_message = f"{title}: {reason}"


def mark_invalid(prop: types.Property, reason: object) -> None:
    """Show the problem of an input, and disable the button."""
    prop.invalid = True
    prop.error_message = sentence(reason)


def target_view(ctx, inputs: types.Object, action: str):
    """The radio for dataset, view or selection; returns the chosen view, or ``None`` if it cannot be used."""
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_view

    if ctx.dataset is None:
        refuse(inputs, "No dataset", "open a dataset first")
        return None
    inputs.view_target(ctx, action_description=action)
    view = ctx.target_view()
    try:
        check_view(view)
    except InputError as error:
        refuse(inputs, "These samples cannot be used", error)
        return None
    return view


def choice(
    inputs: types.Object,
    name: str,
    values: Sequence[str],
    *,
    label: str,
    description: str,
    default: str | None,
    required: bool = True,
    descriptions: dict[str, str] | None = None,
) -> types.Property:
    """A drop-down of ``values``."""
    dropdown = types.DropdownView(label=label, description=description)
    for value in values:
        dropdown.add_choice(value, label=value, description=(descriptions or {}).get(value))
    return inputs.enum(name, dropdown.values(), default=default, required=required, view=dropdown)


def detections_field(
    ctx, inputs: types.Object, view, name: str, *, label: str, description: str, default: str | None = None
):
    """A drop-down of the fields of type Detections with labels in the view, and their numbers of labels and masks.

    Returns the chosen field and its :class:`~nts.fiftyone_adapter.checks.LabelCounts`, or ``None``.
    """
    return _field(
        ctx, inputs, view, name, "label_counts", "labels of type Detections", label, description, default=default
    )


def reference_field(ctx, inputs: types.Object, view, name: str, *, label: str, description: str):
    """A drop-down of the fields with labels for references, and the number of labels of each type.

    Returns the chosen field and its :class:`~nts.fiftyone_adapter.checks.ReferenceCounts`, or ``None``.
    """
    what = "labels of type Detections, Polylines, Keypoints or Segmentation"
    return _field(ctx, inputs, view, name, "reference_counts", what, label, description)


def _field(
    ctx,
    inputs: types.Object,
    view,
    name: str,
    counter: str,
    what: str,
    label: str,
    description: str,
    default: str | None = None,
):
    counts = {field: counted for field, counted in _counts(ctx, view, counter).items() if counted.labels}
    if not counts:
        refuse(
            inputs,
            f"No {label.lower()}",
            f"these samples have no {what}: import or draw some, or choose other samples",
        )
        return None
    first = default if default in counts else next(iter(counts))
    choice(
        inputs,
        name,
        list(counts),
        label=label,
        description=description,
        default=first,
        descriptions={field: counted.words for field, counted in counts.items()},
    )
    chosen = ctx.params.get(name) or first
    return (chosen, counts[chosen]) if chosen in counts else None


def _counts(ctx, view, counter: str):
    """Label counts, cached while the form is open: it is built at every keystroke, and counting reads all labels.

    ``counter`` is the name of a function of :mod:`nts.fiftyone_adapter.checks`.
    """
    if ctx.prompt_id is not None:
        return _counted_once(ctx, str(view.view()._serialize(False)), counter)
    from ..nts.fiftyone_adapter import checks

    return getattr(checks, counter)(view)


@execution_cache(prompt_scoped=True, residency="ephemeral")
def _counted_once(ctx, stages: str, counter: str):
    from ..nts.fiftyone_adapter import checks

    return getattr(checks, counter)(ctx.target_view())


def classes(
    inputs: types.Object, names: Sequence[str], *, description: str, name: str = "classes", label: str = "Classes"
) -> types.Property:
    """An optional multiple choice among classes, or other names."""
    dropdown = types.DropdownView(label=label, description=description, multiple=True)
    for each in names:
        dropdown.add_choice(each, label=each)
    return inputs.list(name, types.String(), default=None, required=False, view=dropdown)


def run_name(ctx, inputs: types.Object, name: str, method: str, *, label: str) -> None:
    """The name of a run in the dataset, checked while it is typed."""
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_key

    prop = inputs.str(name, label=label, description="Name in the dataset", required=True)
    if key := ctx.params.get(name):
        try:
            check_key(ctx.dataset, key, method, overwrite=bool(ctx.params.get("overwrite")))
        except InputError as error:
            mark_invalid(prop, error)


def memory(ctx, inputs: types.Object, *, description: str) -> str | None:
    """A drop-down of the dataset's memories; returns the name of the chosen one."""
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

    memories = list_runs(ctx.dataset, MEMORY)
    if not memories:
        refuse(inputs, "No memory", "this dataset has no reference memory yet: run 'Build reference memory' first")
        return None
    words = {
        key: f"{sum(config['shots'])} references of {len(config['classes'])} classes, encoder {config['encoder']}"
        for key, config in memories.items()
    }
    newest = max(memories, key=lambda key: memories[key]["created"])
    choice(
        inputs,
        "memory_key",
        list(memories),
        label="Memory",
        description=description,
        default=newest,
        descriptions=words,
    )
    chosen = ctx.params.get("memory_key") or newest
    return chosen if chosen in memories else None


def reference_prompt(ctx, inputs: types.Object, memory_key: str) -> None:
    """A drop-down of the reference prompts, with the problem of the chosen one, and the classes it was trained on."""
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs
    from ..nts.fiftyone_adapter.scorers import prompt_facts, prompt_problem

    memory, prompts = list_runs(ctx.dataset, MEMORY)[memory_key], prompt_facts(ctx.dataset)
    segmenter = ctx.params.get("segmenter") or "small"
    usable = [name for name, facts in prompts.items() if prompt_problem(memory, name, facts, segmenter) is None]
    default = next(iter(usable or prompts))
    prop = choice(
        inputs,
        "reference_prompt",
        list(prompts),
        label="Reference prompt",
        description="Trained here, or 'small', which comes with the plugin for its small models",
        default=default,
        descriptions={name: facts.words for name, facts in prompts.items()},
    )
    chosen = ctx.params.get("reference_prompt") or default
    problem = prompt_problem(memory, chosen, prompts.get(chosen), segmenter)
    if problem is not None:
        mark_invalid(prop, problem)
    seen = prompts[chosen].seen_classes(memory["classes"]) if chosen in prompts else []
    if seen:
        inputs.view(
            "seen_classes",
            types.Notice(
                label=f"The prompt was trained on {len(seen)} of the memory's classes",
                description=f"{', '.join(seen)}: it performs better on them than on novel classes",
            ),
        )


def overwrite(inputs: types.Object, description: str) -> None:
    """The switch that allows to replace something."""
    inputs.bool("overwrite", label="Overwrite", description=description, default=False, view=types.SwitchView())


def prompt(ctx, inputs: types.Object, *, description: str, unfinished: bool = False) -> str | None:
    """A drop-down of the dataset's reference prompts; returns the name of the chosen one.

    ``unfinished`` adds trainings that did not complete.
    """
    from ..nts.fiftyone_adapter.runs import PROMPT, list_drafts, list_runs

    prompts = list_runs(ctx.dataset, PROMPT)
    attempts = list_drafts(ctx.dataset, PROMPT) if unfinished else {}
    if not prompts and not attempts:
        refuse(inputs, "No reference prompt", "this dataset has none yet: run 'Train reference prompt' first")
        return None
    words = {
        key: f"{len(config['classes'])} classes, encoder {config['encoder']}, segmenter {config['segmenter']}"
        for key, config in prompts.items()
    } | {key: f"unfinished training: {config['status']}" for key, config in attempts.items()}
    first = next(iter(words))
    choice(
        inputs,
        "prompt_key",
        list(words),
        label="Reference prompt",
        description=description,
        default=first,
        descriptions=words,
    )
    chosen = ctx.params.get("prompt_key") or first
    return chosen if chosen in words else None


def encoder(inputs: types.Object) -> None:
    """The choice of a DINOv2 or DINOv3."""
    from ..nts.models import ENCODERS

    _model(inputs, "encoder", ENCODERS, "Encoder", "a folder with config.json and model.safetensors")


def segmenter(inputs: types.Object, label: str = "Segmenter") -> None:
    """The choice of a SAM2."""
    from ..nts.models import SEGMENTERS

    _model(
        inputs,
        "segmenter",
        SEGMENTERS,
        label,
        "a checkpoint file with a released model's name, or of a folder with its .yaml and .pt",
    )


def _model(inputs: types.Object, name: str, known: Sequence[str], label: str, by_hand: str) -> None:
    description = f"'small' comes with the plugin; the others are fetched once. Or the path of {by_hand}"
    names = types.AutocompleteView(label=label, description=description, allow_user_input=True)
    for model in known:
        names.add_choice(model, label=model)
    inputs.str(name, default=known[0], required=False, view=names)


def preset(inputs: types.Object, default: str = "default") -> None:
    """The choice of a preset."""
    from ..nts.presets import PRESETS

    choice(
        inputs,
        "preset",
        list(PRESETS),
        label="Preset",
        description="'default' is the most accurate; 'paper' follows the publication; 'fast' prompts SAM2 at half the "
        "points, guided by the prototypes",
        default=default,
        required=False,
    )


def device(inputs: types.Object, *, precision: bool = True) -> None:
    """The device of the models and, optionally, their precision."""
    from ..nts.utils.devices import PRECISIONS

    inputs.str(
        "device",
        label="Device",
        description="'auto': a GPU if there is one. Otherwise as in torch: 'cpu', 'cuda:1'",
        default="auto",
        required=False,
    )
    if not precision:
        return
    choice(
        inputs,
        "precision",
        list(PRECISIONS),
        label="Precision",
        description="'auto' is float32 for the preset 'paper', as published, and 'fast' for the preset 'fast'. For the "
        "default it is bfloat16 on a GPU that computes in it, else float32; 'fast' is bfloat16 on such CPUs, too",
        default="auto",
        required=False,
    )


def given(params: dict[str, Any], *names: str) -> dict[str, Any]:
    """Parameters that have a value; the job has defaults for the others."""
    return {name: params[name] for name in names if params.get(name) not in (None, "", [])}
