"""SAM2's mask decoder for many prompts on one image: terms shared by all prompts are computed once.

In the decoder's two-way transformer, a few prompt tokens and the image tokens attend to each other in turn. In SAM2's
implementation every prompt has its own copy of the image tokens, ``N x C`` values that are projected, attended to and
normalised in each layer. But all prompts start from the *same* image tokens, and a layer adds only a contribution of
the prompt's few tokens. If head ``h`` and token ``t`` have the value ``v[h, t]``, and position ``n`` attends to it with
weight ``P[h, t, n]``, then ``P^T V`` is added to the image tokens, with one vector ``V[h, t] = v[h, t] W_h`` per head
and token: a term of rank ``H T`` (64) instead of ``C`` (256). LayerNorm centres and scales each position, which
preserves this form. Written channels first, the image tokens of a prompt are therefore, at any depth,

    Y = alpha * (X + sum_j V_j^T R_j) + beta            alpha [N], X [C, N], V_j [H T, C], R_j [H T, N], beta [C]

with one pair ``V_j, R_j`` per preceding layer, where ``X`` and ``beta`` are the *same for all prompts*. ``Y`` is never
materialised: any linear map of it (keys, values and queries of an attention, the first upscaling) is a map of ``X``,
computed once per image, plus a map of the few ``V_j``. The variance in LayerNorm is a quadratic form in ``R``.

Two more computations are skipped: the last attention runs for the requested output tokens only, and masks are computed
for the selected prompts only. The result equals that of the original decoder within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

Rows = tuple[Tensor, Tensor]
"""``A [H, d, O]`` and ``c [O]``: a linear map of the vectors ``V_j = v A + c`` of an earlier layer."""


@dataclass(frozen=True)
class _Map:
    """Terms of a linear map ``W Y + b`` of the image tokens that depend on neither image nor prompt.

    Attributes:
        weight: ``[O, C]``.
        rows: for each earlier layer, the map of its vectors.
        constant: ``W beta + b`` ``[O, 1]``, or with the positions ``W (beta + position) + b`` ``[O, N]``.
    """

    weight: Tensor
    rows: tuple[Rows, ...]
    constant: Tensor


@dataclass(frozen=True)
class _Attended:
    """Keys and values of the image tokens, in an attention of the tokens to the image."""

    keys: _Map
    values: _Map


@dataclass(frozen=True)
class _Layer:
    """Weights by which a layer of the transformer updates the image tokens.

    Attributes:
        attended: keys and values for the attention of the tokens to the image.
        queries: queries for the attention of the image to the tokens.
        rows: for each layer up to this one, the centred vectors, for the variance.
        epsilon, scale: of the LayerNorm.
    """

    attended: _Attended
    queries: _Map
    rows: tuple[Rows, ...]
    epsilon: float
    scale: Tensor


@dataclass(frozen=True)
class _SharedAttended:
    """Keys and values of ``X``, ``[H, d, N]``, shared by all prompts."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class _SharedLayer:
    """Products of ``X`` in a layer, shared by all prompts on an image.

    Attributes:
        attended: keys and values for the attention of the tokens to the image.
        queries: ``[H, d, N]``.
        across: for each layer up to this one, products of the centred ``X`` with ``A`` ``[H, d, N]``, and with ``c``
            ``[N]``.
        square: ``|X|^2`` of the centred ``X``, ``[N]``.
    """

    attended: _SharedAttended
    queries: Tensor
    across: tuple[tuple[Tensor, Tensor], ...]
    square: Tensor


@dataclass(frozen=True)
class SharedImage:
    """Terms shared by all prompts on an image, computed by :meth:`SharedDecoder.look`.

    Attributes:
        layers: of the transformer.
        last: last attention of the transformer.
        upscaled: first upscaling of ``X``, ``[4 c, N]``.
        coarse, fine: finer levels of the feature pyramid, in the pixel order of drawing: ``[c, 4, N]`` and
            ``[c / 2, 4, 4, N]``; ``None`` for a SAM2 without them.
    """

    layers: tuple[_SharedLayer, ...]
    last: _SharedAttended
    upscaled: Tensor
    coarse: Tensor | None
    fine: Tensor | None


