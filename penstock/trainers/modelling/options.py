"""Options of a model besides its shape: recomputed activations, compiled code."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from penstock.errors import InputError
from penstock.recipe import Train
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["apply_options", "check_compiler", "compile_inner", "recompute_activations"]


def apply_options(model: LanguageModel, train: Train, device: torch.device) -> None:
    """Apply ``train.activation_checkpointing`` and ``train.compile``.

    Raises:
        InputError: The model does not support it, or there is no compiler.
    """
    if train.activation_checkpointing:
        recompute_activations(model)
    if train.compile:
        check_compiler(device)
        compile_inner(model)


def recompute_activations(model: LanguageModel) -> None:
    """Store only the input of each layer and run the layer again for its gradients.

    This uses PyTorch's non-reentrant form, which works under every ZeRO stage as long as all
    weights are trained. The loss is not run again: its gradients come from the forward pass.

    Raises:
        InputError: The model does not support it.
    """
    causal = model.causal
    if not causal.supports_gradient_checkpointing:
        raise InputError(
            f"models of type {causal.config.model_type!r} do not support it",
            key="train.activation_checkpointing",
            fix="leave it out",
        )
    # Renamed in transformers 5; the older name goes in 6.
    renamed = getattr(causal, "activation_checkpointing_enable", None)
    (renamed or causal.gradient_checkpointing_enable)({"use_reentrant": False})


def compile_inner(model: LanguageModel, backend: str = "inductor") -> None:
    """Compile all but the loss with torch.compile, when the model first runs.

    Sizes are dynamic from the start, because micro-batches differ by a sequence and in their number
    of documents; so code is compiled once. Names of weights do not change. On a CPU attention is
    not compiled, because its spans differ in every batch.
    """
    model.inner.compile(dynamic=True, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Check the requirements of torch.compile, which would otherwise fail at the first step.

    Raises:
        InputError: A compiler or triton is missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"no C++ compiler {compiler!r} on this worker",
            key="train.compile",
            fix="install one, name one in CXX, or leave train.compile out",
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InputError(
            "no triton on this worker", key="train.compile", fix="run `pip install triton`"
        )
