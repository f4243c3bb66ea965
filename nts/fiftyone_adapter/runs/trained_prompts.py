"""Trained reference prompts in a dataset."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from ...vrp.prompt import PromptFileError, TrainedPrompt
from ..locking import exclusive
from .kinds import PROMPT
from .storage import Collection, complete, results, store

LOCK_FILE = ".lock"
"""Name of the lock file in the folder of a training, held by the process that trains."""


@exclusive
def store_prompt(
    view: Collection,
    key: str,
    prompt: TrainedPrompt,
    log: Sequence[dict[str, float]] = (),
    *,
    token: str | None = None,
    **config: Any,
) -> None:
    """Store a reference prompt in the dataset, registered on the view that it was trained on.

    With the ``token`` of the draft of its training it completes that draft; raises RunEnded if that is gone.
    """
    config = {
        **config,
        "classes": list(prompt.classes),
        "encoder": prompt.encoder.name,
        "encoder_fingerprint": prompt.encoder.fingerprint,
        "segmenter": prompt.segmenter.name,
        "segmenter_fingerprint": prompt.segmenter.fingerprint,
        "fingerprint": prompt.fingerprint,
    }
    results = {"prompt": base64.b64encode(prompt.to_bytes()).decode("ascii"), "log": list(log)}
    if token is None:
        store(view, key, PROMPT, config, results)
    else:
        complete(view, key, token, results, **config)


def load_stored_prompt(view: Collection, key: str) -> TrainedPrompt:
    """Load the reference prompt ``key`` of a dataset.

    Raises:
        RunNotFound: if there is none.
        PromptFileError: if the stored bytes are damaged.
    """
    name = f"the reference prompt {key!r} of the dataset {view._root_dataset.name!r}"
    try:
        content = base64.b64decode(results(view, key, PROMPT)["prompt"])
    except (KeyError, binascii.Error) as error:
        raise PromptFileError(f"{name} is damaged: its content is missing or cut off") from error
    return TrainedPrompt.from_bytes(content, source=name)
