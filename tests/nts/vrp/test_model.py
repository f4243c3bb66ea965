"""The network of the visual reference prompt: published sizes, sets of references, and its prompts for SAM2."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nts.segmenter import ImageEmbedding
from nts.vrp.model import ABSENT, DEFAULT_KINDS, VisualReferencePrompt, VRPConfig, paper, sine_positions
from nts.vrp.prior import normalise_prior, prior
from nts.vrp.training import mask_loss

CONFIG = VRPConfig(token_dim=12, dim=16, grid=(4, 5), queries=3, heads=2)
PATCHES = 20
MASK, BOX, POINT = (DEFAULT_KINDS.index(kind) for kind in ("mask", "box", "point"))


def make(config: VRPConfig = CONFIG, seed: int = 0) -> VisualReferencePrompt:
    torch.manual_seed(seed)
    model = VisualReferencePrompt(config).eval()
    with torch.no_grad():  # zero-initialised weights must matter as well
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def references(classes: int, shots: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    weights = (torch.rand(classes, shots, PATCHES) > 0.6).float()
    weights[..., 0] = 1
    return torch.randn(classes, shots, PATCHES, CONFIG.token_dim), weights, torch.full((classes, shots), MASK)


def prompts(model, tokens, weights, kinds, target):
    with torch.no_grad():
        made = model.prompt(model.encode_support(tokens, weights, kinds), target)
    return made.sparse, made.dense


def parameters(config: VRPConfig) -> int:
    return sum(p.numel() for p in VisualReferencePrompt(config).parameters())


@pytest.mark.parametrize(
    ("token_dim", "expected"), [(1536, 1_592_064), (768, 1_395_456), (384, 1_297_152)], ids=["ResNet-50", "B", "S"]
)
def test_the_published_choices_have_the_published_number_of_parameters(token_dim: int, expected: int):
    assert parameters(paper(VRPConfig(token_dim=token_dim, dim=256, grid=(37, 37)))) == expected


@pytest.mark.parametrize("config", [CONFIG, paper(replace(CONFIG, heads=4))], ids=["ours", "paper"])
def test_the_order_of_references_means_nothing(config: VRPConfig):
    model, (tokens, weights, kinds) = make(config), references(2, 3)
    target = torch.randn(2, PATCHES, CONFIG.token_dim)
    there, dense = prompts(model, tokens, weights, kinds, target)
    back, dense_back = prompts(model, *(x.flip(1) for x in (tokens, weights, kinds)), target)
    if config.shots == "concatenate":  # a set for SAM2, in any order
        there, back = (x.sort(1).values for x in (there, back))
    assert torch.allclose(there, back, atol=1e-5)
    assert dense is None or torch.allclose(dense, dense_back, atol=1e-5)


def test_a_reference_shown_twice_is_shown_once():
    model, (tokens, weights, kinds) = make(), references(1, 1)
    target = torch.randn(1, PATCHES, CONFIG.token_dim)
    once, _ = prompts(model, tokens, weights, kinds, target)
    twice, _ = prompts(model, *(x.repeat_interleave(2, 1) for x in (tokens, weights, kinds)), target)
    assert torch.allclose(once, twice, atol=1e-4)


def test_sets_of_different_sizes_do_not_touch_each_other():
    model, (tokens, weights, kinds) = make(), references(2, 3)
    target = torch.randn(2, PATCHES, CONFIG.token_dim)
    kinds[1, 1:] = ABSENT
    together, dense = prompts(model, tokens, weights, kinds, target)
    alone, dense_alone = prompts(model, tokens[1:, :1], weights[1:, :1], kinds[1:, :1], target[1:])
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert torch.allclose(dense[1], dense_alone[0], atol=1e-5)


def test_sets_make_as_many_prompts_as_ever_and_concatenation_one_set_each():
    tokens, weights, kinds = references(2, 3)
    target = torch.randn(1, PATCHES, CONFIG.token_dim)
    assert prompts(make(), tokens, weights, kinds, target)[0].shape == (2, 3, 16)
    published = paper(replace(CONFIG, heads=4))
    assert prompts(make(published), tokens, weights, kinds, target)[0].shape == (2, 3 * 50, 16)


def test_one_target_serves_all_classes():
    model, (tokens, weights, kinds) = make(), references(3, 2)
    target = torch.randn(1, PATCHES, CONFIG.token_dim)
    together, _ = prompts(model, tokens, weights, kinds, target)
    for c in range(3):
        alone, _ = prompts(model, tokens[[c]], weights[[c]], kinds[[c]], target)
        assert torch.allclose(together[c], alone[0], atol=1e-5)


def test_the_target_receives_its_similarity():
    model, (tokens, weights, kinds) = make(), references(1, 2)
    target = torch.randn(1, PATCHES, CONFIG.token_dim)
    state = model.encode_support(tokens, weights, kinds)
    similarity, difference, bare, to_mean = model.target_channels(state, target[:, None])
    patches, marked = tokens[0].flatten(0, 1), weights[0].flatten() > 0.5
    cosine = F.normalize(target[0], dim=1) @ F.normalize(patches, dim=1).T
    best, background = cosine[:, marked].amax(1), cosine[:, ~marked].amax(1)
    assert torch.allclose(similarity[0, 0], (best - best.min()) / (best.max() - best.min() + 1e-7), atol=1e-6)
    assert torch.allclose(difference[0, 0], best - background, atol=1e-6)
    assert torch.allclose(bare[0, 0], best, atol=1e-6)
    mean = F.normalize(patches[marked].mean(0), dim=0)
    assert torch.allclose(to_mean[0, 0], F.normalize(target[0], dim=1) @ mean, atol=1e-6)


def test_unmarked_pixels_of_a_point_are_no_background():
    model, (tokens, weights, _) = make(), references(1, 1)
    target = torch.randn(1, 1, PATCHES, CONFIG.token_dim)
    for kind, known in ((MASK, True), (BOX, True), (POINT, False)):
        state = model.encode_support(tokens, weights, torch.tensor([[kind]]))
        assert bool(state.unmarked.any()) == known
        assert bool(model.target_channels(state, target)[1].any()) == known


def test_a_configuration_has_its_own_order_of_kinds():
    config = replace(CONFIG, kinds=("point", "mask"))
    model, (tokens, weights, _) = make(config), references(1, 1)
    assert model.kinds.shape == (2, 16)
    for kind, known in ((0, False), (1, True)):
        assert bool(model.encode_support(tokens, weights, torch.tensor([[kind]])).unmarked.any()) == known
    assert VRPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="kinds must be different kinds"):
        replace(CONFIG, kinds=("mask", "mask"))


def test_an_empty_reference_says_nothing_and_breaks_nothing():
    model, (tokens, weights, kinds) = make(), references(1, 1)
    target = torch.randn(1, PATCHES, CONFIG.token_dim)
    state = model.encode_support(tokens, torch.zeros_like(weights), kinds)
    assert not state.prototypes.any()
    assert not any(channel.any() for channel in model.target_channels(state, target[:, None]))
    made = model.prompt(state, target)
    assert made.sparse.isfinite().all()
    assert made.dense.isfinite().all()


def test_the_published_prior_is_the_bare_cosine():
    published = paper(replace(CONFIG, heads=4))
    model, (tokens, weights, kinds) = make(published), references(1, 1)
    target = torch.randn(1, 1, PATCHES, CONFIG.token_dim)
    (channel,) = model.target_channels(model.encode_support(tokens, weights, kinds), target)
    assert torch.equal(channel, prior(tokens[:, :1], weights[:, :1] > 0.5, target).clamp(min=0))
    assert float(normalise_prior(channel).max()) == pytest.approx(1, abs=1e-4)


def test_queries_may_begin_as_the_prototype():
    model = make(replace(CONFIG, query_init="prototype", kind_vectors=False))
    assert not hasattr(model, "queries")
    tokens, weights, kinds = references(1, 1)
    sparse, _ = prompts(model, tokens, weights, kinds, torch.randn(1, PATCHES, CONFIG.token_dim))
    assert torch.allclose(sparse[0, 0], sparse[0, 1], atol=1e-6)


def test_dropout_drops_whole_channels_and_only_in_training():
    model = make(replace(CONFIG, dropout=0.5))
    tokens = torch.randn(2, PATCHES, CONFIG.token_dim)
    whole = model._reduce(tokens)
    assert torch.equal(whole, model._reduce(tokens))
    dropped = model.train()._reduce(tokens)
    gone = (dropped == 0).all(1) & (whole > 0).any(1)
    assert gone.any()
    kept = ~gone[:, None].expand_as(whole)
    assert torch.allclose(dropped[kept], 2 * whole[kept])


def test_positions_tell_all_patches_apart():
    positions = sine_positions((3, 4), 16)
    assert positions.shape == (12, 16)
    assert (torch.cdist(positions, positions) + 9 * torch.eye(12)).min() > 0.1
    y = 1.5 / 3 * 2 * math.pi
    assert float(positions[4, 0]) == pytest.approx(math.sin(y), abs=1e-5)  # second row, first of y's sines


def test_the_loss_is_bce_and_dice_without_what_is_ignored():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 6, 6), torch.rand(2, 6, 6)
    counted = (torch.rand(2, 6, 6) > 0.3).float()
    kept = counted > 0
    p = logits.sigmoid()
    bce = -(truth * p.log() + (1 - truth) * (1 - p).log())[kept].mean()

    def dice_of(b: int) -> torch.Tensor:
        q, t = p[b][kept[b]], truth[b][kept[b]]
        return 1 - (2 * (q * t).sum() + 1) / (q.sum() + t.sum() + 1)

    dice = (dice_of(0) + dice_of(1)) / 2
    assert torch.allclose(mask_loss(logits, truth, counted), bce + dice, atol=1e-6)
    assert torch.allclose(mask_loss(logits, truth, counted, "bce"), bce, atol=1e-6)
    assert torch.allclose(mask_loss(logits, truth, counted, "dice"), dice, atol=1e-6)
    spoilt = torch.where(kept, logits, torch.full_like(logits, 50.0))
    assert torch.allclose(mask_loss(spoilt, truth, counted), bce + dice, atol=1e-6)


# ---- with SAM2 -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embeddings(small_segmenter) -> ImageEmbedding:
    """Embedding of two noisy images."""
    torch.manual_seed(2)
    made = [small_segmenter.embed(torch.randn(3, 256, 256)) for _ in range(2)]
    levels = zip(*(of.high_resolution for of in made), strict=True)
    return ImageEmbedding(torch.cat([of.features for of in made]).clone(), tuple(torch.cat(x).clone() for x in levels))


def one(embedding: ImageEmbedding, k: int) -> ImageEmbedding:
    return ImageEmbedding(embedding.features[[k]], tuple(level[[k]] for level in embedding.high_resolution))


def test_clicks_decode_to_the_same_masks_as_by_sam2_itself(small_segmenter, embeddings):
    model = small_segmenter._model
    points = torch.tensor([[[60.0, 80.0]], [[200.0, 33.0]]])
    sparse, dense = model.sam_prompt_encoder(
        points=(points, torch.ones(2, 1, dtype=torch.int32)), boxes=None, masks=None
    )
    assert model.sam_mask_decoder.dynamic_multimask_via_stability is False
    with torch.no_grad():
        expected, _, _, scores = model.sam_mask_decoder.predict_masks(
            image_embeddings=embeddings.features,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=list(embeddings.high_resolution),
        )
    decoded = small_segmenter.decode(embeddings, sparse)
    assert torch.allclose(decoded.mask_logits, expected[:, 0], atol=1e-4)
    assert torch.allclose(decoded.object_score, scores[:, 0], atol=1e-4)


def test_many_classes_at_once_are_those_one_by_one(small_segmenter, embeddings):
    torch.manual_seed(3)
    sparse, dense = torch.randn(3, 4, 128), torch.randn(3, 128, 24, 24)
    image = one(embeddings, 0)
    together = small_segmenter.decode(image, sparse, dense)
    for k in range(3):
        alone = small_segmenter.decode(image, sparse[[k]], dense[[k]])
        assert torch.allclose(together.mask_logits[k], alone.mask_logits[0], atol=1e-4)
    shuffled = small_segmenter.decode(image, sparse[:, [2, 0, 3, 1]], dense)
    assert torch.allclose(together.mask_logits, shuffled.mask_logits, atol=1e-4)


def test_only_the_prompt_learns_and_it_can_learn_an_episode(small_segmenter, embeddings):
    before = {name: value.clone() for name, value in small_segmenter._model.state_dict().items()}
    torch.manual_seed(4)
    model = VisualReferencePrompt(VRPConfig(token_dim=12, dim=128, grid=(8, 8), queries=4))
    tokens, targets = torch.randn(2, 1, 64, 12), torch.randn(2, 64, 12)
    weights, kinds = torch.zeros(2, 1, 64), torch.full((2, 1), MASK)
    weights[:, :, 10:20] = 1
    truth = torch.zeros(2, 64, 64)
    truth[0, 5:30, 8:40] = truth[1, 30:60, 30:50] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        made = model.prompt(model.encode_support(tokens, weights, kinds), targets)
        decoded = small_segmenter.decode(embeddings, made.sparse, made.dense)
        loss = mask_loss(decoded.mask_logits, truth, torch.ones_like(truth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    assert all(p.grad is None for p in small_segmenter._model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in small_segmenter._model.state_dict().items())
    assert np.isfinite(losses).all()
