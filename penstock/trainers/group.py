"""Rank, number of workers and device in one object, with the collectives that training uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

__all__ = ["Group"]

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Group:
    """The workers of a run, from the side of one of them.

    Every method is a collective: all workers call it together. With one worker none needs a
    process group.
    """

    rank: int = 0
    """Rank of this worker, from 0."""
    workers: int = 1
    """Number of workers."""
    device: torch.device = _CPU
    """Device of this worker and of tensors given to the process group."""
    local_rank: int = 0
    """Rank of this worker among those of its node."""
    local_workers: int = 1
    """Number of workers of its node."""

    def all_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over workers; the result, on :attr:`device`, may share its memory."""
        total = values.to(self.device)
        if self.workers > 1:
            torch.distributed.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return every worker's value, by rank. Values cross as pickles: only plain data."""
        if self.workers == 1:
            return [value]
        values: list[Any] = [None] * self.workers
        torch.distributed.all_gather_object(values, value)
        return values

    def broadcast(self, number: int) -> int:
        """Return rank 0's number, below 2**63, on every worker."""
        if self.workers == 1:
            return number
        tensor = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(tensor, src=0)
        return int(tensor)

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.workers > 1:
            torch.distributed.barrier()
