"""What a recipe may ask of a model besides its shape: less memory, or compiled code."""

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
    """Do what ``train.activation_checkpointing`` and ``train.compile`` ask.

    Raises:
        InputError: The model cannot, or there is no compiler.
    """
    if train.activation_checkpointing:
        recompute_activations(model)
    if train.compile:
        check_compiler(device)
        compile_inner(model)


def recompute_activations(model: LanguageModel) -> None:
    """Keep each layer's input only and run the layer again for its gradients.

    In PyTorch's non-reentrant form, which works under every ZeRO stage as long as all weights are
    trained. The loss has nothing to run again: its gradients are found in the forward pass.

    Raises:
        InputError: The model cannot.
    """
    causal = model.causal
    if not causal.supports_gradient_checkpointing:
        raise InputError(
            f"train.activation_checkpointing: models of type {causal.config.model_type!r} cannot; "
            "leave it out"
        )
    # Renamed in transformers 5; the older name goes in 6.
    renamed = getattr(causal, "activation_checkpointing_enable", None)
    (renamed or causal.gradient_checkpointing_enable)({"use_reentrant": False})


def compile_inner(model: LanguageModel, backend: str = "inductor") -> None:
    """Let torch.compile make code for all but the loss, when the model first runs.

    Sizes are variables from the start, since micro-batches differ by a sequence and each has
    another number of documents: code is made once. Names of weights stay as they are. On a CPU
    attention is left out, because its spans are numbers that differ in every batch.
    """
    model.inner.compile(dynamic=True, backend=backend)


def check_compiler(device: torch.device) -> None:
    """Refuse a machine on which torch.compile would fail at the first step.

    Raises:
        InputError: Names what is missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"train.compile: no C++ compiler {compiler!r} on this worker; install one, name one "
            "in CXX, or leave train.compile out"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InputError("train.compile: no triton on this worker; pip install triton")
