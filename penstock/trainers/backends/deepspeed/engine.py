"""DeepSpeed's engine behind the trainer's protocol, and its part of a checkpoint.

Only operators built when DeepSpeed was installed are used. Left alone it would compile a
shared-memory one when a process group starts: 157 s, or an error where there is no compiler.

A checkpoint is written by all workers and read by as many or by others. At the same number of
workers each reads back the file that its rank wrote. At another, rank 0 first converts the files to
DeepSpeed's universal format, which stores every parameter separately; that reads and writes the
whole checkpoint once more. Without ZeRO every worker holds everything, and nothing is converted.
PyTorch unpickles the files, so they must have been verified.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from penstock.errors import TrainingError
from penstock.recipe import Train
from penstock.storage import files_under
from penstock.trainers.backends.base import CanonicalState, adamw, restore_adamw
from penstock.trainers.backends.deepspeed import deepspeed_config
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["DeepSpeed", "load_deepspeed", "load_state", "read_state", "save_state"]

TAG = "deepspeed"
"""DeepSpeed's name for its files, and their directory in a checkpoint."""

_RANK = re.compile(r"(?:zero_pp_rank_|offloaded_tensors/rank)(\d+)")


class DeepSpeed:
    """A :class:`~penstock.trainers.backends.base.Backend` around DeepSpeed's engine."""

    def __init__(self, model: LanguageModel, train: Train, group: Group, accumulation: int) -> None:
        self._deepspeed = load_deepspeed(group.device)
        self.model = model
        self._group = group
        self.engine, *_ = self._deepspeed.initialize(
            model=model,
            optimizer=adamw(model.parameters(), train),
            config=deepspeed_config(
                train, accumulation=accumulation, bf16=group.device.type == "cuda"
            ),
        )
        _undo_dry_run(self.engine)
        self.engine.train()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.engine(*inputs, **options)

    def accumulate(self, loss: torch.Tensor, *, last: bool) -> None:
        """Run the backward pass. DeepSpeed averages over workers; the trainer's losses add up."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self._group.workers, scale_wrt_gas=False)

    def step(self, rate: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        norm = self._float32_norm()
        self.engine.step()
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        gathered: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.engine.zero_optimization_partition_weights():
            gathered = self._deepspeed.zero.GatheredParameters(list(self.model.parameters()))
        return gathered

    def save(self, directory: Path) -> list[str]:
        return save_state(self.engine, directory, self._group.rank)

    def load(self, directory: Path, workers: int) -> None:
        load_state(self.engine, directory, self._group, workers)

    def restore(self, state: CanonicalState) -> None:
        """Take over weights and moments; with ZeRO stage 0 in float32.

        Raises:
            TrainingError: DeepSpeed partitions weights or moments, or keeps copies of them.
        """
        optimizer = self.engine.optimizer
        if not isinstance(optimizer, torch.optim.AdamW):
            raise TrainingError(
                "the checkpoint of another back end cannot be partitioned",
                key="train.deepspeed",
                expected="stage 0 in float32",
                got=f"stage {self.engine.zero_optimization_stage()}",
            )
        restore_adamw(optimizer, self.model.named_parameters(), state)

    def close(self) -> None:
        self.engine.destroy()

    def _float32_norm(self) -> float | None:
        """Compute the norm at stage 0 in float32, where DeepSpeed keeps none."""
        engine = self.engine
        if engine.zero_optimization() or engine.bfloat16_enabled() or engine.fp16_enabled():
            return None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))


def load_deepspeed(device: torch.device) -> Any:
    """Import ``deepspeed`` without its log lines and its just-in-time operators."""
    os.environ["DS_ACCELERATOR"] = device.type
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    from deepspeed.git_version_info import installed_ops

    deepspeed.ops.__compatible_ops__ = dict(installed_ops)
    return deepspeed


def _undo_dry_run(engine: Any) -> None:
    """Undo the step without gradients by which stage 0 in bfloat16 allocates memory.

    It decays the weights and counts as Adam's first: the first real update came out 0.735 times
    as large as it should be, and the next ones too small as well.
    """
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):
        pairs = zip(engine.optimizer.fp32_groups, engine.optimizer.fp16_groups)
        for masters, weights in pairs:
            for master, weight in zip(masters, weights):
                master.data.copy_(weight.data)
        engine.optimizer.optimizer.state.clear()


def save_state(engine: Any, directory: Path, rank: int) -> list[str]:
    """Write model and optimiser into ``directory``; every worker must call this.

    Args:
        engine: DeepSpeed's.
        directory: The checkpoint's; rank 0 has made it, or makes it before it calls this.
        rank: This worker.

    Returns:
        Files that this worker wrote, relative to ``directory``.
    """
    engine.save_checkpoint(str(directory), tag=TAG, save_latest=False)
    if rank == 0:
        for script in directory.glob("zero_to_*.py"):  # DeepSpeed's tools, which it has anyway
            script.unlink()
    names = [f"{TAG}/{name}" for name in files_under(directory / TAG)]
    return [name for name in names if _writer(name) == rank]


def load_state(engine: Any, directory: Path, group: Group, wrote: int) -> None:
    """Read model and optimiser back; every worker must call this.

    Args:
        engine: DeepSpeed's, which has not trained yet.
        directory: The checkpoint's.
        group: The workers.
        wrote: Workers that wrote the checkpoint.

    Raises:
        TrainingError: DeepSpeed cannot read it.
    """
    if wrote == group.workers or not _is_partitioned(directory):
        _load(engine, directory)
        return
    scratch = directory.parent / ".universal.tmp"
    if group.rank == 0:
        _convert(directory / TAG, scratch / TAG)
    group.barrier()
    with _universal(engine):
        _load(engine, scratch)
    group.barrier()
    if group.rank == 0:
        shutil.rmtree(scratch)


def read_state(directory: Path, scratch: Path) -> CanonicalState:
    """Read a checkpoint without an engine; that of a ZeRO stage is converted into ``scratch``."""
    file = min((directory / TAG).glob("*mp_rank_00_model_states.pt"))  # stage 3: one of each rank
    own = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
    if _is_partitioned(directory):
        if not (scratch / TAG).exists():
            _convert(directory / TAG, scratch / TAG)
        shapes = {name: shape for group in own["param_shapes"] for name, shape in group.items()}

        def read_converted(name: str, kind: str) -> torch.Tensor:
            found = _universal_tensor(scratch / TAG / "zero" / name, kind)
            return found.flatten()[: shapes[name].numel()].view(shapes[name])  # ZeRO 3: flat

        return CanonicalState(step=int(own["global_steps"]), read=read_converted)
    optimizer = own["optimizer"]
    states = optimizer.get("optimizer_state_dict", optimizer)["state"]
    places = {name: place for place, name in enumerate(_in_groups(own))}
    masters = [one for group in optimizer.get("fp32_groups", ()) for one in group]

    def read(name: str, kind: str) -> torch.Tensor:
        if kind == "weight":
            found = masters[places[name]] if masters else own["module"][name]
        else:
            found = states[places[name]][kind]
        return torch.as_tensor(found).float()

    return CanonicalState(step=int(own["global_steps"]), read=read)


def _is_partitioned(directory: Path) -> bool:
    """Return whether a ZeRO stage wrote a checkpoint: then its files are those of single ranks."""
    return any(_RANK.search(name) for name in files_under(directory / TAG))


def _in_groups(own: dict[str, Any]) -> list[str]:
    """Return parameter names in the order of the optimiser's groups: matrices, then gains."""
    named = {
        weight.data_ptr(): name  # of tied weights one, the first
        for name, weight in reversed(own["module"].items())
        if name not in own["buffer_names"]
    }
    weights = own["module"]
    kept = [name for name in weights if name in set(named.values())]
    return sorted(kept, key=lambda name: weights[name].dim() <= 1)


