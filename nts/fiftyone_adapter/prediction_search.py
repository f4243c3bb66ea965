"""Predictions by the features that were compared with the references: a map of them, and a search for similar ones.

Both are runs of FiftyOne Brain, for its Embeddings panel and its sorting by similarity. No model runs: predictions
carry their features.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import fiftyone.brain as fob
from fiftyone import ViewField as F

from . import checks, runs
from .errors import InputError
from .locking import exclusive
from .runs import Collection

Projection = Literal["pca", "umap", "tsne"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

_FEWEST = 3


@dataclass(frozen=True)
class SearchReport:
    """Result of :func:`index_predictions`.

    Attributes:
        embeddings_key: brain key of the map, for the Embeddings panel.
        similarity_key: brain key of the similarity index.
        predictions: number of predictions in both.
        left_out: predictions without a feature: drawn by a person, or by an earlier version.
    """

    embeddings_key: str
    similarity_key: str
    predictions: int
    left_out: int


@exclusive
def index_predictions(view: Collection, field: str, projection: Projection = "pca") -> SearchReport:
    """Map the predictions of a view in two dimensions, and make them searchable by similarity.

    Args:
        view: dataset or view with the predictions.
        field: field of a segmentation.
        projection: of the map: ``"pca"`` needs no further package, ``"umap"`` needs ``umap-learn``.

    Raises:
        InputError: if the field is not one of a segmentation, there are too few predictions with features, a package
            is missing, or one of the brain keys is taken by a run on something else.
    """
    if projection not in PROJECTIONS:
        raise InputError(
            f"there is no projection {projection!r}; there are {', '.join(PROJECTIONS)}", option="projection"
        )
    if projection == "umap" and find_spec("umap") is None:
        raise InputError("the projection 'umap' needs the package umap-learn: install it", option="projection")
    if field not in runs.list_runs(view, runs.SEGMENTATION):
        raise InputError(f"{field!r} is not a field of predictions that a segmentation made", option="field")
    checks.check_detections_field(view, field, "predictions field")
    dataset, keys = view._root_dataset, [pattern.format(field) for pattern in (runs.EMBEDDINGS, runs.SIMILARITY)]
    for key in set(dataset.list_brain_runs()) - set(runs.brain_runs(view, field)):
        if key in keys:
            raise InputError(f"the brain key {key!r} is taken by a run on something else: rename or delete it first")
    total = view.count(f"{field}.detections")
    if dataset.get_field(f"{field}.detections.feature") is None:
        found = 0
    else:
        labels = view.filter_labels(field, F("feature") != None)  # noqa: E711
        found = labels.count(f"{field}.detections")
    if found < _FEWEST:
        raise InputError(
            f"{found} of {total} predictions in {field!r} have a feature, at least {_FEWEST} are needed: segment the "
            "images again with this version"
        )
    runs.delete_brain_runs(view, field)
    options = {"patches_field": field, "embeddings": "feature"}
    fob.compute_visualization(labels, brain_key=keys[0], method=projection, **options)
    fob.compute_similarity(labels, brain_key=keys[1], backend="sklearn", metric="cosine", **options)
    return SearchReport(*keys, found, total - found)
