"""Label fields that a job writes, the field of its errors, and the run that owns them.

A job owns its fields as long as its run exists: the run has a token, which a newer run of the same name replaces. Every
write checks the token under the dataset's lock. Two jobs therefore never mix their results, and nothing is written
once the run is deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
from bson import ObjectId
from fiftyone import ViewField as F

from . import checks, runs
from .decisions import mark_edited
from .documents import Document, as_document, set_fields, set_label_values
from .errors import InputError, RunEnded
from .locking import exclusive, locked
from .runs import Collection, RunKind

logger = logging.getLogger(__name__)

_WRITE_EVERY = 16  # images
_WRITE_AFTER = 10.0  # seconds, however few images there are by then
_PAUSE = 1.0  # seconds between writes, each of which takes the lock; a fast executor finds many images by then
_MOST = 128  # images that wait, however soon
_CHECK_AFTER = 1.0  # seconds


@dataclass(frozen=True)
class LabelField:
    """A sample field with labels.

    Attributes:
        name: name of the field.
        description: shown by the App beside the field.
        info: stored with the field.
    """

    name: str
    description: str
    info: Mapping[str, Any]


@dataclass(frozen=True)
class OutputSpec:
    """Label fields and the run that owns them.

    Attributes:
        key: name of the run.
        kind: kind of the run.
        memory_key: name of the memory that the labels come from.
        settings: everything that decides a result.
        label_type: type of the labels in every field.
        fields: the fields; an image gets one label in each.
        config: stored beside the settings.
        attributes: ``{path in a label: type}`` of the attributes that FiftyOne's label type lacks.
        results: stored as the results of the run.
        error_field: field with the reason for each image without labels. Only a run with an error field has a status:
            otherwise a failed image cannot be told from one that is still to do.
    """

    key: str
    kind: RunKind
    memory_key: str
    settings: Mapping[str, Any]
    label_type: type[fo.Label]
    fields: Sequence[LabelField]
    config: Mapping[str, Any]
    attributes: Mapping[str, type[fo.Field]] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None
    error_field: str | None = None

    @property
    def run_config(self) -> dict[str, Any]:
        """Configuration of the run as it begins."""
        stored = {**self.settings, **self.config, "memory_key": self.memory_key}
        if self.error_field is not None:
            stored |= {"output_field": self.fields[0].name, "error_field": self.error_field, "status": "running"}
        return stored


class Ownership:
    """The right of a job to write the fields of a run.

    Args:
        view: dataset or view.
        key: name of the run.
        token: token that this job stored in the run.
        fields: names of the fields that the job writes.

    Attributes:
        lost: whether a check has failed.
    """

    def __init__(self, view: Collection, key: str, token: str, fields: Sequence[str]) -> None:
        self._view, self._key, self._token, self._fields = view, key, token, fields
        self._checked = time.monotonic()
        self.lost = False

    def check(self) -> None:
        """Raise unless the job owns the run. Under :func:`.locking.locked` it then does until the lock is released.

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
        """Call :meth:`check` at most once a second, so that a job that lost its run stops early."""
        if time.monotonic() - self._checked > _CHECK_AFTER:
            self.check()


