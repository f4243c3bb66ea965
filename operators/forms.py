"""Parts of forms that several operators share. Each shows the reason if it has nothing to choose from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import fiftyone.operators.types as types
from fiftyone.operators.cache import execution_cache

from .label_selection import THIS_SAMPLE, target
from .words import sentence

if TYPE_CHECKING:
    from ..nts.fiftyone_adapter.plan import Plan
    from ..nts.fiftyone_adapter.runs import RunKind


def refuse(inputs: types.Object, title: str, reason: object) -> None:
    """Show the reason why the operator cannot run, and disable its button."""
    warning = inputs.view("problem", types.Warning(label=title, description=sentence(reason)))
    warning.invalid = True
    warning.error_message = f"{title}: {reason}"


def mark_invalid(prop: types.Property, reason: object) -> None:
    """Show the problem of an input, and disable the button."""
    prop.invalid = True
    prop.error_message = sentence(reason)


def target_view(ctx, inputs: types.Object, action: str, *, labels: bool = False, default: str | None = None):
    """The radio for dataset, view, selection or the open sample; returns the view, or ``None`` if it cannot be used.

    Args:
        ctx: the execution context.
        inputs: the form.
        action: verb for the descriptions.
        labels: offer the selected labels.
        default: the choice to begin with, if it is offered; otherwise the most selective one.
    """
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_view

    if ctx.dataset is None:
        refuse(inputs, "No dataset", "open a dataset first")
        return None
    prop = inputs.view_target(ctx, action_description=action, allow_selected_labels=labels, default_target=default)
    if ctx.current_sample and not ctx.view._is_generated:
        choices = prop.options.choices_view
        choices.add_choice(THIS_SAMPLE, label="This sample", description="The one that is open")
        prop.type, prop.view = types.Enum(choices.values()), choices
        if not (labels and ctx.selected_labels):
            prop.default = THIS_SAMPLE
    # The App sends the default only after the first look at the form.
    if ctx.params.get("view_target") is None:
        ctx.params["view_target"] = prop.default
    view = target(ctx)
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
    # With a default, an input that must have a value would be red until the App has filled it in.
    required = required and default is None
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


def predictions(ctx, inputs: types.Object, *, description: str) -> str | None:
    """A drop-down of the fields of segmentations, the newest chosen; returns the chosen one, or ``None``."""
    from ..nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

    made = [] if ctx.dataset is None else list(reversed(list_runs(ctx.dataset, SEGMENTATION)))
    if not made:
        refuse(inputs, "No predictions", "segment some samples first, with Auto-segment view")
        return None
    facts = {"label": "Predictions", "description": description}
    choice(inputs, "predictions_field", made, **facts, default=made[0], required=False)
    return ctx.params.get("predictions_field") or made[0]


def reference_field(ctx, inputs: types.Object, view, name: str, *, label: str, description: str):
    """A drop-down of the fields with labels for references, and the number of labels of each type.

    Returns the chosen field and its :class:`~nts.fiftyone_adapter.checks.ReferenceCounts`, or ``None``.
    """
    wanted = "labels of type Detections, Polylines, Keypoints or Segmentation"
    return _field(ctx, inputs, view, name, "reference_counts", wanted, label, description)


def _field(
    ctx,
    inputs: types.Object,
    view,
    name: str,
    counter: str,
    wanted: str,
    label: str,
    description: str,
    default: str | None = None,
):
    counts = {field: counted for field, counted in _counts(ctx, view, counter).items() if counted.labels}
    if not counts:
        refuse(
            inputs,
            f"No {label.lower()}",
            f"these samples have no {wanted}: import or draw some, or choose other samples",
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

    return getattr(checks, counter)(target(ctx))


def classes(
    inputs: types.Object, names: Sequence[str], *, description: str, name: str = "classes", label: str = "Classes"
) -> types.Property:
    """An optional multiple choice among classes, or other names."""
    dropdown = types.DropdownView(label=label, description=description, multiple=True)
    for each in names:
        dropdown.add_choice(each, label=each)
    return inputs.list(name, types.String(), default=None, required=False, view=dropdown)


def run_name(ctx, inputs: types.Object, name: str, kind: RunKind, *, label: str, suggested: str) -> None:
    """The name of a run, checked while it is typed; ``suggested`` is filled in, with a number if it is taken."""
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_key, suggest_key

    default = suggest_key(ctx.dataset, suggested)
    prop = inputs.str(name, label=label, description="Name in the dataset", required=False, default=default)
    if key := ctx.params.get(name):
        try:
            check_key(ctx.dataset, key, kind, overwrite=bool(ctx.params.get("overwrite")))
        except InputError as error:
            mark_invalid(prop, error)


def output_field(ctx, inputs: types.Object, suggested: str, earlier: Collection[str]) -> None:
    """Input for an output field, with the overwrite switch if an earlier run has that field.

    Args:
        ctx: the execution context.
        inputs: the form.
        suggested: the default.
        earlier: names of the runs that may be overwritten.
    """
    inputs.str(
        "output_field",
        label="Output field",
        description=f"Default: {suggested}",
        required=False,
        view=types.TextFieldView(placeholder=suggested),
    )
    if (ctx.params.get("output_field") or suggested) in earlier:
        overwrite(
            inputs, "If the settings differ, delete the results in the field, but no decided label, and start over"
        )


def option(
    inputs: types.Object,
    config: type,
    name: str,
    *,
    default: Any = None,
    label: str | None = None,
    description: str | None = None,
) -> types.Property:
    """Input for an option: label, help, range and default come from its config.

    Args:
        inputs: the form.
        config: a config of :mod:`nts.fiftyone_adapter.config`.
        name: of the option.
        default: in place of the config's.
        label: in place of the config's.
        description: in place of the config's help.
    """
    stated = config.__dataclass_fields__[name]
    facts = stated.metadata
    default = stated.default if default is None else default
    words = {"label": label or facts["label"], "description": description or facts["help"]}
    if facts["suggestions"]:
        suggestions = types.AutocompleteView(**words, allow_user_input=True)
        for value in facts["suggestions"]:
            suggestions.add_choice(value, label=value)
        return inputs.str(name, default=default, required=False, view=suggestions)
    if facts["choices"]:
        return choice(inputs, name, list(facts["choices"]), **words, default=default, required=False)
    if facts["type"] is bool:
        return inputs.bool(name, **words, default=default, view=types.SwitchView())
    if facts["type"] in (int, float):
        add = inputs.int if facts["type"] is int else inputs.float
        return add(name, **words, min=facts["min"], max=facts["max"], default=default, required=False)
    return inputs.str(name, **words, default=default, required=False)


def device(ctx, inputs: types.Object, config: type) -> None:
    """Input for the device of the models; one that this machine lacks is refused."""
    from ..nts.utils.devices import resolve_device

    prop = option(inputs, config, "device")
    try:
        resolve_device(ctx.params.get("device") or "auto")
    except ValueError as error:
        mark_invalid(prop, error)


def plan(ctx, inputs: types.Object, make: Callable[[dict[str, Any]], Plan]) -> Plan | None:
    """Plan the run of a form, and show its refusal at the input to blame.

    Args:
        ctx: the execution context.
        inputs: the form, complete.
        make: makes the plan of the values of the form, defaults included.
    """
    from ..nts.fiftyone_adapter import InputError
    from ..nts.vrp.prompt import PromptMismatch

    defaults = {name: prop.default for name, prop in inputs.properties.items() if prop.default is not None}
    try:
        return make(defaults | given(ctx.params, *ctx.params))
    except (InputError, PromptMismatch) as error:
        to_blame = "reference_prompt" if isinstance(error, PromptMismatch) else error.option
        prop = inputs.properties.get(to_blame)
        if prop is None:
            refuse(inputs, "This run is not possible", error)
        else:
            mark_invalid(prop, error)
        return None


def earlier_run(inputs: types.Object, made: Plan) -> None:
    """Notice that the results in the output field of a plan will be resumed or deleted."""
    if made.earlier is None:
        return
    description = "The settings are the same: these images are skipped"
    if made.different:
        description = f"The settings differ ({', '.join(made.different)}): these results are replaced"
        if made.kind.noun == "segmentation":
            description += ", but for those that a person has decided about"
    images, memory_key = made.earlier.get("segmented", 0), made.earlier["memory_key"]
    inputs.view(
        "earlier",
        types.Notice(
            label=f"{made.key} holds results of {images} images, from the memory {memory_key!r}",
            description=description,
        ),
    )


def chosen_memory(ctx) -> str | None:
    """The memory that a form has chosen, by default the newest; ``None`` if there is none of this name."""
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

    memories = list_runs(ctx.dataset, MEMORY)
    newest = max(memories, key=lambda key: memories[key]["created"], default=None)
    chosen = ctx.params.get("memory_key") or newest
    return chosen if chosen in memories else None


def memory(ctx, inputs: types.Object, *, description: str) -> str | None:
    """A drop-down of the dataset's memories, the newest first; returns the name of the chosen one."""
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

    memories = list_runs(ctx.dataset, MEMORY)
    if not memories:
        refuse(inputs, "No memory", "this dataset has no reference memory yet: run 'Build reference memory' first")
        return None
    words = {
        key: f"{sum(config['shots'])} references of {len(config['classes'])} classes, encoder {config['encoder']}"
        for key, config in memories.items()
    }
    by_age = sorted(memories, key=lambda key: memories[key]["created"], reverse=True)
    choice(
        inputs,
        "memory_key",
        by_age,
        label="Memory",
        description=description,
        default=by_age[0],
        required=False,
        descriptions=words,
    )
    return chosen_memory(ctx)


