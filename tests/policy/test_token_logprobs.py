"""Log-probabilities by chunks are those of the whole logits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from specs_lightning.policy.token_logprobs import TokenLogprobs, token_logprobs

HIDDEN, VOCABULARY, COUNT = 16, 50, 23
BANNED = torch.tensor([3, 49])


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(HIDDEN, VOCABULARY, bias=False)


@pytest.fixture
def hidden() -> Tensor:
    return (5 * torch.randn(COUNT, HIDDEN, generator=torch.Generator().manual_seed(1))).requires_grad_()


@pytest.fixture
def targets() -> Tensor:
    return torch.arange(COUNT) + 4


def from_full_logits(hidden: Tensor, targets: Tensor, head: nn.Module, temperature: float) -> TokenLogprobs:
    logits = head(hidden) / temperature
    logits[:, BANNED] = float("-inf")
    distribution = torch.distributions.Categorical(logits=logits)
    return TokenLogprobs(distribution.log_prob(targets), distribution.entropy())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows_in_memory", [1, 4, COUNT - 1, COUNT, 100])
def test_chunks_equal_the_full_logits(
    hidden: Tensor, targets: Tensor, head: nn.Linear, rows_in_memory: int, temperature: float
) -> None:
    scored = token_logprobs(
        hidden,
        targets,
        head,
        temperature=temperature,
        banned_ids=BANNED,
        with_entropy=True,
        logits_in_memory=rows_in_memory * VOCABULARY,
    )
    expected = from_full_logits(hidden, targets, head, temperature)
    torch.testing.assert_close(scored.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(scored.entropy, expected.entropy.detach(), atol=1e-5, rtol=0)
    assert not scored.entropy.requires_grad

    weights = torch.randn(COUNT, generator=torch.Generator().manual_seed(2))
    leaves = (hidden, head.weight)
    measured = torch.autograd.grad((weights * scored.logprobs).sum(), leaves)
    wanted = torch.autograd.grad((weights * expected.logprobs).sum(), leaves)
    for gradient, expected_gradient in zip(measured, wanted, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows_in_memory", [1, 4, 100])
def test_entropy_has_a_gradient_if_asked_for(
    hidden: Tensor, targets: Tensor, head: nn.Linear, rows_in_memory: int
) -> None:
    settings: Any = {"banned_ids": BANNED, "logits_in_memory": rows_in_memory * VOCABULARY}
    scored = token_logprobs(hidden, targets, head, entropy_gradient=True, **settings)
    logits = head(hidden)[:, [i for i in range(VOCABULARY) if i not in BANNED.tolist()]]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(scored.entropy, expected, atol=1e-5, rtol=0)
    leaves = (hidden, head.weight)
    gradients = (torch.autograd.grad(entropy.square().sum(), leaves) for entropy in (scored.entropy, expected))
    for measured, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(measured, wanted, atol=1e-5, rtol=1e-5)


def test_no_more_logits_exist_at_once_than_allowed(hidden: Tensor, targets: Tensor, head: nn.Linear) -> None:
    sizes = []
    head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    token_logprobs(hidden, targets, head, logits_in_memory=4 * VOCABULARY + 1).logprobs.sum().backward()
    assert max(sizes) == 4 * VOCABULARY


def test_banned_ids_have_no_probability(hidden: Tensor, targets: Tensor, head: nn.Linear) -> None:
    banned = token_logprobs(hidden, torch.full_like(targets, 3), head, banned_ids=BANNED)
    assert (banned.logprobs == float("-inf")).all()
    others = [i for i in range(VOCABULARY) if i not in BANNED.tolist()]
    total = sum(token_logprobs(hidden, torch.full_like(targets, i), head, banned_ids=BANNED)[0].exp() for i in others)
    torch.testing.assert_close(total, torch.ones(COUNT))


def test_reduced_precision_is_scored_in_float32(targets: Tensor, head: nn.Linear, hidden: Tensor) -> None:
    scored = token_logprobs(hidden.bfloat16(), targets, head.bfloat16())
    assert scored.logprobs.dtype == torch.float32
    assert scored.entropy is None


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(hidden: Tensor, targets: Tensor, head: nn.Linear, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(hidden, targets, head, temperature=temperature)


def test_no_positions_give_no_logprobs(head: nn.Linear) -> None:
    scored = token_logprobs(torch.zeros(0, HIDDEN), torch.zeros(0, dtype=torch.long), head, with_entropy=True)
    assert scored.logprobs.shape == scored.entropy.shape == (0,)
