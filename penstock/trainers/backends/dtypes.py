"""The type of the weights that a run computes with; importing it needs no PyTorch."""

from __future__ import annotations

from typing import Literal

from penstock.recipe import Train

__all__ = ["Dtype", "default_dtype"]

Dtype = Literal["bf16", "float32"]
"""Type of the weights in a forward pass. Masters and moments are float32 with either."""


def default_dtype(train: Train, *, gpus: bool) -> Dtype:
    """Return ``train.dtype``; for ``auto`` bf16 where GPUs train, float32 on CPUs."""
    if train.dtype != "auto":
        return train.dtype
    return "bf16" if gpus else "float32"
