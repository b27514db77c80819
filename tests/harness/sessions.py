"""Training sessions of one worker in this process, which has imported PyTorch already.

Those of Ray Train and those in processes of their own are tested in tests/trainers/test_run.py,
which also shows that a run is the same whatever its session.
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


class _SessionsHere:
    """Sessions in this process, one at a time."""

    def __init__(self, lanes: Sequence[Sequence[RunSpec]]) -> None:
        assert {spec.train.workers for lane in lanes for spec in lane} == {1}

    def make(self, lane: Sequence[RunSpec], workspace: Workspace, signer: Signer) -> None:
        """Make the runs of a lane as its one worker."""
        own = Workspace(as_path(workspace.root))
        with _ONE_AT_A_TIME:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                for spec in lane:
                    run_one(spec, own, Group(), signer, workspace.generation)
            finally:
                torch.set_num_threads(threads)


@contextmanager
def sessions_here() -> Iterator[None]:
    """Make all sessions in this process; it needs a process group (the fixture ``_one_rank``)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_sessions", _SessionsHere)
        yield
