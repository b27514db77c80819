from __future__ import annotations

import pytest
import torch

from penstock.trainers.modelling import loss


@pytest.mark.parametrize("block", [1, 50, 2**20])
def test_value_and_gradients_equal_those_of_pytorch(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss.LOGITS_PER_BLOCK, "cpu", block)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(13, 6, generator=generator, requires_grad=True)
    weight = torch.randn(11, 6, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (13,), generator=generator)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    wanted = torch.autograd.grad(expected.sum() * 0.3, [hidden, weight])
    found, _ = loss.weighted_cross_entropy(hidden, weight, targets, None)
    torch.testing.assert_close(found, expected.sum())
    for mine, theirs in zip(torch.autograd.grad(found * 0.3, [hidden, weight]), wanted):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        loss.token_cross_entropy(hidden.detach(), weight.detach(), targets), expected.detach()
    )


@pytest.mark.parametrize("block", [1, 50, 2**20])
def test_rows_may_have_weights(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights known before (weighted) or after (token): PyTorch's value and gradients."""
    monkeypatch.setitem(loss.LOGITS_PER_BLOCK, "cpu", block)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(13, 6, generator=generator, requires_grad=True)
    weight = torch.randn(11, 6, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (13,), generator=generator)
    counts = torch.rand(13, generator=generator) * 3
    counts[4] = 0
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    wanted = torch.autograd.grad((expected * counts).sum() * 0.3, [hidden, weight])
    total, nats = loss.weighted_cross_entropy(hidden, weight, targets, counts)
    torch.testing.assert_close(total, (expected * counts).sum())
    torch.testing.assert_close(nats, expected.detach())
    assert not nats.requires_grad
    late = loss.token_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(late, expected)
    for found in (total, (late * counts).sum()):
        for mine, theirs in zip(torch.autograd.grad(found * 0.3, [hidden, weight]), wanted):
            torch.testing.assert_close(mine, theirs)


def test_without_rows_the_loss_is_0() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    weight = torch.ones(5, 4, requires_grad=True)
    found, _ = loss.weighted_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64), None)
    found.backward()
    assert found.item() == 0 and not weight.grad.any()


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.tensor([[1000.0]])
    weight = torch.tensor([[1.0], [-1.0]])
    found, _ = loss.weighted_cross_entropy(hidden, weight, torch.tensor([1]), None)
    assert found.item() == 2000


@pytest.mark.parametrize("late", [False, True])
def test_products_of_bf16_are_summed_in_float32(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of the head is rounded once, not in each block."""
    monkeypatch.setitem(loss.LOGITS_PER_BLOCK, "cpu", 64)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(256, 8, generator=generator).bfloat16()
    weight = torch.randn(16, 8, generator=generator).bfloat16()
    targets = torch.randint(0, 16, (256,), generator=generator)
    exact = weight.float().requires_grad_()
    torch.nn.functional.cross_entropy(hidden.float() @ exact.T, targets, reduction="sum").backward()
    weight.requires_grad_()
    if late:
        found = loss.token_cross_entropy(hidden, weight, targets).sum()
    else:
        found, _ = loss.weighted_cross_entropy(hidden, weight, targets, None)
    found.backward()
    assert exact.grad is not None and weight.grad is not None
    error = (weight.grad.float() - exact.grad).abs() / exact.grad.abs().max()
    assert error.max() < 2**-8


def test_blocks_on_a_gpu_have_at_least_2048_rows() -> None:
    hidden = torch.empty(5000, 8, device="meta")
    weight = torch.empty(128_256, 8, device="meta")
    sizes = [block.stop - block.start for block in loss._blocks(hidden, weight)]
    assert sizes == [2048, 2048, 2048]


@pytest.mark.parametrize("late", [False, True])
def test_rows_of_padding_have_no_probability_and_no_gradient(late: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(9, 6, generator=generator)
    weight = torch.randn(8, 6, generator=generator, requires_grad=True)
    targets = torch.randint(0, 5, (9,), generator=generator)
    expected = torch.nn.functional.cross_entropy(hidden @ weight[:5].T, targets, reduction="sum")
    if late:
        found = loss.token_cross_entropy(hidden, weight, targets, 5).sum()
    else:
        found, _ = loss.weighted_cross_entropy(hidden, weight, targets, None, 5)
    torch.testing.assert_close(found, expected)
    own, wanted = (torch.autograd.grad(one, weight)[0] for one in (found, expected))
    torch.testing.assert_close(own, wanted)
    assert not own[5:].any()
