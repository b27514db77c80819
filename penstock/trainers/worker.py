"""What happens inside a Ray Train worker: one run after another, each committed when done."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.distributed

from penstock.artefact import Artefact, Draft, Workspace
from penstock.storage import atomic_file
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation import documents
from penstock.trainers.evaluation.during import During
from penstock.trainers.evaluation.evaluator import Evaluator, Scores
from penstock.trainers.evaluation.reading import Reader
from penstock.trainers.metrics import MetricsLog, StepMetrics
from penstock.trainers.modelling.flops import Parameters
from penstock.trainers.modelling.model import load_model
from penstock.trainers.reweighting.journal import FOLDER as WEIGHTS
from penstock.trainers.spec import RunSpec

__all__ = ["run_one"]

PART = "run"


def run_one(
    spec: RunSpec, workspace: Workspace, *, device: torch.device, rank: int, workers: int
) -> None:
    """Train, save, judge what was saved, and commit; all workers call this together."""
    began = time.perf_counter()
    draft = spec.draft(workspace)
    shards = ShardSet.open(spec.shards)
    directory = draft.staging()
    log = MetricsLog(directory) if rank == 0 else None
    share: _Share = {"device": device, "rank": rank, "workers": workers}
    last, parameters = _train(spec, shards, directory, log, share)
    scores = _judge(spec, shards, directory, share)
    if log:
        if spec.train.evaluate_every:
            log.evaluated(last.step, last.tokens, scores)
        log.close()
        facts = {
            "parameters": asdict(parameters),
            "tokens": last.tokens,
            "steps": last.step + 1,
            "loss": last.loss,
            **scores.to_json(),
            "seconds": round(time.perf_counter() - began, 3),
        }
        _commit(draft, facts, spec.train.document_losses)


class _Share(TypedDict):
    device: torch.device
    rank: int
    workers: int


def _train(
    spec: RunSpec, shards: ShardSet, directory: Path, log: MetricsLog | None, share: _Share
) -> tuple[StepMetrics, Parameters]:
    engine = Engine(
        spec.train,
        shards,
        spec.seed,
        reweighter=spec.reweighter() if spec.reweighter else None,
        journal=directory,
        **share,
    )
    during = _during(spec, shards, engine, share)
    last: StepMetrics | None = None
    for last in engine.run():
        if log:
            log.write(last)
        if during and during.due(engine.plan.global_batch(last.step)):
            scores = during.scores()
            if log:
                log.evaluated(last.step, last.tokens, scores)
    assert last is not None
    if engine.reweighting:
        engine.reweighting.finish()
    if log:
        shutil.rmtree(directory / "model", ignore_errors=True)
    engine.save(directory / "model")
    engine.close()
    if log:
        shutil.copyfile(shards.tokenizer, directory / "model" / "tokenizer.json")
    if share["workers"] > 1:
        torch.distributed.barrier()
    return last, engine.parameters


def _during(spec: RunSpec, shards: ShardSet, engine: Engine, share: _Share) -> During | None:
    if not spec.train.evaluate_every or not spec.evaluations:
        return None
    return During(
        deepspeed=engine.deepspeed,
        evaluator=_evaluator(engine.deepspeed, shards.tokenizer, shards, share),
        evaluations=spec.evaluations,
        every=spec.train.evaluate_every,
        tokens=spec.tokens,
    )


def _judge(spec: RunSpec, shards: ShardSet, directory: Path, share: _Share) -> Scores:
    """Evaluate the saved model, and tell documents their losses where that is asked for."""
    if not spec.evaluations and not spec.train.document_losses:
        return Scores(bits_per_byte={}, accuracy={})
    model = load_model(directory / "model").eval().to(share["device"])
    if spec.train.document_losses:
        documents.write_document_losses(
            model, shards, directory / documents.FILE, micro_batch=spec.train.micro_batch, **share
        )
    tokenizer = directory / "model" / "tokenizer.json"
    return _evaluator(model, tokenizer, shards, share).scores(spec.evaluations)


def _evaluator(model: Any, tokenizer: Path, shards: ShardSet, share: _Share) -> Evaluator:
    reader = Reader(model, **share)
    return Evaluator(reader, tokenizer, eos=shards.eos, context=shards.sequence_length)


def _commit(draft: Draft, facts: dict[str, Any], losses: bool) -> Artefact:
    directory = draft.staging()
    with atomic_file(directory / "result.json") as sink:
        sink.write(json.dumps(facts, indent=2).encode())
    folders = ["model", "tensorboard", WEIGHTS]
    found = [path for folder in folders for path in sorted((directory / folder).rglob("*"))]
    names = [path.relative_to(directory).as_posix() for path in found if path.is_file()]
    names += ["metrics.jsonl", "result.json", *([documents.FILE] if losses else [])]
    draft.record(PART, draft.adopt(names))
    return draft.publish([PART], facts)
