"""One rank of several: whole runs over gloo, one after another, in a fork; see test_ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from penstock.recipe import ModelShape, ReweightSpec, Train
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group

HERE = Path(__file__).parent
LINUPPER = {"use": "loss", "warmup": {"steps": 1}, "temperature": 1.0}
CASES = {
    # name: (reweight, stage)
    "linupper": (LINUPPER, 1),
    "documents": ({**LINUPPER, "sample": "document", "block": 4}, 0),
    "uds": ({"use": "uds", "share": 0.4, "memory": 8}, 2),
    "selecting": ({"use": "selecting:reweight"}, 3),
}


def main(shards: str, directory: str, rank: int, workers: int) -> None:
    store = f"file://{directory}/store"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=workers)
    for name, (reweight, stage) in CASES.items():
        spec = ReweightSpec.model_validate(reweight)
        train = Train(
            model=ModelShape(layers=1, width=32, heads=2),
            batch_tokens=10 * 32,
            micro_batch=2,
            tokens=35 * 32 + 9,
            lr=1e-2,
            warmup=0.0,
            reweight=spec,
            deepspeed={"zero_optimization": {"stage": stage}},
        )
        kept = Path(directory) / name / str(rank)
        made = Engine(
            train,
            ShardSet.open(Path(shards)),
            1,
            Group(rank, workers),
            reweighter=PlannedReweighter(spec, [HERE])(),
            journal=kept,
        )
        lines = [
            {"loss": step.loss, "norm": step.grad_norm, "data": step.data, **step.reweighting}
            for step in made.run()
        ]
        assert made.reweighting
        made.reweighting.finish()
        assert (kept / "weights").exists() == (rank == 0), "rank 0 alone keeps a journal"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "steps.json").write_text(json.dumps(lines))
        np.savez(kept / "state.npz", **made.reweighting.reweighter.state())
        made.close()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
