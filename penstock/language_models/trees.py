"""Trees of tokens: a trunk that is read once, and branches that continue it at any of its tokens.

The choices of a question are such branches: in separate windows the question is read again for each
of them. A tree is one row of a batch. Its trunk comes first, then one branch after another. A token
attends to itself, to the tokens before it in its own branch, and to those tokens of the trunk that
its branch follows; positions count along this path. So each branch has the losses that it has in a
window of its own, but for last bits: a mask selects another kernel than plain causal attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.language_models.windows import IGNORED

if TYPE_CHECKING:
    import torch

__all__ = ["Branch", "TokenTree", "TreeBatch", "tree_nats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Tokens that continue a trunk."""

    shared: int
    """Inputs of the trunk that the branch follows."""
    tokens: np.ndarray
    """(1 + t,) int64: the first is an input only, the last a target only."""


class TokenTree:
    """Tokens that a model reads as one row.

    Args:
        tokens: (1 + t,) int64 of the trunk: the first is an input only, the last a target only.
        branches: Branches of the trunk.
        parts: (p, 2), begin and end of ranges of targets, whose nats are summed. Targets are
            counted through the trunk, then through each branch. A target in no part is not
            predicted.
    """

    __slots__ = ("inputs", "limits", "owners", "parts", "positions", "targets")

    def __init__(
        self,
        tokens: np.ndarray,
        parts: Sequence[tuple[int, int]],
        branches: Sequence[Branch] = (),
    ) -> None:
        lines = [tokens, *(branch.tokens for branch in branches)]
        sizes = [len(line) - 1 for line in lines]
        shared = np.array([0, *(branch.shared for branch in branches)], np.int64)
        self.parts = tuple(parts)
        self.inputs = np.concatenate([line[:-1] for line in lines])
        self.targets = np.full(len(self.inputs), IGNORED, np.int64)
        found = np.concatenate([line[1:] for line in lines])
        for begin, end in parts:
            self.targets[begin:end] = found[begin:end]
        self.owners = np.repeat(np.arange(len(lines)), sizes)
        """(L,): 0 in the trunk, k in the k-th branch."""
        self.limits = np.repeat(shared, sizes)
        """(L,): tokens of the trunk that a branch's token attends to."""
        self.positions = self.limits + np.concatenate([np.arange(size) for size in sizes])

    @property
    def length(self) -> int:
        return len(self.inputs)

    @property
    def branched(self) -> bool:
        """True if there is a branch."""
        return bool(self.owners[-1:].any())


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeBatch:
    """``n`` trees, padded on the right to ``L`` tokens."""

    inputs: torch.Tensor
    """(n, L) int64; 0 in the padding."""
    targets: torch.Tensor
    """(n, L) int64: the token to predict after each input, or IGNORED."""
    branched: bool
    """False if all trees are trunks, for which causal attention needs no mask."""
    positions: torch.Tensor
    """(n, L) int64."""
    owners: torch.Tensor
    """(n, L) int64, as :attr:`TokenTree.owners`; -1 in the padding."""
    limits: torch.Tensor
    """(n, L) int64, as :attr:`TokenTree.limits`."""

    @classmethod
    def of(cls, trees: Sequence[TokenTree], device: torch.device | str) -> TreeBatch:
        """Put trees, at least one, into one batch on ``device``."""
        import torch

        def padded(name: str, value: int) -> torch.Tensor:
            rows = np.full((len(trees), max(tree.length for tree in trees)), value, np.int64)
            for row, tree in zip(rows, trees):
                row[: tree.length] = getattr(tree, name)
            return torch.from_numpy(rows).to(device)

        return cls(
            inputs=padded("inputs", 0),
            targets=padded("targets", IGNORED),
            branched=any(tree.branched for tree in trees),
            positions=padded("positions", 0),
            owners=padded("owners", -1),
            limits=padded("limits", 0),
        )

    @property
    def mask(self) -> torch.Tensor:
        """(n, 1, L, L) bool: whether query i may attend to key j."""
        import torch

        index = torch.arange(self.inputs.shape[1], device=self.inputs.device)
        own = self.owners[:, :, None] == self.owners[:, None]
        before = (self.owners == 0)[:, None] & (index < self.limits[:, :, None])
        return ((own | before) & (index <= index[:, None]))[:, None]

    @property
    def arguments(self) -> dict[str, Any]:
        """Keywords of a transformers model."""
        if not self.branched:
            return {"input_ids": self.inputs}
        return {
            "input_ids": self.inputs,
            "attention_mask": self.mask,
            "position_ids": self.positions,
        }


def tree_nats(
    model: Callable[[TreeBatch], torch.Tensor],
    trees: Sequence[TokenTree],
    device: torch.device | str,
) -> np.ndarray:
    """Sum -ln p over the parts of each tree, in one forward pass.

    Args:
        model: A model in evaluation mode, which returns -ln p of each target that is not IGNORED,
            row by row: (targets,) float32.
        trees: At least one.
        device: Device of the model.

    Returns:
        (parts,) float64 in nats: the parts of the first tree, then those of the next.
    """
    import torch

    batch = TreeBatch.of(trees, device)
    with torch.no_grad():
        found = model(batch).double().cpu().numpy()
    values = np.zeros(batch.targets.shape)
    values[batch.targets.cpu().numpy() != IGNORED] = found
    return np.array(
        [row[begin:end].sum() for row, tree in zip(values, trees) for begin, end in tree.parts]
    )
