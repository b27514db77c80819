"""Runs: shards and settings in, a trained and evaluated model out, as an artefact.

A run that exists is not made again. The start of a Ray Train session takes some ten seconds (two
new processes that import PyTorch), so consecutive runs share one: :func:`train_all` starts one
session for each lane of runs. A session is one ``TorchTrainer.fit``: a controller and a group of
workers, which make the runs of one lane one after another. The driver reads progress from the runs'
``metrics.jsonl``, on the disk that all machines share.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from penstock.activity import step
from penstock.artefact import Workspace
from penstock.cluster import connect, extend_path, on_loopback
from penstock.display import numbered
from penstock.errors import RecipeError, TrainingError
from penstock.own_modules import OwnModules
from penstock.recipe import Train
from penstock.storage import as_path, delete, open_file
from penstock.temporary import set_private_caches
from penstock.trainers import metrics
from penstock.trainers.backends import find_backend
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.spec import OnMetrics, RunResult, RunSpec

__all__ = ["train_all"]

SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Environment variables of Ray Train; those that the user has set stay.

The controller checks its workers every 2 s by default, and a run of 10 s would wait for that twice.
"""

POLL_SECONDS = 0.2


def train_all(
    specs: Sequence[RunSpec],
    workspace: Workspace,
    *,
    parallel: int = 1,
    on_metrics: OnMetrics | None = None,
) -> list[RunResult]:
    """Make the runs that do not exist, up to ``parallel`` at a time; thread-safe.

    A run that exists and was not evaluated on all of its evaluations is only evaluated. Runs that
    finish before another fails are kept, and found by the next call.

    Returns:
        Results in the order of ``specs``.

    Raises:
        RecipeError: The back end refuses the settings or the machine, or the model to continue
            has another tokenizer than the shards; nothing was started.
        StorageError: Another user could have read or written the key that signs checkpoints.
        TrainingError: A worker failed; its own message, in one line.
    """
    for spec in specs:
        find_backend(spec.train.backend).check(spec.train)
    missing: dict[str, RunSpec] = {}
    for spec in specs:
        if spec.find(workspace) is None:
            same = missing.get(spec.fingerprint)
            missing[spec.fingerprint] = spec.merged(same) if same else spec
    for spec in missing.values():
        spec.check_tokenizer()
    if missing:
        with step(f"training {numbered(len(missing), 'model')}"):
            _launch(_lanes(list(missing.values()), parallel), workspace, on_metrics)
    results = [spec.find(workspace) for spec in specs]
    assert all(results)
    return [result for result in results if result]


def _lanes(specs: Sequence[RunSpec], parallel: int) -> list[list[RunSpec]]:
    """Deal runs to lanes, the longest first, so that all lanes finish at about the same time.

    A lane is one session, so its runs have equal numbers of workers and of CPUs for each.
    """
    lanes: list[list[RunSpec]] = []
    for spec in sorted(specs, key=lambda spec: -spec.tokens):
        fitting = [lane for lane in lanes if _resources(lane[0]) == _resources(spec)]
        if len(lanes) < parallel or not fitting:
            lanes.append([spec])
        else:
            min(fitting, key=lambda lane: sum(one.tokens for one in lane)).append(spec)
    return lanes


def _resources(spec: RunSpec) -> tuple[int, int]:
    return spec.train.workers, spec.train.cpus


def _launch(
    lanes: Sequence[Sequence[RunSpec]], workspace: Workspace, on_metrics: OnMetrics | None
) -> None:
    """Make all runs of all lanes, with the lanes in parallel.

    Raises:
        RecipeError: There are fewer CPUs than workers.
        TrainingError: The first failure, after the other lanes have ended.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    set_private_caches()
    connect()
    _check_cpus(lane[0].train for lane in lanes)
    errors: list[Exception] = []
    workspace.hold()
    signer = Signer.of_user()
    # In threads, because Ray changes the handling of Ctrl-C in the main thread.
    sessions = [
        threading.Thread(target=_run_session, args=(lane, workspace, signer, errors), daemon=True)
        for lane in lanes
    ]
    tails = [_Tail(spec, workspace) for lane in lanes for spec in lane] if on_metrics else []
    for session in sessions:
        session.start()
    running = True
    while running:
        alive = [session for session in sessions if session.is_alive()]
        running = bool(alive)
        for tail in tails:
            for line in tail.lines():
                assert on_metrics is not None
                on_metrics(tail.spec, line)
        if alive:
            alive[0].join(POLL_SECONDS)
    if errors:
        raise errors[0]


def _check_cpus(settings: Iterable[Train]) -> None:
    """Refuse more CPUs than there are, for which Ray would wait without end."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    for train in settings:
        # An autoscaling cluster may have none yet.
        if 0 < cpus < train.workers * train.cpus:
            raise RecipeError(
                f"Ray has {cpus} CPUs",
                key="train.workers",
                expected=f"at most {cpus // train.cpus} of {train.cpus} CPUs each",
                got=train.workers,
            )