def _universal_tensor(directory: Path, kind: str) -> torch.Tensor:
    file = directory / f"{'fp32' if kind == 'weight' else kind}.pt"
    found = torch.load(file, map_location="cpu", weights_only=False)
    return torch.as_tensor(found["param"] if isinstance(found, dict) else found).float()


def _writer(name: str) -> int:
    found = _RANK.search(name)
    return int(found[1]) if found else 0


def _load(engine: Any, directory: Path) -> None:
    loaded, _ = engine.load_checkpoint(str(directory), tag=TAG)
    if loaded is None:
        raise TrainingError(
            "DeepSpeed found no checkpoint of its own",
            file=directory,
            fix="delete the directory to start from the first step",
        )


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main

    shutil.rmtree(target.parent, ignore_errors=True)
    target.mkdir(parents=True)
    # It writes its progress to both, which here are Ray's logs.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(
            Namespace(
                input_folder=str(source),
                output_folder=str(target),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )


@contextlib.contextmanager
def _universal(engine: Any) -> Iterator[None]:
    """Make the engine load the universal format, and repair what DeepSpeed 0.19 does for ZeRO 3.

    It gives every parameter group the settings of the first, so gains would begin to decay. All
    groups share one counter of steps, which each advances: with two groups losses were 0.2 % off
    after ten steps.
    """
    groups = engine.optimizer.param_groups
    settings = [{key: group[key] for key in group if key != "params"} for group in groups]
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False
    for group, values in zip(engine.optimizer.param_groups, settings):
        group.update(values)
    for state in engine.optimizer.optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()
