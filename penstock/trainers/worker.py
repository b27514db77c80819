"""What happens inside a Ray Train worker: one run after another, each committed when done."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from penstock.artefact import Artefact, Draft, Workspace
from penstock.storage import atomic_file
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation.texts import Evaluator, Score
from penstock.trainers.metrics import MetricsLog, StepMetrics
from penstock.trainers.modelling.model import load_model
from penstock.trainers.spec import RunSpec

__all__ = ["run_one"]

PART = "run"


def run_one(
    spec: RunSpec, workspace: Workspace, *, device: torch.device, rank: int, workers: int
) -> None:
    """Train, save, evaluate what was saved, and commit; all workers call this together."""
    began = time.perf_counter()
    draft = spec.draft(workspace)
    shards = ShardSet.open(spec.shards)
    directory = draft.staging()
    last = _train(spec, shards, directory, device=device, rank=rank, workers=workers)
    scores = _evaluate(spec, shards, directory, device=device, rank=rank, workers=workers)
    if rank == 0:
        facts = {
            "tokens": last.tokens,
            "steps": last.step + 1,
            "loss": last.loss,
            "bits_per_byte": scores,
            "seconds": round(time.perf_counter() - began, 3),
        }
        _commit(draft, facts)


def _train(
    spec: RunSpec,
    shards: ShardSet,
    directory: Path,
    *,
    device: torch.device,
    rank: int,
    workers: int,
) -> StepMetrics:
    engine = Engine(spec.train, shards, spec.seed, device=device, rank=rank, workers=workers)
    log = MetricsLog(directory) if rank == 0 else None
    last: StepMetrics | None = None
    for last in engine.run():
        if log:
            log.write(last)
    assert last is not None
    if log:
        log.close()
        shutil.rmtree(directory / "model", ignore_errors=True)
    engine.save(directory / "model")
    engine.close()
    if rank == 0:
        shutil.copyfile(shards.tokenizer, directory / "model" / "tokenizer.json")
    if workers > 1:
        torch.distributed.barrier()
    return last


def _evaluate(
    spec: RunSpec,
    shards: ShardSet,
    directory: Path,
    *,
    device: torch.device,
    rank: int,
    workers: int,
) -> dict[str, dict[str, Any]]:
    if not spec.evaluations:
        return {}
    evaluator = Evaluator(
        load_model(directory / "model").eval().to(device),
        directory / "model" / "tokenizer.json",
        eos=shards.eos,
        context=shards.sequence_length,
    )
    return {
        item.name: _plain(evaluator.score(item, rank=rank, workers=workers))
        for item in spec.evaluations
    }


def _plain(score: Score) -> dict[str, Any]:
    values = asdict(score)
    return {"mean": values.pop("bits_per_byte"), **values}


def _commit(draft: Draft, facts: dict[str, Any]) -> Artefact:
    directory = draft.staging()
    with atomic_file(directory / "result.json") as sink:
        sink.write(json.dumps(facts, indent=2).encode())
    folders = ["model", "tensorboard"]
    found = [path for folder in folders for path in sorted((directory / folder).rglob("*"))]
    names = [path.relative_to(directory).as_posix() for path in found if path.is_file()]
    draft.record(PART, draft.adopt([*names, "metrics.jsonl", "result.json"]))
    return draft.publish([PART], facts)
