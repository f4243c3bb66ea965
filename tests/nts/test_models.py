"""Loading models: released formats load and equal their packages; anything else is refused with a reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sam2
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from nts.encoder import FAMILIES, fingerprint
from nts.encoder.files import write_encoder
from nts.models import (
    ENCODERS,
    SEGMENTERS,
    SMALL,
    WeightsNotFound,
    build_sam2,
    load_encoder,
    load_segmenter,
    segmenter_name,
)
from nts.segmenter import ProposalConfig
from nts.vrp.loading import load_reference_prompt

PACKAGED = Path(sam2.__file__).parent / "configs"
SMALL_YAML = SMALL / "segmenter" / "small_sam2.yaml"

# Segmenters: contents of the .yaml


@pytest.mark.parametrize("repository", sorted(HF_MODEL_ID_TO_FILENAMES))
def test_released_configurations_build_the_models_that_hydra_builds(repository, monkeypatch):
    file = PACKAGED.parent / HF_MODEL_ID_TO_FILENAMES[repository][0]
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, a=0: tensor)  # most of the test's time
    ours, theirs = build_sam2(file), instantiate(OmegaConf.load(file).model, _recursive_=True)
    assert repr(ours) == repr(theirs)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    simple = (bool, int, float, str, type(None))
    assert {name: value for name, value in vars(ours).items() if isinstance(value, simple)} == {
        name: value for name, value in vars(theirs).items() if isinstance(value, simple)
    }


def test_the_small_configuration_builds_the_same_weights_from_the_same_seed_as_hydra():
    states = []
    for build in (build_sam2, lambda file: instantiate(OmegaConf.load(file).model, _recursive_=True)):
        torch.manual_seed(0)
        states.append(build(SMALL_YAML).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture
def segmenter_folder(tmp_path: Path) -> Callable[[Callable[[dict], object]], Path]:
    """`segmenter_folder(change)`: folder with the small segmenter after `change(content of its yaml)`."""

    def make(change: Callable[[dict], object]) -> Path:
        folder = tmp_path / "segmenter"
        shutil.copytree(SMALL / "segmenter", folder)
        content = yaml.safe_load(SMALL_YAML.read_text())
        content["model"]["memory_encoder"]["fuser"]["layer"]["layer_scale_init_value"] = 0.000001  # yaml reads text
        change(content)
        (folder / "small_sam2.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return folder

    return make


def put(*keys: str | int, value: object) -> Callable[[dict], None]:
    """Change that sets the value at a path of the yaml."""

    def change(content: dict) -> None:
        node = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


TOUCH = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["MARKER"]}}
SYSTEM = {"_target_": "os.system", "command": "touch MARKER"}
EVAL = {"_target_": "builtins.eval", "_args_": ["open('MARKER', 'w').close()"]}
TRUNK = "sam2.modeling.backbones.hieradet.Hiera"
PAYLOADS = {
    "the model": (put("model", value=SYSTEM), "model._target_: 'os.system'"),
    "beside the model": (put("other", value=SYSTEM), "other._target_: 'os.system'"),
    "an argument": (put("model", "num_maskmem", value=SYSTEM), "model.num_maskmem._target_: 'os.system'"),
    "pathlib": (put("model", "num_maskmem", value=TOUCH), "model.num_maskmem._target_: 'pathlib.Path.touch'"),
    "eval": (put("model", "num_maskmem", value=EVAL), "model.num_maskmem._target_: 'builtins.eval'"),
    "a list": (
        put("model", "image_encoder", "trunk", "stages", value=[1, 2, [{"deeper": SYSTEM}], 1]),
        "model.image_encoder.trunk.stages.2.0.deeper._target_: 'os.system'",
    ),
    "the trunk": (put("model", "image_encoder", "trunk", value=EVAL), "model.image_encoder.trunk._target_: 'builtins"),
    "_args_": (put("model", "image_encoder", "_args_", value=[SYSTEM]), "model.image_encoder._args_: of hydra's"),
    "_partial_": (
        put("model", "memory_encoder", "fuser", "layer", "_partial_", value=True),
        "model.memory_encoder.fuser.layer._partial_: of hydra's",
    ),
    "_recursive_": (
        put("model", "image_encoder", "neck", value={"_target_": TRUNK, "_recursive_": False, "a": EVAL}),
        "model.image_encoder.neck._recursive_: of hydra's",
    ),
    "_convert_": (put("model", "_convert_", value="all"), "model._convert_: of hydra's"),
    "an interpolated target": (
        lambda content: (content.update(name="os.system"), put("model", "a", value={"_target_": "${name}"})(content)),
        "model.a._target_: '${name}' is not one of",
    ),
    "an interpolated node": (put("model", "image_encoder", "trunk", value="${evil}"), "trunk: interpolations are not"),
    "an interpolated number": (put("model", "num_maskmem", value="${model.image_size}"), "num_maskmem: interpolations"),
    "a resolver": (put("model", "num_maskmem", value="${oc.env:HOME}"), "num_maskmem: interpolations are not"),
    "oc.create": (put("model", "a", value="${oc.create:{_target_:os.system}}"), "model.a: interpolations are not"),
    "oc.decode": (put("model", "a", value="${oc.decode:'{_target_: os.system}'}"), "model.a: interpolations are not"),
    "a resolver of the user's": (put("model", "a", value="${nts_test_touch:MARKER}"), "model.a: interpolations"),
    "a target of a resolver": (
        put("model", "_target_", value="${oc.env:TARGET}"),
        "model._target_: '${oc.env:TARGET}'",
    ),
    "a resolver in a key": (put("model", "${nts_test_touch:MARKER}", value=1), "interpolations are not"),
    "hydra's get_method": (
        put("model", "a", value={"_target_": "hydra.utils.get_method", "path": "os.system"}),
        "model.a._target_: 'hydra.utils.get_method'",
    ),
    "hydra's instantiate": (
        put("model", "a", value={"_target_": "hydra.utils.instantiate", "config": SYSTEM, "_recursive_": False}),
        "model.a._target_: 'hydra.utils.instantiate'",
    ),
    "torch.load": (
        put("model", "a", value={"_target_": "torch.load", "f": "MARKER", "weights_only": False}),
        "model.a._target_: 'torch.load'",
    ),
    "a method of an allowed class": (
        put("model", "a", value={"_target_": f"{TRUNK}.load_state_dict"}),
        f"model.a._target_: '{TRUNK}.load_state_dict'",
    ),
    "another name of the package": (
        put("model", "a", value={"_target_": "sam2.modeling.backbones.hieradet.torch.load", "f": "MARKER"}),
        "model.a._target_: 'sam2.modeling.backbones.hieradet.torch.load'",
    ),
    "another class of the package": (
        put("model", "_target_", value="sam2.sam2_video_predictor.SAM2VideoPredictor"),
        "model._target_: 'sam2.sam2_video_predictor.SAM2VideoPredictor'",
    ),
    "a class of torch": (put("model", "a", value={"_target_": "torch.nn.Identity"}), "a._target_: 'torch.nn.Identity'"),
    "a target that is no text": (put("model", "a", value={"_target_": [TRUNK]}), f"a._target_: ['{TRUNK}'] is not"),
    "Hiera's weights_path": (put("model", "image_encoder", "trunk", "weights_path", value="PICKLE"), "weights_path: '"),
    "a name of torch.nn": (put("model", "image_encoder", "trunk", "norm_layer", value="Identity"), "norm_layer: '"),
}


class Touch:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_yaml_that_would_run_code_is_refused_and_not_run(payload, segmenter_folder, tmp_path, monkeypatch):
    marker, evil = tmp_path / "marker", tmp_path / "evil.pickle"
    torch.save(Touch(marker), evil)
    OmegaConf.register_new_resolver("nts_test_touch", lambda path: Path(path).touch(), replace=True)
    monkeypatch.setenv("TARGET", "os.system")
    change, message = PAYLOADS[payload]
    folder = segmenter_folder(change)
    file = folder / "small_sam2.yaml"
    file.write_text(file.read_text().replace("MARKER", str(marker)).replace("PICKLE", str(evil)))
    with pytest.raises(WeightsNotFound, match=re.escape(message)) as refusal:
        load_segmenter(str(folder), "cpu")
    assert str(file) in str(refusal.value)
    assert not marker.exists()


def test_the_payloads_of_these_tests_would_run(tmp_path, monkeypatch):
    """Both mechanisms that the refused files rely on: pickles, and calls by name."""
    torch.save(Touch(tmp_path / "unpickled"), tmp_path / "evil.pickle")
    torch.load(tmp_path / "evil.pickle", weights_only=False)
    assert (tmp_path / "unpickled").exists()
    file = Path(shutil.copy(SMALL_YAML, tmp_path))
    file.write_text(file.read_text().replace("num_maskmem: 0", "num_maskmem: {_target_: builtins.len, _args_: [[]]}"))
    assert instantiate(OmegaConf.load(file).model, _recursive_=True).num_maskmem == 0
    with pytest.raises(WeightsNotFound, match=r"model.num_maskmem._target_: 'builtins.len'"):
        build_sam2(file)


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch MARKER']",
        "model: !!python/object/apply:pathlib.PosixPath [MARKER]",
        "model: !!python/name:os.system",
        "model: !!python/object/new:os.system ['touch MARKER']",
    ],
)
def test_python_tags_in_a_yaml_are_refused_and_not_run(text, tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(text.replace("MARKER", str(tmp_path / "marker")))
    with pytest.raises(WeightsNotFound, match=re.escape(str(file))):
        build_sam2(file)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1, 2", "is not a valid model configuration: ParserError"),
        ("model: 'unfinished", "is not a valid model configuration: ScannerError"),
        ("model: {a: 1, a: 2}", "is not a valid model configuration: ConstructorError"),
        ("a: &a [*a]", "is not a valid model configuration"),
        ("\x00", "is not a valid model configuration"),
        ("", "describes no SAM2: it needs the key 'model'"),
        ("just text", "describes no SAM2: it needs the key 'model'"),
        ("- 1\n- 2", "describes no SAM2: it holds a list"),
        ("trunk: 1", "describes no SAM2: it needs the key 'model'"),
        ("model: 3", "describes no SAM2: it needs the key 'model'"),
        ("model: {image_size: 256}", "describes no SAM2: it needs the key 'model'"),
        (f"model: {{_target_: {TRUNK}}}", "describes no SAM2: it needs the key 'model'"),
        ("model: {_target_: sam2.modeling.sam2_base.SAM2Base}", "model cannot be built as sam2.modeling.sam2_base"),
        ("model: {1: 2}", "is refused at model.1: keys must be names"),
        ("model: {a: 2024-01-01}", "model.a"),
    ],
)
def test_a_broken_yaml_is_refused_in_words(text, message, tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(WeightsNotFound, match=re.escape(str(file))) as refusal:
        build_sam2(file)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("model", "no_such_argument", value=1), "model cannot be built.*no_such_argument"),
        (put("model", "image_encoder", "trunk", "stages", value=3), "model.image_encoder.trunk cannot be built"),
        (put("model", "image_encoder", "trunk", "embed_dim", value=33), "model.image_encoder.* cannot be built"),
        (put("model", "image_encoder", value={"_target_": TRUNK}), "model cannot be built as"),
        (put("model", "memory_encoder", value=None), "is damaged, or belongs to another model"),
        (
            put("model", "memory_attention", "layer", "activation", value="tanh"),
            "activation: 'tanh' is not a valid value",
        ),
        (put("model", "image_size", value="big"), "model.image_size: 'big' is not a valid value of this argument"),
        (put("model", "image_size", value=100), "model.image_size must be a multiple of 16, got 100"),
        (put("model", "image_size", value=256.0), "image_size"),
    ],
)
def test_arguments_that_make_no_model_are_refused_in_words(change, message, segmenter_folder):
    folder = segmenter_folder(change)
    with pytest.raises(WeightsNotFound, match=message) as refusal:
        load_segmenter(str(folder), "cpu")
    assert "small_sam2.yaml" in str(refusal.value)


def test_a_custom_yaml_loads_the_same_model(segmenter_folder, small_segmenter):
    folder = segmenter_folder(lambda content: None)
    assert load_segmenter(str(folder), "cpu").fingerprint == small_segmenter.fingerprint


# Segmenters: checkpoints


def random_sam2(config_file: Path) -> nn.Module:
    torch.manual_seed(0)
    return build_sam2(config_file).eval()


def test_released_checkpoint_formats_load_by_file_name(tmp_path):
    """Checkpoint with the names and shapes of `sam2.1_hiera_tiny.pt`, with random weights."""
    model = random_sam2(Path(sam2.__file__).parent / "configs/sam2.1/sam2.1_hiera_t.yaml")
    torch.save({"model": model.state_dict()}, tmp_path / "sam2.1_hiera_tiny.pt")
    segmenter = load_segmenter(str(tmp_path / "sam2.1_hiera_tiny.pt"), "cpu")
    assert segmenter.input_size == 1024
    assert segmenter.points_per_side == 32
    proposals = segmenter.propose(
        segmenter.embed(torch.zeros(3, 1024, 1024)), ProposalConfig(points_per_side=2, iou_threshold=0.0)
    )
    assert proposals.mask_logits.shape == (4, 256, 256)

    torch.save({"model": model.state_dict()}, tmp_path / "sam2_hiera_large.pt")
    with pytest.raises(WeightsNotFound, match="belongs to another model than sam2_hiera_l.yaml"):
        load_segmenter(str(tmp_path / "sam2_hiera_large.pt"), "cpu")


@pytest.mark.parametrize("name", [SEGMENTERS[-1], "sam2.1_hiera_tiny"])
def test_weights_that_cannot_be_fetched_say_which_file_and_how_to_give_it(name):
    with pytest.raises(
        WeightsNotFound, match=rf"{name}.pt from the Hugging Face repository facebook/sam2.*give its path"
    ):
        load_segmenter(name, "cpu")


@pytest.mark.parametrize("name", SEGMENTERS[1:])
def test_a_repository_of_the_hub_is_a_name_of_its_segmenter(name):
    (repository,) = (hub for hub, (_, file) in HF_MODEL_ID_TO_FILENAMES.items() if Path(file).stem == name)
    assert segmenter_name(repository) == name
    with pytest.raises(WeightsNotFound, match=rf"{name}.pt from the Hugging Face repository {repository}\."):
        load_segmenter(repository, "cpu")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(WeightsNotFound, match="no encoder 'dino'.*facebook/dinov2-large"):
        load_encoder("dino", "cpu")
    with pytest.raises(WeightsNotFound, match=r"no segmenter 'sam'.*sam2.1_hiera_large"):
        load_segmenter("sam", "cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[object], Path]:
    """`checkpoint(content)`: folder with the small segmenter's yaml and a checkpoint of this content."""

    def make(content: object) -> Path:
        shutil.copy(SMALL_YAML, tmp_path)
        torch.save(content, tmp_path / "mine.pt")
        return tmp_path

    return make


