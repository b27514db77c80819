"""Losses of windows under the model that is trained, equal for any number of workers.

Whole batches are dealt to workers, so a loss does not depend on their number. Every worker makes
equally many forward passes, because a pass is a collective operation where the model is partitioned
over workers (ZeRO 3). The cost: a worker with a batch less reads the shortest batch again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from penstock.language_models.windows import Window, WindowBatch, batch_windows, window_nats
from penstock.trainers.group import Group

__all__ = ["WindowReader"]

BATCH_TOKENS = 2048
"""Padded tokens of a forward pass, sorted by length so that few of them are padding. On one core
2,048 ran 8 % faster than 8,192 (48,000 tokens/s at width 128): activations stay in the cache."""


class WindowReader:
    """Reads windows with a model that is in evaluation mode.

    Args:
        model: Windows to nats, as :meth:`~penstock.trainers.modelling.model.LanguageModel.forward`
            computes them: a model, or the back end around one.
        group: The workers, which call :meth:`nats` together, with the same windows; the model is
            on its device.
    """

    def __init__(self, model: Callable[[WindowBatch], torch.Tensor], group: Group) -> None:
        self._model = model
        self._group = group

    def nats(self, windows: Sequence[Window]) -> np.ndarray:
        """Sum -ln p over each window's counted targets: (windows,) float64, on every worker."""
        nats = np.zeros(len(windows))
        batches = list(batch_windows(windows, BATCH_TOKENS))
        own = batches[self._group.rank :: self._group.workers]
        for rows in own:
            nats[rows] = self._read([windows[row] for row in rows])
        if len(own) < -(-len(batches) // self._group.workers):
            self._read([windows[row] for row in batches[0]])
        summed: np.ndarray = self._group.all_sum(torch.from_numpy(nats)).cpu().numpy()
        return summed

    def _read(self, windows: Sequence[Window]) -> np.ndarray:
        return window_nats(self._model, windows, self._group.device)
