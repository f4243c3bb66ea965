"""Options: each is defined once, in a config, from which signatures, forms, fingerprints and documentation derive."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

from nts.presets import DEFAULT


@pytest.fixture(scope="module")
def config(nts_fo):
    from nts.fiftyone_adapter import config

    return config


def test_functions_show_the_options_of_their_config(nts_fo, config):
    for functions, of_config in (
        ((nts_fo.build_reference_memory, nts_fo.memory_job), config.MemoryConfig),
        ((nts_fo.add_negatives, nts_fo.negatives_job), config.NegativesConfig),
        ((nts_fo.auto_segment_view, nts_fo.segmentation_job), config.SegmentationConfig),
        ((nts_fo.map_classes, nts_fo.class_maps_job), config.ClassMapsConfig),
        ((nts_fo.similarity_heatmaps, nts_fo.heatmaps_job), config.HeatmapsConfig),
        ((nts_fo.train_reference_prompt, nts_fo.prompt_training.prompt_job), config.PromptConfig),
        ((nts_fo.evaluate_nap, nts_fo.evaluation_job), config.EvaluationConfig),
    ):
        for function in functions:
            parameters = inspect.signature(function).parameters
            for each in fields(of_config):
                assert parameters[each.name].default == each.default
                assert each.metadata["help"] in function.__doc__


def test_unknown_options_and_two_statements_are_refused(nts_fo, config, targets):
    with pytest.raises(
        TypeError, match=r"segmentation_job\(\) has no option 'treshold'; it has: score_threshold, max_inst"
    ):
        nts_fo.auto_segment_view(targets, "shapes", treshold=0.5)
    with pytest.raises(TypeError, match=r"segmentation_job\(\) takes a config or options, not both"):
        nts_fo.auto_segment_view(targets, "shapes", config=config.SegmentationConfig(), limit=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold must lie in [0, 1], got 1.5"),
        ({"score_threshold": float("nan")}, "score_threshold must lie in [0, 1], got nan"),
        ({"shown": "few"}, "shown must be one of recommended, all, or a number, got 'few'"),
        ({"shown": 1.5}, "shown must lie in [0, 1], got 1.5"),
        ({"shown": None}, "shown must be a number, got None"),
        ({"score_threshold": "high"}, "score_threshold must be a number, got 'high'"),
        ({"max_instances": 0}, "max_instances must be at least 1, got 0"),
        ({"max_instances": True}, "max_instances must be a whole number, got True"),
        ({"max_instances": np.float32(2)}, f"max_instances must be a whole number, got {np.float32(2)!r}"),
        ({"max_instances": None}, "max_instances must be a whole number, got None"),
        ({"score_threshold": True}, "score_threshold must be a number, got True"),
        ({"score_threshold": np.float32(1.5)}, f"score_threshold must lie in [0, 1], got {np.float32(1.5)!r}"),
        ({"limit": 1.0}, "limit must be a whole number, got 1.0"),
        ({"overwrite": "no"}, "overwrite must be True or False, got 'no'"),
        ({"use_cache": 1}, "use_cache must be True or False, got 1"),
        ({"compiled": None}, "compiled must be True or False, got None"),
        ({"encoder": 5}, "encoder must be a text, got 5"),
        ({"segmenter": None}, "segmenter must be a text, got None"),
        ({"device": 0}, "device must be a text, got 0"),
        ({"reference_prompt": ["small"]}, "reference_prompt must be a text, got ['small']"),
        ({"preset": Path("paper")}, f"preset must be one of default, paper, fast, got {Path('paper')!r}"),
        ({"scorer": "best"}, "scorer must be one of prototype, vrp, both, got 'best'"),
        ({"precision": "int8"}, "precision must be one of auto, fast, float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_invalid_values_name_their_option(nts_fo, config, options, message):
    with pytest.raises(nts_fo.InputError) as error:
        config.SegmentationConfig(**options)
    assert str(error.value) == message
    assert error.value.option == next(iter(options))


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"score_threshold": 1}, 1),
        ({"score_threshold": np.float32(0.5)}, 0.5),
        ({"score_threshold": np.float64(0.5)}, 0.5),
        ({"score_threshold": np.int64(0)}, 0),
        ({"max_instances": np.int64(7)}, 7),
        ({"limit": np.uint8(3)}, 3),
        ({"limit": None}, None),
        ({"overwrite": np.True_}, True),
        ({"encoder": Path("folder")}, "folder"),
        ({"encoder": None}, None),
        ({"reference_prompt": Path("prompt.safetensors")}, "prompt.safetensors"),
        ({"device": torch.device("cpu")}, torch.device("cpu")),
        ({"preset": DEFAULT}, DEFAULT),
    ],
)
def test_values_of_numpy_and_paths_become_what_a_run_can_store(config, options, value):
    (name,) = options
    chosen = getattr(config.SegmentationConfig(**options), name)
    assert chosen == value
    assert type(chosen) is type(value)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (None, None),
        ("cat", ("cat",)),
        (["cat", "dog"], ("cat", "dog")),
        (("cat",), ("cat",)),
        ({"cat"}, ("cat",)),
        ({"cat": 0, "dog": 1}.keys(), ("cat", "dog")),
        (np.array(["cat", "dog"]), ("cat", "dog")),
        ([], ()),
    ],
)
def test_lists_are_one_text_or_several(config, classes, names):
    for of_config in (config.HeatmapsConfig, config.MemoryConfig):
        assert of_config(classes=classes).classes == names


def test_a_generator_of_texts_is_read_once(config):
    assert config.HeatmapsConfig(classes=(name for name in ("cat", "dog"))).classes == ("cat", "dog")


@pytest.mark.parametrize("classes", [5, [None], ["cat", 1]])
def test_lists_of_anything_else_are_refused(nts_fo, config, classes):
    with pytest.raises(nts_fo.InputError) as error:
        config.HeatmapsConfig(classes=classes)
    assert str(error.value) == f"classes must be texts, got {classes!r}"
    assert error.value.option == "classes"


def test_stored_options_are_those_that_decide_results(config):
    assert config.SegmentationConfig(limit=2).stored() == {
        "score_threshold": 0.0,
        "max_instances": 100,
        "scorer": "prototype",
    }
    assert config.ClassMapsConfig().stored() == {"presence_threshold": 0.5}
    assert config.ClassMapsConfig(output="heatmaps").stored() == {}
    assert config.HeatmapsConfig(classes="cat").stored() == {}


def test_a_form_passes_only_what_its_choices_use(config):
    params = {"memory_key": "m", "score_threshold": 0.0, "limit": None, "device": "", "reference_prompt": "small"}
    assert config.SegmentationConfig.from_params(params) == config.SegmentationConfig()
    chosen = config.SegmentationConfig.from_params(params | {"scorer": "vrp"})
    assert chosen == config.SegmentationConfig(scorer="vrp", reference_prompt="small")


def test_stored_settings_are_those_of_earlier_versions(nts_fo, drawn, references, targets):
    nts_fo.build_reference_memory(references, "ground_truth", "m")
    nts_fo.auto_segment_view(targets, "m", limit=1)
    stored = nts_fo.runs.list_runs(drawn, nts_fo.runs.SEGMENTATION)["nts_m"]
    assert set(stored) >= {"memory_fingerprint", "encoder_fingerprint", "segmenter_fingerprint", "preset_fingerprint"}
    assert {name: stored[name] for name in ("preset", "score_threshold", "max_instances", "scorer")} == {
        "preset": "default",
        "score_threshold": 0.0,
        "max_instances": 100,
        "scorer": "prototype",
    }
    assert stored["prompt_fingerprint"] is None
    assert "limit" not in stored


def test_documented_options_are_those_of_the_code(config):
    assert (ROOT / "docs" / "options.md").read_text() == config.markdown(), (
        "write docs/options.md again: python -m nts.fiftyone_adapter.config > docs/options.md"
    )
