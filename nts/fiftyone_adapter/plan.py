"""Plans of runs, resolved and checked before any model is loaded. Forms show why a plan is refused, jobs execute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..presets import Preset, get_preset, preset_fingerprint
from ..scorers import PROMPTED
from ..tiling import Tiling
from ..vrp.prompt import PromptMismatch
from . import checks, runs
from .config import ClassMapsConfig, HeatmapsConfig, SegmentationConfig
from .errors import InputError, blaming
from .heatmap_fields import MOST_CLASSES, check_heatmap_fields
from .label_writer import check_settings, differences
from .runs import Collection, RunKind
from .scorers import prompt_choices, prompt_facts, prompt_problem


@dataclass(frozen=True)
class Plan:
    """A run of a memory over images, with everything resolved that needs no model.

    Attributes:
        memory_key: name of the memory.
        memory_fingerprint: of the memory; a run ends if the memory has another one by then.
        key: name of the run; equal to the name of the output field if there is a single one.
        kind: kind of the run.
        classes: classes of the memory that the run finds or maps.
        encoder: name of the encoder.
        preset: with the thresholds of the options.
        precision: of the models.
        options: the options that are stored, because they decide results.
        earlier: configuration of the run of this name, if there is one.
        different: settings in which it differs, in words, as far as they are known without the models. If there are
            any, the earlier run is deleted; if there are none, it is resumed.
    """

    memory_key: str
    memory_fingerprint: str
    key: str
    kind: RunKind
    classes: tuple[str, ...]
    encoder: str
    preset: Preset
    precision: str
    options: Mapping[str, Any]
    earlier: Mapping[str, Any] | None = None
    different: tuple[str, ...] = ()

    def settings(self, encoder_fingerprint: str, **fingerprints: str | None) -> dict[str, Any]:
        """The settings to store: all that decides a result.

        Args:
            encoder_fingerprint: of the encoder.
            fingerprints: those of the other models, as far as they are known.
        """
        return {
            "memory_fingerprint": self.memory_fingerprint,
            "encoder_fingerprint": encoder_fingerprint,
            "preset": self.preset.name,
            "preset_fingerprint": preset_fingerprint(self.preset),
            **self.options,
            **fingerprints,
        }

    def similarity_settings(self) -> dict[str, Any]:
        """The settings to store with similarity heat maps: they depend on no model but the memory's encoder."""
        return {"memory_fingerprint": self.memory_fingerprint, "preset": self.preset.name}


def plan_segmentation(view: Collection, memory_key: str, output_field: str | None, config: SegmentationConfig) -> Plan:
    """Plan of :func:`~nts.fiftyone_adapter.segmentation_job`.

    Raises:
        InputError: if the view, the field or the prompt cannot be used, options contradict each other, or the field
            holds results with other settings and ``overwrite`` is off.
        RunNotFound: if there is no such memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
    """
    checks.check_view(view)
    if config.min_precision is not None and config.shown != "recommended":
        raise InputError(
            f"min_precision takes the place of the recommended confidence, but shown is {config.shown!r}: leave one of "
            "them out",
            option="min_precision",
        )
    key = output_field or checks.suggest_output_field(view, memory_key)
    memory = runs.config(view, memory_key, runs.MEMORY)
    with blaming("output_field"):
        checks.check_output_field(view, key, runs.SEGMENTATION)
    plan = _plan(memory_key, memory, key, runs.SEGMENTATION, config)
    thresholds = {"score_threshold": config.score_threshold, "max_instances": config.max_instances}
    tiling = _tiling(plan.preset, config)
    plan = replace(
        plan,
        preset=replace(plan.preset, matching=replace(plan.preset.matching, **thresholds), tiling=tiling),
        options={**plan.options, "tiles": str(tiling), "tile_overlap": tiling.overlap},
    )
    plan = _compared(view, plan, plan.settings(memory["encoder_fingerprint"]), overwrite=config.overwrite)
    if config.scorer in PROMPTED and config.reference_prompt is None:
        raise InputError(
            f"the scorer {config.scorer!r} needs a reference prompt: {prompt_choices(view)}", option="reference_prompt"
        )
    if config.scorer not in PROMPTED and config.reference_prompt is not None:
        raise InputError(
            f"the scorer {config.scorer!r} has no use for the reference prompt {config.reference_prompt!r}: choose the "
            f"scorer {' or '.join(map(repr, PROMPTED))}, or leave the prompt out",
            option="reference_prompt",
        )
    if config.reference_prompt is not None:
        _check_prompt(view, memory, config.reference_prompt, config.segmenter)
    return plan