def _run_session(
    lane: Sequence[RunSpec], workspace: Workspace, signer: Signer, errors: list[Exception]
) -> None:
    """Make the runs of a lane by one ``fit``; a failure is appended to ``errors``."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from penstock.trainers.rendezvous import LoopbackConfig

    train = lane[0].train
    # Ray Train's own state, which all nodes must be able to read.
    scratch = workspace.root / "run" / f".session-{uuid.uuid4().hex[:12]}"
    try:
        gpu = ray.cluster_resources().get("GPU", 0) >= train.workers
        threads = {"OMP_NUM_THREADS": str(train.cpus), "TOKENIZERS_PARALLELISM": "false"}
        TorchTrainer(
            _session_loop,
            train_loop_config={
                "own_modules": OwnModules(),
                "lane": list(lane),
                "workspace": Workspace(as_path(workspace.root)),
                "signer": signer,
                "generation": workspace.generation,
                "path": list(sys.path),
            },
            torch_config=(LoopbackConfig if on_loopback(ray) else TorchConfig)(
                backend="nccl" if gpu else "gloo"
            ),
            scaling_config=ScalingConfig(
                num_workers=train.workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": train.cpus, **({"GPU": 1} if gpu else {})},
            ),
            run_config=RunConfig(
                name="session",
                storage_path=str(scratch),
                worker_runtime_env={"env_vars": threads},
            ),
        ).fit()
    except Exception as error:
        errors.append(_worker_error(error))
    finally:
        delete(scratch)


def _session_loop(config: dict[str, Any]) -> None:
    """Make the runs of a lane, as one worker of a session."""
    extend_path(config["path"])
    set_private_caches()
    import ray.train
    import torch
    from ray.train.torch import get_device

    from penstock.trainers.group import Group
    from penstock.trainers.worker import run_one

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    context = ray.train.get_context()
    os.environ["LOCAL_SIZE"] = str(context.get_local_world_size())
    group = Group(context.get_world_rank(), context.get_world_size(), get_device())
    for spec in config["lane"]:
        run_one(spec, config["workspace"], group, config["signer"], config["generation"])
    # Without it 3 of 30 sessions aborted when the process group was destroyed.
    group.barrier()


class _Tail:
    """Lines that were appended to the files of a run since it was requested.

    A run that resumes replaces the metrics file by one with the lines of the steps it does not
    repeat. Until then the file is of an earlier attempt, and its lines are not returned. Of the
    steps that are not repeated the last one is returned, for the position of a progress bar.
    """

    def __init__(self, spec: RunSpec, workspace: Workspace) -> None:
        self.spec = spec
        directory = spec.draft(workspace).staging()
        self._metrics = directory / metrics.FILE
        self._notes = directory / metrics.NOTES
        self._before = self._inode()
        notes = self._notes.stat().st_size if self._notes.exists() else 0
        self._offsets = {self._metrics: 0, self._notes: notes}
        self._start = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self._appended(self._notes):
            self._start = line.get("step", self._start)
            yield line
        if self._inode() != self._before:
            for line in self._appended(self._metrics):
                if line["step"] >= self._start - 1:
                    yield line

    def _appended(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            with open_file(path) as source:
                source.seek(self._offsets[path])
                data = source.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] += len(whole)
        yield from map(json.loads, whole.splitlines())

    def _inode(self) -> int | None:
        """Return a number that differs between the metrics file and its replacement."""
        return self._metrics.stat().st_ino if self._metrics.exists() else None


def _worker_error(error: Exception) -> Exception:
    """Return the worker's own error in one line, without Ray's traceback."""
    failures = getattr(error, "worker_failures", None) or {}
    for _, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or getattr(failure, "_base_exc", None) or failure
        if isinstance(cause, Exception):
            return TrainingError(str(cause).strip().splitlines()[-1])
    return TrainingError(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
