"""The writer of label fields: when it writes, and that labels and errors of an image are written together."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

FIELD, ERRORS = "found", "found_error"


@pytest.fixture
def module(nts_fo):
    return importlib.import_module("nts.fiftyone_adapter.label_writer")


@pytest.fixture
def clock(module, monkeypatch):
    """Time of the writer, as `clock.now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def images(fo, make_dataset, tmp_path):
    """Dataset of 200 samples without files."""
    return make_dataset([fo.Sample(tmp_path / f"{number}.png") for number in range(200)])


@pytest.fixture
def writer(fo, nts_fo, module, clock, images):
    spec = module.OutputSpec(
        key=FIELD,
        kind=nts_fo.runs.SEGMENTATION,
        memory_key="memory",
        settings={},
        label_type=fo.Detections,
        fields=[module.LabelField(FIELD, "made up", {})],
        config={},
        error_field=ERRORS,
    )
    return module.LabelWriter(images, spec)


def test_images_wait_for_each_other_but_not_long(fo, images, writer, clock):
    ids = iter(images.values("id"))
    document = fo.Detections().to_dict()

    def stored_after(count: int, seconds: float) -> int:
        clock.now += seconds
        for _ in range(count):
            writer.add(next(ids), [document])
        return len(images.exists(FIELD))

    assert stored_after(20, 0.5) == 0, "within a second of the last write"
    assert stored_after(1, 0.6) == 21
    assert stored_after(15, 1.1) == 21, "they are few"
    assert stored_after(1, 0.0) == 37
    assert stored_after(127, 0.0) == 37
    assert stored_after(1, 0.0) == 165, "they are many"
    assert stored_after(1, 9.0) == 165
    assert stored_after(1, 1.1) == 167, "they have waited long"
    writer.write()
    assert writer.done() == set(images.limit(167).values("id"))


def test_labels_clear_the_error_of_their_image(fo, images, writer):
    first, second, third = images.limit(3).values("id")
    writer.add_failure(first, "broken")
    writer.add_failure(second, "broken, too")
    writer.write()
    assert images.values(ERRORS)[:3] == ["broken", "broken, too", None]
    writer.add(second, [fo.Detections()])
    writer.add_failure(third, "broken at first")
    writer.add(third, [fo.Detections()])
    writer.write()
    assert images.values(ERRORS)[:3] == ["broken", None, None]
    assert writer.done() == {second, third}


def test_a_field_that_becomes_read_only_is_not_written(fo, nts_fo, images, writer):
    field = images.get_field(FIELD)
    field.read_only = True
    field.save()
    writer.add(images.first().id, [fo.Detections()])
    with pytest.raises(nts_fo.InputError, match="read-only"):
        writer.write()
    assert len(images.exists(FIELD)) == 0
