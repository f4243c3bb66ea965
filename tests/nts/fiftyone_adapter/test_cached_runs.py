"""Reuse of cached model outputs by the jobs."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_dataset import TARGETS
from PIL import Image

from nts.cache import default_cache
from nts.encoder import Encoder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NTS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def no_model(monkeypatch):
    def forbid():
        def ran(*_, **__):
            raise AssertionError("a model ran")

        monkeypatch.setattr("nts.encoder.Encoder.encode", ran)
        monkeypatch.setattr("nts.segmenter.Segmenter.embed", ran)

    return forbid


def found_in(view, field):
    return [
        [(d.label, d.score, d.bounding_box, d.mask.tolist(), d.reference_id) for d in labels.detections]
        for labels in view.values(field)
    ]


def test_a_second_run_runs_no_model_and_finds_the_same(nts_fo, targets, memory, quick, no_model):
    first = nts_fo.auto_segment_view(targets, memory, "first", preset=quick)
    assert (first.segmented, first.from_cache) == (TARGETS, 0)
    without = nts_fo.auto_segment_view(targets, memory, "without", preset=quick, use_cache=False)
    assert without.from_cache == 0
    no_model()
    second = nts_fo.auto_segment_view(targets, memory, "second", preset=quick)
    assert (second.segmented, second.from_cache, second.failed) == (TARGETS, TARGETS, {})
    assert any(found_in(targets, "first"))
    assert found_in(targets, "second") == found_in(targets, "first") == found_in(targets, "without")
    for field in ("first", "second"):
        for found in targets.values(field):
            # The App refuses masks in column-major order.
            assert all(detection.mask.flags.c_contiguous for detection in found.detections)


def test_other_references_and_thresholds_run_no_model(nts_fo, references, targets, memory, quick, no_model):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.build_reference_memory(references.limit(2), "ground_truth", "fewer")
    no_model()
    report = nts_fo.auto_segment_view(targets, "fewer", "found", preset=quick, score_threshold=0.2, max_instances=5)
    assert (report.from_cache, report.failed) == (TARGETS, {})
    assert max(len(found) for found in found_in(targets, "found")) <= 5


def test_a_changed_file_is_encoded_again(nts_fo, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, "first", preset=quick)
    path = targets.first().filepath
    Image.open(path).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert nts_fo.auto_segment_view(targets, memory, "second", preset=quick).from_cache == TARGETS - 1


def test_apply_model_uses_the_cache_too(nts_fo, targets, memory, quick, no_model):
    nts_fo.auto_segment_view(targets, memory, "first", preset=quick)
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(targets, memory), preset=quick)
    no_model()
    targets.apply_model(model, label_field="applied")
    assert found_in(targets, "applied") == found_in(targets, "first")


def test_an_additional_reference_encodes_one_image(nts_fo, references, monkeypatch):
    encode, encoded = Encoder.encode, []
    monkeypatch.setattr(Encoder, "encode", lambda self, x: encoded.extend(x) or encode(self, x))
    samples = references.values("id")
    fewer = references.select(samples[:-1])
    nts_fo.build_reference_memory(fewer, "ground_truth", "one", preset="paper")
    assert len(encoded) == sum(len(sample.ground_truth.detections) for sample in fewer)
    encoded.clear()
    nts_fo.build_reference_memory(references, "ground_truth", "more", preset="paper", keep_images=True)
    added = len(references.last().ground_truth.detections)
    images = len(references)  # and each whole image, which is stored now
    assert len(encoded) == added + images
    encoded.clear()
    nts_fo.build_reference_memory(references, "ground_truth", "again", preset="paper", keep_images=True)
    assert encoded == []
    more, again = (nts_fo.load_memory(references, name) for name in ("more", "again"))
    assert np.array_equal(more.instance_prototypes(), again.instance_prototypes())


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_a_second_run_by_a_prompt_runs_no_model(nts_fo, references, targets, no_model, quick, scorer):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes", keep_images=True)
    options = {"scorer": scorer, "reference_prompt": "small", "preset": quick}
    first = nts_fo.auto_segment_view(targets, "shapes", "first", **options)
    assert (first.from_cache, first.failed) == (0, {})
    no_model()
    second = nts_fo.auto_segment_view(targets, "shapes", "second", **options)
    assert (second.from_cache, second.failed) == (TARGETS, {})
    assert any(found_in(targets, "first"))
    assert found_in(targets, "second") == found_in(targets, "first")


@pytest.mark.parametrize("kind", ["box", "point", "scribble"])
def test_one_more_reference_without_a_mask_is_promoted_alone(nts_fo, fo, references, monkeypatch, kind):
    from nts.segmenter import Segmenter

    *first, last = references.values("id")
    for sample in references:
        boxes = [(d.label, d.bounding_box) for d in sample.ground_truth.detections]
        if kind == "box":
            sample["weak"] = fo.Detections(detections=[fo.Detection(label=n, bounding_box=b) for n, b in boxes])
        elif kind == "point":
            points = [(n, [(x + w / 2, y + h / 2)]) for n, (x, y, w, h) in boxes]
            sample["weak"] = fo.Keypoints(keypoints=[fo.Keypoint(label=n, points=p) for n, p in points])
        else:
            lines = [(n, [[(x + w / 3, y + h / 2), (x + w / 1.5, y + h / 2)]]) for n, (x, y, w, h) in boxes]
            polylines = [fo.Polyline(label=n, points=p, closed=False, filled=False) for n, p in lines]
            sample["weak"] = fo.Polylines(polylines=polylines)
        sample.save()
    embed, embedded = Segmenter.embed, []
    monkeypatch.setattr(Segmenter, "embed", lambda self, *a, **o: embedded.append(a) or embed(self, *a, **o))
    some = nts_fo.build_reference_memory(references.select(first), "weak", "some", weak_labels="promoted")
    assert some.promoted > 0
    assert len(embedded) == 2 * len(first), "once for the masks, once for the negatives"
    embedded.clear()
    every = nts_fo.build_reference_memory(references, "weak", "every", weak_labels="promoted")
    assert every.promoted > some.promoted
    assert len(embedded) == 2, "the new image"
    assert last in {entry.sample_id for entry in nts_fo.load_memory(references, "every").entries}


def test_the_cache_can_be_cleared_by_its_operator(operator, nts_fo, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    files_before = default_cache().count()
    assert default_cache().count("target") == TARGETS
    files, size = operator("clear_cache")()
    assert files == files_before
    assert size > 0
    assert default_cache().count() == 0
