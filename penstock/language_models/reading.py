"""Losses of windows and of texts, the same for any batching of the windows but for last bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from penstock.language_models.windows import (
    IGNORED,
    Window,
    WindowBatch,
    pad_windows,
    text_windows,
)

if TYPE_CHECKING:
    import torch

__all__ = ["text_nats", "window_nats"]


def window_nats(
    model: Callable[[WindowBatch], torch.Tensor],
    windows: Sequence[Window],
    device: torch.device | str,
    *,
    trimmed: bool = False,
) -> np.ndarray:
    """Sum -ln p over the counted targets of each window, in one forward pass.

    Args:
        model: A model in evaluation mode, which returns -ln p of each target that counts, row by
            row: (targets,) float32.
        windows: At least one; padding is to the right, where a causal model does not attend to it.
        device: Device of the model.
        trimmed: As for :func:`~penstock.language_models.windows.pad_windows`.

    Returns:
        (windows,) float64 in nats.
    """
    import torch

    batch = pad_windows(windows, device, trimmed=trimmed)
    with torch.no_grad():
        found = model(batch).double().cpu().numpy()
    values = np.zeros(batch.targets.shape)
    values[batch.targets.cpu().numpy() != IGNORED] = found
    nats: np.ndarray = values.sum(axis=1)
    return nats


def text_nats(
    texts: Sequence[np.ndarray],
    read: Callable[[Sequence[Window]], np.ndarray],
    *,
    window: int,
    stride: int,
) -> np.ndarray:
    """Sum -ln p over each text's tokens.

    Args:
        texts: (n,) of (1 + t,) int64: the token that a text is conditioned on, then its own.
        read: Windows to their nats, (windows,) float64.
        window: Tokens of the model's context.
        stride: Tokens between the beginnings of two windows.

    Returns:
        (n,) float64 in nats; 0 for an empty text.
    """
    windows = [
        (row, one)
        for row, tokens in enumerate(texts)
        for one in text_windows(tokens, window, stride)
    ]
    nats = read([one for _, one in windows])
    # bincount adds in the order of the windows, however they were batched.
    rows = np.array([row for row, _ in windows], np.int64)
    return np.bincount(rows, nats, minlength=len(texts))
