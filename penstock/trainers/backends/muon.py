"""Muon for the matrices of the layers: ``train.optimizer: muon``.

Muon (Jordan et al. 2024) updates a matrix by its momentum, made nearly orthogonal by five steps of
a Newton-Schulz iteration: all directions of the update become equally large. Token table, head,
positions, gains and biases are no maps between hidden states, and stay with AdamW.

The update is scaled by 0.2 · √max(rows, columns) (Liu et al. 2025, "Muon is Scalable for LLM
Training", eq. 4), so that its root mean square is 0.2 of the learning rate whatever the shape, as
that of AdamW's mostly is. So ``train.lr``, its schedule and ``train.weight_decay`` hold for both.
One moment is kept of a matrix, not two: 4 bytes less for each of its numbers.

A matrix that holds several (queries, keys and values of GPT-2) is made orthogonal as one. Every
worker computes all updates.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from penstock.recipe import Train
from penstock.trainers.backends.base import CanonicalState
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["MOMENTUM", "layer_matrices", "muon", "restore_muon"]

MOMENTUM = "momentum_buffer"
"""Kind of Muon's moment: the running mean of the gradient."""


def layer_matrices(model: LanguageModel) -> set[str]:
    """Return the names of the weights that Muon updates: (rows, columns), of no table or head."""
    head = model.causal.get_output_embeddings()
    apart = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    apart += [head] if head is not None else []
    excluded = {id(weight) for module in apart for weight in module.parameters()}
    return {
        name
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and id(weight) not in excluded
    }


def muon(matrices: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Return Muon with AdamW's learning rate and decay, and momentum of 0.95 (Nesterov)."""
    return torch.optim.Muon(
        matrices,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )


def restore_muon(
    optimizer: torch.optim.Optimizer,
    matrices: Iterable[tuple[str, nn.Parameter]],
    state: CanonicalState,
) -> None:
    """Give named matrices in float32, and their optimiser, the state of a checkpoint."""
    for name, matrix in matrices:
        matrix.data.copy_(state.read(name, "weight"))
        optimizer.state[matrix] = {MOMENTUM: state.read(name, MOMENTUM).to(matrix.device)}
