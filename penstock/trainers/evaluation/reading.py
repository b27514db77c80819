"""What tokens cost a model: windows of tokens in, nats out, the same for any number of ranks.

Whole batches are dealt to ranks, so a number never depends on who works beside whom. Every rank
makes equally many forward passes, which is what a model that is partitioned over ranks (ZeRO 3)
needs: there each of them is a collective operation. It costs the ranks that are left over one pass
over the shortest batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from penstock.trainers.data.batch import IGNORED
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import Windows

__all__ = ["Reader", "Window"]

BATCH_TOKENS = 2048
"""Padded tokens of a forward pass, sorted by length so that few of them are padding. On one core
2,048 ran 8 % faster than 8,192 (48,000 tokens/s at width 128): activations stay in the cache."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that a model reads at once: ``inputs[i]`` and all before it predict ``targets[i]``."""

    inputs: list[int]
    targets: list[int]
    """As many as ``inputs``."""
    counted: int = 0
    """The first target whose cost counts."""

    @property
    def length(self) -> int:
        return len(self.inputs)


class Reader:
    """Reads windows with a model that is in evaluation mode.

    Args:
        model: Windows to nats, as :meth:`~penstock.trainers.modelling.model.LanguageModel.forward`
            does it: a model, or the DeepSpeed engine around one.
        group: The workers, which call :meth:`nats` together, with the same windows; the model is
            on its device.
    """

    def __init__(self, model: Callable[[Windows], torch.Tensor], group: Group) -> None:
        self._model = model
        self._group = group

    def nats(self, windows: Sequence[Window]) -> np.ndarray:
        """The sum of -ln p over what each window counts: (windows,) float64, on every rank."""
        nats = np.zeros(len(windows))
        batches = list(_batches(windows))
        own = batches[self._group.rank :: self._group.workers]
        for rows in own:
            nats[rows] = self._read([windows[row] for row in rows])
        if len(own) < -(-len(batches) // self._group.workers):
            self._read([windows[row] for row in batches[0]])
        summed: np.ndarray = self._group.all_sum(torch.from_numpy(nats)).cpu().numpy()
        return summed

    @torch.no_grad()
    def _read(self, windows: Sequence[Window]) -> np.ndarray:
        """(windows,) float64. Padding is to the right, where a causal model cannot see it."""
        longest = max(window.length for window in windows)
        inputs = np.zeros((len(windows), longest), np.int64)
        targets = np.full((len(windows), longest), IGNORED, np.int64)
        for row, window in enumerate(windows):
            inputs[row, : window.length] = window.inputs
            targets[row, window.counted : window.length] = window.targets[window.counted :]
        tensors = (torch.from_numpy(one).to(self._group.device) for one in (inputs, targets))
        batch = Windows(**dict(zip(("inputs", "targets"), tensors)))
        values = np.zeros(targets.shape)
        values[targets != IGNORED] = self._model(batch).double().cpu().numpy()
        nats: np.ndarray = values.sum(axis=1)
        return nats


def _batches(windows: Sequence[Window]) -> Iterator[list[int]]:
    """Windows of about equal length together, at most BATCH_TOKENS padded tokens each."""
    batch: list[int] = []
    for row in sorted(range(len(windows)), key=lambda row: windows[row].length):
        if batch and (len(batch) + 1) * windows[row].length > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
