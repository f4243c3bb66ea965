"""Fields of labels that a job writes, the field of its errors, and its run.

A job owns what it writes as long as its run is there: the run has a token, which a newer run of the same name replaces.
Every write checks the token under the dataset's lock, so that two jobs never mix, and nothing is written to a field
after its run was deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo

from ..images import ImageError
from . import checks, runs
from .errors import InputError, RunEnded
from .locking import locked
from .runs import Collection, RunKind

logger = logging.getLogger(__name__)

_WRITE_EVERY = 16  # images
_WRITE_AFTER = 10.0  # seconds
_CHECK_AFTER = 1.0  # seconds


@dataclass(frozen=True)
class OutputSpec:
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

    method: RunKind
    label_type: type[fo.Label]
    description: str
    memory_key: str
    classes: Sequence[str]
    attributes: Mapping[str, type[fo.Field]]
    config: Mapping[str, Any]
    results: Mapping[str, Any]


class Ownership:
    """The right of a job to write the fields of a run.

    Args:
        view: dataset or view.
        key: of the run.
        token: of the run, as this job stored it.
        fields: that the job writes.
    """

    def __init__(self, view: Collection, key: str, token: str, fields: Sequence[str]) -> None:
        self._view, self._key, self._token, self._fields = view, key, token, fields
        self._checked = time.monotonic()
        self.lost = False

    def check(self) -> None:
        """Check it; within :func:`.locking.locked` it then holds until the end of the lock.

        Raises:
            RunEnded: if the run was started again, or it, a field or the dataset was deleted.
        """
        self._checked = time.monotonic()
        try:
            runs.check_owner(self._view, self._key, self._token, self._fields)
        except RunEnded:
            self.lost = True
            raise

    def check_if_due(self) -> None:
        """:meth:`check`, if that was a while ago: a job that lost its run should not go on computing."""
        if time.monotonic() - self._checked > _CHECK_AFTER:
            self.check()


class LabelWriter:
    """The field, the field of its errors, and the run. Results are written in batches.

    Args:
        view: what is done.
        name: of the field, and of the run.
        made: what it is.
        settings: all that decides a result; an earlier run of the same settings is resumed.
        overwrite: delete an earlier run of other settings.

    Raises:
        InputError: if there is an earlier run of other settings, and ``overwrite`` is off.
        RunEnded: if the memory was deleted or built again since it was loaded.
    """

    def __init__(
        self, view: Collection, name: str, made: OutputSpec, settings: dict[str, Any], *, overwrite: bool
    ) -> None:
        self.name, self.error_field = name, runs.error_field(name)
        self._dataset, self._images = view._root_dataset, runs.all_images(view)
        self._labels: dict[str, fo.Label] = {}
        self._errors: dict[str, str | None] = {}
        self._last_write = time.monotonic()

        with locked(view):
            runs.check_memory(view, made.memory_key, settings["memory_fingerprint"])
            checks.check_output_field(view, name, made.method)  # somebody else may have made it since
            earlier = runs.list_runs(view, made.method).get(name)
            if earlier is not None:
                differences = _differences(earlier, settings)
                if differences and not overwrite:
                    raise InputError(
                        f"the field {name!r} holds results of other settings ({', '.join(differences)}): choose "
                        "another output field, or switch on overwrite to delete them and begin anew"
                    )
                if differences:
                    runs.delete_run(view, name, made.method)
            # The run comes first: a field without one would be taken for somebody else's.
            token = runs.store(
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
            self._declare_fields(made)
        self.ownership = Ownership(view, name, token, (name, self.error_field))

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

    def write(self) -> None:
        """Write what has been added.

        Raises:
            RunEnded: if the run is not this job's any more; what has been added is dropped then.
        """
        labels, errors = self._labels, self._errors
        self._labels, self._errors = {}, {}
        self._last_write = time.monotonic()
        with locked(self._dataset):
            self.ownership.check()
            if errors:
                self._dataset.set_values(self.name, labels, key_field="id")
                self._dataset.set_values(self.error_field, errors, key_field="id")

    def close(self, ids: Sequence[str], **counts: str) -> None:
        """Write what is left, and what has come of the samples that were to be done; nothing if the run is lost.

        Args:
            ids: those samples.
            counts: ``{name: path below the field}`` of values that are counted, for the run.
        """
        if self.ownership.lost:
            return
        try:
            self._close(ids, counts)
        except RunEnded as error:  # a job that ran to its end has been told by write()
            logger.warning("%s", error)

    def _close(self, ids: Sequence[str], counts: Mapping[str, str]) -> None:
        with locked(self._dataset):
            self.write()
            done, failed = self.done(), set(self._images.exists(self.error_field).values("id"))
            wanted = set(ids) & set(self._images.values("id"))  # samples may have been deleted meanwhile
            runs.update(
                self._dataset,
                self.name,
                status="complete" if done | failed >= wanted else "incomplete",
                segmented=len(done),
                failed=len(failed),
                **{name: self._images.count(f"{self.name}.{path}") for name, path in counts.items()},
            )

    def _declare_fields(self, made: OutputSpec) -> None:
        dataset = self._dataset
        if not dataset.has_sample_field(self.name):
            dataset.add_sample_field(
                self.name,
                fo.EmbeddedDocumentField,
                embedded_doc_type=made.label_type,
                description=made.description,
                info={"memory": made.memory_key, "classes": list(made.classes)},
            )
        if not dataset.has_sample_field(self.error_field):
            dataset.add_sample_field(
                self.error_field, fo.StringField, description=f"Why {self.name!r} is missing for this sample"
            )
        # A field that an earlier version began may lack some of them.
        for attribute, field_type in made.attributes.items():
            dataset.add_sample_field(f"{self.name}.{attribute}", field_type)

    def _write_if_due(self) -> None:
        if len(self._errors) >= _WRITE_EVERY or time.monotonic() - self._last_write > _WRITE_AFTER:
            self.write()
        else:
            self.ownership.check_if_due()


def paths_by_id(view: Collection) -> dict[str, str]:
    """``{sample id: filepath}`` in the order of a view; a sample that occurs several times counts once.

    Read it once: a view may filter on the very field that is about to be written.
    """
    return dict(zip(*view.values(["id", "filepath"]), strict=True))


def failure(path: str, error: Exception) -> str:
    """Why an image could not be processed, with its file."""
    return str(error) if isinstance(error, ImageError) else f"{path}: {type(error).__name__}: {error}"


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
