"""What happens inside a Ray Train worker: one run after another, each committed when done."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from penstock.artefact import Artefact, Draft, Workspace
from penstock.storage import atomic_file
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation.judging import Judge
from penstock.trainers.metrics import MetricsLog
from penstock.trainers.modelling.flops import Parameters
from penstock.trainers.reweighting.journal import FOLDER as WEIGHTS
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
    judge = Judge(spec, shards, device=device, rank=rank, workers=workers)
    log, parameters = _train(
        spec, shards, directory, judge, device=device, rank=rank, workers=workers
    )
    scores = judge.finish(directory)
    if log:
        last = log.last
        if spec.train.evaluate_every:
            log.evaluated(last["step"], last["tokens"], scores, saved=True)
        log.close()
        facts = {
            "parameters": asdict(parameters),
            "tokens": last["tokens"],
            "steps": last["step"] + 1,
            "loss": last["loss"],
            **scores.to_json(),
            "seconds": round(time.perf_counter() - began, 3),
        }
        _commit(draft, facts, judge.files)


def _train(
    spec: RunSpec,
    shards: ShardSet,
    directory: Path,
    judge: Judge,
    *,
    device: torch.device,
    rank: int,
    workers: int,
) -> tuple[MetricsLog | None, Parameters]:
    """The log of rank 0, still open, and how large the model is."""
    engine = Engine(
        spec.train,
        shards,
        spec.seed,
        device=device,
        rank=rank,
        workers=workers,
        reweighter=spec.reweighter() if spec.reweighter else None,
        journal=directory,
    )
    log = MetricsLog(directory) if rank == 0 else None
    during = judge.during(engine.deepspeed)
    for metrics in engine.run():
        if log:
            log.write(metrics)
        if during and during.due(engine.plan.global_batch(metrics.step)):
            scores = during.scores()
            if log:
                log.evaluated(metrics.step, metrics.tokens, scores)
    if engine.reweighting:
        engine.reweighting.finish()
    if log:
        shutil.rmtree(directory / "model", ignore_errors=True)
    engine.save(directory / "model")
    engine.close()
    if rank == 0:
        shutil.copyfile(shards.tokenizer, directory / "model" / "tokenizer.json")
    if workers > 1:
        torch.distributed.barrier()
    return log, engine.parameters


def _commit(draft: Draft, facts: dict[str, Any], more: Sequence[str]) -> Artefact:
    directory = draft.staging()
    with atomic_file(directory / "result.json") as sink:
        sink.write(json.dumps(facts, indent=2).encode())
    folders = ["model", "tensorboard", WEIGHTS]
    found = [path for folder in folders for path in sorted((directory / folder).rglob("*"))]
    names = [path.relative_to(directory).as_posix() for path in found if path.is_file()]
    draft.record(PART, draft.adopt([*names, "metrics.jsonl", "result.json", *more]))
    return draft.publish([PART], facts)
