"""The repository as a source for FiftyOne's model zoo: registered, downloaded, loaded and applied."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from checkout_copy import copy_checkout
from paths import ROOT

SMALL = "reference-segmentation/small"
LARGE = "reference-segmentation/dinov2-large-sam2.1-large"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def zoo(fo, tmp_path_factory) -> Iterator:
    """FiftyOne's model zoo, with an archive of this checkout registered as a source."""
    import fiftyone.zoo as foz

    repository, folder = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("served")
    copy_checkout(repository / "reference-segmentation")
    shutil.make_archive(str(folder / "main"), "zip", repository)
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/main.zip"
        foz.register_zoo_model_source(url)
        yield foz
        foz.delete_zoo_model_source(url)
        server.shutdown()


@pytest.fixture
def memory(nts_fo, references):
    nts_fo.build_reference_memory(references, "ground_truth", "birds")
    return nts_fo.load_memory(references, "birds")


def manifest() -> list[dict]:
    return json.loads((ROOT / "manifest.json").read_text())["models"]


def test_the_manifest_describes_the_models_that_can_be_loaded(nts_fo):
    from nts.fiftyone_adapter import zoo
    from nts.models import ENCODERS, SEGMENTERS

    assert [model["base_name"] for model in manifest()] == list(zoo.MODELS)
    assert [model["base_filename"] for model in manifest()] == [f"{name.split('/')[1]}.json" for name in zoo.MODELS]
    for encoder, segmenter in zoo.MODELS.values():
        assert encoder in ENCODERS
        assert segmenter in SEGMENTERS


def test_the_manifest_has_the_requirements_of_the_plugin():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line and not line.startswith(("#", "fiftyone"))]
    assert all(model["requirements"]["packages"] == required for model in manifest())


def test_a_registered_source_lists_its_models(zoo):
    assert {SMALL, LARGE} <= set(zoo.list_zoo_models())


@pytest.mark.parametrize("source", ["bank", "file", "key", "key of a named dataset"])
def test_a_zoo_model_segments_by_any_kind_of_memory(source, zoo, nts_fo, drawn, targets, memory, tmp_path):
    memory.save(tmp_path / "birds.safetensors")
    given = {
        "bank": memory,
        "file": tmp_path / "birds.safetensors",
        "key": (drawn, "birds"),
        "key of a named dataset": (drawn.name, "birds"),
    }
    model = zoo.load_zoo_model(SMALL, memory=given[source], device="cpu")
    view = targets.limit(1)
    view.apply_model(model, label_field="by_zoo", skip_failures=False)
    view.apply_model(nts_fo.ReferenceSegmenterModel(memory, device="cpu"), label_field="directly", skip_failures=False)
    (by_zoo,), (directly,) = view.values("by_zoo.detections"), view.values("directly.detections")
    assert len(by_zoo) > 0
    for ours, theirs in zip(by_zoo, directly, strict=True):
        assert (ours.label, ours.confidence, ours.bounding_box) == (
            theirs.label,
            theirs.confidence,
            theirs.bounding_box,
        )


def test_options_reach_the_model(zoo, memory):
    model = zoo.load_zoo_model(SMALL, memory=memory, preset="paper", device="cpu")
    assert model.config.preset == "paper"
    assert model.config.encoder == model.config.segmenter == "small"


def test_without_a_memory_a_model_computes_embeddings_but_refuses_to_segment(zoo, targets):
    model = zoo.load_zoo_model(SMALL, device="cpu")
    embeddings = targets.compute_embeddings(model)
    assert embeddings.shape == (len(targets), 320)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(targets.compute_embeddings(model, batch_size=2), embeddings, atol=1e-4)
    with pytest.raises(ValueError, match=r"no reference memory.*memory="):
        targets.apply_model(model, label_field="found")  # also if failures of single images are skipped
    assert not targets._dataset.has_field("found")


def test_options_of_segmenting_are_refused_without_a_memory(zoo):
    with pytest.raises(ValueError, match="preset: only of use with a reference memory"):
        zoo.load_zoo_model(SMALL, preset="paper")


def test_patch_embeddings_tell_classes_apart_as_prototypes_do(zoo, references, targets, memory):
    model = zoo.load_zoo_model(SMALL, memory=memory, device="cpu")
    targets.compute_patch_embeddings(
        model, "ground_truth", embeddings_field="embedding", force_square=True, alpha=0.2, skip_failures=False
    )
    embeddings = np.concatenate(targets.values("ground_truth.detections.embedding"))
    labels = targets.values("ground_truth.detections.label", unwind=True)
    nearest = (embeddings @ memory.prototypes().numpy().T).argmax(1)
    right = np.mean([memory.classes[k] == label for k, label in zip(nearest, labels, strict=True)])
    assert right > 0.75


def test_an_embedding_of_an_image_does_not_depend_on_its_batch(nts_fo, small_encoder):
    from nts.fiftyone_adapter.embeddings import EncoderModel

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, 2 * side, 3), np.uint8) for side in (40, 90)]
    model = EncoderModel(small_encoder)
    together = model.embed_all(images)
    for image, embedding in zip(images, together, strict=True):
        np.testing.assert_allclose(model.embed(image), embedding, atol=1e-4)


def test_a_clone_in_the_folder_of_models_is_a_source_too(fo, tmp_path, monkeypatch):
    import fiftyone.zoo as foz

    clone = copy_checkout(tmp_path / "reference-segmentation")  # FiftyOne expects the name in the manifest
    monkeypatch.setattr(fo.config, "model_zoo_dir", str(tmp_path))
    assert not foz.is_zoo_model_downloaded(SMALL)
    assert foz.load_zoo_model(SMALL, device="cpu", cache=False).has_embeddings
    assert foz.find_zoo_model(SMALL) == str(clone / "small.json")


def test_weights_that_cannot_be_fetched_leave_a_model_undownloaded(zoo):
    with pytest.raises(RuntimeError, match="could not be fetched"):
        zoo.download_zoo_model(LARGE)
    assert not zoo.is_zoo_model_downloaded(LARGE)


def test_a_memory_of_another_encoder_is_refused(zoo, memory):
    memory.encoder = replace(memory.encoder, fingerprint="another")
    with pytest.raises(ValueError, match="this memory was made by the encoder"):
        zoo.load_zoo_model(SMALL, memory=memory)
