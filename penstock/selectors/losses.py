"""What documents cost a causal language model, each read alone.

A document's tokens are predicted from the model's own beginning of a text, never from the
document before it (PreSelect's script joins documents into one stream, so that a document's first
tokens see a stranger; Shum et al. 2025). A document longer than the window is read in windows
that begin ``stride`` tokens apart, and each token is counted in the first that reaches it.

**Same bytes.** On a CPU one window is read at a time, in one thread, so a document's loss
depends on that document and the model alone, to the last bit. On two layers of width 128 that
reads 40,000 tokens a second on a core where batches of 2,048 padded tokens read 29,000: there is
no padding, and a window's activations stay in the cache. A GPU wants batches; there windows of
about equal length go together, padding is to the right and masked, and the last bits depend on
the company: losses move by up to 2e-7 of themselves in float32.

What is traded away: one window at a time leaves a wide CPU idle, unless documents are spread over
processes, which is how Penstock uses one.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import InputError, SelectorError
from penstock.selectors.base import ParallelMap, serial_map
from penstock.selectors.encoders.encoders import check_gpu, one_thread
from penstock.selectors.parameters import model_name, one_of, whole

__all__ = ["CausalModel", "Losses", "causal_model_name", "read_losses"]

WINDOW, STRIDE = 1900, 512
"""Tokens that PreSelect's script lets a model see at once, and moves on by."""

_GPU_TOKENS = 2**14
"""Padded tokens of a batch on a GPU: 8 GiB of float32 logits at a vocabulary of 128,000."""

_CPU_BLOCK, _GPU_BLOCK = 64, 1024
"""Texts of an item of work: a second for a small model on a core; enough for batches on a GPU."""

_PIECE = 2**22
"""Logits whose cross-entropy is taken at a time: 16 MiB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What each of n documents cost, and how long it is."""

    nats: np.ndarray
    """(n,) float64: the sum of -ln p over the document's tokens; 0 for an empty one."""
    tokens: np.ndarray
    """(n,) int64: tokens predicted."""
    characters: np.ndarray
    """(n,) int64: Unicode code points."""
    bytes: np.ndarray
    """(n,) int64: in UTF-8."""

    @property
    def bits_per_character(self) -> np.ndarray:
        """(n,) float64; NaN for an empty document."""
        return self.nats / math.log(2) / np.where(self.characters, self.characters, np.nan)

    @property
    def bits_per_byte(self) -> np.ndarray:
        """(n,) float64; NaN for an empty document."""
        return self.nats / math.log(2) / np.where(self.bytes, self.bytes, np.nan)

    @property
    def nats_per_token(self) -> np.ndarray:
        """(n,) float64, the logarithm of perplexity; NaN for an empty document."""
        return self.nats / np.where(self.tokens, self.tokens, np.nan)


class CausalModel:
    """A language model in a transformers directory or on the hub, as a measure of documents.

    Weights are safetensors and code that comes with a model is never run. It travels as its name,
    so a directory must be there for every worker; each loads it when it first needs it.

    Args:
        name: A directory with ``config.json``, ``tokenizer.json`` and safetensors, or a hub name.
        key: The parameter that messages blame.
        window: Tokens the model sees at once; its context if that is less.
        stride: Tokens between the beginnings of two windows; the window if that is less, so that
            a model of short context reads everything once.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``bfloat16`` (published), which keeps 8 bits of each number and
            decides near ties by chance.
        batch_tokens: Padded tokens of a batch, or one window at a time with 0: by default as the
            device wants it.
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
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    @property
    def settings(self) -> dict[str, Any]:
        """How it reads, as part of a selector's identity."""
        return {key: vars(self)[key] for key in ("window", "stride", "device", "dtype")}

    def release(self) -> None:
        """Let go of the weights, until they are needed again."""
        self._loaded = None

    def losses(self, texts: pa.Array | pa.ChunkedArray) -> Losses:
        """Read each text alone: (n,) string or large_string, no nulls, to n losses.

        Raises:
            InputError: The model cannot be loaded, its tokenizer is another model's, or a loss is
                not a finite number.
        """
        import torch

        if self._loaded is None:
            self._loaded = _load(self)
        loaded = self._loaded
        strings = texts.to_pylist()
        ids = loaded.ids(strings)
        window = min(self.window, loaded.context)
        windows = [
            one
            for text, tokens in enumerate(ids)
            for one in _windows(text, len(tokens) - 1, window, min(self.stride, window))
        ]
        nats = np.zeros(len(windows))
        with one_thread() if self.device == "cpu" else nullcontext(), torch.inference_mode():
            for rows in _batches(windows, self.batch_tokens):
                nats[rows] = loaded.nats([windows[row] for row in rows], ids)
        if not np.isfinite(nats).all():
            raise InputError(
                f"{self.key}: expected a model whose losses are finite numbers, got {self.name}, "
                "whose are not; its training may have diverged"
            )
        return Losses(
            # bincount adds in the order of the windows, however they were batched.
            nats=np.bincount([one.text for one in windows], nats, minlength=len(ids)),
            tokens=np.array([len(tokens) - 1 for tokens in ids], np.int64),
            characters=np.array([len(string) for string in strings], np.int64),
            bytes=np.array([len(string.encode()) for string in strings], np.int64),
        )


