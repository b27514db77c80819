"""Attention within documents, computed from the spans of documents instead of a mask.

A dense mask costs L² for every sequence, however short its documents. With spans, attention costs
the sum of the squares of their lengths: on a CPU 1.2, 1.9, 3 and 4 to 5 times faster at 512, 1,024,
2,048 and 4,096 tokens of the web pool, forward and backward (docs/lab.md); on a GPU one
variable-length kernel takes all documents of a batch. Spans are passed in the keywords that
transformers uses for flash attention (``cu_seq_lens_q`` and its companions); without them each
sequence is one document, and with a mask attention is the ``sdpa`` of transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from penstock.trainers.data.batch import Batch

__all__ = ["NAME", "register", "span_arguments", "span_attention"]

NAME = "penstock_spans"
"""Name in the registry of transformers; never written to a saved model."""

_KERNEL_WIDTH = 8
"""The variable-length kernel takes heads of a multiple of this width; others get zeros."""

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Keywords of some models that this attention does not implement."""


def register() -> str:
    """Register the attention with transformers; returns its name.

    No mask is registered with it: transformers then makes none, and does not look in each batch
    whether positions restart, for which the CPU would wait for a GPU.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, span_attention)
    return NAME


def span_arguments(batch: Batch) -> dict[str, Any]:
    """Return the keywords that pass the spans of a batch to a model's attention.

    The lengths are upper bounds; the same number for every batch keeps compiled code valid.
    """
    length = batch.input_ids.shape[1]
    return {
        "cu_seq_lens_q": batch.spans,
        "cu_seq_lens_k": batch.spans,
        "max_length_q": length,
        "max_length_k": length,
    }


def span_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within each span; called by transformers' attention modules.

    Args:
        module: The attention module that calls.
        query: (n, heads, L, d), any float type.
        key: (n, key-value heads, L, d); the heads are a multiple of these.
        value: As ``key``.
        attention_mask: If given, it is used alone and spans are ignored.
        dropout: Probability that an attention weight is dropped.
        scaling: Factor of the products; 1/sqrt(d) if not given.
        sliding_window: Tokens that a token attends to, itself included; all if not given.
        cu_seq_lens_q: (documents + 1,) int32, as :attr:`Batch.spans`; each row if not given.
        max_length_q: An upper bound of the span lengths.
        others: Further keywords of the model; used by ``sdpa`` only.

    Returns:
        (n, L, heads, d), and no weights.

    Raises:
        NotImplementedError: The model passes a keyword that is not implemented here.
    """
    rows, heads, length, width = query.shape
    if attention_mask is not None or key.shape[2] != length:
        from transformers import AttentionInterface

        sdpa: Callable[..., tuple[torch.Tensor, None]] = AttentionInterface()["sdpa"]
        others |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        return sdpa(module, query, key, value, attention_mask, **others)
    if wanted := [name for name in _UNSUPPORTED if others.get(name) is not None]:
        raise NotImplementedError(f"attention over spans has no {', '.join(wanted)}")
    if cu_seq_lens_q is None:
        ends = torch.arange(rows + 1, dtype=torch.int32, device=query.device)
        cu_seq_lens_q = ends * length
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    window = None if sliding_window is None or sliding_window >= length else sliding_window
    if _fits_kernel(query, dropout):
        longest = max_length_q or length
        result = _in_one_kernel(query, key, value, cu_seq_lens_q, longest, scaling, window)
    else:
        result = _run_by_run(query, key, value, cu_seq_lens_q, dropout, scaling, window)
    return result.view(rows, length, heads, width), None


@torch.compiler.disable
def _run_by_run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Compute each run of spans of equal length by PyTorch's own attention.

    Not compiled, because the spans differ in every batch.

    Args:
        query: (tokens, heads, d); the others likewise. See :func:`span_attention`.
    """
    lengths = [end - start for start, end in pairwise(spans.tolist())]
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    parts = zip(query.split(sizes), key.split(sizes), value.split(sizes))
    results = []
    for (length, count), part in zip(runs, parts):
        q, k, v = (tokens.unflatten(0, (count, length)).transpose(1, 2) for tokens in part)
        band = None if window is None or window >= length else _band(length, window, query.device)
        with _without_cudnn() if query.is_cuda else nullcontext():
            result = scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=band,
                dropout_p=dropout,
                is_causal=band is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        results.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(results) if len(results) > 1 else results[0]


def _without_cudnn() -> AbstractContextManager[Any]:
    """Exclude cuDNN, which makes a plan for each shape; the lengths of documents differ."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Return the (length, length) bool mask: causal, ``window`` tokens with itself."""
    index = torch.arange(length, device=device)
    back = index[:, None] - index
    return (back >= 0) & (back < window)


def _in_one_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Compute all spans by ``torch.nn.attention.varlen`` (flash attention); shapes as above."""
    from torch.nn.attention.varlen import varlen_attn

    width = query.shape[-1]
    scaling = width**-0.5 if scaling is None else scaling
    if over := -width % _KERNEL_WIDTH:
        query, key, value = (pad(part, (0, over)) for part in (query, key, value))
    grouped: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in _kernel_parameters():
            grouped = {"enable_gqa": True}
        else:  # PyTorch 2.11: each head of keys is copied for its queries
            copies = query.shape[1] // key.shape[1]
            key, value = (part.repeat_interleave(copies, 1) for part in (key, value))
    result = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        spans,
        spans,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    assert isinstance(result, torch.Tensor)
    return result[..., :width] if over else result


def _fits_kernel(query: torch.Tensor, dropout: float) -> bool:
    """Return whether the variable-length kernel can be used: no float32, no dropout."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and not dropout
        and query.shape[-1] <= 256
        and _has_kernel(query.device)
    )


@cache
def _has_kernel(device: torch.device) -> bool:
    """Return whether this PyTorch has the kernel, with windows, for this GPU."""
    return "window_size" in _kernel_parameters() and (
        torch.cuda.get_device_capability(device) >= (8, 0)
    )


@cache
def _kernel_parameters() -> frozenset[str]:
    """Return the names of the kernel's parameters; none if this PyTorch lacks it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)
