"""Gain of each exact optimisation, step by step from the published recipe to the engine, on one image.

    python -m benchmarks.levers                     released architectures, 16 x 16 of the prompts
    python -m benchmarks.levers --models small      the shipped small pair

Steps 1 to 4 of the decoder are plain torch on SAM2's own modules; each includes the steps before it. Step 5 is the
engine. The prompt grid is coarser than the published one, to shorten the run, and times are per prompt: the engine's
work per image weighs four times as much with a quarter of the prompts. Pooling and full-resolution work are compared
separately, recipe against engine. Full-resolution work is also measured on discs, because masks of random weights cover
the whole image, unlike those of objects. Every step's result is compared with the recipe's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import (
    ENCODER_SHAPES,
    RESULTS,
    SEGMENTER_CONFIGS,
    PeakMemory,
    draw_images,
    float32_pair,
    made_up_proposals,
    markdown_table,
    shown,
    spread_predicted_iou,
    surroundings,
    time_call,
    write_report,
)
from nts.images import prepare_target
from nts.masks import draw_masks, overlaps_of_masks
from nts.matching import pool_tokens
from nts.segmenter import ImageEmbedding, ProposalConfig
from nts.utils.devices import resolve_device
from reference_implementation import published_pipeline

CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Image tokens per chunk, in bytes: what fits into a CPU cache, or fills a GPU."""
DISCS = 200
Masks = tuple[Tensor, Tensor]
"""Logits ``[m, S, S]`` and predicted IoU ``[m]`` of the prompts above the threshold."""


@dataclass(frozen=True)
class SharedLayer:
    """Projections of the image in the transformer's first layer, shared by all prompts.

    Attributes:
        keys: ``[1, heads, N, d]``, of the image for the tokens' attention.
        values: ``[1, heads, N, d]``.
        queries: ``[1, heads, N, d]``, of the image for its own attention to the tokens.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor


def heads_of(attention: Attention, projected: Tensor) -> Tensor:
    """Split ``[B, N, C]`` into heads ``[B, heads, N, d]``."""
    return projected.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def attend(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of heads ``[B, heads, n, d]``, joined and projected: ``[B, n, C]``."""
    attended = F.scaled_dot_product_attention(queries, keys, values)
    return attention.out_proj(attended.transpose(1, 2).flatten(2))


def share_first_layer(layer: TwoWayAttentionBlock, image: Tensor, position: Tensor) -> SharedLayer:
    """Project the image ``[1, N, C]`` once for all prompts."""
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    placed = image + position
    return SharedLayer(
        heads_of(to_image, to_image.k_proj(placed)),
        heads_of(to_image, to_image.v_proj(image)),
        heads_of(to_tokens, to_tokens.q_proj(placed)),
    )


def run_first_layer(
    layer: TwoWayAttentionBlock, tokens: Tensor, image: Tensor, shared: SharedLayer
) -> tuple[Tensor, Tensor]:
    """First layer for prompts ``[B, t, C]``: tokens ``[B, t, C]`` and image ``[B, N, C]``."""
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    queries = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
    # All prompts attend to the same image, so their queries form one long sequence.
    asked = heads_of(to_image, to_image.q_proj((queries + tokens).flatten(0, 1)[None]))
    told = attend(to_image, asked, shared.keys, shared.values)[0].unflatten(0, tokens.shape[:2])
    queries = layer.norm2(queries + told)
    queries = layer.norm3(queries + layer.mlp(queries))
    keys = heads_of(to_tokens, to_tokens.k_proj(queries + tokens))
    values = heads_of(to_tokens, to_tokens.v_proj(queries))
    answered = attend(to_tokens, shared.queries.expand(len(tokens), -1, -1, -1), keys, values)
    return queries, layer.norm4(image + answered)


@torch.inference_mode()
def propose_by_levers(
    model: SAM2Base, pyramid: list[Tensor], points: Tensor, iou_threshold: float, chunk: int, *, share: bool
) -> Masks:
    """Proposals of the recipe, scored before they are drawn, optionally with the first layer shared between prompts."""
    decoder = model.sam_mask_decoder
    transformer = decoder.transformer
    features = pyramid[-1] + model.sam_prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    image = features.flatten(2).transpose(1, 2)
    position = model.sam_prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
    first, *others = transformer.layers
    shared = share_first_layer(first, image, position) if share else None
    logits, predicted = [], []
    for prompts in points.split(chunk):
        prompt_tokens = embed_prompts(model, prompts)
        tokens, keys = prompt_tokens, image.expand(len(prompts), -1, -1)
        if shared is None:
            tokens, keys = first(queries=tokens, keys=keys, query_pe=prompt_tokens, key_pe=position)
        else:
            tokens, keys = run_first_layer(first, tokens, image, shared)
        for layer in others:
            tokens, keys = layer(queries=tokens, keys=keys, query_pe=prompt_tokens, key_pe=position)
        last = transformer.final_attn_token_to_image
        tokens = transformer.norm_final_attn(tokens + last(q=tokens + prompt_tokens, k=keys + position, v=keys))

        tokens = tokens[:, int(decoder.pred_obj_scores) :]
        best, index = decoder.iou_prediction_head(tokens[:, 0])[:, 1:].max(1)
        kept = best > iou_threshold
        predicted.append(best[kept])
        logits.append(draw(model, pyramid, keys[kept], tokens[kept, 2 + index[kept]], 1 + index[kept]))
    return torch.cat(logits), torch.cat(predicted)