def _tiling(preset: Preset, config: SegmentationConfig) -> Tiling:
    """Tiling of a segmentation; scorers with a reference prompt use whole images."""
    if config.scorer in PROMPTED:
        if config.tiles not in (None, "off", "auto"):
            raise InputError(
                f"the scorer {config.scorer!r} sees images whole: leave the tiles out",
                option="tiles",
            )
        return Tiling("off")
    try:
        chosen = preset.tiling if config.tiles is None else Tiling.parse(config.tiles)
        return chosen if chosen.grid == "off" else replace(chosen, overlap=config.tile_overlap)
    except (TypeError, ValueError) as error:
        raise InputError(str(error), option="tiles") from None


def plan_class_maps(view: Collection, memory_key: str, output_field: str | None, config: ClassMapsConfig) -> Plan:
    """Plan of :func:`~nts.fiftyone_adapter.class_maps_job`; raises as :func:`plan_segmentation`."""
    checks.check_view(view)
    if config.output == "heatmaps":
        if output_field is not None:
            raise InputError(
                "heat maps have a field per class, named by the memory and the class: leave output_field out",
                option="output_field",
            )
        key, kind = runs.heatmaps_key(memory_key, "probability"), runs.HEATMAPS
    else:
        key, kind = output_field or checks.suggest_output_field(view, memory_key, runs.CLASS_MAPS), runs.CLASS_MAPS
    memory = runs.config(view, memory_key, runs.MEMORY)
    plan = _plan(memory_key, memory, key, kind, config)
    if kind is runs.CLASS_MAPS:
        with blaming("output_field"):
            checks.check_output_field(view, key, kind)
    elif len(plan.classes) > MOST_CLASSES:
        raise InputError(
            f"the memory has {len(plan.classes)} classes, and heat maps need a field for each: at most {MOST_CLASSES}; "
            "choose the output 'segmentation'",
            option="output",
        )
    else:
        check_heatmap_fields(view, memory_key, plan.classes, "probability")
    plan = _compared(view, plan, plan.settings(memory["encoder_fingerprint"]), overwrite=config.overwrite)
    _check_prompt(view, memory, config.reference_prompt, config.segmenter)
    return plan


def plan_heatmaps(view: Collection, memory_key: str, config: HeatmapsConfig) -> Plan:
    """Plan of :func:`~nts.fiftyone_adapter.heatmaps_job`.

    Raises:
        InputError: if the view or the classes cannot be used, or there are maps with other settings and ``overwrite``
            is off.
        RunNotFound: if there is no such memory.
    """
    checks.check_view(view)
    memory = runs.config(view, memory_key, runs.MEMORY)
    known, chosen = memory["classes"], config.classes
    classes = tuple(known if chosen is None else sorted(set(chosen)))
    if unknown := [name for name in classes if name not in known]:
        raise InputError(
            f"the memory {memory_key!r} has no class {', '.join(unknown)}; it has: {', '.join(known)}", option="classes"
        )
    if not 0 < len(classes) <= MOST_CLASSES:
        raise InputError(
            f"choose 1 to {MOST_CLASSES} classes, not {len(classes)}: each gets its own field", option="classes"
        )
    plan = _plan(memory_key, memory, runs.heatmaps_key(memory_key), runs.HEATMAPS, config)
    plan = replace(plan, classes=classes)
    check_heatmap_fields(view, memory_key, classes)
    return _compared(view, plan, plan.similarity_settings(), overwrite=config.overwrite)


def _plan(
    memory_key: str,
    memory: Mapping[str, Any],
    key: str,
    kind: RunKind,
    config: SegmentationConfig | ClassMapsConfig | HeatmapsConfig,
) -> Plan:
    """Plan of a run over all classes of a memory of this configuration."""
    preset = get_preset(config.preset or memory["preset"])
    return Plan(
        memory_key=memory_key,
        memory_fingerprint=memory["fingerprint"],
        key=key,
        kind=kind,
        classes=tuple(memory["classes"]),
        encoder=config.encoder or memory["encoder"],
        preset=preset,
        precision=preset.precision_for(config.precision),
        options=config.stored(),
    )


def _compared(view: Collection, plan: Plan, settings: Mapping[str, Any], *, overwrite: bool) -> Plan:
    """Add the earlier run of a plan, and its differences from the settings known by now."""
    earlier = runs.list_runs(view, plan.kind).get(plan.key)
    if earlier is None:
        return plan
    if not overwrite:
        check_settings(plan.key, plan.kind, earlier, settings)
    return replace(plan, earlier=earlier, different=tuple(differences(earlier, settings)))


def _check_prompt(view: Collection, memory: Mapping[str, Any], name: str, segmenter: str) -> None:
    """Check a prompt as far as possible without loading it; loading it refuses a missing or damaged one."""
    problem = prompt_problem(memory, name, prompt_facts(view).get(name), segmenter)
    if problem is not None:
        raise PromptMismatch(problem)
