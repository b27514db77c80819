"""Cross-entropy of a language model without its logits.

At 4,096 tokens and a vocabulary of 4,096 the logits are 64 MiB, and autograd passes over them six
times; they cost more than the layers of a small model. Here they live for a few hundred rows at a
time: the forward pass turns each piece of logits into its own gradient and is done with it.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["summed_cross_entropy", "token_cross_entropy"]

PIECE = {"cpu": 2**20, "cuda": 2**26}
"""Logits held at a time: 4 MiB in float32 on a CPU, whose cache is what matters; 256 MiB on a GPU,
which wants large products."""


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The sum over rows of -log softmax(hidden @ weight.T)[target].

    Args:
        hidden: (n, width), any float type.
        weight: (vocabulary, width), of the same type.
        targets: (n,) int64.

    Returns:
        () float32, in nats.
    """
    loss: torch.Tensor = _SummedCrossEntropy.apply(hidden, weight, targets)
    return loss


def token_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Row by row, and without gradients: (n,) float32, in nats. Arguments as above."""
    rows = _rows(hidden, weight)
    nats = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), rows):
        piece = slice(start, start + rows)
        logits = (hidden[piece] @ weight.T).float()
        nats[piece] = torch.nn.functional.cross_entropy(logits, targets[piece], reduction="none")
    return nats


def _rows(hidden: torch.Tensor, weight: torch.Tensor) -> int:
    return max(1, PIECE.get(hidden.device.type, PIECE["cuda"]) // weight.shape[0])


class _SummedCrossEntropy(torch.autograd.Function):
    """Gradients are found in the forward pass, while a piece of logits is in the cache."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        rows = _rows(hidden, weight)
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], rows):
            piece, wanted = hidden[start : start + rows], targets[start : start + rows, None]
            log_p = torch.log_softmax((piece @ weight.T).float(), dim=1)
            total -= log_p.gather(1, wanted).sum()
            errors = log_p.exp_()
            errors.scatter_add_(1, wanted, errors.new_full((), -1.0).expand_as(wanted))
            errors = errors.to(hidden.dtype)
            torch.mm(errors, weight, out=to_hidden[start : start + rows])
            to_weight += errors.T @ piece
        context.save_for_backward(to_hidden, to_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(context: Any, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        to_hidden, to_weight = context.saved_tensors
        return to_hidden * scale, to_weight * scale, None
