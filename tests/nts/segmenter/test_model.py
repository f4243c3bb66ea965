"""SAM2 and DINOv2 in the engine, compared with the original packages, on checkpoints in the released formats."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor

from nts.images import normalise, stretch
from nts.models import SMALL, build_sam2, load_encoder, load_segmenter
from nts.promotion import promote_boxes
from nts.references import InvalidReference, Reference
from nts.segmenter import ProposalConfig, Proposals, Segmenter, point_grid
from reference_implementation.published_pipeline import decode_prompts, encode_image
from synthetic.scenes import Scene, target_scenes


def random_sam2(config_file: Path) -> SAM2Base:
    torch.manual_seed(0)
    return build_sam2(config_file).eval()


def published_proposals(model: SAM2Base, pixels: torch.Tensor, points: torch.Tensor, *, no_mem_embed: bool):
    """All masks of all prompts by the package's own decoder; then the best of three."""
    *high_resolution, features = encode_image(model, pixels)
    if no_mem_embed:
        features = features + model.no_mem_embed.reshape(1, -1, 1, 1)
    masks, predicted_iou = decode_prompts(model, [*high_resolution, features], points)
    best, index = predicted_iou[:, 1:].max(1)
    return masks[torch.arange(len(masks)), 1 + index], best


@pytest.fixture(scope="module")
def small_architecture() -> SAM2Base:
    return random_sam2(next((SMALL / "segmenter").glob("*.yaml")))


@pytest.mark.parametrize("no_mem_embed", [True, False])
def test_scoring_before_drawing_gives_the_masks_of_the_whole_decoder(small_architecture, no_mem_embed):
    with torch.inference_mode():
        pixels = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(1))
        segmenter = Segmenter(small_architecture, "random", "", torch.device("cpu"), torch.float32)
        points = point_grid(6, 256)
        masks, predicted_iou = published_proposals(small_architecture, pixels, points, no_mem_embed=no_mem_embed)
        threshold = float(predicted_iou.median())
        config = ProposalConfig(6, threshold, add_no_mem_embed=no_mem_embed)
        embedding = segmenter.embed(pixels, add_no_mem_embed=no_mem_embed)
        proposals = segmenter.propose(embedding, config)
    expected = predicted_iou > threshold
    assert 0 < len(proposals) < 36
    assert torch.equal(proposals.points, points[expected])
    assert torch.allclose(proposals.predicted_iou, predicted_iou[expected], atol=1e-5)
    assert torch.allclose(proposals.mask_logits, masks[expected], atol=1e-3)


def test_no_prompt_above_the_threshold_gives_no_proposals(small_segmenter):
    embedding = small_segmenter.embed(torch.zeros(3, 256, 256))
    proposals = small_segmenter.propose(embedding, ProposalConfig(4, iou_threshold=1.0))
    assert len(proposals) == 0
    assert proposals.mask_logits.shape == (0, 64, 64)
    assert proposals.points.shape == (0, 2)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def tensors(proposals: Proposals) -> list[torch.Tensor]:
    voters = proposals.voters
    votes = [] if voters is None else [voters.votes, voters.predicted_iou]
    return [proposals.mask_logits, proposals.predicted_iou, proposals.points, *votes]


def same(found: Proposals, expected: Proposals) -> bool:
    return all(map(torch.equal, tensors(found), tensors(expected)))


