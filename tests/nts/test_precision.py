"""Precision: chosen by the preset, wherever models are loaded for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from nts import models
from nts.building import build_memory
from nts.evaluation.__main__ import main
from nts.method import PUBLISHED
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT, FAST, PAPER, PRESETS
from nts.references import Reference
from nts.segmenter import ProposalConfig
from nts.segmenter.guidance import Guidance
from nts.utils.devices import PRECISIONS, autocast, exact_convolutions
from synthetic.scenes import NOVEL_SPECIES, draw_scene, reference_scenes, species_name, write_coco


@pytest.fixture
def asked(monkeypatch) -> Iterator[list[str]]:
    """Precisions by which models are loaded, by name, on a device where ``"auto"`` is bfloat16, as on a GPU."""
    names: list[str] = []

    def resolve(precision: str, device: torch.device) -> torch.dtype:
        names.append(precision)
        return torch.bfloat16 if precision in ("auto", "fast") else getattr(torch, precision)

    def forget() -> None:
        models.load_encoder.cache_clear()
        models._load_segmenter.cache_clear()

    monkeypatch.setattr(models, "resolve_precision", resolve)
    forget()
    yield names
    forget()


EXPECTED = {"default": "auto", "paper": "float32", "fast": "fast"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_chooses_the_precision_unless_one_is_asked_for(preset):
    for precision in PRECISIONS:
        expected = EXPECTED[preset] if precision == "auto" else precision
        assert PRESETS[preset].precision_for(precision) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_the_engine_loads_models_in_the_precision_of_the_preset(preset, asked):
    scene = reference_scenes(NOVEL_SPECIES[0], 1)[0]
    memory, _ = build_memory([Reference(scene.image, "a", scene.masks[0])], preset=preset)
    segmenter = ReferenceSegmenter(memory, preset=preset)
    assert asked == [EXPECTED[preset]] * 2  # the encoder is loaded once
    precision = "float32" if preset == "paper" else "bfloat16"
    assert (segmenter.encoder.precision, segmenter.segmenter.precision) == (precision, precision)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--preset", "paper"], "float32"),
        (["--preset", "paper", "--precision", "auto"], "float32"),
        (["--preset", "paper", "--precision", "bfloat16"], "bfloat16"),
        (["--preset", "default"], "auto"),
        (["--preset", "fast"], "fast"),
    ],
)
@pytest.mark.parametrize("command", ["run", "predictors"])
def test_the_command_line_loads_models_in_the_precision_of_the_preset(command, options, expected, asked, tmp_path):
    species = NOVEL_SPECIES[:3]
    scenes = {
        "references": [scene for number in species for scene in reference_scenes(number, 2)],
        "targets": [draw_scene([5, k], species) for k in range(4)],
    }
    words = [command, "custom", "--points", "2", "--device", "cpu", "--shots", "1", "--out", str(tmp_path / "out")]
    for name, of_role in scenes.items():
        labels = write_coco(tmp_path / name, of_role, species)
        shutil.copytree(
            tmp_path / name / "data", labels.parent, dirs_exist_ok=True
        )  # where the annotation file expects them
        words += [f"--{name}", str(labels)]
    if command == "predictors":
        words += ["--classes", species_name(species[0]), "--episodes", "1", "--validation-episodes", "1"]
        words += ["--annotations", "mask"]
    main([*words, *options])
    assert asked == [expected] * 2


@pytest.mark.parametrize(("precision", "expected"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_every_job_loads_models_in_the_precision_of_the_preset(precision, expected, asked, nts_fo, references, targets):
    from nts.fiftyone_adapter.model import ReferenceSegmenterModel

    given = {"precision": precision, "preset": "paper"}
    for sample in references.limit(1):  # a box, so that building needs the segmenter too
        for detection in sample.ground_truth.detections:
            detection.mask = None
        sample.save()
    nts_fo.build_reference_memory(references, "ground_truth", "shapes", keep_images=True, **given)
    nts_fo.auto_segment_view(targets.limit(1), "shapes", "found", use_cache=False, **given)
    nts_fo.map_classes(targets.limit(1), "shapes", **given)
    nts_fo.similarity_heatmaps(targets.limit(1), "shapes", **given)
    ReferenceSegmenterModel(nts_fo.load_memory(targets, "shapes"), **given)
    assert set(asked) == {expected}
    asked.clear()
    models.load_encoder.cache_clear()
    nts_fo.evaluate_nap(targets.limit(1), "found", "ground_truth", diagnose_models=True)
    assert set(asked) == {expected}


def test_the_memorys_preset_chooses_where_no_other_is_given(asked, nts_fo, references, targets):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes", preset="paper")
    nts_fo.auto_segment_view(targets.limit(1), "shapes", "found", use_cache=False)
    assert set(asked) == {"float32"}


def test_presets_keep_the_fingerprints_that_runs_were_stored_with(fo):
    from nts.presets import preset_fingerprint

    as_before = [replace(preset, method=PUBLISHED) for preset in (DEFAULT, PAPER, FAST)]
    as_before[0] = replace(as_before[0], proposals=ProposalConfig())
    as_before[2] = replace(as_before[2], proposals=ProposalConfig(guidance=Guidance()))
    assert [preset_fingerprint(preset) for preset in as_before] == [
        "d2b5df9106bd0afeb32ae2cfdb70d19b61f5f24d20a1e4b3b485a9bc9c70ccfd",
        "4d8f1a4cb2d302729e8b1aeb77361473b0c24e8169ba0f5e74401be5d04db568",
        "187447b2788e4949530d054e7cb40ac83a244ea290b236cd119d0bfe36b5f1e3",
    ]
    assert preset_fingerprint(PAPER) == preset_fingerprint(as_before[1])
    assert len({preset_fingerprint(preset) for preset in (*as_before, DEFAULT, FAST)}) == 5
    assert preset_fingerprint(replace(PAPER, precision="bfloat16")) != preset_fingerprint(PAPER)


@pytest.mark.parametrize("before", [True, False])
def test_single_precision_on_a_gpu_is_single_precision_in_convolutions_too(before, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    with autocast(torch.device("cuda"), torch.float32):
        with exact_convolutions():
            assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
    with contextlib.suppress(KeyError), exact_convolutions():
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == before
    with autocast(torch.device("cpu"), torch.float32):
        assert torch.backends.cudnn.allow_tf32 == before