class LabelWriter:
    """Write labels and failures in batches.

    Creating it stores the run and declares the fields, so that a field never exists without its run. Create it under
    the lock, after the checks.

    Args:
        view: the images to label.
        spec: the fields and their run.
    """

    def __init__(self, view: Collection, spec: OutputSpec) -> None:
        self._dataset, self._images = view._root_dataset, runs.all_images(view)
        self._key = spec.key
        self.fields = [each.name for each in spec.fields]
        self.error_field = spec.error_field
        self._labels: dict[str, list[Document]] = {}
        self._errors: dict[str, str | None] = {}
        self._last_write = time.monotonic()
        token = runs.store(
            view, spec.key, spec.kind, spec.run_config, None if spec.results is None else dict(spec.results)
        )
        self._declare_fields(spec)
        self._unfinished = self._find_unfinished() if spec.label_type is fo.Detections else set()
        self.ownership = Ownership(view, spec.key, token, self.all_fields)

    @property
    def all_fields(self) -> list[str]:
        """The label fields, and the error field if there is one."""
        return self.fields if self.error_field is None else [*self.fields, self.error_field]

    def done(self) -> set[str]:
        """Ids of the samples that have all their labels."""
        return set.intersection(*(set(self._images.exists(name).values("id")) for name in self.fields)) - (
            self._unfinished
        )

    def _find_unfinished(self) -> set[str]:
        """Ids of the samples that have nothing but labels that a person decided about."""
        return set(self._images.match(F(f"{self.fields[0]}.{runs.UNFINISHED}") == True).values("id"))  # noqa: E712

    def add(self, sample_id: str, labels: Sequence[fo.Label | Document]) -> None:
        """Add the labels of an image or their documents, one per field, and clear its error."""
        self._labels[sample_id] = [as_document(label) for label in labels]
        self._errors[sample_id] = None
        self._write_if_due()

    def add_failure(self, sample_id: str, reason: str) -> None:
        """Record why an image has no labels. Without an error field, only the report of the job has the reason."""
        self._errors[sample_id] = reason
        self._write_if_due()

    def write(self) -> None:
        """Write everything added since the last write.

        Raises:
            RunEnded: if the job no longer owns the run; everything added is dropped.
        """
        labels, errors = self._labels, self._errors
        self._labels, self._errors = {}, {}
        self._last_write = time.monotonic()
        with locked(self._dataset):
            self.ownership.check()
            runs.check_editable(self._dataset, self.all_fields)
            kept = self._decided(labels)
            values: dict[str, dict[str, Any]] = {
                sample_id: dict(zip(self.fields, of_image, strict=True)) for sample_id, of_image in labels.items()
            }
            for sample_id, decided in kept.items():
                document = values[sample_id][self.fields[0]]
                document["detections"] = [*(label.to_dict() for label in decided), *document["detections"]]
            if self.error_field is not None:
                for sample_id, error in errors.items():
                    values.setdefault(sample_id, {})[self.error_field] = error
            set_fields(self._dataset, values)
            self._unfinished -= labels.keys()

    def _decided(self, sample_ids: Iterable[str]) -> dict[str, list[fo.Detection]]:
        """Labels that a person decided about, as they are now, of images that a run has yet to add its own to."""
        waiting = [sample_id for sample_id in sample_ids if sample_id in self._unfinished]
        if not waiting:
            return {}
        field = self.fields[0]
        found = runs.with_decisions(self._dataset, field).select(waiting).values(["id", f"{field}.detections"])
        return dict(zip(*found, strict=True))

    def write_labels(self, attribute: str, values: Mapping[str, Mapping[ObjectId, float]]) -> None:
        """Write an attribute of labels of the first field, ``{sample id: {label id: value}}``.

        Labels that are not there any more are left out.
        """
        with self.owned():
            set_label_values(self._dataset, self.fields[0], attribute, values)

    def describe(self, **facts: Any) -> None:
        """Add facts to the configuration of the run."""
        with self.owned():
            runs.update(self._dataset, self._key, **facts)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the dataset's lock, and with it the run.

        Raises:
            RunEnded: if the job no longer owns the run.
        """
        with locked(self._dataset):
            self.ownership.check()
            yield

    def close(self, ids: Sequence[str], **counts: str) -> None:
        """Write the rest, and the status of the run if it has one. Do nothing if the run is lost.

        Args:
            ids: samples of the view: the run is complete when each has labels or an error.
            counts: ``{name: path}`` of values to count in the first field, for the run.
        """
        if self.ownership.lost:
            return
        try:
            with locked(self._dataset):
                self.write()
                if self.error_field is not None:
                    self._write_status(ids, self.error_field, counts)
        except RunEnded as error:  # a job that ran to its end has been told by write()
            logger.warning("%s", error)

    def _write_status(self, ids: Sequence[str], error_field: str, counts: Mapping[str, str]) -> None:
        done, failed = self.done(), set(self._images.exists(error_field).values("id"))
        wanted = set(ids) & set(self._images.values("id"))  # samples may have been deleted meanwhile
        runs.update(
            self._dataset,
            self._key,
            status="complete" if done | failed >= wanted else "incomplete",
            segmented=len(done),
            failed=len(failed),
            **{name: self._images.count(f"{self.fields[0]}.{path}") for name, path in counts.items()},
        )

    def _declare_fields(self, spec: OutputSpec) -> None:
        dataset = self._dataset
        for each in spec.fields:
            if not dataset.has_sample_field(each.name):
                dataset.add_sample_field(
                    each.name,
                    fo.EmbeddedDocumentField,
                    embedded_doc_type=spec.label_type,
                    description=each.description,
                    info=dict(each.info),
                )
        if self.error_field is not None and not dataset.has_sample_field(self.error_field):
            description = f"Why {', '.join(map(repr, self.fields))} is missing for this sample"
            dataset.add_sample_field(self.error_field, fo.StringField, description=description)
        # A field created by an earlier version may lack some of them.
        for name in self.fields:
            for attribute, field_type in spec.attributes.items():
                dataset.add_sample_field(f"{name}.{attribute}", field_type)

    def _write_if_due(self) -> None:
        waiting, seconds = len(self._errors), time.monotonic() - self._last_write
        if seconds > _WRITE_AFTER or waiting >= _MOST or (waiting >= _WRITE_EVERY and seconds > _PAUSE):
            self.write()
        else:
            self.ownership.check_if_due()


@exclusive
def field_writer(view: Collection, spec: OutputSpec, *, overwrite: bool) -> LabelWriter:
    """Writer of a single label field, which has the name of its run, and its error field.

    Args:
        view: the images to label.
        spec: the field and its run. An earlier run with the same settings is resumed.
        overwrite: delete an earlier run with other settings.

    Raises:
        InputError: if there is an earlier run with other settings and ``overwrite`` is off, or the field is not free.
        RunEnded: if the memory was deleted or built again since the plan was made.
    """
    runs.check_memory(view, spec.memory_key, spec.settings["memory_fingerprint"])
    checks.check_output_field(view, spec.key, spec.kind)  # another process may have created it since
    take_over(view, spec.key, spec.kind, spec.settings, overwrite=overwrite)
    return LabelWriter(view, spec)


def take_over(
    view: Collection, key: str, kind: RunKind, settings: Mapping[str, Any], *, overwrite: bool
) -> dict[str, Any] | None:
    """Return the configuration of the earlier run to resume; delete one with other settings. Call it under the lock.

    Predictions that a person has decided about or edited stay.

    Args:
        view: dataset or view.
        key: name of the run.
        kind: kind of the run.
        settings: everything that decides a result.
        overwrite: delete an earlier run with other settings.

    Raises:
        InputError: if there is an earlier run with other settings and ``overwrite`` is off.
    """
    earlier = runs.list_runs(view, kind).get(key)
    if earlier is not None and kind is runs.SEGMENTATION:
        mark_edited(view, key)
    if earlier is None or not differences(earlier, settings):
        return earlier
    if not overwrite:
        check_settings(key, kind, earlier, settings)
    if kind is runs.SEGMENTATION:
        runs.delete_predictions(view, key)
    else:
        runs.delete_run(view, key, kind)
    return None


def check_settings(key: str, kind: RunKind, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise InputError unless an earlier run has these settings."""
    if different := differences(earlier, settings):
        holder, alternative = f"the field {key!r}", "choose another output field, or "
        if kind is runs.HEATMAPS:
            holder, alternative = f"the set of heat maps {key!r}", ""
        if kind is runs.SEGMENTATION and different == ["another memory"]:
            raise InputError(
                f"the memory {earlier['memory_key']!r} was changed since the predictions in {key!r} were made, or they "
                "come from another memory: switch on overwrite to replace the undecided ones, or choose another output "
                "field",
                option="output_field",
            )
        raise InputError(
            f"{holder} holds results with other settings ({', '.join(different)}): {alternative}switch on overwrite to "
            "delete them and start over",
            option="overwrite" if kind is runs.HEATMAPS else "output_field",
        )


_BEFORE_SCORERS: dict[str, Any] = {"scorer": "prototype", "prompt_fingerprint": None}
"""Settings that are missing in runs stored before there were scorers."""
_UNTILED = ("auto", "off")
"""Tiles of which a run from before there were tiles, which saw images whole, is resumed."""


def differences(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Settings that differ from those of an earlier run, in words."""
    untold = {}
    if "tiles" in settings:
        untold["tiles"] = settings["tiles"] if settings["tiles"] in _UNTILED else "off"
        untold["tile_overlap"] = settings["tile_overlap"]
    earlier = {**_BEFORE_SCORERS, **untold, **earlier}
    words = {}
    for key, now in settings.items():
        what = key.removesuffix("_fingerprint")
        if earlier.get(key) != now and what not in words:
            words[what] = f"another {what}" if what != key else f"{key} {earlier.get(key)}, now {now}"
    if "preset" in words:  # each preset has its own default tiles
        words.pop("tiles", None)
    return list(words.values())
