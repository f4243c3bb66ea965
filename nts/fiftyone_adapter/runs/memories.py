"""Reference memories in a dataset."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ...memory import MemoryBank, MemoryFileError
from ..errors import RunEnded
from ..locking import exclusive
from .kinds import MEMORY, SEGMENTATION
from .storage import Collection, config, list_runs, results, store


@exclusive
def store_memory(view: Collection, key: str, bank: MemoryBank, **origin: Any) -> None:
    """Store a memory in the dataset, registered on the view of its references."""
    shots = bank.shots
    store(
        view,
        key,
        MEMORY,
        {
            **origin,
            # Lists and not a dictionary: a class name may hold a dot, which MongoDB allows in no key.
            "classes": list(shots),
            "shots": list(shots.values()),
            "encoder": bank.encoder.name,
            "encoder_fingerprint": bank.encoder.fingerprint,
            "preset": bank.preset,
            "created": bank.created,
            "fingerprint": fingerprint(bank),
            "whole_images": bank.has_whole_images,
            "negatives": sum(bank.negative_counts.values()),
        },
        {"bank": base64.b64encode(bank.to_bytes()).decode("ascii")},
    )


@exclusive
def replace_memory(view: Collection, key: str, bank: MemoryBank, *, field: str | None = None) -> None:
    """Store a changed memory in place of the memory ``key``, on the same view and with what is known of its origin.

    Args:
        view: dataset, or a view of it.
        key: name of the memory.
        bank: the changed memory.
        field: field that references were added from.

    Raises:
        RunNotFound: if there is none.
    """
    stored = config(view, key, MEMORY)
    origin = {name: stored[name] for name in _ORIGIN if name in stored}
    if field is not None and field not in label_fields(stored):
        origin["added_fields"] = [*stored.get("added_fields", ()), field]
    store_memory(view._root_dataset.load_run_view(key), key, bank, **origin)


def label_fields(config: Mapping[str, Any]) -> list[str]:
    """Fields with the labels of a memory, by its configuration; none of a memory from a file."""
    first = [config["label_field"]] if config["label_field"] else []
    return [*first, *config.get("added_fields", ())]


_ORIGIN = ("label_field", "added_fields", "weak_labels", "skipped", "source")
"""Values in the configuration of a memory that its content does not tell."""


def load_memory(view: Collection, key: str) -> MemoryBank:
    """Load the memory ``key`` of a dataset.

    Raises:
        RunNotFound: if there is none.
        MemoryFileError: if the stored bytes are damaged.
    """
    name = f"the memory {key!r} of the dataset {view._root_dataset.name!r}"
    try:
        content = base64.b64decode(results(view, key, MEMORY)["bank"])
    except (KeyError, binascii.Error) as error:
        raise MemoryFileError(f"{name} is damaged: its content is missing or cut off") from error
    return MemoryBank.from_bytes(content, source=name)


def fingerprint(bank: MemoryBank) -> str:
    """SHA-256 over everything in a memory that decides a result.

    These are the prototypes, their classes and labels. What memories did not always have counts only where there is
    some, so that the fingerprints of memories stored before stay valid: the prototypes of whole images, how well SAM2
    proposes the references, their sizes, and the negatives.
    """
    labels = json.dumps([(entry.class_name, entry.label_id) for entry in bank.entries])
    digest = hashlib.sha256(bank.instance_prototypes().numpy().tobytes() + labels.encode())
    for row, entry in enumerate(bank.entries):
        if entry.whole_prototype is not None:
            digest.update(f"whole {row}".encode() + entry.whole_prototype.numpy().tobytes())
        if entry.proposal_iou is not None:
            digest.update(f"proposed {row} {entry.predicted_iou} {entry.proposal_iou} {entry.image}".encode())
        if entry.size is not None:
            digest.update(f"size {row} {entry.size.side} {entry.size.image_side}".encode())
    for negative in bank.negatives:
        about = [negative.source, negative.sure, negative.image, negative.predicted_iou]
        digest.update(json.dumps(about).encode() + negative.prototype.numpy().tobytes())
    return digest.hexdigest()


def check_memory(view: Collection, key: str, expected: str) -> None:
    """Check that the memory ``key`` is still the one that was loaded, by its :func:`fingerprint`.

    Raises:
        RunEnded: if it was deleted, or built again.
    """
    stored = list_runs(view, MEMORY).get(key)
    if stored is None or stored["fingerprint"] != expected:
        raise RunEnded(
            f"the memory {key!r} was {'deleted' if stored is None else 'built again'} meanwhile: start again with what "
            "there is now"
        )


def reference_sources(view: Collection, predictions_field: str, memory_key: str) -> tuple[set[str], set[str]]:
    """Origin of the references that predictions were made with.

    A segmentation stores it, so that it survives changes of the memory. For other predictions (of ``apply_model``) it
    is that of the memory named.

    Returns:
        ids of the samples, and the content of their files (:func:`nts.utils.files.content_id`) as far as it is known.
    """
    made = list_runs(view, SEGMENTATION).get(predictions_field)
    if made is not None and made["memory_key"] == memory_key:
        stored = results(view, predictions_field, SEGMENTATION)
        if "reference_sample_ids" in stored:
            return set(stored["reference_sample_ids"]), set(stored.get("reference_files", ()))
    entries = load_memory(view, memory_key).entries
    return {entry.sample_id for entry in entries}, {entry.file for entry in entries if entry.file}
