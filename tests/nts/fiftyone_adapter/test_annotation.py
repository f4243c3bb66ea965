"""The App's own annotation of predictions: classes and tools are there at once, and a person's schema stays."""

from __future__ import annotations

from drawn_dataset import CLASSES

FIELD = "nts_shapes"


def test_predictions_can_be_annotated_at_once(nts_fo, drawn, targets, memory):
    nts_fo.auto_segment_view(targets, "shapes")
    assert drawn.active_label_schemas == [FIELD]
    schema = drawn.label_schemas[FIELD]
    assert schema["classes"] == sorted(CLASSES)
    assert schema["component"] == "radio"
    attributes = {each["name"]: each for each in schema["attributes"]}
    assert {"score", "similarity", "decision"} <= set(attributes)
    assert all(each["read_only"] for each in attributes.values())


def test_a_schema_of_the_user_stays(nts_fo, drawn, targets, memory):
    nts_fo.auto_segment_view(targets, "shapes")
    own = {**drawn.label_schemas[FIELD], "classes": ["mine"]}
    drawn.update_label_schema(FIELD, own)
    drawn.deactivate_label_schemas(FIELD)
    nts_fo.auto_segment_view(targets, "shapes")
    assert drawn.label_schemas[FIELD]["classes"] == ["mine"]
    assert drawn.active_label_schemas == []


def test_many_classes_are_a_drop_down(nts_fo, drawn, targets, memory):
    from nts.fiftyone_adapter.annotation import set_up_annotation

    nts_fo.auto_segment_view(targets, "shapes")
    drawn.delete_label_schemas(FIELD)
    set_up_annotation(drawn, FIELD, [f"class {k}" for k in range(6)])
    assert drawn.label_schemas[FIELD]["component"] == "dropdown"
