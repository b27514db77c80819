"""Size of a model, arithmetic of its training, and utilisation of a device.

Model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", app. B) is the arithmetic that the model
needs over the arithmetic that the device could have done in the same time. Recomputed activations
do not count. PaLM counts attention as if each token attended to the whole sequence; here it is
counted over the tokens before it in its own document.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from penstock.trainers.data.batch import IGNORED, Batch
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["Arithmetic", "Parameters", "Utilisation", "peak_flops"]

PEAK_FLOPS = {
    "NVIDIA A10": 125e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A40": 149.7e12,
    "NVIDIA A100": 312e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
}
"""Dense bf16 FLOP/s by the longest matching prefix of a device's name: NVIDIA's data sheets, halved
where they quote sparsity."""

_MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices by which a rate is measured: 25 ms a product on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Numbers of parameters; a matrix used twice counts once."""

    total: int
    without_embeddings: int
    """Parameters without token and position tables and the head: N of Kaplan et al. 2020."""

    @classmethod
    def of(cls, model: LanguageModel) -> Parameters:
        """Count, before a back end partitions the weights."""
        tables = _tables(model)
        every = list(model.parameters())
        return cls(
            total=sum(weight.numel() for weight in every),
            without_embeddings=sum(w.numel() for w in every if id(w) not in tables),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Floating-point operations of training on a batch, forward and backward.

    Every weight of a matrix takes 2 operations forward and 4 backward for each token (Kaplan et al.
    2020, sec. 2.1); weights of the head for each token whose logits are made. A token that attends
    to k tokens, itself included, takes 12 k times the width of all heads in each layer: two
    products, forward and twice backward. So a document of s tokens takes 6 s (s + 1) widths.
    Sliding windows are not subtracted, and in a mixture of experts every expert counts.
    """

    matrices: int
    """Weights of matrices, without tables and head."""
    head: int
    """Weights of the head."""
    attention: int
    """Attention width: layers times heads times the width of a head."""
    every_token: bool
    """True if the head is applied to all tokens, False if to labelled ones only."""

    @classmethod
    def of(cls, model: LanguageModel) -> Arithmetic:
        """Read from the model, before a back end partitions the weights."""
        config = model.causal.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        tables = _tables(model)
        return cls(
            matrices=sum(
                w.numel() for w in model.parameters() if w.dim() > 1 and id(w) not in tables
            ),
            head=model.causal.get_output_embeddings().weight.numel(),
            attention=config.num_hidden_layers * heads * width,
            every_token=model.inner is model.causal,
        )

    def flops(self, batch: Batch) -> int:
        """Count the operations of one micro-batch."""
        spans = batch.spans.diff().long()
        asked = batch.labels.numel() if self.every_token else int((batch.labels != IGNORED).sum())
        attended = int((spans * (spans + 1)).sum())
        weights = self.matrices * batch.input_ids.numel() + self.head * asked
        return 6 * (weights + self.attention * attended)


class Utilisation:
    """Model FLOPs utilisation of one worker, step by step.

    Args:
        arithmetic: The model's.
        peak: FLOP/s that count as 1, as :func:`peak_flops`.
    """

    def __init__(self, arithmetic: Arithmetic, peak: float) -> None:
        self._arithmetic = arithmetic
        self._peak = peak
        self._flops = 0

    def add(self, batch: Batch) -> None:
        """Count a batch that is trained on, while it is still on the CPU."""
        self._flops += self._arithmetic.flops(batch)

    def take(self, seconds: float) -> float:
        """Return the utilisation since the last call, ``seconds`` ago."""
        flops, self._flops = self._flops, 0
        return flops / seconds / self._peak


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the peak FLOP/s of a device.

    For a GPU in :data:`PEAK_FLOPS` it is the published value for dense bf16, whatever type is used.
    For a CPU and other GPUs it is the rate of a large matrix product in ``dtype`` in this process
    with its threads, measured once. So anything that slows matrix products too does not lower the
    utilisation.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if fitting := [start for start in PEAK_FLOPS if name.startswith(start)]:
            return PEAK_FLOPS[max(fitting, key=len)]
    return _measured(device, dtype, torch.get_num_threads())


@cache
def _measured(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Return the best of five products after a warm-up: other load only slows them."""
    side = _MATRIX_SIDE.get(device.type, _MATRIX_SIDE["cuda"])
    factor = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        # Reading a value waits for the GPU.
        float((factor @ factor)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _tables(model: LanguageModel) -> set[int]:
    """Return the identities of the embedding tables and of the head."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return tables | {id(model.causal.get_output_embeddings().weight)}
