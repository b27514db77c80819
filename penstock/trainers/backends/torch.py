"""Plain PyTorch as a back end: one process, or data parallel on any number of workers.

Every worker holds all weights and moments, as DeepSpeed's stage 0 does, and the arithmetic is the
same: losses agree to 1e-6 over 100 steps in float32. In bf16 the weights that the model computes
with are bfloat16 and have float32 masters, to which gradients are added after each micro-batch.

Gradients are summed over workers after the step's last backward pass. DistributedDataParallel would
overlap the two, but it must be known in a forward pass whether a backward pass follows, which a
reweighted step decides from the losses. A checkpoint is one file of safetensors, the same for any
number of workers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from penstock.errors import RecipeError, TrainingError
from penstock.language_models.weight_files import HeaderError, read_header
from penstock.recipe import Train
from penstock.trainers.backends.base import (
    MOMENTS,
    Backend,
    CanonicalState,
    adamw,
    restore_adamw,
)
from penstock.trainers.backends.dtypes import Dtype, default_dtype
from penstock.trainers.backends.muon import MOMENTUM, layer_matrices, muon, restore_muon
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

__all__ = [
    "Torch",
    "check",
    "converted",
    "layout",
    "read_state",
    "resolve_dtype",
    "start",
    "trajectory",
]

FILE = "torch/state.safetensors"
"""In a checkpoint: ``weight.NAME``, ``exp_avg.NAME`` and ``exp_avg_sq.NAME`` in float32, and
``step``, () int64. Of a matrix that Muon updates ``momentum_buffer.NAME`` instead of the moments.
"""

BUCKET = 2**23
"""Numbers that are summed over workers at a time: 32 MB."""


class Torch:
    """A :class:`~penstock.trainers.backends.base.Backend` with AdamW, and Muon if the recipe says
    so, without DeepSpeed."""

    def __init__(self, model: LanguageModel, train: Train, group: Group, *, bf16: bool) -> None:
        self._group = group
        self._clip = train.clip
        self.model = model.to(group.device)
        self._names = [name for name, _ in model.named_parameters()]
        self._masters = list(model.parameters())
        if bf16:
            self._masters = [torch.nn.Parameter(p.detach().clone()) for p in self._masters]
            model.to(torch.bfloat16)
        self._weights = list(model.parameters())
        matrices = layer_matrices(model) if train.optimizer == "muon" else set()
        named = list(zip(self._names, self._masters))
        self._matrices = [(name, own) for name, own in named if name in matrices]
        self._others = [(name, own) for name, own in named if name not in matrices]
        self._adamw = adamw([own for _, own in self._others], train)
        self._optimizers = [self._adamw]
        if self._matrices:
            self._muon = muon([own for _, own in self._matrices], train)
            self._optimizers.append(self._muon)
        model.train()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.model(*inputs, **options)

    @torch.no_grad()
    def accumulate(self, loss: torch.Tensor, *, last: bool) -> None:
        """Run the backward pass; after the last, sum gradients over workers."""
        with torch.enable_grad():
            loss.backward()
        for weight, master in zip(self._weights, self._masters):
            if weight is not master and weight.grad is not None:
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None
        if not last:
            return
        gradients = [_gradient(master) for master in self._masters]
        if self._group.workers > 1:
            for bucket in _buckets(gradients):
                flat = self._group.all_sum(torch.cat([gradient.flatten() for gradient in bucket]))
                for gradient, part in zip(bucket, flat.split([one.numel() for one in bucket])):
                    gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def step(self, rate: float) -> float:
        for group in [group for one in self._optimizers for group in one.param_groups]:
            group["lr"] = rate
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, self._clip))
        if math.isfinite(norm):
            for optimizer in self._optimizers:
                optimizer.step()
            self._copy_masters()
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        return norm if math.isfinite(norm) else math.inf

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def save(self, directory: Path) -> list[str]:
        if self._group.rank:
            return []
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        step = 0
        for name, master in self._others:
            state = self._adamw.state[master]
            step = int(state["step"])
            tensors |= {f"{kind}.{name}": state[kind].cpu() for kind in MOMENTS}
        for name, master in self._matrices:
            tensors[f"{MOMENTUM}.{name}"] = self._muon.state[master][MOMENTUM].cpu()
        for name, master in zip(self._names, self._masters):
            tensors[f"weight.{name}"] = master.detach().cpu()
        (directory / FILE).parent.mkdir()
        save_file({**tensors, "step": torch.tensor(step)}, directory / FILE)
        return [FILE]

    def load(self, files: VerifiedFiles, workers: int) -> None:
        self.restore(read_state(files))

    @torch.no_grad()
    def restore(self, state: CanonicalState) -> None:
        restore_adamw(self._adamw, self._others, state)
        if self._matrices:
            restore_muon(self._muon, self._matrices, state)
        self._copy_masters()

    def close(self) -> None:
        for optimizer in self._optimizers:
            optimizer.state.clear()

    def _copy_masters(self) -> None:
        for weight, master in zip(self._weights, self._masters):
            if weight is not master:
                weight.copy_(master)


def check(train: Train) -> None:
    """Refuse the settings of another back end, and an optimiser that this PyTorch lacks.

    Raises:
        RecipeError: ``train.deepspeed`` has a key, or PyTorch is too old for Muon.
    """
    if train.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise RecipeError(
            f"PyTorch {torch.__version__} has no Muon",
            key="train.optimizer",
            expected="PyTorch 2.9 or newer",
            got=train.optimizer,
            fix="upgrade torch, or write `train.optimizer: adamw`",
        )
    if train.deepspeed:
        raise RecipeError(
            "has no effect under `train.backend: torch`",
            key="train.deepspeed",
            got=", ".join(train.deepspeed),
            fix="leave it out, or write `train.backend: deepspeed`",
        )


def resolve_dtype(train: Train, *, gpus: bool) -> Dtype:
    """Return ``train.dtype``; ``auto`` is bf16 on a GPU, float32 elsewhere."""
    return default_dtype(train, gpus=gpus)


def trajectory(train: Train) -> dict[str, Any]:
    """Return an empty mapping: this back end has no settings of its own."""
    return {}


def layout(train: Train) -> str:
    """Return an empty text: the one file is the same for all settings."""
    return ""


def start(model: LanguageModel, train: Train, group: Group, accumulation: int) -> Backend:
    """Put the model on the device; in bfloat16 with ``train.dtype: bf16``."""
    bf16 = resolve_dtype(train, gpus=group.device.type == "cuda") == "bf16"
    return Torch(model, train, group, bf16=bf16)


def converted(files: VerifiedFiles, scratch: Path) -> VerifiedFiles:
    """Return the files: they are the same for any number of workers."""
    return files


def read_state(files: VerifiedFiles) -> CanonicalState:
    """Open the file of a checkpoint; tensors are read when they are needed.

    Raises:
        TrainingError: There is none, or it is not safetensors with a step.
    """
    from safetensors import SafetensorError, safe_open

    if FILE not in files.names():
        raise TrainingError(
            "this back end wrote no state here",
            file=files.directory / FILE,
            fix="delete the checkpoint to start from the first step",
        )
    try:
        with files.opened(files.directory / FILE) as source:
            read_header(source)
            opened = safe_open(f"/dev/fd/{source.fileno()}", framework="pt")
        step = int(opened.get_tensor("step"))
    except (HeaderError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"not safetensors that can be used: {error}",
            file=files.directory / FILE,
            fix="delete the checkpoint to start from the one before",
        ) from None
    return CanonicalState(
        step=step,
        read=lambda name, kind: opened.get_tensor(f"{kind}.{name}"),
    )


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a gradient; zeros for a weight that this worker did not use."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Split tensors into lists of at most :data:`BUCKET` numbers, or one tensor."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
