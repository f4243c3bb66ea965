"""Reference prompts in a dataset and in files: loading, export and import."""

from __future__ import annotations

import os
from pathlib import Path

from ..vrp.loading import load_reference_prompt
from ..vrp.prompt import TrainedPrompt
from . import checks, runs
from .runs import Collection


def load_prompt(view: Collection, name: str) -> TrainedPrompt:
    """Load a reference prompt by its name in the dataset, or as :func:`nts.vrp.loading.load_reference_prompt` does.

    Raises:
        WeightsNotFound: if there is none.
        PromptFileError: if it is damaged.
    """
    return (
        runs.load_stored_prompt(view, name)
        if name in runs.list_runs(view, runs.PROMPT)
        else load_reference_prompt(name)
    )


def export_prompt(view: Collection, prompt_key: str, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a reference prompt to a ``.safetensors`` file and return its path; an old file survives every failure.

    Args:
        view: dataset with the prompt.
        prompt_key: its name.
        path: the file, or a folder, in which the file then has the prompt's name.
        overwrite: replace a file that exists.

    Raises:
        RunNotFound: if there is no such prompt.
        InputError: if the file exists and ``overwrite`` is off.
        PromptFileError: if the file cannot be written.
    """
    prompt = runs.load_stored_prompt(view, prompt_key)
    path = checks.check_export_path(path, prompt_key, overwrite=overwrite)
    prompt.save(path)
    return path


def import_prompt(
    view: Collection, path: str | os.PathLike, prompt_key: str | None = None, *, overwrite: bool = False
) -> TrainedPrompt:
    """Store a reference prompt from a file in the dataset; returns the prompt.

    Args:
        view: dataset to store it in.
        path: a file written by :func:`export_prompt`.
        prompt_key: its name; default that of the file.
        overwrite: replace a prompt of this name.

    Raises:
        PromptFileError: if the file cannot be read or is not a reference prompt.
        InputError: if the name cannot be used.
    """
    path = Path(path).expanduser()
    prompt_key = prompt_key or path.stem
    checks.check_key(view, prompt_key, runs.PROMPT, overwrite=overwrite)
    prompt = TrainedPrompt.load(path)
    runs.store_prompt(view._root_dataset, prompt_key, prompt, source=str(path))
    return prompt
