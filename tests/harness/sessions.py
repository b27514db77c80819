"""Training sessions of one worker in this process, without Ray Train.

A session takes 15 s of CPU time to start, in five processes. Those of Ray Train are tested in
tests/trainers/test_run.py, which also shows that a run is the same whatever its session.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from penstock.artefact import Workspace
from penstock.storage import as_path
from penstock.trainers import run
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.group import Group
from penstock.trainers.spec import RunSpec
from penstock.trainers.worker import run_one

_ONE_AT_A_TIME = threading.Lock()
"""Lanes are threads, and DeepSpeed has one state for a process."""


def _run_session(
    lane: Sequence[RunSpec], workspace: Workspace, signer: Signer, errors: list[Exception]
) -> None:
    """Make the runs of a lane as its one worker; a failure is appended to ``errors``."""
    assert {spec.train.workers for spec in lane} == {1}
    own = Workspace(as_path(workspace.root))
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for spec in lane:
                run_one(spec, own, Group(), signer, workspace.generation)
        except Exception as error:
            errors.append(run._worker_error(error))
        finally:
            torch.set_num_threads(threads)


@contextmanager
def sessions_here() -> Iterator[None]:
    """Make all sessions in this process; it needs a process group (the fixture ``_one_rank``)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "connect", lambda: None)
        patch.setattr(run, "_check_cpus", lambda settings: None)
        patch.setattr(run, "_run_session", _run_session)
        yield