def embed_prompts(model: SAM2Base, points: Tensor) -> Tensor:
    """All tokens of the decoder for single positive points ``[n, 2]``: ``[n, t, C]``."""
    decoder = model.sam_mask_decoder
    labels = torch.ones(len(points), 1, dtype=torch.int32, device=points.device)
    sparse, _ = model.sam_prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    output = [decoder.obj_score_token.weight] if decoder.pred_obj_scores else []
    output += [decoder.iou_token.weight, decoder.mask_tokens.weight]
    return torch.cat([torch.cat(output).expand(len(points), -1, -1), sparse], 1)


def draw(model: SAM2Base, pyramid: list[Tensor], image: Tensor, mask_tokens: Tensor, chosen: Tensor) -> Tensor:
    """One mask per prompt, ``[m, S, S]``, from image ``[m, N, C]``, tokens ``[m, C]`` and mask token indices."""
    decoder, (fine, coarse, features) = model.sam_mask_decoder, pyramid
    up1, norm, act1, up2, act2 = decoder.output_upscaling
    image = image.transpose(1, 2).unflatten(2, tuple(features.shape[-2:]))
    upscaled = act2(up2(act1(norm(up1(image) + coarse))) + fine)
    weights = upscaled.new_zeros(len(image), upscaled.shape[1])
    for k, network in enumerate(decoder.output_hypernetworks_mlps):
        weights[chosen == k] = network(mask_tokens[chosen == k])
    return torch.einsum("nc,nchw->nhw", weights, upscaled)