def small_weights() -> dict[str, Tensor]:
    return torch.load(SMALL / "segmenter" / "small_sam2.pt", weights_only=True)["model"]


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: {"model": without(small_weights(), "no_mem_embed")}, "belongs to another model"),
        (lambda: {"model": {**small_weights(), "another": torch.zeros(1)}}, "belongs to another model"),
        (lambda: {"model": {**small_weights(), "no_mem_embed": torch.zeros(1, 1, 7)}}, "belongs to another model"),
        (lambda: {"model": {**small_weights(), "no_mem_embed": "text"}}, "belongs to another model"),
        (
            lambda: {"model": {**small_weights(), "no_mem_embed": torch.full((1, 1, 128), torch.nan)}},
            "no_mem_embed holds",
        ),
        (lambda: {"model": 3}, "belongs to another model"),
        (lambda: {"weights": small_weights()}, "KeyError: 'model'"),
        (lambda: [1], "belongs to another model"),
    ],
)
def test_a_checkpoint_that_is_not_exactly_the_models_weights_is_refused(content, message, checkpoint):
    folder = checkpoint(content())
    with pytest.raises(WeightsNotFound, match=message) as refusal:
        load_segmenter(str(folder), "cpu")
    assert str(folder / "mine.pt") in str(refusal.value)


