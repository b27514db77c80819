"""One run in a worker of a session: train, save, commit, evaluate."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

from penstock.artefact import Draft, Workspace
from penstock.errors import TrainingError
from penstock.storage import atomic_file
from penstock.tokenization.examining import examined
from penstock.trainers.backends import find_backend
from penstock.trainers.checkpoints.folder import Folder
from penstock.trainers.checkpoints.parent import ParentCheckpoint, first_position, fitting
from penstock.trainers.checkpoints.saving import Checkpoints, Cursor, pinned_steps, records_of
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.data.plan import batch_length
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation.run_evaluator import RunEvaluator
from penstock.trainers.group import Group
from penstock.trainers.metrics import FILE, NOTES, MetricsLog, add_note
from penstock.trainers.not_finite import NotFinitePolicy
from penstock.trainers.reweighting.journal import FOLDER as WEIGHTS
from penstock.trainers.spec import RunSpec

__all__ = ["run_one"]

PART = "run"


def run_one(
    spec: RunSpec, workspace: Workspace, group: Group, signer: Signer, generation: int = 0
) -> None:
    """Train, export and commit, unless it was done; then evaluate; all workers call this together.

    The run is committed before its model is evaluated, so that an evaluation that fails or is
    killed costs no training.

    Resumes from the newest checkpoint of an earlier attempt, which ``signer`` has to accept.
    ``generation`` is the number of the driver's lease: an attempt of an earlier one ends.
    """
    spec = spec.resolved(gpus=group.device.type == "cuda")
    shards = ShardSet.open(spec.shards, part=group.local_rank, parts=group.local_workers)
    evaluator = RunEvaluator(spec, shards, group)
    finished = not group.rank and spec.run(workspace) is not None
    # Here each worker waits until the others, too, have compared their files of the shards.
    if not group.broadcast(int(finished)):
        _make(spec, shards, evaluator, workspace, group, signer, generation)
    evaluator.measure(workspace, generation)


def _make(
    spec: RunSpec,
    shards: ShardSet,
    evaluator: RunEvaluator,
    workspace: Workspace,
    group: Group,
    signer: Signer,
    generation: int,
) -> None:
    """Train, export and commit."""
    began = time.perf_counter()
    draft = spec.draft(workspace)
    directory = draft.staging()
    settings = spec.train.checkpoint or None
    checkpoints = Checkpoints(
        directory,
        settings,
        shards=shards.artefact.digest,
        seed=spec.seed,
        backend=spec.train.backend,
        layout=find_backend(spec.train.backend).layout(spec.train),
        pins=pinned_steps(settings, spec.tokens, batch_length(spec.train, shards)),
        group=group,
        signer=signer,
        progress=functools.partial(add_note, directory),
        generation=generation,
    )
    with contextlib.ExitStack() as stack:  # a failing step ends the writers of metrics, too
        log, facts = _train(spec, shards, directory, checkpoints, evaluator, group, stack)
    if log:
        if "loss" not in log.last:
            raise TrainingError("no step was finite", key="train.lr", fix="lower it")
        facts |= {
            "loss": log.last["loss"],
            **({"not_finite": log.not_finite} if log.not_finite else {}),
            **({"spikes": log.spikes.count} if log.spikes.count else {}),
            "seconds": round(time.perf_counter() - began, 3),
        }
        spec.check_model()
        _commit(draft, facts, checkpoints.folder)


def _train(
    spec: RunSpec,
    shards: ShardSet,
    directory: Path,
    checkpoints: Checkpoints,
    evaluator: RunEvaluator,
    group: Group,
    stack: contextlib.ExitStack,
) -> tuple[MetricsLog | None, dict[str, Any]]:
    """Train and export; return the log of rank 0, which ``stack`` closes, and facts of the model
    and the data."""
    engine, cursor = _start(spec, shards, directory, checkpoints, group)
    step, tokens = (cursor.step, cursor.tokens) if cursor else (0, 0)
    policy = NotFinitePolicy(spec.train.not_finite, checkpoints)
    log = None
    if group.rank == 0:
        with checkpoints.folder.alone():  # it replaces lines, and files of TensorBoard
            log = stack.enter_context(contextlib.closing(MetricsLog(directory, step)))
    due = cursor is not None
    for metrics in engine.run(step):
        if log:
            log.write(metrics.line())
        policy.follow(metrics, engine.backend)
        if evaluator.due(tokens, metrics.tokens):
            scores = evaluator.evaluate_live(engine.backend)
            if log:
                log.write(scores.line(metrics.step, metrics.tokens))
        due = checkpoints.schedule.due(tokens, metrics.tokens, metrics.step + 1)
        step, tokens = metrics.step + 1, metrics.tokens
        if due:
            _save(engine, checkpoints, log, step, tokens)
            policy.saved()
    # The export can be killed, too; a checkpoint spares the training.
    if checkpoints.ever and not due:
        _save(engine, checkpoints, log, step, tokens)
    if engine.reweighting:
        engine.reweighting.finish()
    exported = checkpoints.folder.path / f".model.{checkpoints.folder.attempt[:8]}.tmp"
    if log:
        exported.mkdir(mode=0o700)
    engine.save(exported)
    engine.close()
    if log:
        _save_tokenizer(shards, exported)
        checkpoints.folder.install(exported, directory / "model")
    group.barrier()
    return log, {
        "tokens": tokens,
        "steps": step,
        "parameters": engine.parameters,
        "batch_tokens": engine.plan.batch * engine.plan.length,
        "epochs": engine.plan.epochs(),
        "repeated_tokens": engine.plan.repeated(),
    }


def _start(
    spec: RunSpec, shards: ShardSet, directory: Path, checkpoints: Checkpoints, group: Group
) -> tuple[Engine, Cursor | None]:
    """Start an engine with the state of the newest checkpoint of the run, or of its parent.

    Returns:
        The engine, and the cursor of the run's own checkpoint, if there was one.
    """
    cursor = checkpoints.find()
    parent, start = None, cursor.start if cursor else None
    if spec.parent and not cursor:
        parent = ParentCheckpoint.open(spec.parent, group, checkpoints.signer)
        start, why = first_position(parent.cursor, spec, shards)
        checkpoints.report(f"continuing run {spec.parent.run} at step {spec.parent.step}: {why}")
    engine = Engine(
        spec.train,
        shards,
        spec.seed,
        group,
        reweighter=spec.reweighter() if spec.reweighter else None,
        journal=directory,
        start=start,
    )
    if cursor:
        files = checkpoints.load(cursor, engine.backend)
        if engine.reweighting:
            engine.reweighting.restore(files)
    elif parent:
        check = functools.partial(fitting, shapes=engine.shapes, where=str(parent.files.directory))
        checkpoints.restore(parent.files, parent.cursor, engine.backend, check)
    late = sorted(pin for pin in checkpoints.pins if pin > engine.plan.steps)
    if late:
        checkpoints.report(
            f"train.checkpoint.at: the run has {engine.plan.steps} steps and no step {late[0]}"
        )
    return engine, cursor


def _save(
    engine: Engine, checkpoints: Checkpoints, log: MetricsLog | None, step: int, tokens: int
) -> None:
    """Save a checkpoint before ``step``, after ``tokens``."""
    if log:
        log.sync()
    checkpoints.save(
        engine.backend,
        step,
        tokens,
        engine.reweighting.save() if engine.reweighting else {},
        start=engine.plan.start,
        position=engine.plan.position_after(step),
    )


def _save_tokenizer(shards: ShardSet, directory: Path) -> None:
    """Write the tokenizer beside a model, under the names that transformers reads."""
    from tokenizers import Tokenizer

    shutil.copyfile(shards.tokenizer, directory / "tokenizer.json")
    end = Tokenizer.from_str(examined(shards.tokenizer)).id_to_token(shards.eos)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": shards.sequence_length,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _commit(draft: Draft, facts: dict[str, Any], folder: Folder) -> None:
    directory = draft.staging()
    with folder.alone(), atomic_file(directory / "result.json") as sink:
        sink.write(json.dumps(facts, indent=2).encode())
    folders = ["model", "tensorboard", WEIGHTS]
    found = [path for folder in folders for path in sorted((directory / folder).rglob("*"))]
    names = [path.relative_to(directory).as_posix() for path in found if path.is_file()]
    names += [FILE, "result.json"]
    names += [NOTES] if (directory / NOTES).exists() else []
    # The checkpoints' checksums are known, and a resumed run verifies them: to read gigabytes here
    # is no use. They are recorded so that a finished run can be resumed from.
    checkpoints = draft.adopt_known(records_of(directory))
    records = [*draft.adopt(names), *checkpoints]
    with folder.alone():
        draft.record(PART, records)
        draft.publish([PART], facts)
