"""Reference prompts in FiftyOne: those of a dataset, and those that come from elsewhere."""

from __future__ import annotations

from ..models import load_reference_prompt
from ..vrp.prompt import ReferencePrompt
from . import runs
from .runs import Collection


def load_prompt(view: Collection, name: str) -> ReferencePrompt:
    """A reference prompt by its name in the dataset; else as :func:`nts.models.load_reference_prompt` knows it.

    Raises:
        WeightsNotFound: if there is none.
        PromptFileError: if it is damaged.
    """
    return runs.load_stored_prompt(view, name) if name in runs.list_prompts(view) else load_reference_prompt(name)