def test_a_pickle_in_a_checkpoint_is_refused_and_not_run(checkpoint, tmp_path):
    folder = checkpoint({"model": small_weights(), "extra": Touch(tmp_path / "marker")})
    with pytest.raises(WeightsNotFound, match="mine.pt"):
        load_segmenter(str(folder), "cpu")
    assert not (tmp_path / "marker").exists()


def test_damaged_or_incomplete_segmenter_files_are_refused(tmp_path):
    released, other = tmp_path / "sam2.1_hiera_tiny.pt", tmp_path / "mine.pt"
    for damaged in (b"", b"no weights", (SMALL / "segmenter" / "small_sam2.pt").read_bytes()[:100_000]):
        released.write_bytes(damaged)
        with pytest.raises(WeightsNotFound, match="sam2.1_hiera_tiny.pt.*damaged"):
            load_segmenter(str(released), "cpu")
    other.write_bytes(b"")
    with pytest.raises(WeightsNotFound, match="which model does"):
        load_segmenter(str(other), "cpu")
    with pytest.raises(WeightsNotFound, match=r"exactly one \*\.yaml, it holds 0"):
        load_segmenter(str(tmp_path), "cpu")


# Encoders


def test_encoder_that_cannot_be_fetched_says_which_files_and_how_to_give_them():
    with pytest.raises(WeightsNotFound, match=r"model.safetensors from the Hugging Face repository.*folder's path"):
        load_encoder("facebook/dinov2-large", "cpu")


