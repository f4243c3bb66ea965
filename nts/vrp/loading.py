"""Trained reference prompts by name."""

from __future__ import annotations

from pathlib import Path

from ..models import SMALL
from ..weights import WeightsNotFound
from .prompt import TrainedPrompt

PROMPTS = ("small",)
"""Prompts that come with the project. A file of a trained prompt is also accepted."""


def load_reference_prompt(name: str = "small") -> TrainedPrompt:
    """Load a trained visual reference prompt.

    Args:
        name: ``"small"``, which comes with the project and was trained for its small models; or a ``.safetensors``
            file.

    Raises:
        WeightsNotFound: if there is no such file.
        PromptFileError: if the file is damaged, or no reference prompt.
    """
    path = SMALL / "reference_prompt.safetensors" if name == "small" else Path(name).expanduser()
    if not path.is_file():
        raise WeightsNotFound(
            f"there is no reference prompt {name!r}: it is neither {PROMPTS[0]!r}, which comes with the project, "
            "nor a file on this machine"
        )
    return TrainedPrompt.load(path)
