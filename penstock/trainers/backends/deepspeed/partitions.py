"""Give a canonical state to DeepSpeed's optimiser, whatever its ZeRO stage.

Every worker reads each tensor whole, one at a time, and keeps its own part. Of the optimisers::

    stage 0, float32     AdamW itself, on the model's weights
    stage 0, bf16, fp16  a float32 master of each weight                 ``fp32_groups``
    stages 1 and 2       a flat part of each group of weights            ``_hp_mapping``
    stage 3              flat parts of groups, and parts of the weights  ``fp16_groups``

So a run goes on at another stage, or with other settings of ``zero_optimization``, than those that
wrote its checkpoint. DeepSpeed's universal format does the same only between ZeRO stages that
partition alike.
"""

from __future__ import annotations

from typing import Any

import torch

from penstock.errors import TrainingError
from penstock.trainers.backends.base import MOMENTS, CanonicalState, restore_adamw

__all__ = ["restore_state"]


@torch.no_grad()
def restore_state(engine: Any, state: CanonicalState) -> None:
    """Set weights, moments and the number of steps; every worker must call this.

    Args:
        engine: DeepSpeed's, which has not trained yet.
        state: That of the model with the same names of parameters.

    Raises:
        TrainingError: DeepSpeed keeps the state in files (NVMe).
    """
    optimizer = engine.optimizer
    names = {id(weight): name for name, weight in engine.module.named_parameters()}
    if isinstance(optimizer, torch.optim.Optimizer):
        restore_adamw(optimizer, engine.module.named_parameters(), state)
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):
        _restore_stage_3(optimizer, names, state)
    elif hasattr(optimizer, "fp32_groups"):
        _restore_masters(optimizer, names, state)
    else:
        _restore_parts(engine, optimizer, state)
    engine.global_steps, engine.skipped_steps = state.step, 0


def _restore_masters(optimizer: Any, names: dict[int, str], state: CanonicalState) -> None:
    for masters, weights in zip(optimizer.fp32_groups, optimizer.fp16_groups):
        for master, weight in zip(masters, weights):
            name = names[id(weight)]
            master.data.copy_(state.read(name, "weight"))
            weight.data.copy_(master.data)
            own = _fresh(optimizer.optimizer, master, state.step)
            for kind in MOMENTS:
                own[kind].copy_(state.read(name, kind))


def _restore_parts(engine: Any, optimizer: Any, state: CanonicalState) -> None:
    """Restore the flat part of each group that this worker updates; all weights are here."""
    flats = [group["params"][0] for group in optimizer.optimizer.param_groups]
    moments = [_fresh(optimizer.optimizer, flat, state.step) for flat in flats]
    for name, weight in engine.module.named_parameters():
        whole = state.read(name, "weight")
        weight.data.copy_(whole)
        mapping = weight._hp_mapping
        if mapping is None:  # another worker's
            continue
        of, at = mapping.lp_fragment_address, mapping.hp_fragment_address
        group = mapping.param_group_index
        targets = {"weight": flats[group].data, **{kind: moments[group][kind] for kind in MOMENTS}}
        for kind, target in targets.items():
            values = whole if kind == "weight" else state.read(name, kind)
            own = values.flatten().narrow(0, of.start, of.numel)
            target.narrow(0, at.start, at.numel).copy_(own)


def _restore_stage_3(optimizer: Any, names: dict[int, str], state: CanonicalState) -> None:
    """Restore the parts of all weights, from which small weights are gathered again."""
    if optimizer.swap_optimizer or any(
        flat is None for flat in optimizer.fp16_partitioned_groups_flat
    ):
        raise TrainingError(
            "a checkpoint of other settings cannot be written to NVMe",
            key="train.deepspeed.zero_optimization",
            expected="offload_optimizer and offload_param to cpu, or none",
            got="nvme",
            fix="go on with the settings that wrote the checkpoint",
        )
    rank = torch.distributed.get_rank(optimizer.dp_process_group)
    groups = zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat)
    for number, (weights, flat) in enumerate(groups):
        own = _fresh(optimizer.optimizer, flat, state.step)
        for kind, target in {"weight": flat.data, **own}.items():
            if kind == "step":
                continue
            first = 0
            for weight in weights:
                size = weight.ds_tensor.ds_numel
                part = state.read(names[id(weight)], kind).flatten()[rank * size :][:size]
                target[first : first + len(part)].copy_(part)
                first += size
        optimizer.fp16_partitioned_groups_flat[number].copy_(flat.data)
        parts = optimizer.unflatten(
            optimizer.fp16_partitioned_groups_flat[number],
            optimizer.fp16_partitioned_groups[number],
        )
        for weight, part in zip(optimizer.fp16_partitioned_groups[number], parts):
            weight.data = part.data
    if optimizer.persistent_parameters:
        first = optimizer.persistent_parameters[0]
        first.partition(optimizer.persistent_parameters)
        first.all_gather(optimizer.persistent_parameters)


def _fresh(optimizer: Any, parameter: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
    """Return the state of a parameter after a number of steps, with moments of zero.

    Tensors that exist stay, since DeepSpeed has views of them.
    """
    own: dict[str, torch.Tensor] = optimizer.state[parameter]
    for kind in MOMENTS:
        own[kind] = own.get(kind, torch.zeros_like(parameter.data)).zero_()
    own["step"] = torch.tensor(float(step), device=parameter.device)
    return own