def test_device_and_precision_are_checked():
    with pytest.raises(ValueError, match="precision must be one of"):
        load_encoder("small", "cpu", "int4")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' is not available"):
            load_encoder("small", "cuda")


def tiny(model_type: str, **changes) -> PreTrainedModel:
    """Tiny model of a family with random weights; no two values and no two layers are equal."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **changes}
    torch.manual_seed(0)
    family = FAMILIES.get(model_type)
    if model_type == "dinov3_vit":
        sizes = {"intermediate_size": 64, "num_register_tokens": 4, **sizes}
    else:
        sizes = {"image_size": 70, "patch_size": 14, "layerscale_value": 0.1, **sizes}
    model = family.model(family.config(**sizes)) if family else ViTModel(ViTConfig(**sizes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Callable[..., Path]:
    """`encoder_folder(model_type, config={}, weights=None, **changes)`: a tiny model in Hugging Face's format.

    `config` updates its config.json, where `...` removes a key; `weights` updates its weights.
    """

    def make(model_type: str, config=None, weights=None, **changes) -> Path:
        folder = tmp_path / "encoder"
        write_encoder(tiny(model_type, **changes), folder)
        written = {**json.loads((folder / "config.json").read_text()), **(config or {})}
        kept = {key: value for key, value in written.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(kept))
        if weights is not None:
            state = weights(load_file(folder / "model.safetensors"))
            save_file(state, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


RELEASED_KEYS = {
    "dinov2": "encoder.layer.1.attention.attention.query.weight",
    "dinov2_with_registers": "encoder.layer.1.attention.attention.query.weight",
    "dinov2_with_colour": "encoder.layer.1.attention.attention.query.weight",
    "dinov3_vit": "layer.1.attention.q_proj.weight",
}
COLOUR_SIZE = 128


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_gives_the_patch_tokens_of_its_transformers_model(model_type, encoder_folder):
    folder = encoder_folder(model_type)
    assert RELEASED_KEYS[model_type] in load_file(folder / "model.safetensors")  # the names of the released files
    encoder = load_encoder(str(folder), "cpu", "float32")
    size, side = (592, 37) if model_type == "dinov3_vit" else (70, 5)
    assert encoder.info.input_size == size
    length = 32 + (COLOUR_SIZE if model_type == "dinov2_with_colour" else 0)
    assert encoder.info.dim == length
    assert encoder.grid == (side, side)

    model = tiny(model_type)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    tokens = encoder.encode(pixels)
    assert tokens.shape == (2, side, side, length)
    with torch.inference_mode():
        hidden = model(pixel_values=pixels).last_hidden_state
    registers = 0 if model_type in ("dinov2", "dinov2_with_colour") else 4
    assert hidden.shape[1] == 1 + registers + side * side
    assert torch.allclose(tokens.flatten(1, 2), hidden[:, 1 + registers :], atol=1e-5)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_patch_tokens_stand_where_their_patch_is(model_type, encoder_folder):
    """Without attention between tokens (its last layers return zero) a token depends on its own patch only."""

    def no_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
        silent = re.compile(r"layer_scale1\.lambda1$")
        return {name: torch.zeros_like(value) if silent.search(name) else value for name, value in state.items()}

    encoder = load_encoder(str(encoder_folder(model_type, weights=no_attention)), "cpu", "float32")
    size, patch = encoder.info.input_size, encoder.info.input_size // encoder.grid[0]
    before = torch.zeros(1, 3, size, size)
    after = before.clone()
    after[..., 3 * patch : 4 * patch, patch : 2 * patch] = 1
    changed = (encoder.encode(before) - encoder.encode(after)).abs().sum(-1)[0] > 1e-6
    assert changed.nonzero().tolist() == [[3, 1]]


@pytest.mark.parametrize("model_type", ["dinov2", "dinov2_with_registers"])
def test_position_embeddings_are_added_as_they_are_in_the_file(model_type, encoder_folder, monkeypatch):
    folder = encoder_folder(model_type)
    encoder = load_encoder(str(folder), "cpu", "float32")
    state = load_file(folder / "model.safetensors")
    pixels = torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    patches = nn.functional.conv2d(
        pixels,
        state["embeddings.patch_embeddings.projection.weight"],
        state["embeddings.patch_embeddings.projection.bias"],
        stride=14,
    )
    expected = patches.flatten(2).transpose(1, 2) + state["embeddings.position_embeddings"][:, 1:]
    with torch.inference_mode():
        embedded = encoder._model.embeddings(pixels)[:, encoder._prefix_tokens :]
    assert torch.allclose(embedded, expected, atol=1e-5)


@pytest.mark.parametrize("model_type", ["dinov2", "dinov2_with_registers"])
def test_the_gated_layers_of_the_giant_models_load(model_type, encoder_folder):
    folder = encoder_folder(model_type, use_swiglu_ffn=True)
    assert "encoder.layer.0.mlp.weights_in.weight" in load_file(folder / "model.safetensors")
    encoder = load_encoder(str(folder), "cpu", "float32")
    model = tiny(model_type, use_swiglu_ffn=True)
    pixels = torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(pixel_values=pixels).last_hidden_state[:, -25:]
    assert torch.allclose(encoder.encode(pixels).flatten(1, 2), expected, atol=1e-5)


def test_released_dinov2_has_37_patches_a_side_and_a_fingerprint_of_no_precision(tmp_path):
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=384, num_hidden_layers=2, num_attention_heads=6, image_size=518)
    ).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), "cpu")
    assert encoder.info.input_size == 518
    assert encoder.encode(torch.randn(1, 3, 518, 518)).shape == (1, 37, 37, 384)
    assert encoder.info.fingerprint == load_encoder(str(tmp_path), "cpu", "bfloat16").info.fingerprint


FINGERPRINTS = {
    ("dinov2", False): "45ef56b8e84c43d2d20f939fbeb9b1879816e4c922d350990dc0baac0b76efb3",
    ("dinov2", True): "2fa2f1d58e394003dab2504cec1213430f062087b8524caaf7ab929b9808df4b",
    ("dinov2_with_registers", False): "a2ac1bfefcc73ac65eb05560f71c12492bcb403d4d3ec1c24acad02303462a9d",
    ("dinov3_vit", False): "483c873c30b6e8ac528e69a4cf84dc7df565a38ebc6214a2ef6a7422739b128e",
}


@pytest.mark.parametrize(("model_type", "giant"), FINGERPRINTS)
def test_fingerprints_are_the_same_under_every_version_of_transformers(model_type, giant, encoder_folder):
    """Module names differ between versions; memories store the fingerprint of their encoder for years."""

    def counted(state: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {name: torch.arange(state[name].numel()) % (7 + k) for k, name in enumerate(sorted(state))}
        return {name: values[name].reshape(state[name].shape).float() / 8 for name in state}

    folder = encoder_folder(model_type, weights=counted, **({"use_swiglu_ffn": True} if giant else {}))
    assert load_encoder(str(folder), "cpu", "float32").info.fingerprint == FINGERPRINTS[model_type, giant]


def test_the_small_models_are_those_that_the_small_prompt_was_trained_for(small_encoder, small_segmenter):
    prompt = load_reference_prompt()
    assert prompt.encoder.fingerprint == small_encoder.info.fingerprint
    assert prompt.segmenter.fingerprint == small_segmenter.fingerprint
    assert fingerprint(small_encoder._model) == small_encoder.info.fingerprint


def test_a_file_without_the_mask_token_that_only_training_uses_is_no_reason_to_refuse(encoder_folder):
    folder = encoder_folder("dinov2", config={"use_mask_token": False})
    assert "embeddings.mask_token" in load_file(folder / "model.safetensors")
    assert load_encoder(str(folder), "cpu").grid == (5, 5)


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name.replace(old, new): value for name, value in state.items()}


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: change(value).contiguous() if key == name else value for key, value in state.items()}


def only(pattern: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: value for name, value in state.items() if re.search(pattern, name)}


def torch_hub_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names in the authors' original files."""
    names = {"encoder.layer.": "blocks.", "embeddings.patch_embeddings.projection": "patch_embed.proj"}
    names |= {"embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed", "layernorm": "norm"}
    for old, new in names.items():
        state = renamed(old, new)(state)
    return renamed("attention.attention.query", "attn.qkv")(state)


