"""Cross-entropy of a language model without storing its logits.

At 4,096 tokens and a vocabulary of 4,096 the logits take 64 MiB, and autograd passes over them six
times; they cost more than the layers of a small model. Here they exist for a few hundred rows at a
time: the forward pass turns each block of logits into its own gradient.

For that the weight of each row must be known. Where it is known only after all losses are,
:func:`token_cross_entropy` computes the logits again in the backward pass: four matrix products
instead of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["token_cross_entropy", "weighted_cross_entropy"]

LOGITS_PER_BLOCK = {"cpu": 2**20, "cuda": 2**26}
"""Logits held at a time: 4 MiB in float32 on a CPU, to stay in its cache; 256 MiB on a GPU, which
needs large products."""

ROWS_PER_BLOCK = {"cpu": 1, "cuda": 2048}
"""Rows of a block at least: with fewer, the products of a large vocabulary do not fill a GPU."""


def weighted_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    counts: torch.Tensor | None,
    vocabulary: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the sum over rows of ``counts`` times -log softmax(hidden @ weight.T)[target].

    Args:
        hidden: (n, width), any float type.
        weight: (vocabulary and padding, width), of the same type.
        targets: (n,) int64.
        counts: (n,) float32, the weight of each row, without gradient; None for 1 each.
        vocabulary: Rows of ``weight`` that stand for tokens; all if not given. The others have no
            probability and no gradient.

    Returns:
        The sum, () float32 in nats, and (n,) float32: each row's own nats, without gradient.
    """
    total: torch.Tensor
    nats: torch.Tensor
    total, nats = _WeightedCrossEntropy.apply(hidden, weight, targets, counts, vocabulary)
    return total, nats


def token_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    vocabulary: int | None = None,
) -> torch.Tensor:
    """Compute cross-entropy by row, (n,) float32 nats; arguments as
    :func:`weighted_cross_entropy`."""
    nats: torch.Tensor = _TokenCrossEntropy.apply(hidden, weight, targets, vocabulary)
    return nats


def _blocks(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    device = hidden.device.type if hidden.device.type in LOGITS_PER_BLOCK else "cuda"
    rows = max(ROWS_PER_BLOCK[device], LOGITS_PER_BLOCK[device] // weight.shape[0])
    return (slice(start, start + rows) for start in range(0, hidden.shape[0], rows))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, vocabulary: int | None) -> torch.Tensor:
    """Compute logits, (rows, vocabulary and padding) float32; -inf in the padding."""
    logits = _product(hidden, weight.T)
    if vocabulary is not None:
        logits[:, vocabulary:] = -torch.inf
    return logits


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply matrices of any one float type with a float32 result, not rounded to that type."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


class _WeightedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass, while a block of logits is in the cache."""

    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        counts: torch.Tensor | None,
        vocabulary: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden.new_zeros((), dtype=torch.float32)
        nats = hidden.new_empty(len(targets), dtype=torch.float32)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        for block in _blocks(hidden, weight):
            wanted = targets[block, None]
            log_p = torch.log_softmax(_logits(hidden[block], weight, vocabulary), dim=1)
            own = nats[block] = -log_p.gather(1, wanted)[:, 0]
            errors = log_p.exp_()
            errors.scatter_add_(1, wanted, errors.new_full((), -1.0).expand_as(wanted))
            if counts is None:
                total += own.sum()
            else:
                total += own @ counts[block]
                errors *= counts[block, None]
            errors = errors.to(hidden.dtype)
            torch.mm(errors, weight, out=to_hidden[block])
            to_weight += _product(errors.T, hidden[block])
        context.save_for_backward(to_hidden, to_weight.to(weight.dtype))
        context.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    def backward(context: Any, scale: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        to_hidden, to_weight = context.saved_tensors
        return to_hidden * scale, to_weight * scale, None, None, None


class _TokenCrossEntropy(torch.autograd.Function):
    """Logits are computed again in the backward pass, when the weight of each row is known."""

    @staticmethod
    def forward(
        context: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        vocabulary: int | None,
    ) -> torch.Tensor:
        nats = hidden.new_empty(len(targets), dtype=torch.float32)
        normaliser = torch.empty_like(nats)
        for block in _blocks(hidden, weight):
            wanted = targets[block, None]
            logits = _logits(hidden[block], weight, vocabulary)
            own = torch.log_softmax(logits, dim=1).gather(1, wanted)
            nats[block] = -own[:, 0]
            normaliser[block] = (logits.gather(1, wanted) - own)[:, 0]
        context.save_for_backward(hidden, weight, targets, normaliser)
        context.vocabulary = vocabulary
        return nats

    @staticmethod
    def backward(context: Any, counts: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normaliser = context.saved_tensors
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        for block in _blocks(hidden, weight):
            wanted = targets[block, None]
            errors = _logits(hidden[block], weight, context.vocabulary)
            errors.sub_(normaliser[block, None]).exp_()
            errors.scatter_add_(1, wanted, errors.new_full((), -1.0).expand_as(wanted))
            errors = errors.mul_(counts[block, None]).to(hidden.dtype)
            torch.mm(errors, weight, out=to_hidden[block])
            to_weight += _product(errors.T, hidden[block])
        return to_hidden, to_weight.to(weight.dtype), None, None
