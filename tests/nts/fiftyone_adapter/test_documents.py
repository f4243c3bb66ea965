"""Labels written as documents: the same as FiftyOne stores of its own objects."""

from __future__ import annotations

import importlib
import io
import zlib

import numpy as np
import pytest
from bson import ObjectId
from drawn_dataset import blobs
from made_up_instances import made_up_instances, two_references

from nts.calibration import Calibration, Line
from nts.instances import Instances

FIELD = "found"
ARRAYS = ("mask", "feature")


@pytest.fixture
def documents(nts_fo):
    return importlib.import_module("nts.fiftyone_adapter.documents")


@pytest.fixture
def labelled(fo, make_dataset, tmp_path):
    """Dataset of three samples, with a declared field for labels and one for text."""
    dataset = make_dataset([fo.Sample(tmp_path / f"{number}.png") for number in range(3)])
    dataset.add_sample_field(FIELD, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.add_sample_field("reason", fo.StringField)
    return dataset


@pytest.mark.parametrize("calibration", [None, Calibration("references", Line(slope=3.0, offset=-1.0))])
def test_document_is_that_of_fiftyones_own_objects(fo, nts_fo, calibration):
    from nts.fiftyone_adapter.labels import to_detections, to_document

    instances, memory = _instances(), two_references()
    theirs = to_detections(instances, memory, calibration).to_dict()
    ours = to_document(instances, memory, calibration)
    assert _without_ids(ours) == _without_ids(theirs)
    assert ours["_cls"] == "Detections"
    ids = [label["_id"] for label in ours["detections"]]
    assert all(isinstance(label_id, ObjectId) for label_id in ids)
    assert len(set(ids)) == len(instances)
    assert [label["written"] for label in ours["detections"]] == [
        nts_fo.labels.label_digest(label.label, label.bounding_box, label.mask)
        for label in fo.Detections.from_dict(ours).detections
    ]


def test_no_instances_become_the_document_of_empty_detections(fo, nts_fo):
    from nts.fiftyone_adapter.labels import to_document

    assert to_document(_instances().rows([]), two_references()) == fo.Detections().to_dict()


@pytest.mark.parametrize(
    "array",
    [
        np.ones((1, 1), bool),
        np.zeros((3, 70), bool),
        np.random.default_rng(0).random((217, 90)) > 0.5,
        np.tri(300, 1000, dtype=bool),
        np.zeros((0, 4), bool),
        np.linspace(-1, 1, 320).astype(np.float16),
        np.arange(6, dtype=np.int64).reshape(1, 2, 3),
    ],
    ids=str,
)
def test_arrays_are_read_by_fiftyone_and_are_those_of_numpy(fo, documents, array):
    stored = documents.array_bytes(array)
    read = fo.core.utils.deserialize_numpy_array(stored)
    assert (read.dtype, read.shape, read.flags.c_contiguous) == (array.dtype, array.shape, True)
    assert (read == array).all()
    with io.BytesIO() as saved:
        np.save(saved, array)
        assert zlib.decompress(stored) == saved.getvalue()


def test_stored_documents_are_those_that_fiftyone_stores_and_are_read_as_labels(fo, nts_fo, documents, labelled):
    from nts.fiftyone_adapter.labels import to_detections, to_document

    instances, memory = _instances(), two_references()
    first, second, third = labelled.values("id")
    labelled.set_values(FIELD, {first: to_detections(instances, memory)}, key_field="id")
    labelled.set_values("reason", {first: "none"}, key_field="id")
    before = labelled.values("last_modified_at")
    documents.set_fields(labelled, {second: {FIELD: to_document(instances, memory), "reason": "none"}})

    theirs, ours, untouched = (_raw(labelled, sample_id) for sample_id in (first, second, third))
    assert _without_ids(ours[FIELD]) == _without_ids(theirs[FIELD])
    assert ours["reason"] == "none"
    assert not untouched.keys() & {FIELD, "reason"}
    assert ours.keys() == theirs.keys()
    assert type(ours["last_modified_at"]) is type(theirs["last_modified_at"])
    after = labelled.values("last_modified_at")
    assert after[1] > before[1]
    assert after[2] == before[2]

    read, expected = labelled[second][FIELD], labelled[first][FIELD]
    assert isinstance(read, fo.Detections)
    for label, other, crop in zip(read.detections, expected.detections, instances.crops, strict=True):
        assert isinstance(label, fo.Detection)
        assert label.mask.dtype == bool
        assert (label.mask == crop.numpy()).all()
        assert label.feature.dtype == np.float16
        assert (label.feature == other.feature).all()
        assert (label.tags, label.attributes, label.index, label.mask_path) == ([], {}, None, None)
        for name in ("label", "bounding_box", "confidence", "score", "margin", "reference_id", "written"):
            assert label[name] == other[name]
    # FiftyOne writes back what it has read: nothing is lost or has another type.
    assert _without_ids(read.to_dict()) == _without_ids(ours[FIELD])
    assert labelled.values(f"{FIELD}.detections.id")[1] == [str(each["_id"]) for each in ours[FIELD]["detections"]]


def test_a_segmentation_stores_what_fiftyone_would(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, FIELD, preset=quick, limit=2)
    stored = 0
    for sample in drawn.exists(FIELD):
        raw = _raw(drawn, sample.id)
        assert _without_ids(raw[FIELD]) == _without_ids(sample[FIELD].to_dict())
        assert raw[f"{FIELD}_error"] is None
        stored += len(sample[FIELD].detections)
    assert stored > 0


def test_labels_of_other_types_are_written_as_well(fo, documents, labelled):
    labelled.add_sample_field("map", fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    first, second, _ = labelled.values("id")
    heatmap = fo.Heatmap(map=np.eye(3, dtype=np.float32), range=[0, 1])
    labelled.set_values("map", {first: heatmap}, key_field="id")
    document = documents.as_document(heatmap)
    assert documents.as_document(document) is document
    documents.set_fields(labelled, {second: {"map": document}})
    assert _raw(labelled, second)["map"] == _raw(labelled, first)["map"]


def test_samples_that_are_held_see_what_is_written(nts_fo, documents, labelled):
    from nts.fiftyone_adapter.labels import to_document

    held = list(labelled)
    held[2].reason = "unsaved"
    documents.set_fields(labelled, {held[0].id: {FIELD: to_document(_instances(), two_references()), "reason": None}})
    assert len(held[0][FIELD].detections) == len(_instances())
    documents.set_label_values(labelled, FIELD, "score", {held[0].id: {held[0][FIELD].detections[0]._id: 0.125}})
    assert held[0][FIELD].detections[0].score == 0.125
    assert held[2].reason == "unsaved"


def test_values_of_labels_are_set_as_fiftyone_sets_them(nts_fo, documents, labelled):
    from nts.fiftyone_adapter.labels import to_document

    document, ids = to_document(_instances(), two_references()), labelled.values("id")
    documents.set_fields(labelled, {sample_id: {FIELD: document} for sample_id in ids[:2]})
    label_ids = [label["_id"] for label in document["detections"]]
    chosen = {label_ids[3]: 0.75, label_ids[0]: 0.25}

    labelled.add_sample_field(f"{FIELD}.detections.added", nts_fo.labels.fo.FloatField)
    for attribute in ("confidence", "added"):  # there is one, and not the other
        values = [{"sample_id": ids[0], "label_id": str(each), "value": value} for each, value in chosen.items()]
        labelled.set_label_values(f"{FIELD}.detections.{attribute}", values)
        documents.set_label_values(labelled, FIELD, attribute, {ids[1]: chosen})
    theirs, ours = (_raw(labelled, sample_id)[FIELD] for sample_id in ids[:2])
    assert ours == theirs
    assert [list(label) for label in ours["detections"]] == [list(label) for label in theirs["detections"]]
    assert [label["confidence"] for label in ours["detections"]][:4:3] == [0.25, 0.75]


def test_labels_that_are_gone_are_left_out(nts_fo, documents, labelled):
    from nts.fiftyone_adapter.labels import to_document

    document, (first, second, third) = to_document(_instances(), two_references()), labelled.values("id")
    documents.set_fields(labelled, {sample_id: {FIELD: document} for sample_id in (first, second)})
    label_id, gone = document["detections"][1]["_id"], ObjectId()
    before = [_raw(labelled, sample_id) for sample_id in (second, third)]
    values = {first: {gone: 0.1, label_id: 0.2}, second: {gone: 0.3}, third: {gone: 0.4}, str(ObjectId()): {gone: 0.5}}
    documents.set_label_values(labelled, FIELD, "confidence", values)
    assert [_raw(labelled, sample_id) for sample_id in (second, third)] == before
    assert len(labelled) == 3
    changed = [label["confidence"] for label in _raw(labelled, first)[FIELD]["detections"]]
    expected = [label["confidence"] for label in document["detections"]]
    expected[1] = 0.2
    assert changed == expected


def _raw(dataset, sample_id: str) -> dict:
    """Sample as it is in the database."""
    return dataset._sample_collection.find_one({"_id": ObjectId(sample_id)})


def _without_ids(document: dict) -> tuple[dict, list[dict]]:
    """A document of detections for comparison: keys, types and values of the labels, arrays read."""
    labels = []
    for label in document["detections"]:
        values = {}
        for name, value in label.items():
            if name in ARRAYS:
                assert isinstance(value, bytes)
                array = np.load(io.BytesIO(zlib.decompress(value)), allow_pickle=False)
                value = (array.dtype, array.shape, array.tobytes())
            elif name == "_id":
                value = ObjectId
            elif isinstance(value, list):
                value = [(type(each), each) for each in value]
            values[name] = (type(value), value)
        labels.append(values)
    return {name: value for name, value in document.items() if name != "detections"}, labels


def _instances() -> Instances:
    masks = np.stack(blobs(np.random.default_rng(1), 6, 41, 67))
    masks[4] = False
    masks[4, 7, 5] = True
    return made_up_instances(masks)
