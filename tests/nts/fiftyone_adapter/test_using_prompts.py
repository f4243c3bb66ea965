"""Reference prompts on a dataset: as the scorer of a segmentation, and for class maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_dataset import CLASSES, PLUGIN, TARGETS, truncate

from nts.images import read_image
from nts.memory import EncoderInfo
from nts.segmenter import SegmenterInfo
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.loading import load_reference_prompt
from nts.vrp.prompt import PromptMismatch


@pytest.fixture
def memory(nts_fo, references):
    """Name of a memory with whole images."""
    assert nts_fo.build_reference_memory(references, "ground_truth", "shapes", keep_images=True).whole_images
    return "shapes"


def form(name, view, **params):
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionContext

    request = {"dataset_name": view._root_dataset.name, "view": view._serialize(), "params": params}
    operator = foo.get_operator(f"{PLUGIN}/{name}")
    context = ExecutionContext(request, operator_uri=operator.uri)
    return operator.resolve_input(context).to_json()["type"]["properties"]


def test_whole_images_are_stored_on_request_and_in_the_file(nts_fo, drawn, references, memory, tmp_path):
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)[memory]["whole_images"] is True
    nts_fo.build_reference_memory(references, "ground_truth", "plain")
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.MEMORY)["plain"]["whole_images"] is False
    path = nts_fo.export_memory(drawn, memory, tmp_path)
    assert nts_fo.import_memory(drawn, path, "again").whole_images
    assert nts_fo.load_memory(drawn, "again").has_whole_images


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_a_view_is_segmented_by_a_prompt_as_the_engine_does(nts_fo, drawn, targets, memory, scorer, small_encoder):
    options = {"scorer": scorer, "reference_prompt": "small"}
    report = nts_fo.auto_segment_view(targets, memory, "found", **options)
    assert (report.segmented, report.failed) == (TARGETS, {})
    model = nts_fo.ReferenceSegmenterModel(nts_fo.load_memory(drawn, memory), **options)
    sample = targets.first()
    expected = model.predict(None, sample).detections
    assert [d.confidence for d in sample.found.detections] == [d.confidence for d in expected]
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.SEGMENTATION)["found"]["reference_prompt"] == "small"
    assert nts_fo.auto_segment_view(targets, memory, "found", **options).resumed == TARGETS
    with pytest.raises(nts_fo.InputError, match=f"scorer {scorer}, now prototype"):
        nts_fo.auto_segment_view(targets, memory, "found")


def test_a_run_from_before_scorers_is_resumed(nts_fo, drawn, targets, memory):
    from nts.fiftyone_adapter import runs

    nts_fo.auto_segment_view(targets, memory, "found")
    run = drawn.get_run_info("found").config
    for name in ("scorer", "prompt_fingerprint", "reference_prompt"):
        delattr(run, name)
    drawn.update_run_config("found", run)
    assert "scorer" not in runs.list_runs(drawn, runs.SEGMENTATION)["found"]
    assert nts_fo.auto_segment_view(targets, memory, "found").resumed == TARGETS


def test_unusable_prompts_are_refused_before_anything_is_written(nts_fo, drawn, references, targets, memory):
    from nts.fiftyone_adapter import runs

    small = load_reference_prompt()
    other_encoder = EncoderInfo("another", "0" * 64, small.encoder.input_size, small.encoder.dim)
    runs.store_prompt(drawn, "of_another_encoder", replace(small, encoder=other_encoder))
    other_segmenter = SegmenterInfo(**vars(small.segmenter) | {"name": "another", "fingerprint": "0" * 64})
    runs.store_prompt(drawn, "of_another_segmenter", replace(small, segmenter=other_segmenter))
    nts_fo.build_reference_memory(references, "ground_truth", "plain")
    for job in (nts_fo.auto_segment_view, nts_fo.map_classes):
        scorer = {"scorer": "vrp"} if job is nts_fo.auto_segment_view else {}
        with pytest.raises(PromptMismatch, match="without their whole images"):
            job(targets, "plain", "found", reference_prompt="small", **scorer)
        with pytest.raises(PromptMismatch, match="for the encoder 'another'"):
            job(targets, memory, "found", reference_prompt="of_another_encoder", **scorer)
        with pytest.raises(PromptMismatch, match="for the segmenter 'another'"):
            job(targets, memory, "found", reference_prompt="of_another_segmenter", **scorer)
        with pytest.raises(nts_fo.InputError, match="no reference prompt 'nowhere'.*of_another_encoder"):
            job(targets, memory, "found", reference_prompt="nowhere", **scorer)
    with pytest.raises(nts_fo.InputError, match="needs a reference prompt"):
        nts_fo.auto_segment_view(targets, memory, "found", scorer="vrp")
    with pytest.raises(nts_fo.InputError, match="no use for the reference prompt"):
        nts_fo.auto_segment_view(targets, memory, "found", reference_prompt="small")
    assert not drawn.has_field("found")


def test_class_maps_are_the_most_probable_classes(nts_fo, drawn, targets, memory, small_encoder, small_segmenter):
    broken = targets.last()
    truncate(broken.filepath)
    report = nts_fo.map_classes(targets, memory)
    assert report.fields == ["nts_shapes_classes"]
    assert (report.mapped, list(report.failed)) == (TARGETS - 1, [broken.id])
    drawn.reload()
    assert drawn.mask_targets["nts_shapes_classes"] == dict(enumerate(CLASSES, start=1))
    assert drawn[broken.id].nts_shapes_classes_error == report.failed[broken.id]

    support = whole_images(nts_fo.load_memory(drawn, memory))
    mapper = ClassMapper(load_reference_prompt(), small_encoder, small_segmenter, support)
    sample = drawn[targets.first().id]
    image = read_image(sample.filepath)
    maps = mapper.map(image)
    label = sample.nts_shapes_classes
    assert label.mask.shape == image.shape[:2]
    presence = [label.presence[name] for name in CLASSES]
    assert presence == pytest.approx(maps.presence.tolist(), abs=1e-5)
    enlarged = F.interpolate(maps.logits[None], size=image.shape[:2], mode="bilinear", antialias=True)[0].sigmoid()
    enlarged[maps.presence < 0.5] = 0
    best, which = enlarged.max(0)
    expected = torch.where(best > 0.5, which + 1, 0).numpy()
    assert (label.mask == expected).mean() > 0.999
    assert expected.any()

    assert nts_fo.map_classes(targets, memory, presence_threshold=0.5).resumed == TARGETS - 1
    with pytest.raises(nts_fo.InputError, match="presence_threshold 0.5, now 1"):
        nts_fo.map_classes(targets, memory, presence_threshold=1)
    nts_fo.map_classes(targets, memory, presence_threshold=1, overwrite=True)
    assert not drawn[sample.id].nts_shapes_classes.mask.any()
    words = nts_fo.runs.delete_run(drawn, "nts_shapes_classes", nts_fo.runs.CLASS_MAPS)
    assert words[-1] == "class maps 'nts_shapes_classes'"
    drawn.reload()
    assert not drawn.has_field("nts_shapes_classes")
    assert not drawn.has_field("nts_shapes_classes_error")
    assert "nts_shapes_classes" not in drawn.mask_targets


def test_heat_maps_of_probabilities_go_with_their_memory(nts_fo, drawn, targets, memory):
    report = nts_fo.map_classes(targets, memory, output="heatmaps", presence_threshold=0.9)
    assert len(report.fields) == len(CLASSES)
    for field in report.fields:
        heatmap = targets.first()[field]
        assert heatmap.range == [0, 1]
        assert 0 <= heatmap.map.min() <= heatmap.map.max() <= 1
        assert 0 <= heatmap.presence <= 1
    assert nts_fo.map_classes(targets, memory, output="heatmaps", presence_threshold=0.1).resumed == TARGETS
    stored = nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS)["shapes_probability"]
    assert set(stored) - {"cls", "type", "method", "schema", "plugin_version", "token"} == {
        "memory_fingerprint",
        "encoder_fingerprint",
        "segmenter_fingerprint",
        "prompt_fingerprint",
        "preset",
        "preset_fingerprint",
        "memory_key",
        "classes",
        "fields",
    }
    nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    assert not any(drawn.has_field(field) for field in report.fields)
    assert not nts_fo.runs.list_runs(drawn, nts_fo.runs.HEATMAPS)


def test_names_that_the_database_allows_in_no_key_keep_their_presence(nts_fo, drawn, references, targets):
    renamed = [[f"$ no. {name}" for name in names] for names in references.values("ground_truth.detections.label")]
    references.set_values("ground_truth.detections.label", renamed)
    nts_fo.build_reference_memory(references, "ground_truth", "shapes", keep_images=True)
    nts_fo.map_classes(targets.limit(1), "shapes")
    presence = drawn[targets.first().id].nts_shapes_classes.presence
    assert set(presence) == {f"＄ no． {name}" for name in CLASSES}
    assert np.isfinite(list(presence.values())).all()


def test_form_offers_the_scorer_only_where_a_prompt_can_be_used(nts_fo, drawn, references, targets, memory):
    nts_fo.build_reference_memory(references, "ground_truth", "plain")
    assert "scorer" not in form("auto_segment_view", targets, memory_key="plain", advanced=True)
    shown = form("auto_segment_view", targets, memory_key=memory, advanced=True)
    assert "scorer" in shown
    assert "reference_prompt" not in shown
    shown = form("auto_segment_view", targets, memory_key=memory, scorer="vrp")
    assert shown["reference_prompt"]["default"] == "small"
    assert not shown["reference_prompt"]["invalid"]
    shown = form("map_classes", targets, memory_key="plain")
    assert "whole images" in shown["reference_prompt"]["error_message"]
    shown = form("map_classes", targets, memory_key=memory, segmenter="sam2.1_hiera_large")
    assert "trained for the segmenter 'small'" in shown["reference_prompt"]["error_message"]
