"""Plans of runs, resolved and checked before any model is loaded. Forms show why a plan is refused, jobs execute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..presets import Preset, get_preset, preset_fingerprint
from ..scorers import PROMPTED
from ..vrp.prompt import PromptMismatch
from . import checks, runs
from .config import ClassMapsConfig, SegmentationConfig
from .errors import InputError, blaming
from .heatmaps import MOST_CLASSES
from .label_writer import check_settings, differences
from .runs import Collection, RunKind
from .scorers import prompt_facts, prompt_problem


@dataclass(frozen=True)
class Plan:
    """A run of a memory over images, with everything resolved that needs no model.

    Attributes:
        memory_key: name of the memory.
        key: name of the run; equal to the name of the output field if there is a single one.
        encoder: name of the encoder.
        preset: with the thresholds of the options.
        precision: of the models.
        options: the options that are stored, because they decide results.
        earlier: configuration of the run of this name, if there is one.
        different: settings in which it differs, in words, as far as they are known without the models. If there are
            any, the earlier run is deleted; if there are none, it is resumed.
    """

    memory_key: str
    key: str
    encoder: str
    preset: Preset
    precision: str
    options: Mapping[str, Any]
    earlier: Mapping[str, Any] | None
    different: tuple[str, ...] = ()

    def settings(self, memory_fingerprint: str, encoder_fingerprint: str, **fingerprints: str | None) -> dict[str, Any]:
        """The settings to store: all that decides a result.

        Args:
            memory_fingerprint: of the memory.
            encoder_fingerprint: of the encoder.
            fingerprints: those of the other models, as far as they are known.
        """
        return {
            "memory_fingerprint": memory_fingerprint,
            "encoder_fingerprint": encoder_fingerprint,
            "preset": self.preset.name,
            "preset_fingerprint": preset_fingerprint(self.preset),
            **self.options,
            **fingerprints,
        }


def plan_segmentation(view: Collection, memory_key: str, output_field: str | None, config: SegmentationConfig) -> Plan:
    """Plan of :func:`~nts.fiftyone_adapter.segmentation_job`.

    Raises:
        InputError: if the view or the field cannot be used, or the field holds results with other settings and
            ``overwrite`` is off.
        RunNotFound: if there is no such memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
    """
    checks.check_view(view)
    key = output_field or checks.suggest_output_field(view, memory_key)
    plan = _plan(view, memory_key, key, runs.SEGMENTATION, config, config.stored())
    if config.scorer in PROMPTED:
        _check_prompt(view, memory_key, config.reference_prompt, config.segmenter)
    thresholds = {"score_threshold": config.score_threshold, "max_instances": config.max_instances}
    return replace(plan, preset=replace(plan.preset, matching=replace(plan.preset.matching, **thresholds)))


def plan_class_maps(view: Collection, memory_key: str, output_field: str | None, config: ClassMapsConfig) -> Plan:
    """Plan of :func:`~nts.fiftyone_adapter.class_maps_job`; raises as :func:`plan_segmentation`."""
    checks.check_view(view)
    if config.output == "heatmaps":
        if output_field is not None:
            raise InputError(
                "heat maps have a field per class, named by the memory and the class: leave output_field out",
                option="output_field",
            )
        key, kind, options = runs.heatmaps_key(memory_key, "probability"), runs.HEATMAPS, {}
    else:
        key = output_field or checks.suggest_output_field(view, memory_key, runs.CLASS_MAPS)
        kind, options = runs.CLASS_MAPS, {"presence_threshold": config.presence_threshold}
    plan = _plan(view, memory_key, key, kind, config, options)
    classes = len(runs.config(view, memory_key, runs.MEMORY)["classes"])
    if config.output == "heatmaps" and classes > MOST_CLASSES:
        raise InputError(
            f"the memory has {classes} classes, and heat maps need a field for each: at most {MOST_CLASSES}; choose "
            "the output 'segmentation'",
            option="output",
        )
    _check_prompt(view, memory_key, config.reference_prompt, config.segmenter)
    return plan


def _plan(
    view: Collection,
    memory_key: str,
    key: str,
    kind: RunKind,
    config: SegmentationConfig | ClassMapsConfig,
    options: Mapping[str, Any],
) -> Plan:
    memory = runs.config(view, memory_key, runs.MEMORY)
    if kind is not runs.HEATMAPS:
        with blaming("output_field"):
            checks.check_output_field(view, key, kind)
    preset = get_preset(config.preset or memory["preset"])
    plan = Plan(
        memory_key=memory_key,
        key=key,
        encoder=config.encoder or memory["encoder"],
        preset=preset,
        precision=preset.precision_for(config.precision),
        options=options,
        earlier=runs.list_runs(view, kind).get(key),
    )
    if plan.earlier is None:
        return plan
    settings = plan.settings(memory["fingerprint"], memory["encoder_fingerprint"])
    if not config.overwrite:
        check_settings(key, kind, plan.earlier, settings)
    return replace(plan, different=tuple(differences(plan.earlier, settings)))


def _check_prompt(view: Collection, memory_key: str, name: str | None, segmenter: str) -> None:
    """Check a prompt as far as possible without loading it; loading it refuses a missing or unknown one."""
    if name is None:
        return
    memory = runs.config(view, memory_key, runs.MEMORY)
    problem = prompt_problem(memory, name, prompt_facts(view).get(name), segmenter)
    if problem is not None:
        raise PromptMismatch(problem)