NORM = "encoder.layer.1.norm1.weight"
INCOMPLETE = {
    "one weight is missing": (only(r"^(?!encoder\.layer\.1\.norm1\.weight)"), f"it lacks {NORM}"),
    "a layer is missing": (only(r"^(?!encoder\.layer\.1\.)"), "it lacks encoder.layer.1."),
    "everything is missing": (only(r"^layernorm"), "it lacks embeddings.cls_token"),
    "one weight too many": (lambda state: {**state, "head.bias": torch.zeros(2)}, "dinov2 does not have head.bias"),
    "a weight of another shape": (replaced(NORM, lambda value: value[:7]), f"another shape.*{NORM}"),
    "names of torch hub": (torch_hub_names, "it lacks .*a dinov2 does not have blocks"),
    "positions of another input size": (
        replaced("embeddings.position_embeddings", lambda value: value[:, :17]),
        "another shape than config.json says are embeddings.position_embeddings",
    ),
    "registers": (lambda state: {**state, "embeddings.register_tokens": torch.zeros(1, 4, 32)}, "does not have embedd"),
    "NaN": (replaced(NORM, lambda value: value * torch.nan), "norm1.weight holds NaN"),
    "infinity": (replaced(NORM, lambda value: value / 0), "norm1.weight holds NaN or infinite"),
    "half precision that overflowed": (
        replaced(NORM, lambda value: (value.abs() + 1).half() * 60000),
        "holds NaN or inf",
    ),
}


