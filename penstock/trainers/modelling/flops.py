"""Size of a model, arithmetic of its training, and utilisation of a device.

Model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", app. B) is the arithmetic that the model
needs over the arithmetic that the device could have done in the same time. Recomputed activations
do not count. PaLM counts attention as if each token attended to the whole sequence; here it is
counted over the tokens before it in its own document.
"""

from __future__ import annotations

import math
import time
from functools import cache

import torch
from torch import nn

from penstock.trainers.data.batch import Batch
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["Utilisation", "count_parameters", "peak_flops"]

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


def count_parameters(model: LanguageModel) -> dict[str, int]:
    """Count the parameters, before a back end partitions the weights; a matrix used twice counts
    once.

    Returns:
        ``total``, and ``without_embeddings``: without token and position tables and the head, N of
        Kaplan et al. 2020. Rows of padding do not count.
    """
    tables = _tables(model)
    sizes = {id(weight): weight.numel() for weight in model.parameters()}
    for head in (model.causal.get_input_embeddings(), model.causal.get_output_embeddings()):
        sizes[id(head.weight)] = head.weight[: model.vocabulary].numel()
    others = sum(size for weight, size in sizes.items() if weight not in tables)
    return {"total": sum(sizes.values()), "without_embeddings": others}


class Utilisation:
    """Model FLOPs utilisation of one worker, step by step.

    Counted are floating-point operations of training on a batch, forward and backward. Every weight
    of a matrix takes 2 operations forward and 4 backward for each token (Kaplan et al. 2020, sec.
    2.1); weights of the head for each token whose logits are made. A token that attends to k
    tokens, itself included, takes 12 k times the width of all heads in each layer: two products,
    forward and twice backward. So a document of s tokens takes 6 s (s + 1) widths. Sliding windows
    are not subtracted, and in a mixture of experts every expert counts.

    Args:
        model: The model, before a back end partitions the weights.
    """

    def __init__(self, model: LanguageModel) -> None:
        config = model.causal.config.get_text_config()
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        tables = _tables(model)
        self.peak = math.inf
        """FLOP/s that count as 1, as :func:`peak_flops`."""
        self._matrices = sum(
            w.numel() for w in model.parameters() if w.dim() > 1 and id(w) not in tables
        )
        self._head = model.causal.get_output_embeddings().weight[: model.vocabulary].numel()
        self._attention = config.num_hidden_layers * heads * width
        self._every_token = model.inner is model.causal
        """True if the head is applied to all tokens, False if to labelled ones only."""
        self._flops = 0

    def flops(self, batch: Batch) -> int:
        """Count the operations of one micro-batch."""
        spans = batch.spans.diff().long()
        asked = batch.input_ids.numel() if self._every_token else len(batch.labelled)
        attended = int((spans * (spans + 1)).sum())
        weights = self._matrices * batch.input_ids.numel() + self._head * asked
        return 6 * (weights + self._attention * attended)

    def add(self, batch: Batch) -> None:
        """Count a batch that is trained on, while it is still on the CPU."""
        self._flops += self.flops(batch)

    def take(self, seconds: float) -> float:
        """Return the utilisation since the last call, ``seconds`` ago."""
        flops, self._flops = self._flops, 0
        return flops / seconds / self.peak


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