@pytest.mark.parametrize("voters", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_chunks_in_threads_give_the_proposals_of_chunks_one_after_another_to_the_bit(
    scene, two_threads, precision, voters
):
    segmenter = load_segmenter("small", "cpu", precision)
    embedding = segmenter.embed(normalise(stretch(scene.image, 256)))
    config = ProposalConfig(9, voters=voters, prompts_per_chunk=5)
    found = segmenter.propose(embedding, config)
    torch.set_num_threads(1)
    expected = segmenter.propose(embedding, config)
    assert len(expected) > 4
    assert same(found, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("options", "which", "extent"),
    [
        ({}, None, 1.0),
        ({"voters": True}, None, 1.0),
        ({"connected": True}, None, 1.0),
        ({"voters": True, "connected": True, "iou_threshold": 0.05}, None, 0.5),
        ({"iou_threshold": 1.0}, None, 1.0),
        ({"iou_threshold": 1.0, "voters": True}, None, 1.0),
        ({"voters": True}, torch.arange(0, 81, 3), 1.0),
    ],
    ids=str,
)
def test_scoring_many_chunks_before_drawing_gives_the_proposals_of_single_chunks(
    scene, monkeypatch, precision, options, which, extent
):
    """As on a GPU: chunks are scored, the host decides once, and the survivors are drawn."""
    segmenter = load_segmenter("small", "cpu", precision)
    embedding = segmenter.embed(normalise(stretch(scene.image, 256)))
    config = ProposalConfig(9, prompts_per_chunk=5, **options)
    expected = segmenter.propose(embedding, config, which, extent=extent)
    for chunks in (4, 16, 100):  # neither 81 prompts nor their survivors fill the last one
        monkeypatch.setattr(segmenter, "_chunks_scored", chunks)
        found = segmenter.propose(embedding, config, which, extent=extent)
        assert len(found) == len(expected)
        assert torch.equal(found.points, expected.points)
        for a, b in zip(tensors(found), tensors(expected), strict=True):
            assert a.dtype == b.dtype
            assert torch.allclose(a, b, atol=1e-3 if precision == "float32" else 1.0)
            assert ((a > 0) != (b > 0)).sum() <= (1e-3 if precision == "float32" else 1e-2) * a.numel()
    assert (len(expected) > 0) == (options.get("iou_threshold") != 1.0)


def test_nothing_is_drawn_before_all_chunks_are_scored(small_segmenter, scene, monkeypatch):
    events = []
    for name in ("_prompt", "_draw"):
        method = getattr(small_segmenter, name)
        monkeypatch.setattr(
            small_segmenter, name, lambda *given, method=method, name=name: events.append(name) or method(*given)
        )
    monkeypatch.setattr(small_segmenter, "_chunks_scored", 16)
    embedding = small_segmenter.embed(normalise(stretch(scene.image, 256)))
    proposals = small_segmenter.propose(embedding, ProposalConfig(9, prompts_per_chunk=10))
    assert events == ["_prompt"] * 9 + ["_draw"] * -(-len(proposals) // 10)


def layout(value: object) -> object:
    """Shapes and strides of all tensors in arguments: what compiled code is specialised to."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride()
    if isinstance(value, (tuple, list)):
        return tuple(map(layout, value))
    return tuple(map(layout, vars(value).values())) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("chunks", [1, 16])
@pytest.mark.parametrize("voters", [False, True])
def test_a_compiled_decoder_sees_one_shape_whatever_the_survivors(monkeypatch, voters, chunks):
    """Not compiled here: each shape would be, for half a minute."""
    segmenter = Segmenter(load_segmenter("small")._model, "small", "", torch.device("cpu"), torch.float32)
    monkeypatch.setattr(segmenter, "_compiled", True)
    monkeypatch.setattr(segmenter, "_parallel", False)
    monkeypatch.setattr(segmenter, "_chunks_scored", chunks)
    seen: dict[str, set[object]] = {"prompt": set(), "draw": set()}
    for name, layouts in seen.items():
        method = getattr(segmenter._decoder, name)
        monkeypatch.setattr(
            segmenter._decoder,
            name,
            lambda *given, method=method, layouts=layouts: layouts.add(layout(given)) or method(*given),
        )
    found = []
    for scene in target_scenes(3):
        embedding = segmenter.embed(normalise(stretch(scene.image, 256)))
        found.append(len(segmenter.propose(embedding, ProposalConfig(9, voters=voters, prompts_per_chunk=10))))
    assert len(set(found)) > 1
    assert {name: len(layouts) for name, layouts in seen.items()} == {"prompt": 1, "draw": 1}


def test_chunks_in_threads_give_the_masks_of_boxes_and_points_in_their_order(small_segmenter, scene, monkeypatch):
    embedding = small_segmenter.embed(normalise(stretch(scene.image, 256)))
    boxes, points = torch.from_numpy(boxes_of(scene)), point_grid(4, 256)[:, None]
    calls = [
        lambda: small_segmenter.predict_boxes(embedding, boxes),
        lambda: small_segmenter.predict_points(embedding, points),
    ]
    expected = [call() for call in calls]
    monkeypatch.setattr(small_segmenter, "_chunk_size", lambda embedding: 1)
    for call, (logits, predicted_iou) in zip(calls, expected, strict=True):
        found_logits, found_iou = call()
        assert torch.allclose(found_logits, logits, atol=1e-3)
        assert torch.allclose(found_iou, predicted_iou, atol=1e-5)


def test_two_images_may_be_decoded_at_the_same_time(small_segmenter, two_threads):
    embeddings = [small_segmenter.embed(normalise(stretch(scene.image, 256))) for scene in target_scenes(2)]
    config = ProposalConfig(8, prompts_per_chunk=3)
    expected = [small_segmenter.propose(embedding, config) for embedding in embeddings]
    assert not same(*expected)
    with ThreadPoolExecutor(2) as callers:
        found = list(callers.map(lambda embedding: small_segmenter.propose(embedding, config), embeddings * 3))
    assert all(same(*pair) for pair in zip(found, expected * 3, strict=True))


def test_where_the_memory_does_not_suffice_fewer_prompts_are_decoded_at_a_time(
    small_segmenter, scene, two_threads, monkeypatch
):
    embedding = small_segmenter.embed(normalise(stretch(scene.image, 256)))
    expected = small_segmenter.propose(embedding, ProposalConfig(8, prompts_per_chunk=4))
    tokens = small_segmenter._tokens

    def limited(sparse: torch.Tensor) -> torch.Tensor:
        if len(sparse) > 5:
            raise torch.OutOfMemoryError("no memory for more than five prompts")
        return tokens(sparse)

    monkeypatch.setattr(small_segmenter, "_tokens", limited)
    monkeypatch.setattr(small_segmenter, "_most_prompts", small_segmenter._most_prompts)
    assert same(small_segmenter.propose(embedding, ProposalConfig(8, prompts_per_chunk=16)), expected)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return max(target_scenes(6), key=lambda scene: len(scene.masks))


def boxes_of(scene: Scene) -> np.ndarray:
    """``x1, y1, x2, y2`` of its objects."""
    extents = [(mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]) for mask in scene.masks]
    return np.array([[xs[0], ys[0], xs[-1] + 1, ys[-1] + 1] for xs, ys in extents], float)


@pytest.mark.parametrize("prompts_per_chunk", [256, 2])
def test_masks_of_boxes_are_those_of_the_image_predictor(small_segmenter, scene, monkeypatch, prompts_per_chunk):
    predictor = SAM2ImagePredictor(small_segmenter._model)
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # it expects 1024-pixel images
    monkeypatch.setattr(small_segmenter._model.sam_mask_decoder, "dynamic_multimask_via_stability", False)
    monkeypatch.setattr(small_segmenter, "_chunk_size", lambda embedding: prompts_per_chunk)
    predictor.set_image(scene.image)
    boxes = boxes_of(scene)
    assert len(boxes) > 2
    expected = [predictor.predict(box=box, multimask_output=False) for box in boxes]
    embedding = small_segmenter.embed(normalise(stretch(scene.image, 256)))
    logits, predicted_iou = small_segmenter.predict_boxes(embedding, torch.from_numpy(boxes))
    assert np.allclose(predicted_iou, [iou[0] for _, iou, _ in expected], atol=1e-5)
    assert np.allclose(logits.clamp(-32, 32), [low[0] for _, _, low in expected], atol=1e-3)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("labels", [[1], [1, 1, 1], [1, 0, 1, 1]])
def test_masks_of_points_are_those_of_the_image_predictor(small_segmenter, scene, monkeypatch, multimask, labels):
    predictor = SAM2ImagePredictor(small_segmenter._model)
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # it expects 1024-pixel images
    monkeypatch.setattr(small_segmenter._model.sam_mask_decoder, "dynamic_multimask_via_stability", False)
    monkeypatch.setattr(small_segmenter, "_chunk_size", lambda embedding: 2)
    predictor.set_image(scene.image)
    points = np.random.default_rng(0).uniform(0, 256, (5, len(labels), 2))
    expected = [predictor.predict(each, np.array(labels), multimask_output=multimask) for each in points]
    embedding = small_segmenter.embed(normalise(stretch(scene.image, 256)))
    given = None if all(labels) else torch.tensor([labels] * 5)
    logits, iou = small_segmenter.predict_points(embedding, torch.from_numpy(points), given, multimask=multimask)
    assert logits.shape == (5, 3 if multimask else 1, 64, 64)
    assert np.allclose(iou, [iou for _, iou, _ in expected], atol=1e-5)
    assert np.allclose(logits.clamp(-32, 32), [low for _, _, low in expected], atol=1e-3)


def test_boxes_become_masks_of_their_objects_at_the_size_of_the_image(small_segmenter, scene):
    x1, y1, x2, y2 = boxes_of(scene).T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], 1)
    promoted = promote_boxes(scene.image, boxes, small_segmenter)
    shared = (promoted.masks & scene.masks).sum((1, 2)) / (promoted.masks | scene.masks).sum((1, 2))
    assert np.median(shared) > 0.7
    assert not promoted.filled.any()
    assert promoted.predicted_iou.shape == (len(boxes),)

    # In an image of another aspect ratio, the same boxes, stretched, denote the same objects.
    wide = np.repeat(scene.image, 2, axis=1)
    again = promote_boxes(wide, boxes * [2, 1, 2, 1], small_segmenter)
    assert again.masks.shape == (len(boxes), 256, 512)
    assert (again.masks[:, :, ::2] == promoted.masks).mean() > 0.98


def test_a_box_in_which_nothing_is_drawn_is_filled_and_one_outside_the_image_is_no_reference(small_segmenter):
    class Nothing:
        input_size, embed = 256, small_segmenter.embed

        def predict_boxes(self, embedding, boxes):
            return torch.full((len(boxes), 64, 64), -1.0), torch.zeros(len(boxes))

    image = np.zeros((60, 80, 3), np.uint8)
    promoted = promote_boxes(image, [[10.5, 20, 5, 8.5], [-10, -10, 15, 12], [90, 10, 5, 5]], Nothing())
    assert promoted.filled.all()
    inside, cut, outside = promoted.masks
    assert (inside.sum(), inside[20:29, 10:16].sum()) == (54, 54)
    assert (cut.sum(), cut[:2, :5].sum()) == (10, 10)
    with pytest.raises(InvalidReference, match="empty"):
        Reference(image, "a", outside)


def test_boxes_that_are_none_are_refused_and_no_boxes_give_no_masks(small_segmenter):
    image = np.zeros((60, 80, 3), np.uint8)
    assert promote_boxes(image, np.zeros((0, 4)), small_segmenter).masks.shape == (0, 60, 80)
    with pytest.raises(ValueError, match=r"boxes must be \[m, 4\], got \[4\]"):
        promote_boxes(image, [1, 2, 3, 4], small_segmenter)
    with pytest.raises(ValueError, match="box 0 is not finite"):
        promote_boxes(image, [[1, 2, 3, np.nan]], small_segmenter)


def test_bfloat16_gives_nearly_the_same_tokens(small_encoder):
    half = load_encoder("small", "cpu", "bfloat16")
    size = small_encoder.info.input_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    cosine = torch.cosine_similarity(half.encode(pixels), small_encoder.encode(pixels), dim=-1)
    assert cosine.min() > 0.99


@pytest.mark.skipif(shutil.which("g++") is None, reason="a CPU needs a C++ compiler")
def test_a_compiled_decoder_proposes_the_same(small_segmenter, scene, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled = load_segmenter("small", "cpu", "float32", compiled=True)
    embedding = small_segmenter.embed(normalise(stretch(scene.image, 256)))
    # Neither the prompts nor the survivors fill their last chunk.
    config = ProposalConfig(points_per_side=11, prompts_per_chunk=50)
    expected = small_segmenter.propose(embedding, config)
    found = compiled.propose(embedding, config)
    assert len(expected) > 4
    assert torch.equal(found.points, expected.points)
    assert torch.allclose(found.predicted_iou, expected.predicted_iou, atol=1e-5)
    assert torch.allclose(found.mask_logits, expected.mask_logits, atol=1e-3)