@pytest.mark.parametrize("damage", INCOMPLETE)
def test_weights_that_are_not_exactly_the_models_are_refused_by_name(damage, encoder_folder):
    change, message = INCOMPLETE[damage]
    folder = encoder_folder("dinov2", weights=change)
    with pytest.raises(WeightsNotFound, match=message) as refusal:
        load_encoder(str(folder), "cpu")
    assert str(folder / "model.safetensors") in str(refusal.value)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_refuses_a_missing_weight(model_type, encoder_folder):
    folder = encoder_folder(model_type, weights=lambda state: without(state, RELEASED_KEYS[model_type]))
    with pytest.raises(WeightsNotFound, match="it lacks .*1.attention.*(query|q_proj).weight"):
        load_encoder(str(folder), "cpu")


@pytest.mark.parametrize(
    ("made", "declared"), [("dinov2_with_registers", "dinov2"), ("dinov2", "dinov2_with_registers")]
)
def test_a_model_of_another_family_than_declared_is_refused(made, declared, encoder_folder):
    folder = encoder_folder(made, config={"model_type": declared, "num_register_tokens": 4})
    with pytest.raises(WeightsNotFound, match="register_tokens"):
        load_encoder(str(folder), "cpu")


def test_a_plain_vision_transformer_is_refused(encoder_folder):
    folder = encoder_folder("vit")
    with pytest.raises(WeightsNotFound, match="model_type is 'vit', supported are dinov2, dinov2_with_registers, d"):
        load_encoder(str(folder), "cpu")
    shutil.rmtree(folder)
    with pytest.raises(WeightsNotFound, match="it lacks embeddings.mask_token"):
        load_encoder(str(encoder_folder("vit", config={"model_type": "dinov2"})), "cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "dinov4"}, "model_type is 'dinov4'"),
        ({"model_type": ...}, "model_type is None"),
        ({"model_type": ["dinov2"]}, r"model_type is \['dinov2'\]"),
        ({"hidden_size": "32"}, "hidden_size is '32', and must be a whole number"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"num_attention_heads": ...}, "num_attention_heads is missing"),
        ({"num_attention_heads": 5}, "config.json"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0"),
        ({"num_hidden_layers": 3}, "it lacks encoder.layer.2"),
        ({"num_hidden_layers": 1}, "a dinov2 does not have encoder.layer.1"),
        ({"image_size": [70, 70]}, r"image_size is \[70, 70\]"),
        ({"image_size": 84}, "another shape than config.json says are embeddings.position_embeddings"),
        ({"image_size": 71}, "image_size 71 is not a multiple of patch_size 14"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"patch_size": True}, "patch_size is True"),
        ({"num_channels": 1}, "num_channels is 1, but images have 3"),
        ({"hidden_act": "no_such"}, "config.json"),
        ({"hidden_act": 3}, "config.json"),
        ({"layer_norm_eps": "small"}, "config.json"),
        ({"mlp_ratio": -4}, "config.json"),
        ({"mlp_ratio": "four"}, "config.json"),
    ],
)
def test_a_broken_configuration_is_refused_in_words(config, message, encoder_folder):
    folder = encoder_folder("dinov2", config=config)
    with pytest.raises(WeightsNotFound, match=message):
        load_encoder(str(folder), "cpu")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff\xfe{", b'{"model_type": "dinov2"}', b"[" * 100_000])
def test_a_config_json_that_is_none_is_refused_in_words(text, encoder_folder):
    folder = encoder_folder("dinov2")
    (folder / "config.json").write_bytes(text)
    with pytest.raises(WeightsNotFound, match=re.escape(str(folder / "config.json"))):
        load_encoder(str(folder), "cpu")


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_damaged_weights_are_refused_in_words(content, encoder_folder):
    file = encoder_folder("dinov2") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(WeightsNotFound, match="model.safetensors could not be loaded: it is damaged"):
        load_encoder(str(file.parent), "cpu")


def test_pickled_weights_are_never_read(encoder_folder, tmp_path):
    folder = encoder_folder("dinov2")
    torch.save(Touch(tmp_path / "marker"), folder / "pytorch_model.bin")
    load_encoder(str(folder), "cpu")
    folder = folder.rename(tmp_path / "without")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsNotFound, match=r"lacks model.safetensors.*pickled weights \(.bin, .pth\), are not read"):
        load_encoder(str(folder), "cpu")
    assert not (tmp_path / "marker").exists()


def test_a_configuration_only_describes_an_architecture(encoder_folder):
    """Adapters, quantisation, code and kernels requested by a folder are ignored."""
    asked = {
        "auto_map": {"AutoModel": "code.Model"},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "attn_implementation": "someone/kernel",
        "_attn_implementation": "someone/kernel",
        "dtype": "float16",
        "stage_names": ["wrong"],
        "out_features": ["wrong"],
    }
    folder = encoder_folder("dinov2", config=asked)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    (folder / "code.py").write_text("raise SystemExit")
    encoder = load_encoder(str(folder), "cpu", "float32")
    assert encoder._model.config._attn_implementation == "sdpa"
    assert {value.dtype for value in encoder._model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", [name for name in ENCODERS if "dinov3" in name])
def test_gated_weights_that_cannot_be_fetched_say_how_to_get_access(name):
    with pytest.raises(
        WeightsNotFound,
        match=rf"gated: accept their licence on https://huggingface.co/{name}, then log in with `hf auth",
    ):
        load_encoder(name, "cpu")


def test_the_released_encoders_are_known_by_their_names():
    assert {"facebook/dinov2-large", "facebook/dinov2-with-registers-base"} < set(ENCODERS)
    assert "facebook/dinov3-vits16plus-pretrain-lvd1689m" in ENCODERS
    assert len(set(ENCODERS)) == len(ENCODERS) == 13
