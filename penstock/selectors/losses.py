"""Losses of documents under a causal language model, each document read alone.

A document's tokens are predicted from the model's own token for the beginning of a text, never
from the document before it. (PreSelect's script joins documents into one stream, so that a
document's first tokens are predicted from another document; Shum et al. 2025.) A document longer
than the window is read in windows that begin ``stride`` tokens apart, and each token counts in the
first window that reaches it.

**Same bytes.** On a CPU one window is read at a time, in one thread. So on one machine a document's
loss depends on that document and the model only, to the last bit. With two layers of width 128 this
reads 40,000 tokens a second on a core; batches of 2,048 padded tokens read 29,000, because they
have padding, and one window's activations stay in the cache. A GPU is fast only with
batches: there windows of about equal length are batched, padding is to the right and masked, and
the last bits depend on the batch. Losses move by up to 2e-7 of themselves in float32.

Trade-off: one window at a time leaves the cores of a wide CPU idle unless documents are spread over
processes, as Penstock does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import InputError, SelectorError
from penstock.language_models.causal import LoadedModel, load_causal_model
from penstock.language_models.devices import one_thread
from penstock.language_models.windows import Window, batch_windows, text_nats, window_nats
from penstock.selectors.base import ParallelMap, serial_map
from penstock.selectors.parameters import one_of, whole

__all__ = ["CausalModel", "Losses", "causal_model_name", "read_losses"]

WINDOW, STRIDE = 1900, 512
"""PreSelect's script: tokens of a window, and tokens between the beginnings of two windows."""

_GPU_TOKENS = 2**14
"""Padded tokens of a batch on a GPU: 8 GiB of float32 logits at a vocabulary of 128,000."""

_CPU_BLOCK, _GPU_BLOCK = 64, 1024
"""Texts of an item of work: a second for a small model on a core; enough for batches on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Losses and lengths of n documents."""

    nats: np.ndarray
    """(n,) float64: the sum of -ln p over the document's tokens; 0 for an empty one."""
    tokens: np.ndarray
    """(n,) int64: predicted tokens."""
    characters: np.ndarray
    """(n,) int64: Unicode code points."""

    @property
    def nats_per_token(self) -> np.ndarray:
        """Return the logarithm of perplexity: (n,) float64; NaN for an empty document."""
        return self.nats / np.where(self.tokens, self.tokens, np.nan)


class CausalModel:
    """A language model in a transformers directory or on the hub that measures documents.

    Weights are safetensors and code that comes with a model never runs. It pickles as its name, so
    every worker needs the directory; each loads the model when it first reads.

    Args:
        name: A directory with ``config.json``, ``tokenizer.json`` and safetensors, or a hub name.
        key: The parameter that errors name.
        window: Tokens the model reads at once; its context if that is less.
        stride: Tokens between the beginnings of two windows; the window if that is less, so that
            a model of short context reads everything once.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``bfloat16`` (published), which keeps 8 bits of each number, so that
            rounding decides near ties.
        batch_tokens: Padded tokens of a batch; 0 for one window at a time. By default 0 on a CPU
            and 16,384 on a GPU.
    """

    def __init__(
        self,
        name: str,
        *,
        key: str = "model",
        window: int = WINDOW,
        stride: int = STRIDE,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int | None = None,
    ) -> None:
        self.name = causal_model_name(key, name)
        self.key = key
        self.window = whole("window", window)
        self.stride = whole("stride", stride)
        self.device = one_of("device", device, "cpu", "cuda")
        self.dtype = one_of("dtype", dtype, "float32", "bfloat16")
        if batch_tokens is None:
            batch_tokens = 0 if device == "cpu" else _GPU_TOKENS
        self.batch_tokens = whole("batch_tokens", batch_tokens, least=0)
        self._loaded: LoadedModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    def release(self) -> None:
        """Free the weights until the next reading."""
        self._loaded = None

    def losses(self, texts: pa.Array | pa.ChunkedArray) -> Losses:
        """Read each text alone: (n,) string or large_string, no nulls, to n losses.

        Raises:
            InputError: The model cannot be loaded, its tokenizer is another model's, or a loss is
                not a finite number.
        """
        import torch

        if self._loaded is None:
            self._loaded = load_causal_model(
                self.name, key=self.key, device=self.device, dtype=self.dtype
            )
        loaded = self._loaded

        def read(windows: Sequence[Window]) -> np.ndarray:
            nats = np.zeros(len(windows))
            for rows in batch_windows(windows, self.batch_tokens):
                batch = [windows[row] for row in rows]
                nats[rows] = window_nats(loaded, batch, self.device, trimmed=True)
            return nats

        strings = texts.to_pylist()
        ids = loaded.token_ids(strings)
        window = min(self.window, loaded.context or self.window)
        with one_thread() if self.device == "cpu" else nullcontext(), torch.inference_mode():
            nats = text_nats(ids, read, window=window, stride=min(self.stride, window))
        if not np.isfinite(nats).all():
            raise InputError(
                key=self.key,
                expected="a model whose losses are finite numbers",
                got=f"{self.name}, whose losses are not",
                fix="use another model: the training of this one may have diverged",
            )
        return Losses(
            nats=nats,
            tokens=np.array([len(tokens) - 1 for tokens in ids], np.int64),
            characters=np.array([len(string) for string in strings], np.int64),
        )


def read_losses(
    texts: pa.Array | pa.ChunkedArray, model: CausalModel, spread: ParallelMap
) -> Losses:
    """Read (n,) large_string in parallel as :meth:`CausalModel.losses`; on a GPU, in this process.

    Workers that were not assigned a GPU cannot use one, and one process keeps it busy.
    """
    size = _CPU_BLOCK
    if model.device == "cuda":
        size, spread = _GPU_BLOCK, serial_map
    blocks = [_block(texts.slice(at, size)) for at in range(0, len(texts), size)]
    found = list(spread(_read, blocks, model))
    model.release()  # leaves room for the next model, where this process read
    return Losses(
        nats=np.concatenate([np.empty(0), *(one.nats for one in found)]),
        **{
            name: np.concatenate([np.empty(0, np.int64), *(getattr(one, name) for one in found)])
            for name in ("tokens", "characters")
        },
    )


def _block(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Copy a slice: its pickle would hold the whole array."""
    return pa.array(texts.to_pylist(), pa.large_string())


def _read(texts: pa.Array, model: CausalModel) -> Losses:
    return model.losses(texts)


def causal_model_name(key: str, name: Any) -> str:
    """Check a hub name, or a directory in which transformers finds a model and a tokenizer.

    Raises:
        SelectorError: The directory is missing or lacks a file. Nothing is fetched from the hub.
    """
    if not isinstance(name, str) or not name:
        raise SelectorError(key=key, expected="a name or a directory", got=repr(name))
    root = Path(name)
    if root.is_dir():
        missing = [
            wanted
            for wanted in ("config.json", "tokenizer.json", "*.safetensors")
            if not any(root.glob(wanted))
        ]
        if missing:
            raise SelectorError(
                key=key,
                expected="a directory with a model that transformers saved and its tokenizer",
                got=f"{name}, which has no {' and no '.join(missing)}",
            )
    elif not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise SelectorError(
            key=key,
            expected="a directory or a name on the hub",
            got=f"{name}: there is no such directory",
            fix="check the path, which is relative to the recipe",
        )
    return name
