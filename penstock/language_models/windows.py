"""Windows of tokens: what a causal language model reads at once, in batches padded on the right.

Losses of windows and of texts are the same for any batching of the windows but for last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = [
    "IGNORED",
    "Window",
    "WindowBatch",
    "batch_windows",
    "pad_windows",
    "text_nats",
    "text_windows",
    "window_nats",
]

IGNORED = -100
"""The target of a token that is not predicted; PyTorch and transformers call it ignore_index."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that a model reads at once: ``inputs[i]`` and all before it predict ``targets[i]``."""

    inputs: Sequence[int] | np.ndarray
    targets: Sequence[int] | np.ndarray
    """Target tokens, as many as ``inputs``."""
    counted: int = 0
    """The first target whose loss counts; all after it count too."""

    @property
    def length(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """``n`` windows, padded on the right to ``L`` tokens."""

    inputs: torch.Tensor
    """(n, L) int64; 0 in the padding."""
    targets: torch.Tensor
    """(n, T) int64, T <= L: the token after each of the last T inputs, or IGNORED."""
    lengths: np.ndarray
    """(n,) int64: tokens of each window without the padding."""

    @property
    def is_padded(self) -> bool:
        """True if any window is shorter than the batch."""
        return bool((self.lengths < self.inputs.shape[1]).any())

    @property
    def mask(self) -> torch.Tensor:
        """(n, L) int64: 1 for a token, 0 for padding; transformers' ``attention_mask``."""
        import torch

        real = np.arange(self.inputs.shape[1]) < self.lengths[:, None]
        return torch.from_numpy(real.astype(np.int64)).to(self.inputs.device)


def text_windows(tokens: np.ndarray, window: int, stride: int) -> Iterator[Window]:
    """Cut a text into windows that count each token but the first once.

    Windows begin ``stride`` tokens apart. A token counts in the first window that reaches it,
    which gives it the longest context.

    Args:
        tokens: (1 + t,) int64: the token that the text is conditioned on, then its own.
        window: Tokens of the model's context.
        stride: At most ``window``; equal to it, no token is read twice.
    """
    counted, last = 0, len(tokens) - 1
    for begin in range(0, last, stride):
        end = min(begin + window, last)
        yield Window(tokens[begin:end], tokens[begin + 1 : end + 1], counted - begin)
        counted = end
        if end == last:
            break


class _Sized(Protocol):
    @property
    def length(self) -> int: ...


def batch_windows(windows: Sequence[_Sized], tokens: int) -> Iterator[list[int]]:
    """Group windows of about equal length.

    Args:
        windows: Windows or trees, in any order.
        tokens: The most padded tokens of a batch, unless one window alone has more; 0 for a batch
            of each window, in the order given.

    Yields:
        The rows of a batch's windows, shortest first.
    """
    if not tokens:
        yield from ([row] for row in range(len(windows)))
        return
    batch: list[int] = []
    for row in sorted(range(len(windows)), key=lambda row: windows[row].length):
        if batch and (len(batch) + 1) * windows[row].length > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def pad_windows(
    windows: Sequence[Window], device: torch.device | str, *, trimmed: bool = False
) -> WindowBatch:
    """Put windows into one batch on ``device``.

    Args:
        windows: At least one.
        device: Device of the model.
        trimmed: Leave out the leading targets that count in no window, so that a model need not
            compute their logits.
    """
    import torch

    lengths = np.array([window.length for window in windows], np.int64)
    inputs = np.zeros((len(windows), lengths.max()), np.int64)
    targets = np.full(inputs.shape, IGNORED, np.int64)
    for row, window in enumerate(windows):
        inputs[row, : window.length] = window.inputs
        targets[row, window.counted : window.length] = window.targets[window.counted :]
    if trimmed:
        targets = targets[:, min(window.counted for window in windows) :]
    return WindowBatch(
        inputs=torch.from_numpy(inputs).to(device),
        targets=torch.from_numpy(targets).to(device),
        lengths=lengths,
    )


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
        trimmed: As for :func:`pad_windows`.

    Returns:
        (windows,) float64 in nats.
    """
    import torch

    batch = pad_windows(windows, device, trimmed=trimmed)
    with torch.no_grad():
        found = model(batch).double().cpu().numpy()
    values = np.zeros(batch.targets.shape)
    values[batch.targets.cpu().numpy() != IGNORED] = found
    return values.sum(axis=1)


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