@dataclass(frozen=True)
class Prompted:
    """Prompts after all layers but the last attention.

    Attributes:
        tokens: ``[B, T, C]``.
        first: ``[B, T, C]`` before the first layer; every attention adds them to its queries and keys.
        alpha: ``[B, N]``.
        coefficients: ``R_j`` of each layer, ``[B, H T, N]``.
        values: ``v_j`` of each layer, ``[B, H, T, d]``.
    """

    tokens: Tensor
    first: Tensor
    alpha: Tensor
    coefficients: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice) -> Prompted:
        return Prompted(
            self.tokens[index],
            self.first[index],
            self.alpha[index],
            tuple(of_layer[index] for of_layer in self.coefficients),
            tuple(of_layer[index] for of_layer in self.values),
        )

    def __setitem__(self, index: slice, prompted: Prompted) -> None:
        for own, other in zip(self._tensors, prompted._tensors, strict=True):
            own[index] = other

    def room_for(self, count: int) -> Prompted:
        """Uninitialised memory for ``count`` prompts, those of these shapes."""
        tokens, first, alpha, *others = (t.new_empty(count, *t.shape[1:]) for t in self._tensors)
        layers = len(self.coefficients)
        return Prompted(tokens, first, alpha, tuple(others[:layers]), tuple(others[layers:]))

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.tokens, self.first, self.alpha, *self.coefficients, *self.values


