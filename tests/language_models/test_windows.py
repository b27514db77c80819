"""Windows and batches against properties that hold by definition; losses by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.language_models.windows import (
    IGNORED,
    Window,
    WindowBatch,
    batch_windows,
    pad_windows,
    text_nats,
    text_windows,
    window_nats,
)


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 20))
def test_each_token_counts_once_with_the_longest_context(
    tokens: int, window: int, stride: int
) -> None:
    stride = min(stride, window)
    text = np.arange(tokens + 1)
    windows = list(text_windows(text, window, stride))
    counted = [int(token) for one in windows for token in one.targets[one.counted :]]
    assert counted == list(range(1, tokens + 1))
    for one in windows:
        assert 0 < one.length <= window
        assert list(one.targets) == [token + 1 for token in one.inputs]
    longest = {
        int(token): int(token - one.inputs[0]) for one in reversed(windows) for token in one.targets
    }
    found = {
        int(token): int(token - one.inputs[0])
        for one in windows
        for token in one.targets[one.counted :]
    }
    assert found == longest


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100))
def test_batches_hold_each_window_once_and_few_padded_tokens(
    lengths: list[int], tokens: int
) -> None:
    windows = [Window([0] * length, [0] * length) for length in lengths]
    batches = list(batch_windows(windows, tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens
    assert list(batch_windows(windows, 0)) == [[row] for row in range(len(lengths))]


def test_padding_by_hand() -> None:
    windows = [Window([1, 2, 3], [2, 3, 4], 1), Window([5, 6], [6, 7], 1)]
    batch = pad_windows(windows, "cpu")
    assert batch.inputs.tolist() == [[1, 2, 3], [5, 6, 0]]
    assert batch.targets.tolist() == [[IGNORED, 3, 4], [IGNORED, 7, IGNORED]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.is_padded and not pad_windows(windows[:1], "cpu").is_padded
    assert pad_windows(windows, "cpu", trimmed=True).targets.tolist() == [[3, 4], [7, IGNORED]]


def test_nats_by_hand() -> None:
    """A model whose loss is the target itself; the third text has no token."""

    def model(batch: WindowBatch) -> torch.Tensor:
        return batch.targets[batch.targets != IGNORED].float()

    def read(windows: Sequence[Window]) -> np.ndarray:
        return window_nats(model, windows, "cpu")

    texts = [np.array([0, 1, 2, 3, 4, 5]), np.array([0, 10]), np.array([0])]
    assert text_nats(texts, read, window=4, stride=2).tolist() == [15, 10, 0]
    windows = [Window([1, 2, 3], [2, 3, 4], 1), Window([5, 6], [6, 7], 1)]
    for trimmed in (False, True):
        assert window_nats(model, windows, "cpu", trimmed=trimmed).tolist() == [7, 7]