def read_losses(
    texts: pa.Array | pa.ChunkedArray, model: CausalModel, spread: ParallelMap
) -> Losses:
    """:meth:`CausalModel.losses` of (n,) large_string, side by side; on a GPU, in this process.

    Workers that were not given a GPU cannot see one, and one process keeps it busy.
    """
    size = _CPU_BLOCK
    if model.device == "cuda":
        size, spread = _GPU_BLOCK, serial_map
    blocks = [_block(texts.slice(at, size)) for at in range(0, len(texts), size)]
    found = list(spread(_read, blocks, model))
    model.release()  # where it was read here, the next model wants the room
    return Losses(
        nats=np.concatenate([np.empty(0), *(one.nats for one in found)]),
        **{
            name: np.concatenate([np.empty(0, np.int64), *(getattr(one, name) for one in found)])
            for name in ("tokens", "characters", "bytes")
        },
    )


def _block(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """In an array of its own: a slice would travel with all that it is a slice of."""
    return pa.array(texts.to_pylist(), pa.large_string())


def _read(texts: pa.Array, model: CausalModel) -> Losses:
    return model.losses(texts)


def causal_model_name(key: str, value: Any) -> str:
    """A hub name, or a directory in which transformers finds a model and a tokenizer.

    Raises:
        SelectorError: The directory is missing, or lacks a file; nothing is fetched to find out.
    """
    name = model_name(key, value)
    root = Path(name)
    if root.is_dir():
        missing = [
            wanted
            for wanted in ("config.json", "tokenizer.json", "*.safetensors")
            if not any(root.glob(wanted))
        ]
        if missing:
            raise SelectorError(
                f"{key}: expected a directory with a model that transformers saved and its "
                f"tokenizer, got {name}, which has no {' and no '.join(missing)}"
            )
    elif not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise SelectorError(
            f"{key}: expected a directory or a name on the hub, got {name}: there is no such "
            "directory; check the path, which is relative to the recipe"
        )
    return name


@dataclass(frozen=True, slots=True)
class _Window:
    """Tokens ``begin`` to ``end`` are read, and those after ``counted`` to ``end`` predicted."""

    text: int
    begin: int
    counted: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.begin


def _windows(text: int, tokens: int, window: int, stride: int) -> Iterator[_Window]:
    """Windows that count each of a document's tokens once, with the longest past there is."""
    counted = 0
    for begin in range(0, tokens, stride):
        end = min(begin + window, tokens)
        yield _Window(text, begin, counted, end)
        counted = end
        if end == tokens:
            break


def _batches(windows: Sequence[_Window], tokens: int) -> Iterator[list[int]]:
    """Rows of windows that are read together: each alone, or those of about equal length."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    causal: Any
    tokenizer: Any
    context: int
    """Tokens the model can see at once."""
    begin: int
    """The token before a text."""
    keeps: bool
    """Whether the model can leave out the logits of places that count nothing."""

    def ids(self, strings: Sequence[str]) -> list[np.ndarray]:
        """Each text's tokens after the beginning: (1 + tokens,) int64."""
        encoded = self.tokenizer.encode_batch_fast(list(strings), add_special_tokens=False)
        return [np.array([self.begin, *encoding.ids], np.int64) for encoding in encoded]

    def nats(self, windows: Sequence[_Window], ids: Sequence[np.ndarray]) -> np.ndarray:
        """The sum of -ln p over what each window counts: (windows,) float64."""
        import torch

        longest = max(window.length for window in windows)
        inputs = np.zeros((len(windows), longest), np.int64)
        targets = np.zeros((len(windows), longest), np.int64)
        real = np.zeros((len(windows), longest), bool)
        counted = np.zeros((len(windows), longest), bool)
        for row, window in enumerate(windows):
            tokens, length = ids[window.text], window.length
            inputs[row, :length] = tokens[window.begin : window.end]
            targets[row, :length] = tokens[window.begin + 1 : window.end + 1]
            real[row, :length] = True
            counted[row, window.counted - window.begin : length] = True
        first = int(counted.any(axis=0).argmax())  # before it, nothing counts in any row
        device = self.causal.device
        options: dict[str, Any] = {"logits_to_keep": longest - first} if self.keeps else {}
        if not real.all():
            options["attention_mask"] = torch.from_numpy(real.astype(np.int64)).to(device)
        logits = self.causal(
            input_ids=torch.from_numpy(inputs).to(device), use_cache=False, **options
        ).logits[:, -(longest - first) :]
        chosen = torch.from_numpy(counted[:, first:]).to(device)
        values = np.zeros((len(windows), longest - first))
        values[counted[:, first:]] = _cross_entropy(
            logits[chosen], torch.from_numpy(targets[:, first:]).to(device)[chosen]
        )
        nats: np.ndarray = values.sum(axis=1)
        return nats


def _cross_entropy(logits: Any, targets: Any) -> np.ndarray:
    """(t, vocabulary) logits and (t,) int64 targets to nats, (t,) float64 of float32 values."""
    import torch

    rows = max(1, _PIECE // logits.shape[1])
    pieces = [
        torch.nn.functional.cross_entropy(
            logits[start : start + rows].float(), targets[start : start + rows], reduction="none"
        )
        for start in range(0, len(targets), rows)
    ]
    nats: np.ndarray = torch.cat(pieces).double().cpu().numpy()
    return nats


def _load(model: CausalModel) -> _Loaded:
    import torch

    if model.device == "cuda":
        check_gpu("device")
    tokenizer = _tokenizer(model)
    causal = _weights(model, getattr(torch, model.dtype)).to(model.device)
    entries = 1 + max(tokenizer.get_vocab().values(), default=-1)
    table = causal.get_input_embeddings().num_embeddings
    if entries > table:
        raise InputError(
            f"{model.key}: expected the model's own tokenizer in {model.name}, got one of "
            f"{entries} tokens for a table of {table}"
        )
    config = causal.config.get_text_config()
    begin = getattr(config, "bos_token_id", None)
    begin = getattr(config, "eos_token_id", None) if begin is None else begin
    begin = begin[0] if isinstance(begin, list) and begin else begin
    if not isinstance(begin, int):
        raise InputError(
            f"{model.key}: expected a bos_token_id or an eos_token_id in the config.json of "
            f"{model.name}, to begin texts with, got neither"
        )
    return _Loaded(
        causal=causal,
        tokenizer=tokenizer,
        # What has no positions to run out of (a recurrent model) sees whatever is asked for.
        context=getattr(config, "max_position_embeddings", None) or model.window,
        begin=begin,
        keeps="logits_to_keep" in inspect.signature(causal.forward).parameters,
    )


def _tokenizer(model: CausalModel) -> Any:
    from huggingface_hub import hf_hub_download
    from tokenizers import Tokenizer

    path = Path(model.name) / "tokenizer.json"
    try:
        if not path.is_file():
            path = Path(hf_hub_download(model.name, "tokenizer.json"))
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # any transport or name error; tokenizers raises bare Exceptions
        raise _cannot_load(model, error) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A stranger who writes <|endoftext|> gets its letters, not the token.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _weights(model: CausalModel, dtype: Any) -> Any:
    """The model, in evaluation mode, with every weight from its files."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        causal, found = AutoModelForCausalLM.from_pretrained(
            model.name,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _cannot_load(model, error) from None
    finally:
        if bars:
            logging.enable_progress_bar()
    if found["missing_keys"]:  # transformers would draw them at random, and only warn
        raise InputError(
            f"{model.key}: expected a causal language model, got {model.name}, whose files lack "
            f"{', '.join(sorted(found['missing_keys'])[:3])}"
        )
    return causal


def _cannot_load(model: CausalModel, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(
        f"{model.key}: expected a causal language model with safetensors and a tokenizer.json, "
        f"got {model.name}, which cannot be loaded ({reason}); give a local directory"
    )
