"""Runs: shards and settings in, a trained and evaluated model out, as an artefact.

A run that exists is not made again. The start of a session takes seconds (its processes import
PyTorch), so consecutive runs share one: :func:`train_all` starts one session for each lane of runs,
which makes them one after another. The workers are processes of this machine
(:mod:`penstock.trainers.sessions.local`), or those of Ray Train on a cluster
(:mod:`penstock.trainers.sessions.on_ray`). The driver reads progress from the runs'
``metrics.jsonl``, on the disk that all machines share.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.activity import step
from penstock.artefact import Workspace
from penstock.display import logger_of, numbered
from penstock.recipe import Train
from penstock.storage import open_file, read_file
from penstock.trainers import metrics
from penstock.trainers.backends import find_backend
from penstock.trainers.branches import find_branch_point
from penstock.trainers.checkpoints.folder import Folder
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.sessions.local import LocalSessions
from penstock.trainers.sessions.on_ray import RaySessions
from penstock.trainers.sessions.restarting import make_lane
from penstock.trainers.spec import OnMetrics, RunResult, RunSpec

__all__ = ["device_words", "resolved", "room_for", "train_all"]

_log = logger_of(__name__)

POLL_SECONDS = 0.2


def train_all(
    specs: Sequence[RunSpec],
    workspace: Workspace,
    *,
    parallel: int | None = None,
    on_metrics: OnMetrics | None = None,
) -> list[RunResult]:
    """Make the runs that do not exist, up to ``parallel`` at a time; thread-safe.

    By default as many at a time as there is room for (:func:`room_for`).

    A run that exists and was not evaluated on all of its evaluations is only evaluated. Runs that
    finish before another fails are kept, and found by the next call.

    Returns:
        Results in the order of ``specs``.

    Raises:
        RecipeError: The back end refuses the settings or the machine, the model to continue has
            another tokenizer than the shards, or there is no run or checkpoint to continue from;
            nothing was started.
        StorageError: Another user could have read or written the key that signs checkpoints.
        TrainingError: A worker failed, more often than ``train.max_failures``; its own message, in
            one line.
    """
    for spec in specs:
        find_backend(spec.train.backend).check(spec.train)
    specs = resolved(specs, workspace)
    missing: dict[str, RunSpec] = {}
    for spec in specs:
        found = spec.find(workspace)
        if found is not None:
            _warn_without_curve(spec, found)
        else:
            same = missing.get(spec.fingerprint)
            missing[spec.fingerprint] = spec.merged(same) if same else spec
    for spec in missing.values():
        spec.check_tokenizer()
        _check_parent(spec, workspace)
    if missing:
        parallel = parallel or min(room_for(spec.train) for spec in missing.values())
        with step(f"training {numbered(len(missing), 'model')}"):
            _launch(_lanes(list(missing.values()), parallel), workspace, on_metrics)
    results = [spec.find(workspace) for spec in specs]
    assert all(results)
    return [result for result in results if result]


def device_words(train: Train) -> str:
    """Return where such runs are trained, for people: what ``train.device: auto`` chose.

    Raises:
        RecipeError: As :func:`room_for`.
    """
    kind = LocalSessions if LocalSessions.suffice() else RaySessions
    gpus = kind.on_gpus(train)
    if train.device == "auto":
        return "on GPUs (train.device: auto)" if gpus else "on CPUs, since no GPU was found"
    return "on GPUs" if gpus else "on CPUs"


def resolved(specs: Sequence[RunSpec], workspace: Workspace) -> list[RunSpec]:
    """Resolve what names of runs depend on: ``train.dtype`` and ``train.continue_from``.

    Args:
        specs: The runs; ``auto`` becomes the type of where they would be trained, GPUs or CPUs.
        workspace: Where runs to continue from are looked for by name.

    Raises:
        RecipeError: As :meth:`.spec.RunSpec.resolved`, :func:`room_for` and
            :func:`.branches.find_branch_point`.
    """
    return [_resolved(spec, workspace) for spec in specs]


def _resolved(spec: RunSpec, workspace: Workspace) -> RunSpec:
    if spec.train.continue_from and not spec.parent:
        spec = replace(spec, parent=find_branch_point(spec.train.continue_from, workspace))
    kind = LocalSessions if LocalSessions.suffice() else RaySessions
    return spec.resolved(gpus=spec.train.dtype == "auto" and kind.on_gpus(spec.train))


def _check_parent(spec: RunSpec, workspace: Workspace) -> None:
    """Check that the checkpoint to continue from exists, unless the run has one of its own.

    Raises:
        RecipeError: As :meth:`.branches.BranchPoint.check`.
    """
    own = spec.draft(workspace).staging() / "checkpoints"
    if spec.parent and not Folder(own).committed():
        spec.parent.check()


def _warn_without_curve(spec: RunSpec, found: RunResult) -> None:
    """Warn of a finished run without the evaluations during training that are wanted now."""
    if not spec.train.evaluate_every or not spec.evaluations:
        return
    if b'"evaluation"' in read_file(found.path / metrics.FILE):
        return
    _log.warning(
        "train.evaluate_every: the run %s was trained without it and has no learning curve; "
        "another train.seed makes a run that has one",
        found.path,
    )


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
        RecipeError: There are fewer CPUs than the workers need.
        TrainingError: The first failure, after the other lanes have ended.
    """
    sessions = _sessions(lanes)
    errors: list[Exception] = []
    workspace.hold()
    signer = Signer.of_user()

    stopped = threading.Event()

    def make(lane: Sequence[RunSpec]) -> None:
        try:
            make_lane(lambda: sessions.make(lane, workspace, signer), lane, workspace, stopped)
        except Exception as error:
            errors.append(error)

    # In threads, because Ray changes the handling of Ctrl-C in the main thread.
    threads = [threading.Thread(target=make, args=(lane,), daemon=True) for lane in lanes]
    tails = [_Tail(spec, workspace) for lane in lanes for spec in lane] if on_metrics else []
    for thread in threads:
        thread.start()
    running = True
    try:
        while running:
            alive = [thread for thread in threads if thread.is_alive()]
            running = bool(alive)
            for tail in tails:
                for line in tail.lines():
                    assert on_metrics is not None
                    on_metrics(tail.spec, line)
            if alive:
                alive[0].join(POLL_SECONDS)
    finally:
        stopped.set()  # after Ctrl-C no session is started again
    if errors:
        raise errors[0]


