"""The prior, compared with a direct implementation, and its edge cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nts.vrp.prior import EPSILON, normalise_prior, prior


def slow_prior(reference_tokens: Tensor, marked: Tensor, target_tokens: Tensor) -> Tensor:
    found = []
    for patch in target_tokens:
        cosines = [
            float(token @ patch / (token.norm() * patch.norm()))
            for token, weight in zip(reference_tokens, marked, strict=True)
            if weight > 0
        ]
        found.append(max(cosines))
    return torch.tensor(found)


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of 12 patches, their weights (some 0), and tokens of 15 patches of a target."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(12, generator=generator).sub(0.4).clamp(0)
    assert 2 < (weights > 0).sum() < 10
    return torch.randn(12, 7, generator=generator), weights, torch.randn(15, 7, generator=generator)


def test_the_prior_is_the_greatest_cosine_with_a_marked_patch(tokens):
    reference, weights, target = tokens
    torch.testing.assert_close(prior(reference, weights, target), slow_prior(*tokens))
    assert torch.equal(prior(reference, weights > 0, target), prior(*tokens))
    assert torch.equal(prior(reference, weights / 100, target * 8), prior(*tokens))  # neither weights nor norms matter


def test_several_references_give_the_greatest_of_their_priors_in_any_order(tokens):
    reference, weights, target = tokens
    single = [prior(t, m, target) for t, m in zip(reference.split(4), weights.split(4), strict=True) if m.any()]
    assert len(single) > 1
    assert torch.allclose(prior(*tokens), torch.stack(single).amax(0), atol=1e-6)
    assert torch.allclose(prior(reference.flip(0), weights.flip(0), target), prior(*tokens))


def test_a_batch_gives_what_each_gives_alone(tokens):
    reference, weights, target = tokens
    batch = torch.stack([reference, -reference]), torch.stack([weights, weights.flip(0)]), torch.stack([target, target])
    together = prior(*batch)
    assert together.shape == (2, 15)
    for k, item in enumerate(zip(*batch, strict=True)):
        torch.testing.assert_close(together[k], prior(*item))


def test_the_prior_of_nothing_marked_is_the_least_similarity_and_normalises_to_zero(tokens):
    reference, _, target = tokens
    nowhere = prior(reference, torch.zeros(12), target)
    assert torch.equal(nowhere, torch.full((15,), -1.0))
    assert torch.equal(normalise_prior(nowhere), torch.zeros(15))


def test_a_zero_token_is_similar_to_nothing():
    target = torch.stack([torch.zeros(4), torch.ones(4)])
    assert prior(torch.ones(1, 4), torch.ones(1), target).tolist() == [0.0, 1.0]


def test_a_normalised_prior_spans_zero_to_one_in_every_image():
    maps = torch.randn(3, 20, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.01], [1], [9]])
    stretched = normalise_prior(maps)
    torch.testing.assert_close(stretched.amin(1), torch.zeros(3))
    torch.testing.assert_close(stretched.amax(1), torch.ones(3), rtol=0, atol=2e-5)
    expected = (maps[1] - maps[1].min()) / (maps[1].max() - maps[1].min() + EPSILON)
    torch.testing.assert_close(stretched[1], expected)
    assert torch.equal(normalise_prior(torch.full((16,), 0.7)), torch.zeros(16))
