"""Predictions by the features that were compared with the references: a map of them, and a search for similar ones.

Both are runs of FiftyOne Brain, for its Embeddings panel and its sorting by similarity. No model runs: predictions
carry their features, and memories hold those of references and negatives.

A visualization of FiftyOne Brain shows the labels of one field. References and predictions are in different fields, so
the map is a separate field. Its labels have the ids of the labels that they stand for: what is selected in the map is
selected among the predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import fiftyone as fo
import fiftyone.brain as fob
import fiftyone.brain.visualization as fobv
import numpy as np
from bson import ObjectId
from fiftyone import ViewField as F

from ..memory import MemoryFileError
from ..references import InvalidReference
from . import checks, colours, runs
from .decisions import declare_decisions
from .documents import detection_document, detections_of, set_fields
from .errors import InputError, RunNotFound
from .labels import label_bounds
from .locking import locked
from .references import LABEL_LISTS
from .runs import Collection

Projection = Literal["pca", "umap", "tsne"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

Role = Literal["prediction", "reference", "negative"]
"""Role of a label in a map. A prediction that was taught to the memory is a reference or a negative."""

_FEWEST = 3
_WHOLE_IMAGE = [0.0, 0.0, 1.0, 1.0]


@dataclass(frozen=True)
class SearchReport:
    """Result of :func:`index_predictions`.

    Attributes:
        map_field: field of the map; its patches are the points of the map.
        embeddings_key: brain key of the map, for the Embeddings panel.
        similarity_key: brain key of the similarity index; ``None`` if there are features of several encoders, which
            FiftyOne cannot search together.
        predictions: number of predictions in both.
        references, negatives: number of those of the memory in the map.
        left_out: predictions without a feature of this encoder: drawn by a person, or found by an earlier version or
            with another encoder.
        elsewhere: references and negatives that are not in the map: their images are not in this dataset.
    """

    map_field: str
    embeddings_key: str
    similarity_key: str | None
    predictions: int
    references: int
    negatives: int
    left_out: int
    elsewhere: int


@dataclass(frozen=True, eq=False)
class _Known:
    """A reference or a negative.

    Attributes:
        role: which of the two.
        sample_id: of its image.
        label_id: of its label; empty if it has none.
        class_name: of a reference; ``None`` for a negative.
        box: of its label, as fractions of the image; ``None`` if it has none.
        feature: float ``[C]``.
    """

    role: Role
    sample_id: str
    label_id: str
    class_name: str | None
    box: Sequence[float] | None
    feature: np.ndarray


def index_predictions(view: Collection, field: str, projection: Projection = "pca") -> SearchReport:
    """Map predictions with the references and negatives of their memory, and make them searchable by similarity.

    The map is a field ``<field>_map`` of Detections without masks, with the class, the ``role``, and the ``decision``,
    which follows that of the prediction. A label without a box, such as a negative found beside the labels of an image,
    is shown as the whole image. An earlier map is replaced.

    Args:
        view: dataset or view with the predictions. References and negatives of the whole dataset are in the map.
        field: field of a segmentation.
        projection: of the map: ``"pca"`` needs no further package, ``"umap"`` needs ``umap-learn``.

    Raises:
        InputError: if the field is not one of a segmentation, there are too few predictions with features, a package
            is missing, or one of the brain keys or the name of the map is taken.
        RunEnded: if the segmentation was started again or deleted meanwhile.
    """
    if projection not in PROJECTIONS:
        raise InputError(
            f"there is no projection {projection!r}; there are {', '.join(PROJECTIONS)}", option="projection"
        )
    if projection == "umap" and find_spec("umap") is None:
        raise InputError("the projection 'umap' needs the package umap-learn: install it", option="projection")
    made = runs.list_runs(view, runs.SEGMENTATION).get(field)
    if made is None:
        raise InputError(f"{field!r} is not a field of predictions that a segmentation made", option="field")
    checks.check_detections_field(view, field, "predictions field")
    _check_names(view, field)
    features, total, others = _features(view, field)
    if len(features) < _FEWEST:
        raise InputError(
            f"{len(features)} of {total} predictions in {field!r} have a feature, at least {_FEWEST} are needed: "
            "segment the images again with this version"
        )
    known, elsewhere = _known(view, made, len(next(iter(features.values()))))
    # UMAP and t-SNE take minutes: the dataset is locked only to write.
    points = _project([*features.values(), *(each.feature for each in known)], projection)
    of_predictions = dict(zip(features, points, strict=False))
    with locked(view) as dataset:
        runs.check_owner(view, field, made.get("token"), [field])
        _check_names(view, field)
        runs.delete_brain_runs(view, field)
        name = runs.create_map(view, field)
        placed = _write_map(view, field, of_predictions, known, points[len(features) :])
        colours.set_class_colours(view, [name], made["classes"])
        keys = [pattern.format(field) for pattern in (runs.EMBEDDINGS, runs.SIMILARITY)]
        images = runs.all_images(dataset)
        ids = images.values(f"{name}.detections.id", unwind=True)
        fob.compute_visualization(
            images, patches_field=name, points=np.array([placed[each] for each in ids]), brain_key=keys[0]
        )
        # To filter, the database reads the masks of all labels.
        labels = view if len(features) == total else view.filter_labels(field, F("feature") != None)  # noqa: E711
        options = {"backend": "sklearn", "metric": "cosine", "progress": False}
        if not others:
            fob.compute_similarity(labels, patches_field=field, embeddings="feature", brain_key=keys[1], **options)
    roles = [each.role for each in known]
    return SearchReport(
        name,
        keys[0],
        None if others else keys[1],
        predictions=len(features),
        references=roles.count("reference"),
        negatives=roles.count("negative"),
        left_out=total - len(features),
        elsewhere=elsewhere,
    )


def _check_names(view: Collection, field: str) -> None:
    """Raise InputError if a brain key or the name of the map is taken."""
    dataset = view._root_dataset
    for key in set(dataset.list_brain_runs()) - set(runs.brain_runs(view, field)):
        if key in (runs.EMBEDDINGS.format(field), runs.SIMILARITY.format(field)):
            raise InputError(f"the brain key {key!r} is taken by a run on something else: rename or delete it first")
    runs.check_map_field(view, field)


def _features(view: Collection, field: str) -> tuple[dict[str, np.ndarray], int, int]:
    """Features of the predictions by label id, each ``[C]``.

    Returns:
        the features, the number of predictions with those that have none, and the number of features left out: those
        of another encoder, with which labels were found that a person decided about before the last run.
    """
    names = ["id"]
    if view._root_dataset.get_field(f"{field}.detections.feature") is not None:
        names.append("feature")
    found: dict[str, np.ndarray] = {}
    total = 0
    for of_image in zip(*view.values([f"{field}.detections.{name}" for name in names]), strict=True):
        for label_id, *feature in zip(*(values or () for values in of_image), strict=True):
            total += 1
            if feature and feature[0] is not None:
                found[label_id] = np.asarray(feature[0], np.float32)
    ((shape, _),) = Counter(feature.shape for feature in found.values()).most_common(1) or [((), 0)]
    features = {label_id: feature for label_id, feature in found.items() if feature.shape == shape}
    return features, total, len(found) - len(features)


def _known(view: Collection, made: Mapping[str, Any], length: int) -> tuple[list[_Known], int]:
    """References and negatives whose images are in the dataset, and the number of others.

    There are none if the memory is gone, or was built again with an encoder whose features cannot be compared.

    Args:
        view: dataset or view.
        made: configuration of the segmentation.
        length: of the features of its predictions.
    """
    key = made["memory_key"]
    try:
        bank = runs.load_memory(view, key)
    except (RunNotFound, MemoryFileError):
        return [], 0
    if bank.encoder.fingerprint != made["encoder_fingerprint"] or bank.encoder.dim != length:
        return [], 0
    images = runs.all_images(view)
    there, total = set(images.values("id")), len(bank.entries) + len(bank.negatives)
    references = [each for each in bank.entries if each.sample_id in there]
    negatives = [each for each in bank.negatives if each.sample_id in there]
    labelled = {each.sample_id for each in (*references, *negatives) if each.label_id}
    fields = runs.label_fields(runs.config(view, key, runs.MEMORY))
    boxes = _boxes(images, sorted(labelled), [name for name in fields if view._root_dataset.has_field(name)])
    known: list[_Known] = []
    for role, class_name, each in [
        *(("reference", each.class_name, each) for each in references),
        *(("negative", None, each) for each in negatives),
    ]:
        box = boxes.get((each.sample_id, each.label_id))
        known.append(_Known(role, each.sample_id, each.label_id, class_name, box, each.prototype.numpy()))
    return known, total - len(known)


def _boxes(images: Collection, sample_ids: Sequence[str], fields: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """Boxes of the labels in some fields, by sample and label; segmentations have none."""
    boxes = {}
    for sample in images.select(sample_ids).select_fields(fields).iter_samples():
        for name in fields:
            value = sample[name]
            if value is None or isinstance(value, fo.Segmentation):
                continue
            for label in value[LABEL_LISTS[type(value)]] if type(value) in LABEL_LISTS else [value]:
                try:
                    boxes[sample.id, label.id] = label_bounds(label)
                except InvalidReference:  # it was edited since it became a reference
                    continue
    return boxes


def _project(features: Sequence[np.ndarray], projection: Projection) -> np.ndarray:
    """Points ``[n, 2]`` of features, which are compared by their directions."""
    stacked = np.stack(features)
    stacked /= np.linalg.norm(stacked, axis=1, keepdims=True).clip(1e-12)
    method = {
        "pca": fobv.PCAVisualizationConfig,
        "umap": fobv.UMAPVisualizationConfig,
        "tsne": fobv.TSNEVisualizationConfig,
    }[projection]
    points, _ = method(num_dims=2).build().fit_reducer(stacked)
    return np.asarray(points)


def _write_map(
    view: Collection, field: str, of_predictions: Mapping[str, np.ndarray], known: Sequence[_Known], points: np.ndarray
) -> dict[str, np.ndarray]:
    """Write the labels of the map, as the predictions are now, and return their points by label id.

    Call it under the lock.

    Args:
        view: dataset or view.
        field: of the predictions.
        of_predictions: points of predictions by label id.
        known: references and negatives.
        points: those of ``known``, ``[m, 2]``.
    """
    declare_decisions(view, field)
    rows = {(each.sample_id, each.label_id): k for k, each in enumerate(known) if each.label_id}
    labels: dict[str, list[dict[str, Any]]] = {}
    placed: dict[str, np.ndarray] = {}

    def place(sample_id: str, label_id: str, point: np.ndarray, **values: Any) -> None:
        labels.setdefault(sample_id, []).append(detection_document({"_id": ObjectId(label_id), **values}))
        placed[label_id] = point

    names = ("id", "label", "bounding_box", "confidence", runs.DECISION)
    columns = runs.all_images(view).values(["id", *(f"{field}.detections.{name}" for name in names)])
    for sample_id, *of_image in zip(*columns, strict=True):
        for label_id, class_name, box, confidence, decision in zip(*(values or () for values in of_image), strict=True):
            k = rows.pop((sample_id, label_id), None)
            if k is None and label_id not in of_predictions:
                continue
            place(
                sample_id,
                label_id,
                of_predictions[label_id] if k is None else points[k],
                label=class_name,
                bounding_box=box or _WHOLE_IMAGE,
                confidence=confidence,
                role="prediction" if k is None else known[k].role,
                decision=decision,
            )
    for k, each in enumerate(known):
        if each.label_id and (each.sample_id, each.label_id) not in rows:
            continue  # one of the predictions
        # Labels that were copied with their image share an id.
        is_own = each.box is not None and each.label_id not in placed
        label_id = each.label_id if is_own else str(ObjectId())
        values = {"label": each.class_name, "bounding_box": each.box or _WHOLE_IMAGE, "role": each.role}
        place(each.sample_id, label_id, points[k], **values, decision=None)
    name = runs.map_field(field)
    values = {sample_id: {name: detections_of(of_image)} for sample_id, of_image in labels.items()}
    set_fields(view._root_dataset, values)
    return placed