def reference_prompt(ctx, inputs: types.Object, memory_key: str) -> None:
    """A drop-down of the reference prompts, and the classes that the chosen one was trained on.

    :func:`plan` shows the problem of the chosen one.
    """
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs
    from ..nts.fiftyone_adapter.scorers import prompt_facts, usable_prompts

    memory, prompts = list_runs(ctx.dataset, MEMORY)[memory_key], prompt_facts(ctx.dataset)
    default = next(iter(usable_prompts(memory, prompts, ctx.params.get("segmenter") or "small") or prompts))
    choice(
        inputs,
        "reference_prompt",
        list(prompts),
        label="Reference prompt",
        description="Trained here, or 'small', which comes with the plugin for its small models",
        default=default,
        descriptions={name: facts.words for name, facts in prompts.items()},
    )
    chosen = ctx.params.get("reference_prompt") or default
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
    """Switch that allows replacing existing results."""
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


def advanced(ctx, inputs: types.Object, names: Collection[str]) -> bool:
    """Switch that shows the options ``names``; it is on from the start if one of them has a value."""
    default = any(ctx.params.get(name) not in (None, "", []) for name in names)
    inputs.bool("advanced", label="Advanced", description="Show all options", default=default, view=types.SwitchView())
    return bool(ctx.params.get("advanced", default))


def without_advanced(params: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Values of a form without those of options that it hides; their defaults hold."""
    hidden = params.get("advanced") is False  # not in the parameters of a call from Python
    return {name: value for name, value in params.items() if not (hidden and name in names)}


def busy(inputs: types.Object, dataset, makes: str) -> bool:
    """Refuse a form while another job makes the same field or run; returns whether it does."""
    from ..nts.fiftyone_adapter.running import running_on

    job = running_on(dataset, makes)
    if job is not None:
        refuse(inputs, f"{job.label} is at work on {makes}", "wait for it, or stop it in the Runs panel")
    return job is not None


def given(params: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the parameters that have a value; the job's defaults hold for the others."""
    return {name: params[name] for name in names if params.get(name) not in (None, "", [])}


def multiple_choice(inputs: types.Object, config: type, name: str, values: Sequence[str]) -> types.Property:
    """Multiple choice for an option that is a list; label and help come from its config, see :func:`option`."""
    facts = config.__dataclass_fields__[name].metadata
    return classes(inputs, values, name=name, label=facts["label"], description=facts["help"])
