"""Labels as FiftyOne stores them, made and written without its objects.

FiftyOne checks every value of a label when it is made, when it is set and when it is stored, and compresses arrays
thoroughly. With a hundred instances an image, that takes most of the time of a writer. Here plain documents are made
instead, which FiftyOne reads like its own.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from pymongo import UpdateOne

Document = dict[str, Any]
"""A label as stored by FiftyOne: the result of its ``to_dict()``."""


def as_document(label: fo.Label | Document) -> Document:
    """Document of a label; a document as it is."""
    return label.to_dict() if isinstance(label, fo.Label) else label


def detections_document(rows: Sequence[Mapping[str, Any]]) -> Document:
    """Document of ``fo.Detections(detections=[fo.Detection(**row) for row in rows])``.

    Args:
        rows: the same keys in each, and no value of ``None``. Arrays must be C-contiguous.
    """
    arrays = [name for name, value in rows[0].items() if isinstance(value, np.ndarray)] if rows else []
    stored = ({**row, **{name: array_bytes(row[name]) for name in arrays}} for row in rows)
    return detections_of([detection_document(values) for values in stored])


def detections_of(detections: list[Document]) -> Document:
    """Document of ``fo.Detections``, of the documents of its labels."""
    return {**_defaults(fo.Detections), "detections": detections}


def detection_document(values: Mapping[str, Any]) -> Document:
    """Document of a ``fo.Detection`` with stored values; it gets an id unless ``_id`` is among them."""
    return {**_defaults(fo.Detection), "_id": ObjectId(), **values}


@cache
def _defaults(label_type: type[fo.Label]) -> Document:
    """Document of a label without values, and without an id: its type, and the defaults of its fields."""
    return {name: value for name, value in label_type().to_dict().items() if name != "_id"}


def array_bytes(array: np.ndarray) -> bytes:
    """An array as FiftyOne's ``ArrayField`` and ``VectorField`` store it: ``numpy.save``, compressed by zlib.

    Args:
        array: C-contiguous, of booleans or numbers.
    """
    content = _header(array.dtype, array.shape) + array.tobytes()
    if array.dtype == bool:
        # Masks are runs. This takes less than half the time of zlib's default, for a size from 25 % less to 10 % more.
        compressor = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
        return compressor.compress(content) + compressor.flush()
    # Features are noise to zlib: it would save 7 % of their bytes, in as much time as all the rest takes.
    return zlib.compress(content, 0)


@lru_cache(4096)
def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with io.BytesIO() as file:
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()


def set_fields(dataset: fo.Dataset, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Set fields of samples, one write per sample. The fields must be declared; nothing is checked.

    Args:
        dataset: of the samples.
        values: ``{sample id: {field: document of a label, or plain value}}``.
    """
    modified = {"last_modified_at": datetime.now(UTC)}
    writes = [
        UpdateOne({"_id": ObjectId(sample_id)}, {"$set": {**of_sample, **modified}})
        for sample_id, of_sample in values.items()
    ]
    bulk_write(dataset, writes, list(values))


def set_label_values(
    dataset: fo.Dataset, field: str, attribute: str, values: Mapping[str, Mapping[ObjectId, float]]
) -> None:
    """Set an attribute of labels, one write per sample. FiftyOne's function of this name makes one per label.

    Labels that are not there any more are left out.

    Args:
        dataset: of the labels.
        field: of type Detections.
        attribute: name of the attribute.
        values: ``{sample id: {label id: value}}``.
    """
    path, modified = f"{field}.detections", {"last_modified_at": datetime.now(UTC)}
    writes = []
    for sample_id, of_sample in values.items():
        label_ids = list(of_sample)
        place = {"$indexOfArray": [{"$literal": label_ids}, "$$label._id"]}
        value = {"$arrayElemAt": [{"$literal": list(of_sample.values())}, "$$place"]}
        changed = {"$mergeObjects": ["$$label", {attribute: value}]}
        label = {"$cond": [{"$lt": ["$$place", 0]}, "$$label", changed]}
        labels = {"$map": {"input": f"${path}", "as": "label", "in": {"$let": {"vars": {"place": place}, "in": label}}}}
        writes.append(
            UpdateOne(
                {"_id": ObjectId(sample_id), f"{path}._id": {"$in": label_ids}}, [{"$set": {path: labels, **modified}}]
            )
        )
    bulk_write(dataset, writes, list(values))


def bulk_write(dataset: fo.Dataset, writes: Sequence[UpdateOne], sample_ids: Sequence[str | ObjectId]) -> None:
    """Write to samples, and reload those among them that are held in memory.

    FiftyOne's public functions take neither documents nor aggregation pipelines.
    """
    if writes:
        dataset._bulk_write(list(writes), ids=list(sample_ids))