def full_size(mask_logits: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks bool ``[m, H, W]`` and the pixels shared by every pair ``[m, m]``, from whole masks."""
    masks = published_pipeline.enlarge(mask_logits, image_size)
    pixels = masks.flatten(1).float()
    return masks, pixels @ pixels.T


def by_tiles(mask_logits: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks and shared pixels as in :func:`whole_masks`, by the engine."""
    return draw_masks(mask_logits, image_size), overlaps_of_masks(mask_logits, image_size)


def run(
    models: str = "released",
    device: str = "auto",
    points_per_side: int = 16,
    repeats: int = 1,
    encoder_size: str = "small",
    segmenter_size: str = "tiny",
    survivors: float = 0.5,
    chunk: int | None = None,
    output: Path | None = RESULTS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers.

    Args:
        models: ``"small"`` or ``"released"``.
        device: as in torch, or ``"auto"``.
        points_per_side: of the prompt grid.
        repeats: of every step; medians are reported.
        encoder_size: of random DINOv2s.
        segmenter_size: of random SAM2s.
        survivors: surviving fraction of prompts, with random models.
        chunk: prompts per chunk from step 1 on; ``None`` for as many as fit into the cache.
        output: folder for the report; ``None`` writes nothing.
    """
    small, where = models == "small", resolve_device(device)
    size = (256, 256) if small else (480, 640)
    image = draw_images(1, size)[0]
    pair = float32_pair(models, encoder_size, segmenter_size, where)
    pair = replace(pair, points_per_side=points_per_side)
    sam, segmenter = pair.segmenter._model, pair.segmenter
    threshold = 0.4 if small else spread_predicted_iou(pair, image, survivors)

    encoder_input, segmenter_input = prepare_target(
        image, pair.encoder.info.input_size, segmenter.input_size, antialias=False
    )
    tokens = published_pipeline.encode_tokens(pair.encoder._model, encoder_input.to(where))
    pyramid = published_pipeline.encode_image(sam, segmenter_input.to(where))
    embedding = ImageEmbedding(pyramid[-1], tuple(pyramid[:-1]))
    chunk = chunk or max(1, min(256, CHUNK_BYTES.get(where.type, CHUNK_BYTES["cuda"]) // (4 * pyramid[-1].numel())))
    points = published_pipeline.prompt_grid(points_per_side, segmenter.input_size, where)
    config = ProposalConfig(points_per_side, threshold, add_no_mem_embed=False)

    def by_engine() -> Masks:
        proposals = segmenter.propose(embedding, config)
        return proposals.mask_logits, proposals.predicted_iou

    recipe = partial(published_pipeline.propose, sam, pyramid, points, threshold)
    levers = partial(propose_by_levers, sam, pyramid, points, threshold, chunk)
    whole_chunk = min(len(points), published_pipeline.PROMPTS_PER_CHUNK)
    decoder = measure(
        {
            f"0. the recipe, {whole_chunk} prompts at a time": recipe,
            f"1. chunks that fit into the cache: {chunk} at a time": partial(recipe, chunk),
            "3. score before drawing": partial(levers, share=False),
            "4. the first layer shared": partial(levers, share=True),
            "5. the engine": by_engine,
        },
        where,
        repeats,
    )
    logits, masks = decoder[0]["result"][0], decoder[0]["result"][0] > 0
    pooling = measure(
        {
            "2. pooling: enlarged features": partial(published_pipeline.pool, tokens, masks),
            "2. pooling: adjoint": partial(pool_tokens, tokens, masks),
        },
        where,
        repeats,
    )
    discs = made_up_proposals(DISCS, logits.shape[-1])[0].to(where)
    full, full_discs = (
        measure(
            {
                f"6. full resolution, {what}: whole masks": partial(full_size, given, size),
                f"6. full resolution, {what}: tiles": partial(by_tiles, given, size),
            },
            where,
            repeats,
        )
        for what, given in (("these masks", logits), ("discs", discs))
    )
    numbers = {
        "models": pair.name,
        "surroundings": surroundings(where),
        "image_size": list(size),
        "prompts": len(points),
        "proposals": len(logits),
        "repeats": repeats,
        "decoder": rows_of(decoder, len(points)),
        "pooling": rows_of(pooling, len(logits)),
        "full_resolution": rows_of(full, len(logits)),
        "full_resolution_of_discs": rows_of(full_discs, DISCS),
    }
    if output is not None:
        write_report(output, "levers_small" if small else "levers", numbers, report(numbers))
    return numbers


def measure(steps: dict[str, Callable[[], Any]], device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Time, memory and result of every step."""
    measured = []
    for step, call in steps.items():
        with PeakMemory(device) as used:
            result, seconds = time_call(device, torch.inference_mode()(call), repeats)
        measured.append({"step": step, "seconds": seconds, "memory": used.peak, "result": result})
    return measured


def rows_of(measured: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Rows of a report: milliseconds per item, gains, and the largest difference from the first step."""
    rows = []
    first, before = measured[0], measured[0]
    for step in measured:
        rows.append(
            {
                "step": step["step"],
                "seconds": step["seconds"],
                "milliseconds_each": 1000 * step["seconds"] / max(1, number),
                "gain": before["seconds"] / step["seconds"],
                "gain_of_all": first["seconds"] / step["seconds"],
                "memory": step["memory"],
                "difference": difference(first["result"], step["result"]),
            }
        )
        before = step
    return rows


def difference(expected: Any, found: Any) -> float | None:
    """Largest difference of corresponding values; ``None`` if the shapes differ."""
    pairs = list(zip(expected, found, strict=True)) if isinstance(expected, tuple) else [(expected, found)]
    if any(a.shape != b.shape for a, b in pairs):
        return None
    return max((float((a.cpu().double() - b.cpu().double()).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    place = numbers["surroundings"]
    height, width = numbers["image_size"]

    def table(kind: str, each: str) -> str:
        rows = [
            [
                row["step"],
                shown(row["milliseconds_each"]),
                f"{row['gain']:.2f}",
                f"{row['gain_of_all']:.2f}",
                f"{row['memory'] / 2**20:,.0f}",
                "other masks" if row["difference"] is None else f"{row['difference']:.1e}",
            ]
            for row in numbers[kind]
        ]
        return markdown_table(
            [kind.replace("_", " "), f"ms per {each}", "gain", "since 0", "memory, MiB", "largest difference"], rows
        )

    return f"""## Exact levers, one by one: {numbers["models"]}

One image of {width} x {height}, {numbers["prompts"]} prompts, {numbers["proposals"]} above the threshold.
{place["device"]}, {place["processor"]}, {place["threads"]} threads, torch {place["torch"]}, single precision.
"Gain" is relative to the previous step, "since 0" to the first row. Differences are of logits and predicted IoU,
features, and masks and shared pixels.

{table("decoder", "prompt")}

{table("pooling", "mask")}

{table("full_resolution", "mask")}

{table("full_resolution_of_discs", "mask")}
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=("small", "released"), default="released")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--encoder-size", choices=tuple(ENCODER_SHAPES), default="small")
    parser.add_argument("--segmenter-size", choices=tuple(SEGMENTER_CONFIGS), default="tiny")
    parser.add_argument(
        "--survivors", type=float, default=0.5, help="surviving fraction of prompts, with random models"
    )
    parser.add_argument("--chunk", type=int, help="prompts per chunk, from step 1 on")
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
