"""Sessions that start again after a failure: ``train.max_failures``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import (
    ArtefactError,
    NotFiniteError,
    RecipeError,
    StorageError,
    TrainingError,
)
from penstock.recipe import Train
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.group import Group
from penstock.trainers.run import train_all
from penstock.trainers.sessions import restarting
from penstock.trainers.sessions.on_ray import _causes
from penstock.trainers.sessions.restarting import (
    FailedSession,
    make_lane,
    may_pass,
    pause_before,
)
from penstock.trainers.spec import RunSpec
from penstock.trainers.worker import run_one
from tests.harness.training import TRAIN

DEATH = TrainingError("a worker was killed by SIGKILL")


def spec(shards: Path, **changes: Any) -> RunSpec:
    train = Train.model_validate({**TRAIN, "backend": "torch", **changes})
    return RunSpec(train=train, shards=shards, seed=1).resolved(gpus=False)


def lines(directory: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / name).read_text().splitlines()]


def kill_a_worker_once(saved: Callable[[], bool]) -> threading.Thread:
    """Kill a worker of this process that started after this call, once ``saved()`` is true."""
    of_others = set(psutil.Process().children())

    def kill() -> None:
        while not saved():
            time.sleep(0.003)
        below = set(psutil.Process().children()) - of_others
        workers = [child for child in below if "runners.worker" in " ".join(child.cmdline())]
        workers[0].kill()

    killing = threading.Thread(target=kill, daemon=True)
    killing.start()
    return killing


@pytest.mark.usefixtures("process_group")
def test_a_session_whose_worker_is_killed_goes_on_by_itself(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"checkpoint": {"minutes": None, "tokens": 2_560}, "tokens": 8_000}
    alone = spec(shards, **settings)
    undisturbed = Workspace(tmp_path / "undisturbed")
    run_one(alone, undisturbed, Group(), Signer(bytes(32)))
    path = Path(alone.draft(undisturbed).path)

    monkeypatch.setattr(restarting, "FIRST_PAUSE", 0.01)
    wanted = spec(shards, max_failures=1, **settings)
    assert wanted.fingerprint == alone.fingerprint
    killed = tmp_path / "killed"
    killing = kill_a_worker_once(lambda: any(killed.glob("run/*/checkpoints/step-*")))
    seen: list[dict[str, Any]] = []
    (result,) = train_all([wanted], Workspace(killed), on_metrics=lambda _, line: seen.append(line))
    killing.join()

    def trained(directory: Path) -> list[tuple[Any, ...]]:
        return [(one["step"], one["data"], one["loss"]) for one in lines(directory)]

    assert trained(Path(result.path)) == trained(path)
    files = {record.path: record.sha256 for record in Artefact.open(path).files}
    for record in Artefact.open(result.path).files:
        if record.path.startswith("model/"):
            assert record.sha256 == files[record.path], record.path
    restart, resumed = lines(Path(result.path), "notes.jsonl")
    assert restart["restart"] == 1 and resumed["step"] >= 10
    followed = [line["step"] for line in seen if "loss" in line]
    at = next(n for n, line in enumerate(seen) if "restart" in line)
    assert seen[at] == restart and seen[at + 1] == resumed
    after = [line["step"] for line in seen[at:] if "loss" in line]
    assert after == list(range(resumed["step"] - 1, 32)) and followed[0] == 0


def failing(*outcomes: Sequence[Exception]) -> tuple[Callable[[], None], list[int]]:
    """Return a session that fails with these causes in turn, and then succeeds; and its calls."""
    calls: list[int] = []

    def session() -> None:
        calls.append(len(calls))
        if len(calls) <= len(outcomes):
            causes = outcomes[len(calls) - 1]
            raise FailedSession(causes[0], causes)

    return session, calls


@pytest.mark.parametrize(
    ("most", "outcomes", "calls"),
    [
        (0, [[DEATH]], 1),
        (1, [[DEATH], [DEATH]], 2),
        (2, [[DEATH], [DEATH, RuntimeError("connection closed")]], 3),
        (9, [[RecipeError("wrong", key="train.lr")]], 1),
        (9, [[DEATH, NotFiniteError("step 3: the loss is nan")]], 1),
        (9, [[DEATH], [StorageError("full", file="x")]], 2),
    ],
)
def test_the_number_of_restarts(
    most: int,
    outcomes: list[list[Exception]],
    calls: int,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restarting, "FIRST_PAUSE", 0.0)
    session, called = failing(*outcomes)
    lane, workspace = [spec(shards, max_failures=most)], Workspace(tmp_path)
    if calls > len(outcomes):
        make_lane(session, lane, workspace, threading.Event())
    else:
        with pytest.raises(type(outcomes[-1][0])) as info:
            make_lane(session, lane, workspace, threading.Event())
        assert info.value is outcomes[-1][0]
    assert len(called) == calls
    notes = Path(lane[0].draft(workspace).path) / "notes.jsonl"
    found = lines(notes.parent, notes.name) if notes.exists() else []
    assert [note["restart"] for note in found] == list(range(1, calls))
    assert all("SIGKILL" in note["note"] for note in found)


def test_nothing_starts_again_after_the_command_was_stopped(shards: Path, tmp_path: Path) -> None:
    session, called = failing([DEATH])
    stopped = threading.Event()
    threading.Timer(0.05, stopped.set).start()
    with pytest.raises(TrainingError):  # the pause is of 2 s
        make_lane(session, [spec(shards, max_failures=9)], Workspace(tmp_path), stopped)
    assert called == [0]


def test_the_note_of_a_long_error_is_short(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarting, "FIRST_PAUSE", 0.0)
    session, _ = failing([TrainingError("The actor is dead. " * 40)])
    wanted = spec(shards, max_failures=1)
    make_lane(session, [wanted], Workspace(tmp_path), threading.Event())
    (note,) = lines(Path(wanted.draft(Workspace(tmp_path)).path), "notes.jsonl")
    assert note["note"].startswith("The actor is dead.") and len(note["note"]) < 300


def test_which_failures_may_pass() -> None:
    assert may_pass(DEATH) and may_pass(RuntimeError("gloo")) and may_pass(MemoryError())
    assert not may_pass(RecipeError("x", key="train.lr"))
    assert not may_pass(NotFiniteError("step 3: the loss is nan"))
    assert not may_pass(TrainingError("no step was finite", key="train.lr"))
    assert not may_pass(TrainingError("changed", file="checkpoint"))
    assert not may_pass(ArtefactError("changed"))


def test_pauses_double_up_to_a_minute() -> None:
    assert [pause_before(n) for n in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]
    assert pause_before(10_000) == 60


def test_errors_of_workers_of_ray_train_keep_their_types() -> None:
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import (
        UserExceptionWithTraceback,
        WorkerHealthCheckFailedError,
    )

    ours = NotFiniteError("step 3: the loss is nan")
    lost = RuntimeError("The actor died")
    error = WorkerGroupError(
        "",
        {
            1: WorkerHealthCheckFailedError("", failure=lost),
            0: UserExceptionWithTraceback(ours, "Traceback"),
        },
    )
    assert next(map(type, _causes(error))) is NotFiniteError
    assert [may_pass(cause) for cause in _causes(error)] == [False, True]