class SharedDecoder:
    """SAM2's mask decoder, restructured for many prompts on one image.

    Args:
        model: SAM2, on its device.
        dtype: dtype of tensors that grow with prompts *and* positions. Products are computed in autocast's dtype,
            variances are summed in single precision.
    """

    def __init__(self, model: SAM2Base, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._decoder: Any = model.sam_mask_decoder
        transformer: Any = self._decoder.transformer
        self._transformer = transformer
        self._heads: int = transformer.num_heads
        position = model.sam_prompt_encoder.get_dense_pe()[0].flatten(1)
        width = self._width = len(position)

        layers: list[_Layer] = []
        beta = position.new_zeros(width)
        rows: list[Rows] = []
        for layer in transformer.layers:
            to_image, to_tokens, norm = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token, layer.norm4
            attended = _attended(to_image, rows, beta, position)
            queries = _map(to_tokens.q_proj, rows, beta[:, None] + position)
            # Terms independent of the prompt are divided among the heads: the weights of each head sum to 1.
            out = to_tokens.out_proj
            own = (_of_heads(out.weight.T, self._heads), (out.bias + beta) / self._heads)
            centred = tuple((_centre(a, -1), _centre(c, -1)) for a, c in (*rows, own))
            layers.append(_Layer(attended, queries, centred, norm.eps, norm.weight))
            beta = norm.bias
            rows = [(a * norm.weight, c * norm.weight) for a, c in centred]
        self._layers = tuple(layers)
        self._last = _attended(transformer.final_attn_token_to_image, rows, beta, position)

        up: nn.ConvTranspose2d = self._decoder.output_upscaling[0]
        weight = up.weight.flatten(1).T  # [c 2 2, C]
        bias = up.bias.repeat_interleave(4) if up.bias is not None else weight.new_zeros(len(weight))
        # The next norm subtracts the mean over channels; here it is subtracted from the weights.
        weight, bias = (_centre(of.unflatten(0, (-1, 4)), 0).flatten(0, 1) for of in (weight, bias))
        self._upscaling = _Map(weight, _project(rows, weight), (weight @ beta + bias)[:, None])

    def compile(self) -> None:
        """Compile prompting and drawing at first use; pays off for many images with static shapes."""
        self.prompt = torch.compile(self.prompt, dynamic=False)  # type: ignore[method-assign]
        self.draw = torch.compile(self.draw, dynamic=False)  # type: ignore[method-assign]

    def look(self, features: Tensor, high_resolution: Sequence[Tensor]) -> SharedImage:
        """Compute the terms that all prompts on an image share.

        Args:
            features: ``[C, e, e]`` SAM2's embedding of the image, plus the "no mask" embedding.
            high_resolution: the two finer levels of its pyramid, ``[1, c / 2, 4e, 4e]`` and ``[1, c, 2e, 2e]``; empty
                for a SAM2 without them.
        """
        x = features.flatten(1)
        shared = []
        for layer in self._layers:
            centred = _centre(x, 0)
            shared.append(
                _SharedLayer(
                    attended=self._shared_attended(layer.attended, x),
                    queries=self._shared(layer.queries, x),
                    across=tuple((a @ centred, c @ centred) for a, c in layer.rows),
                    square=centred.square().sum(0),
                )
            )
            x = layer.scale[:, None] * centred
        coarse = fine = None
        if high_resolution:
            fine, coarse = (level[0] for level in high_resolution)
            coarse = _centre(_as_drawn(coarse, 1), 0)
            fine = _as_drawn(fine, 2)
        last = self._shared_attended(self._last, x)
        return SharedImage(tuple(shared), last, self._upscaling.weight @ x, coarse, fine)

    def _shared_attended(self, attended: _Attended, x: Tensor) -> _SharedAttended:
        return _SharedAttended(self._shared(attended.keys, x), self._shared(attended.values, x))

    def _shared(self, linear: _Map, x: Tensor) -> Tensor:
        """Map of ``X`` by heads, ``[H, d, N]``, including the constant before the first layer, where ``alpha`` is 1."""
        mapped = linear.weight @ x
        return (mapped if linear.rows else mapped + linear.constant).unflatten(0, (self._heads, -1))

    def prompt(self, shared: SharedImage, tokens: Tensor) -> Prompted:
        """Run prompts through all layers but the last attention.

        Args:
            shared: shared terms of the image.
            tokens: ``[B, T, C]``, output tokens and prompt tokens.
        """
        first = tokens
        alpha: Tensor | None = None
        inverses: list[Tensor | None] = []
        coefficients: list[Tensor] = []
        values: list[Tensor] = []
        for layer, of_image, module in zip(self._layers, shared.layers, self._transformer.layers, strict=True):
            tokens = module.norm1(_self_attention(module, tokens, first))
            tokens = tokens + self._to_image(
                module.cross_attn_token_to_image,
                layer.attended,
                of_image.attended,
                tokens + first,
                alpha,
                coefficients,
                values,
            )
            tokens = module.norm2(tokens)
            tokens = module.norm3(tokens + module.mlp(tokens))

            to_tokens = module.cross_attn_image_to_token
            keys = self._by_heads(to_tokens.k_proj(tokens + first))
            scores = self._products(keys, layer.queries, of_image.queries, alpha, coefficients, values)
            weights = _as_products(_rows_first(scores).unflatten(0, (self._heads, -1)).softmax(1).flatten(0, 1))
            values.append(self._by_heads(to_tokens.v_proj(tokens)))
            inverse = None if alpha is None else 1 / alpha
            inverses.append(inverse)
            coefficients.append((weights if inverse is None else weights * inverse[:, None]).to(self._dtype))
            alpha = self._normalise(layer, of_image, alpha, inverses, coefficients, values)
        assert alpha is not None
        return Prompted(tokens, first, alpha, tuple(coefficients), tuple(values))

    def output(self, shared: SharedImage, prompted: Prompted, which: Tensor) -> Tensor:
        """Output tokens of the decoder, after its last attention.

        Args:
            shared: shared terms of the image.
            prompted: ``B`` prompts.
            which: int64 ``[B, k]`` indices of the requested tokens.

        Returns:
            ``[B, k, C]``.
        """
        index = which[:, :, None].expand(-1, -1, prompted.tokens.shape[-1])
        tokens, first = prompted.tokens.gather(1, index), prompted.first.gather(1, index)
        attended = self._to_image(
            self._transformer.final_attn_token_to_image,
            self._last,
            shared.last,
            tokens + first,
            prompted.alpha,
            prompted.coefficients,
            prompted.values,
        )
        return self._transformer.norm_final_attn(tokens + attended)

    def draw(self, shared: SharedImage, prompted: Prompted, weights: Tensor, block: int) -> Tensor:
        """Compute masks, for every prompt the same number.

        Args:
            shared: shared terms of the image.
            prompted: ``B`` prompts.
            weights: ``[B, k, c / 2]`` channel weights from the decoder's hypernetworks, one row per mask.
            block: image tokens processed at a time.

        Returns:
            float ``[B, k, 4e, 4e]`` mask logits.
        """
        _, norm, act1, up2, act2 = self._decoder.output_upscaling
        vectors = [
            self._vectors(v, of_layer).transpose(1, 2)
            for v, of_layer in zip(prompted.values, self._upscaling.rows, strict=True)
        ]
        scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
        weight2 = up2.weight.flatten(1).T.expand(len(weights), -1, -1)
        bias2 = up2.bias.repeat_interleave(4)[:, None]
        drawn = []
        for begin in range(0, shared.upscaled.shape[1], block):
            at = slice(begin, begin + block)
            x = shared.upscaled[:, at].expand(len(weights), -1, -1)
            for vector, coefficient in zip(vectors, prompted.coefficients, strict=True):
                x = torch.baddbmm(x, vector, coefficient[:, :, at])
            x = torch.addcmul(self._upscaling.constant, x, prompted.alpha[:, None, at]).unflatten(1, (-1, 4))
            if shared.coarse is not None:
                x += shared.coarse[:, :, at]
            x *= (x.square().mean(1, keepdim=True) + norm.eps).rsqrt()
            x = act1(torch.addcmul(shift, x, scale)).flatten(2)
            x = torch.baddbmm(bias2, weight2, x).unflatten(2, (4, -1)).unflatten(1, (-1, 4))
            if shared.fine is not None:
                x += shared.fine[..., at]
            x = act2(x)
            drawn.append((weights @ x.flatten(2)).float().reshape(*weights.shape[:2], 4, 4, -1))
        return _as_image(torch.cat(drawn, -1).flatten(0, 1)).unflatten(0, weights.shape[:2])

    def _to_image(
        self,
        attention: Any,
        maps: _Attended,
        of_image: _SharedAttended,
        queries: Tensor,
        alpha: Tensor | None,
        coefficients: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        """Attention of tokens ``[B, k, C]`` to the image: ``[B, k, C]``."""
        queries = self._by_heads(attention.q_proj(queries))
        products = self._products(queries, maps.keys, of_image.keys, alpha, coefficients, values)
        weights = _as_products(_rows_first(products).softmax(-1))
        if alpha is not None:
            weights = weights * alpha[:, None]
        batch, heads, tokens, _ = queries.shape
        by_head = _rows_first(weights).reshape(heads, tokens * batch, -1)
        attended = (by_head @ of_image.values.transpose(1, 2)).unflatten(1, (tokens, batch)).permute(2, 0, 1, 3)
        for v, coefficient, rows in zip(values, coefficients, maps.values.rows, strict=True):
            seen = (weights @ coefficient.transpose(1, 2)).unflatten(1, (heads, tokens))
            attended = attended + seen @ self._by_heads(self._vectors(v, rows))
        attended = attended.transpose(1, 2).flatten(2)
        if alpha is not None:
            attended = attended + maps.values.constant[:, 0]
        return attention.out_proj(attended)

    def _products(
        self,
        tokens: Tensor,
        linear: _Map,
        of_image: Tensor,
        alpha: Tensor | None,
        coefficients: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        """Scaled products of tokens ``[B, H, k, d]`` and the mapped image tokens: ``[B, H k, N]``."""
        tokens = tokens * tokens.shape[-1] ** -0.5
        products = _with_image(tokens, of_image)
        for v, coefficient, rows in zip(values, coefficients, linear.rows, strict=True):
            vectors = self._by_heads(self._vectors(v, rows))
            products = _plus(products, (tokens @ vectors.transpose(2, 3)).flatten(1, 2), coefficient)
        if alpha is None:
            return products
        constant = linear.constant.unflatten(0, (self._heads, -1))
        return torch.addcmul(_with_image(tokens, constant), products, alpha[:, None])

    def _normalise(
        self,
        layer: _Layer,
        of_image: _SharedLayer,
        alpha: Tensor | None,
        inverses: Sequence[Tensor | None],
        coefficients: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        """``alpha`` ``[B, N]`` after LayerNorm: divided by the standard deviation."""
        vectors = [self._vectors(v, rows) for v, rows in zip(values, layer.rows, strict=True)]
        square: Tensor = of_image.square
        for i, (v, coefficient) in enumerate(zip(values, coefficients, strict=True)):
            across, constant = of_image.across[i]
            products = _with_image(2 * v, across)
            products = _plus(products, vectors[i] @ vectors[i].transpose(1, 2), coefficient)
            for j in range(i):
                products = _plus(products, 2 * vectors[i] @ vectors[j].transpose(1, 2), coefficients[j])
            square = square + (products * coefficient).sum(1, dtype=torch.float32)
            # The coefficients of a layer sum to H / alpha at each position, as the weights of each head sum to 1.
            of_constant, inverse = 2 * self._heads * constant, inverses[i]
            square = square + (of_constant if inverse is None else of_constant * inverse)
        variance = square.clamp(min=0) / self._width
        if alpha is None:
            return (variance + layer.epsilon).rsqrt()
        return alpha * (variance * alpha.square() + layer.epsilon).rsqrt()

    def _vectors(self, values: Tensor, rows: Rows) -> Tensor:
        """Mapped vectors ``[B, H T, O]`` of values ``[B, H, T, d]``."""
        mapped, constant = rows
        return (values @ mapped + constant).flatten(1, 2)

    def _by_heads(self, tokens: Tensor) -> Tensor:
        """``[B, k, H d]`` to ``[B, H, k, d]``."""
        return tokens.unflatten(2, (self._heads, -1)).transpose(1, 2)


def _attended(attention: Any, rows: Sequence[Rows], beta: Tensor, position: Tensor) -> _Attended:
    """Maps of an attention of the tokens to the image."""
    keys = _map(attention.k_proj, rows, beta[:, None] + position)
    return _Attended(keys, _map(attention.v_proj, rows, beta[:, None]))


def _map(linear: nn.Linear, rows: Sequence[Rows], offset: Tensor) -> _Map:
    """Map of a linear layer applied to the image tokens; ``offset`` ``[C, 1 or N]`` is added to ``X``."""
    return _Map(linear.weight, _project(rows, linear.weight), linear.weight @ offset + linear.bias[:, None])


def _project(rows: Sequence[Rows], weight: Tensor) -> tuple[Rows, ...]:
    return tuple((a @ weight.T, c @ weight.T) for a, c in rows)


def _of_heads(weight: Tensor, heads: int) -> Tensor:
    """``[H d, O]`` to ``[H, d, O]``."""
    return weight.unflatten(0, (heads, -1))


def _centre(x: Tensor, dim: int) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _with_image(tokens: Tensor, of_image: Tensor) -> Tensor:
    """Products of tokens ``[B, H, k, d]`` with a shared term ``[H, d, N]``: ``[B, H k, N]``.

    The memory layout is ``[H k, B, N]``, also of all tensors computed from them. The products of a head over all
    prompts are then one matrix, as are those of a prompt over all heads, without a copy.
    """
    batch, heads, count, _ = tokens.shape
    products = tokens.permute(1, 2, 0, 3).reshape(heads, count * batch, -1) @ of_image
    return _as_products(products.reshape(heads * count, batch, -1))


def _rows_first(products: Tensor) -> Tensor:
    """``[B, H k, N]`` to its memory layout ``[H k, B, N]``: some of torch's functions copy if not contiguous."""
    return products.transpose(0, 1)


def _as_products(rows: Tensor) -> Tensor:
    """``[H k, B, N]`` to ``[B, H k, N]``, without a copy."""
    return rows.transpose(0, 1)


def _plus(products: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``products + a @ b``, in place if all dtypes agree: autocast has no in-place operations.

    Compiled code decides about in-place operations itself, and torch's compiler fails at this one for products whose
    prompts are not contiguous.
    """
    if products.dtype == a.dtype == b.dtype and not torch.compiler.is_compiling():
        return products.baddbmm_(a, b)
    return torch.baddbmm(products, a, b)


def _self_attention(layer: Any, tokens: Tensor, first: Tensor) -> Tensor:
    if layer.skip_first_layer_pe:
        return layer.self_attn(q=tokens, k=tokens, v=tokens)
    queries = tokens + first
    return tokens + layer.self_attn(q=queries, k=queries, v=tokens)


def _as_drawn(level: Tensor, doublings: int) -> Tensor:
    """``[c, s, s]`` to ``[c, 4, ..., N]``: the pixels of each of the ``N`` image tokens, the finest doubling first."""
    side = level.shape[-1] >> doublings
    split = [side, *[2] * doublings]
    axes = range(1, 2 + doublings)
    order = [axis for k in reversed(axes) for axis in (k, k + len(axes))]
    parts = level.reshape(-1, *split, *split).permute(0, *order)
    return parts.reshape(len(level), *[4] * doublings, side * side)


def _as_image(drawn: Tensor) -> Tensor:
    """``[B, 4, 4, e e]``, the finest doubling first, to ``[B, 4e, 4e]``."""
    side = round(drawn.shape[-1] ** 0.5)
    parts = drawn.reshape(len(drawn), 2, 2, 2, 2, side, side)
    return parts.permute(0, 5, 3, 1, 6, 4, 2).reshape(len(drawn), 4 * side, 4 * side)
