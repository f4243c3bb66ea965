"""The multi-prompt decoder, compared with SAM2's own, which shares nothing between prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import sam2
import torch
from sam2.modeling.sam2_base import SAM2Base

from nts.models import SMALL, build_sam2
from nts.segmenter.decoder import SharedDecoder

SMALL_FILE = next((SMALL / "segmenter").glob("*.yaml"))
RELEASED_FILE = Path(sam2.__file__).parent / "configs/sam2.1/sam2.1_hiera_t.yaml"


def random_model(file: Path, seed: int = 0, **options: bool) -> SAM2Base:
    """SAM2 with no zero bias and no unit norm weight, like trained models."""
    torch.manual_seed(seed)
    model = build_sam2(file, **options).eval().requires_grad_(False)
    for parameter in model.sam_mask_decoder.parameters():
        if parameter.ndim == 1:
            parameter.copy_(torch.empty_like(parameter).uniform_(-0.5, 1.5))
    return model


def image_of(model: SAM2Base, seed: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Features ``[1, C, e, e]`` with position embeddings of varying magnitude, and the two finer levels."""
    generator = torch.Generator().manual_seed(seed)
    side, width = model.sam_image_embedding_size, model.hidden_dim

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    features = noise(width, side, side) * (0.2 + 3 * torch.rand(1, 1, side, side, generator=generator))
    return features, [noise(width // 8, 4 * side, 4 * side), noise(width // 4, 2 * side, 2 * side)]


def prompts_of(model: SAM2Base, count: int, points: int = 1) -> torch.Tensor:
    """Embedded sets of points all over the image."""
    generator = torch.Generator().manual_seed(2)
    places = model.image_size * torch.rand(count, points, 2, generator=generator)
    labels = torch.randint(0, 2, (count, points), generator=generator)
    return model.sam_prompt_encoder(points=(places, labels), boxes=None, masks=None)[0]


def output_tokens(model: SAM2Base, sparse: torch.Tensor) -> torch.Tensor:
    decoder = model.sam_mask_decoder
    tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    if decoder.pred_obj_scores:
        tokens.insert(0, decoder.obj_score_token.weight)
    return torch.cat([torch.cat(tokens).expand(len(sparse), -1, -1), sparse], 1)


def by_the_decoder_itself(model: SAM2Base, features, levels, sparse) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output tokens ``[B, T, C]``, image tokens ``[B, N, C]``, and masks of the first mask token ``[B, S, S]``."""
    decoder, prompt_encoder = model.sam_mask_decoder, model.sam_prompt_encoder
    image = features + prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    batch = len(sparse)
    tokens, image_tokens = decoder.transformer(
        image.expand(batch, -1, -1, -1),
        prompt_encoder.get_dense_pe().expand(batch, -1, -1, -1),
        output_tokens(model, sparse),
    )
    masks, _, _, _ = decoder.predict_masks(
        image_embeddings=features,
        image_pe=prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
        repeat_image=True,
        high_res_features=levels,
    )
    return tokens, image_tokens, masks[:, 0]


def by_the_shared_decoder(model: SAM2Base, features, levels, sparse, block: int = 1 << 20):
    """The same tokens and masks, without computing image tokens."""
    decoder = SharedDecoder(model)
    no_mask = model.sam_prompt_encoder.no_mask_embed.weight[0, :, None, None]
    shared = decoder.look(features[0] + no_mask, levels if model.sam_mask_decoder.use_high_res_features else ())
    first = output_tokens(model, sparse)
    prompted = decoder.prompt(shared, first)
    every = torch.arange(first.shape[1]).expand(len(sparse), -1)
    tokens = decoder.output(shared, prompted, every)
    first_mask = 1 + int(model.sam_mask_decoder.pred_obj_scores)
    weights = model.sam_mask_decoder.output_hypernetworks_mlps[0](tokens[:, first_mask])
    return tokens, decoder.draw(shared, prompted, weights[:, None], block)[:, 0]


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Error relative to the spread of the expected values."""
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_high_res_features_in_sam": False},
        {"pred_obj_scores": False, "pred_obj_scores_mlp": False},
        {"multimask_output_in_sam": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("points", [1, 3])
def test_tokens_and_masks_are_those_of_the_decoder(options, points):
    model = random_model(SMALL_FILE, **options)
    with torch.inference_mode():
        features, levels = image_of(model)
        sparse = prompts_of(model, 7, points)
        tokens, _, masks = by_the_decoder_itself(model, features, levels, sparse)
        found_tokens, found_masks = by_the_shared_decoder(model, features, levels, sparse)
    assert largest_error(found_tokens, tokens) < 1e-4
    assert largest_error(found_masks, masks) < 1e-4


def test_the_released_architecture_is_decoded_as_well():
    model = random_model(RELEASED_FILE)
    with torch.inference_mode():
        features, levels = image_of(model)
        sparse = prompts_of(model, 3)
        tokens, _, masks = by_the_decoder_itself(model, features, levels, sparse)
        found_tokens, found_masks = by_the_shared_decoder(model, features, levels, sparse, block=1000)
    assert largest_error(found_tokens, tokens) < 1e-4
    assert largest_error(found_masks, masks) < 1e-4
    assert ((found_masks > 0) != (masks > 0)).float().mean() < 1e-5


@pytest.mark.parametrize("depth", [1, 3])
def test_any_number_of_layers_keeps_the_form(depth):
    from sam2.modeling.sam.transformer import TwoWayTransformer

    model = random_model(SMALL_FILE)
    width = model.hidden_dim
    torch.manual_seed(3)
    transformer = TwoWayTransformer(depth=depth, embedding_dim=width, num_heads=4, mlp_dim=2 * width)
    for parameter in transformer.requires_grad_(False).parameters():
        if parameter.ndim == 1:
            parameter.uniform_(-0.5, 1.5)
    model.sam_mask_decoder.transformer = transformer
    with torch.inference_mode():
        features, levels = image_of(model)
        sparse = prompts_of(model, 4)
        tokens, _, masks = by_the_decoder_itself(model, features, levels, sparse)
        found_tokens, found_masks = by_the_shared_decoder(model, features, levels, sparse)
    assert largest_error(found_tokens, tokens) < 1e-4
    assert largest_error(found_masks, masks) < 1e-4


@pytest.mark.parametrize("block", [1, 100, 256, 1000])
def test_blocks_of_positions_change_nothing(block):
    model = random_model(SMALL_FILE)
    with torch.inference_mode():
        features, levels = image_of(model)
        sparse = prompts_of(model, 2)
        _, whole = by_the_shared_decoder(model, features, levels, sparse)
        _, in_blocks = by_the_shared_decoder(model, features, levels, sparse, block)
    assert largest_error(in_blocks, whole) < 1e-5


def test_prompts_do_not_see_each_other():
    model = random_model(SMALL_FILE)
    with torch.inference_mode():
        features, levels = image_of(model)
        sparse = prompts_of(model, 5)
        _, together = by_the_shared_decoder(model, features, levels, sparse)
        alone = torch.cat([by_the_shared_decoder(model, features, levels, each[None])[1] for each in sparse])
    assert largest_error(alone, together) < 1e-5


def test_image_tokens_of_the_formula_are_those_of_the_decoder():
    """Evaluate the docstring's formula directly; only this test computes the image tokens."""
    model = random_model(SMALL_FILE)
    with torch.inference_mode():
        features, levels = image_of(model)
        sparse = prompts_of(model, 3)
        _, expected, _ = by_the_decoder_itself(model, features, levels, sparse)
        decoder = SharedDecoder(model)
        no_mask = model.sam_prompt_encoder.no_mask_embed.weight[0, :, None, None]
        prompted = decoder.prompt(decoder.look(features[0] + no_mask, levels), output_tokens(model, sparse))
        x = (features[0] + no_mask).flatten(1)
        for layer in model.sam_mask_decoder.transformer.layers:
            x = layer.norm4.weight[:, None] * (x - x.mean(0))
        tokens = x.expand(3, -1, -1)
        centred, scale = decoder._layers[-1].rows, model.sam_mask_decoder.transformer.layers[-1].norm4.weight
        for (a, c), v, r in zip(centred, prompted.values, prompted.coefficients, strict=True):
            vectors = (v @ a + c).flatten(1, 2) * scale
            tokens = tokens + vectors.transpose(1, 2) @ r
        beta = model.sam_mask_decoder.transformer.layers[-1].norm4.bias
        tokens = prompted.alpha[:, None] * tokens + beta[:, None]
    assert largest_error(tokens.transpose(1, 2), expected) < 1e-4


def test_bfloat16_draws_nearly_the_same_masks(small_segmenter):
    from nts.images import normalise, stretch
    from nts.segmenter import ProposalConfig, Segmenter
    from synthetic.scenes import target_scenes

    model = small_segmenter._model
    coarse = Segmenter(model, "small", "", torch.device("cpu"), torch.bfloat16)
    pixels = normalise(stretch(target_scenes(1)[0].image, 256))
    config = ProposalConfig(iou_threshold=0.0)
    expected = small_segmenter.propose(small_segmenter.embed(pixels), config)
    found = coarse.propose(coarse.embed(pixels), config)
    assert torch.equal(found.points, expected.points)
    close = (found.predicted_iou - expected.predicted_iou).abs() < 0.05
    assert close.float().mean() > 0.95
    a, b = found.mask_logits > 0, expected.mask_logits > 0
    iou = (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)
    assert iou.median() > 0.97
