"""Scorers and reference prompts in a dataset: those that can be chosen, and whether they fit a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..models import SEGMENTERS, WeightsNotFound, segmenter_name
from ..vrp.loading import PROMPTS, load_reference_prompt
from ..vrp.prompt import TrainedPrompt
from . import runs
from .checks import InputError
from .prompts import load_prompt
from .runs import Collection


@dataclass(frozen=True)
class PromptFacts:
    """Models and classes that a reference prompt was trained for.

    Attributes:
        encoder: name of its encoder.
        encoder_fingerprint: of the encoder's weights.
        segmenter: name of its segmenter.
        classes: those that it was trained on.
    """

    encoder: str
    encoder_fingerprint: str
    segmenter: str
    classes: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"{len(self.classes)} training classes, encoder {self.encoder}, segmenter {self.segmenter}"

    def seen_classes(self, classes: list[str]) -> list[str]:
        """Return the classes among these that it was trained on, and that are not novel to it."""
        return sorted(set(classes) & set(self.classes))


def prompt_facts(view: Collection) -> dict[str, PromptFacts]:
    """Return the prompts that can be chosen by name: those of the dataset, then those that come with the plugin."""
    stored = {
        name: PromptFacts(made["encoder"], made["encoder_fingerprint"], made["segmenter"], tuple(made["classes"]))
        for name, made in runs.list_runs(view, runs.PROMPT).items()
    }
    return stored | {name: _shipped_facts(name) for name in PROMPTS if name not in stored}


def prompt_problem(
    memory: Mapping[str, Any], name: str, facts: PromptFacts | None, segmenter: str | None = None
) -> str | None:
    """Return why a prompt cannot be used with a memory, as far as is known without loading models; ``None`` if it can.

    Args:
        memory: the configuration of the memory, see :func:`~nts.fiftyone_adapter.runs.list_runs`.
        name: of the prompt.
        facts: of the prompt; ``None`` for a file, which is checked when it is loaded.
        segmenter: name of the segmenter, if one is chosen.
    """
    if not memory.get("whole_images"):
        return (
            "the references of this memory were stored without their whole images, which a reference prompt needs: "
            "build the memory again, with whole images"
        )
    if facts is None:
        return None
    if facts.encoder_fingerprint != memory["encoder_fingerprint"]:
        return (
            f"the reference prompt {name!r} was trained for the encoder {facts.encoder!r}, but the memory was made by "
            f"{memory['encoder']!r}: choose another prompt, or build the memory with that encoder"
        )
    # The weights at a path are known when they are loaded, and compared then.
    segmenter = segmenter and segmenter_name(segmenter)
    if segmenter in SEGMENTERS and facts.segmenter in SEGMENTERS and segmenter != facts.segmenter:
        return (
            f"the reference prompt {name!r} was trained for the segmenter {facts.segmenter!r}, not for {segmenter!r}: "
            "choose that segmenter, or another prompt"
        )
    return None


def usable_prompts(
    memory: Mapping[str, Any], prompts: Mapping[str, PromptFacts], segmenter: str | None = None
) -> list[str]:
    """Return the names of the prompts that can be used with a memory, see :func:`prompt_problem`."""
    return [name for name, facts in prompts.items() if prompt_problem(memory, name, facts, segmenter) is None]


def find_prompt(view: Collection, name: str) -> TrainedPrompt:
    """Load a prompt by name or path.

    Raises:
        InputError: if there is none; the message lists the names.
        PromptFileError: if it is damaged.
    """
    try:
        return load_prompt(view, name)
    except WeightsNotFound as error:
        raise InputError(f"{error}; {prompt_choices(view)}") from error


def prompt_choices(view: Collection) -> str:
    """The prompts that can be chosen by name, in words."""
    return (
        f"the dataset {view._root_dataset.name!r} can use: {', '.join([*runs.list_runs(view, runs.PROMPT), *PROMPTS])}"
    )


@lru_cache(maxsize=len(PROMPTS))
def _shipped_facts(name: str) -> PromptFacts:
    prompt = load_reference_prompt(name)
    return PromptFacts(prompt.encoder.name, prompt.encoder.fingerprint, prompt.segmenter.name, prompt.classes)