def room_for(train: Train) -> int:
    """Return how many sessions of such runs this machine, or the cluster, has room for.

    Raises:
        RecipeError: ``train.device`` asks for GPUs that are not there.
    """
    return (LocalSessions if LocalSessions.suffice() else RaySessions).room(train)


def _sessions(lanes: Sequence[Sequence[RunSpec]]) -> LocalSessions | RaySessions:
    return LocalSessions(lanes) if LocalSessions.suffice() else RaySessions(lanes)


class _Tail:
    """Lines that were appended to the files of a run since it was requested.

    A run that resumes replaces the metrics file by one with the lines of the steps it does not
    repeat. Until then the file is of an earlier attempt, and its lines are not returned. Of the
    steps that are not repeated the last one is returned, for the position of a progress bar. A
    session that is started again replaces the file once more, and is followed likewise.
    """

    def __init__(self, spec: RunSpec, workspace: Workspace) -> None:
        self.spec = spec
        directory = spec.draft(workspace).staging()
        self._metrics = directory / metrics.FILE
        self._notes = directory / metrics.NOTES
        self._old = self._metrics.stat().st_ino if self._metrics.exists() else None
        """A number that differs between the metrics file and its replacement."""
        self._read: int | None = None
        """That number of the file that was read last."""
        notes = self._notes.stat().st_size if self._notes.exists() else 0
        self._offsets = {self._metrics: 0, self._notes: notes}
        self._start = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self._appended(self._notes):
            if "restart" in line:
                self._start, self._old = 0, self._read or self._old
            self._start = line.get("step", self._start)
            yield line
        for line in self._appended(self._metrics):
            if line["step"] >= self._start - 1:
                yield line

    def _appended(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            with open_file(path) as source:
                if path == self._metrics and not self._follow(os.fstat(source.fileno()).st_ino):
                    return
                source.seek(self._offsets[path])
                data = source.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] += len(whole)
        yield from map(json.loads, whole.splitlines())

    def _follow(self, inode: int) -> bool:
        """Begin a file that replaced the last one; return False of the file before the command."""
        if inode == self._old:
            return False
        if inode != self._read:
            self._read, self._offsets[self._metrics] = inode, 0
        return True
