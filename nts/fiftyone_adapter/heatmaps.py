"""Maps of similarity to the classes of a memory, as fields of a dataset."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from torch import Tensor

from ..encoder import Encoder
from ..heatmaps import enlarge, similarity_maps
from ..images import prepare_target, read_image
from ..models import load_encoder
from ..presets import Preset, get_preset
from ..utils.names import as_names
from . import checks, runs
from .checks import InputError
from .errors import RunEnded
from .jobs import Job, OnProgress, Progress, first_few, run
from .locking import locked
from .outputs import Ownership, failure, paths_by_id
from .runs import Collection

logger = logging.getLogger(__name__)

MOST_CLASSES = 20
"""Every class is a field of its own: more than these fill the sidebar, and the database, with what nobody looks at."""

RANGE = (0.0, 1.0)
"""The same for all fields, so that a colour means the same in every image and class. The App shows nothing below it."""

_LONGEST = 128  # pixels; finer than the encoder's grid, and about 10 KiB in the database
_SEGMENTER_INPUT = 1024  # SAM2's: the preset `paper` takes the encoder's input from the segmenter's
_WRITE_EVERY = 16  # images


@dataclass(frozen=True)
class HeatmapsReport:
    """What maps were made.

    Attributes:
        fields: ``{class: field with its maps}``.
        mapped: images that have their maps now.
        resumed: images that had them already, from an earlier run with the same memory.
        failed: ``{sample id: reason}`` for the samples whose image could not be read; a reason names its file.
        seconds: duration of the work on images.
    """

    fields: dict[str, str]
    mapped: int
    resumed: int
    failed: dict[str, str]
    seconds: float


def similarity_heatmaps(
    view: Collection, memory_key: str, *, progress: OnProgress = None, **options: Any
) -> HeatmapsReport:
    """Map the likeness of a view's images to the classes of a memory: :func:`heatmaps_job`, run to its end."""
    return run(heatmaps_job(view, memory_key, **options), progress)


