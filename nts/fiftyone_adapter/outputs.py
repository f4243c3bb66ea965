"""A field of labels that a job writes, the field of its errors, and its run: for segmentations and class maps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo

from . import runs
from .checks import InputError
from .runs import Collection

_WRITE_EVERY = 16  # images
_WRITE_AFTER = 10.0  # seconds


@dataclass(frozen=True)
class Made:
    """What an output is of, and what it is stored as.

    Attributes:
        method: of its run.
        label_type: of its field.
        description: of its field.
        memory_key: the memory it is made by.
        classes: of that memory.
        attributes: ``{path in a label: type}`` beside FiftyOne's own.
        config: what the run tells beside the settings.
        results: what the run keeps beside its configuration.
    """

    method: str
    label_type: type[fo.Label]
    description: str
    memory_key: str
    classes: Sequence[str]
    attributes: Mapping[str, type[fo.Field]]
    config: Mapping[str, Any]
    results: Mapping[str, Any]


class Output:
    """The field, the field of its errors, and the run. Results are written in batches.

    Args:
        view: what is done.
        name: of the field, and of the run.
        made: what it is.
        settings: all that decides a result; an earlier run of the same settings is resumed.
        overwrite: delete an earlier run of other settings.

    Raises:
        InputError: if there is an earlier run of other settings, and ``overwrite`` is off.
    """

    def __init__(self, view: Collection, name: str, made: Made, settings: dict[str, Any], *, overwrite: bool) -> None:
        self.name, self.error_field = name, runs.error_field(name)
        self._dataset, self._images, self._method = view._root_dataset, runs.all_images(view), made.method
        self._labels: dict[str, fo.Label] = {}
        self._errors: dict[str, str | None] = {}
        self._last_write = time.monotonic()

        earlier = runs.configs(view, made.method).get(name)
        if earlier is not None:
            differences = _differences(earlier, settings)
            if differences and not overwrite:
                raise InputError(
                    f"the field {name!r} holds results of other settings ({', '.join(differences)}): choose another "
                    "output field, or switch on overwrite to delete them and begin anew"
                )
            if differences:
                runs.delete_output(view, name, made.method)
        self._declare_fields(made)
        runs.store(
            view,
            name,
            made.method,
            {
                **settings,
                **made.config,
                "memory_key": made.memory_key,
                "output_field": name,
                "error_field": self.error_field,
                "classes": list(made.classes),
                "status": "running",
            },
            dict(made.results),
        )

    def done(self) -> set[str]:
        """Which samples have their result already."""
        return set(self._images.exists(self.name).values("id"))

    def add(self, sample_id: str, label: fo.Label) -> None:
        self._labels[sample_id] = label
        self._errors[sample_id] = None
        self._write_if_due()

    def add_failure(self, sample_id: str, reason: str) -> None:
        self._errors[sample_id] = reason
        self._write_if_due()

    def close(self, ids: Sequence[str], **counts: str) -> None:
        """Write what is left, and what has come of the samples that were to be done.

        Args:
            ids: those samples.
            counts: ``{name: path below the field}`` of values that are counted, for the run.
        """
        self._write()
        done, failed = self.done(), set(self._images.exists(self.error_field).values("id"))
        runs.update(
            self._dataset,
            self.name,
            status="complete" if done | failed >= set(ids) else "incomplete",
            segmented=len(done),
            failed=len(failed),
            **{name: self._images.count(f"{self.name}.{path}") for name, path in counts.items()},
        )

    def _declare_fields(self, made: Made) -> None:
        dataset = self._dataset
        if not dataset.has_sample_field(self.name):
            dataset.add_sample_field(
                self.name,
                fo.EmbeddedDocumentField,
                embedded_doc_type=made.label_type,
                description=made.description,
                info={"memory": made.memory_key, "classes": list(made.classes)},
            )
            dataset.add_sample_field(
                self.error_field, fo.StringField, description=f"Why {self.name!r} is missing for this sample"
            )
        # A field that an earlier version began may lack some of them.
        for attribute, field_type in made.attributes.items():
            dataset.add_sample_field(f"{self.name}.{attribute}", field_type)

    def _write_if_due(self) -> None:
        if len(self._errors) >= _WRITE_EVERY or time.monotonic() - self._last_write > _WRITE_AFTER:
            self._write()

    def _write(self) -> None:
        if self._errors:
            self._dataset.set_values(self.name, self._labels, key_field="id")
            self._dataset.set_values(self.error_field, self._errors, key_field="id")
        self._labels, self._errors = {}, {}
        self._last_write = time.monotonic()


def pace(done: int, total: int, seconds: float) -> str:
    """How far, how fast, how much longer: "12/40 images, 1.3 s each, 36 s left"."""
    if done == 0:
        return f"{done}/{total} images"
    each = seconds / done
    left = each * (total - done)
    return f"{done}/{total} images, {each:.2g} s each, " + (
        f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left"
    )


_BEFORE_SCORERS: dict[str, Any] = {"scorer": "prototype", "prompt_fingerprint": None}
"""What the settings of a run mean that was stored when prototypes alone judged."""


def _differences(earlier: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Where the settings are not those of an earlier run, in words."""
    earlier = _BEFORE_SCORERS | earlier
    words = {}
    for key, now in settings.items():
        what = key.removesuffix("_fingerprint")
        if earlier.get(key) != now and what not in words:
            words[what] = f"another {what}" if what != key else f"{key} {earlier.get(key)}, now {now}"
    return list(words.values())