def heatmaps_job(
    view: Collection,
    memory_key: str,
    *,
    classes: Sequence[str] | str | None = None,
    overwrite: bool = False,
    encoder: str | None = None,
    preset: str | Preset | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Job[HeatmapsReport]:
    """For every image and class a :class:`fiftyone.Heatmap` of the cosine between patches and class prototype.

    Only the encoder runs, so it takes a fraction of the time of a segmentation. Each class gets a field of its own,
    ``<memory>_<class>_similarity``. The maps stand in the database, with the shape of their image, at most 128 pixels
    long: they go where the dataset goes, and are gone with their field. Values are rounded to hundredths.

    Args:
        view: dataset or view.
        memory_key: name of a memory of the dataset.
        classes: those to map, at most :data:`MOST_CLASSES`; all of the memory without.
        overwrite: where maps of an earlier state of the memory are there, delete them (all of them) and begin anew.
        encoder: a name for :func:`nts.models.load_encoder`; the one that made the memory without.
        preset: ``"default"`` or ``"paper"``; the one that made the memory without.
        device: for the encoder, ``"auto"`` or as in torch.
        precision: for the encoder, one of :data:`nts.utils.devices.PRECISIONS`.

    Raises:
        InputError: if the view or the classes will not do, or no image could be read.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        WeightsNotFound: if the encoder's weights cannot be had.
    """
    checks.check_view(view)
    bank = runs.load_memory(view, memory_key)
    classes = list(bank.classes) if classes is None else sorted(set(as_names(classes) or ()))
    if unknown := [name for name in classes if name not in bank.classes]:
        raise InputError(
            f"the memory {memory_key!r} has no class {', '.join(unknown)}; it has: {', '.join(bank.classes)}"
        )
    if not 0 < len(classes) <= MOST_CLASSES:
        raise InputError(f"choose 1 to {MOST_CLASSES} classes, not {len(classes)}: each gets a field of its own")

    paths = paths_by_id(view)
    yield Progress(0, len(paths), f"loading the encoder {encoder or bank.encoder.name}")
    preset = get_preset(preset or bank.preset)
    loaded = load_encoder(encoder or bank.encoder.name, device, preset.precision_for(precision))
    bank.check_encoder(loaded.info)
    prototypes = bank.prototypes()[[bank.classes.index(name) for name in classes]].to(loaded.device)

    settings = {"memory_fingerprint": runs.fingerprint(bank), "preset": preset.name}
    output = HeatmapsOutput(view, memory_key, classes, settings, overwrite=overwrite)
    done = output.done() & set(paths)
    todo = [(sample_id, path) for sample_id, path in paths.items() if sample_id not in done]
    failed: dict[str, str] = {}
    begin = time.monotonic()
    with runs.explained(view, *output.field_of_class.values()):
        try:
            for number, (sample_id, path) in enumerate(todo):
                yield Progress(len(done) + number, len(paths), f"{len(done) + number}/{len(paths)} images")
                try:
                    maps = _maps(read_image(path, exif=preset.exif), loaded, prototypes, preset)
                except Exception as error:
                    # Whatever is wrong with this image, the others are not to suffer. The reason is reported.
                    failed[sample_id] = failure(path, error)
                    logger.warning("no similarity heat maps: %s", failed[sample_id])
                else:
                    output.add(sample_id, maps)
            output.write()
            yield Progress(len(paths), len(paths), f"{len(paths)} images done")
        finally:
            output.close(list(paths))
    if failed and len(failed) == len(paths):
        raise InputError(f"none of the {len(paths)} images can be read: {first_few(failed.values())}")
    seconds = time.monotonic() - begin
    return HeatmapsReport(output.field_of_class, len(todo) - len(failed), len(done), failed, seconds)


def heatmap_fields(
    view: Collection, memory_key: str, classes: Sequence[str], shown: str = "similarity"
) -> dict[str, str]:
    """The field of every class: the one it has already, or ``<memory>_<class>_<shown>``, made a name that is free.

    Signs that no field may have become underscores; where two classes would then share a name, or something else has
    it, a number follows.
    """
    made = runs.list_runs(view, runs.HEATMAPS).get(runs.heatmaps_key(memory_key, shown))
    fields = dict(zip(made["classes"], made["fields"], strict=True)) if made else {}
    taken = {*view._root_dataset.get_field_schema(), *fields.values()}
    for name in classes:
        if name not in fields:
            plain = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_") or "class"
            base = f"{memory_key}_{plain}_{shown}"
            numbered = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
            fields[name] = next(field for field in numbered if field not in taken)
            taken.add(fields[name])
    return {name: fields[name] for name in classes}


def _maps(image: np.ndarray, encoder: Encoder, prototypes: Tensor, preset: Preset) -> list[fo.Heatmap]:
    """One heat map for every prototype."""
    pixels, _ = prepare_target(image, encoder.info.input_size, _SEGMENTER_INPUT, antialias=preset.antialias)
    return to_heatmaps(similarity_maps(encoder.encode(pixels[None])[0], prototypes), image.shape[:2])


def to_heatmaps(maps: Tensor, image_size: tuple[int, int]) -> list[fo.Heatmap]:
    """Maps ``[K, h, w]`` as labels, with the shape of their image, ``(H, W)``, and at most 128 pixels long."""
    # Rounded, they take a third of the space; 0 is transparent in the App, whatever the range.
    values = enlarge(maps, image_size, _LONGEST).cpu().numpy().round(2)
    return [fo.Heatmap(map=value, range=list(RANGE)) for value in values]


SHOWN = {
    "similarity": "Cosine similarity to the class {name!r} of the reference memory {memory!r}",
    "probability": "Probability of the class {name!r} of the reference memory {memory!r}, by a reference prompt",
}
"""What heat maps can show: the end of the names of their fields, and what is said of those."""


class HeatmapsOutput:
    """Fields of heat maps, one per class, and the run that says who made them. Maps are written in batches.

    Args:
        view: what is done.
        memory_key: the memory.
        classes: of the maps.
        settings: all that decides a result; an earlier run of the same settings is resumed, or gets more classes.
        shown: a key of :data:`SHOWN`.
        attributes: ``{name: type}`` of what the maps carry beside FiftyOne's own.
        overwrite: delete an earlier run of other settings.

    Attributes:
        field_of_class: ``{class: field with its maps}``.

    Raises:
        InputError: if there are maps of other settings, and ``overwrite`` is off, or the run's name is taken.
        RunEnded: if the memory was deleted or built again since it was loaded.
    """

    def __init__(
        self,
        view: Collection,
        memory_key: str,
        classes: Sequence[str],
        settings: dict[str, Any],
        shown: str = "similarity",
        attributes: Mapping[str, type[fo.Field]] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self._view, self._dataset = view, view._root_dataset
        self._maps: dict[str, list[fo.Heatmap]] = {}
        key = runs.heatmaps_key(memory_key, shown)
        with locked(view):
            runs.check_memory(view, memory_key, settings["memory_fingerprint"])
            earlier = self._earlier(key, memory_key, settings, overwrite=overwrite)
            self.field_of_class = heatmap_fields(view, memory_key, classes, shown)
            runs.check_editable(view, self.field_of_class.values())
            all_fields = dict(zip(earlier["classes"], earlier["fields"], strict=True)) if earlier else {}
            all_fields.update(self.field_of_class)
            token = runs.store(
                view,
                key,
                runs.HEATMAPS,
                {
                    **settings,
                    "memory_key": memory_key,
                    "classes": list(all_fields),
                    "fields": list(all_fields.values()),
                },
            )
            for name, field in self.field_of_class.items():
                if not self._dataset.has_sample_field(field):
                    self._dataset.add_sample_field(
                        field,
                        fo.EmbeddedDocumentField,
                        embedded_doc_type=fo.Heatmap,
                        description=SHOWN[shown].format(name=name, memory=memory_key),
                        info={"memory": memory_key, "class": name},
                    )
                for attribute, field_type in (attributes or {}).items():
                    self._dataset.add_sample_field(f"{field}.{attribute}", field_type)
        self.ownership = Ownership(view, key, token, tuple(self.field_of_class.values()))

    def _earlier(
        self, key: str, memory_key: str, settings: dict[str, Any], *, overwrite: bool
    ) -> dict[str, Any] | None:
        """The configuration of an earlier run of the same settings."""
        earlier = runs.list_runs(self._view, runs.HEATMAPS).get(key)
        if earlier is not None and any(earlier.get(name) != value for name, value in settings.items()):
            if not overwrite:
                raise InputError(
                    f"there are heat maps of an earlier state of the memory {memory_key!r} or other settings: "
                    "switch on overwrite to delete them and begin anew"
                )
            runs.delete_run(self._view, key, runs.HEATMAPS)
            return None
        if earlier is None and key in self._dataset.list_runs():
            raise InputError(
                f"the heat maps of the memory {memory_key!r} would be kept as {key!r}, and this name is taken by "
                "a run of another kind: delete or rename that one, or build the memory under another name"
            )
        return earlier

    def done(self) -> set[str]:
        """Which samples have all of the maps already."""
        images = runs.all_images(self._view)
        return set.intersection(*(set(images.exists(field).values("id")) for field in self.field_of_class.values()))

    def add(self, sample_id: str, maps: list[fo.Heatmap]) -> None:
        self._maps[sample_id] = maps
        if len(self._maps) >= _WRITE_EVERY:
            self.write()
        else:
            self.ownership.check_if_due()

    def add_failure(self, sample_id: str, reason: str) -> None:
        """Heat maps have no field of errors: the report has the reasons."""

    def write(self) -> None:
        """Write what has been added.

        Raises:
            RunEnded: if the run is not this job's any more; what has been added is dropped then.
        """
        written, self._maps = self._maps, {}
        with locked(self._dataset):
            self.ownership.check()
            for number, field in enumerate(self.field_of_class.values()):
                if values := {sample_id: maps[number] for sample_id, maps in written.items()}:
                    self._dataset.set_values(field, values, key_field="id")

    def close(self, ids: Sequence[str]) -> None:
        """Write what is left; nothing if the run is lost. ``ids`` of the samples have no say in it."""
        if self.ownership.lost:
            return
        try:
            self.write()
        except RunEnded as error:  # a job that ran to its end has been told by write()
            logger.warning("%s", error)
