"""Runs in the test's own process, which stop at a step and go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Workspace
from penstock.errors import TrainingError
from penstock.recipe import Train
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.data.loader import LoadedStep
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.group import Group
from penstock.trainers.metrics import FILE, NOTES
from penstock.trainers.run import resolved
from penstock.trainers.spec import RunSpec
from penstock.trainers.worker import run_one
from tests.harness.training import TRAIN

WATER = Evaluation.of_texts("water", "water flows to the turbine")


@dataclass(frozen=True, kw_only=True)
class HereRun:
    """A run of one worker in this process; 37 sequences of 32 tokens make 5 steps of 8."""

    shards: Path
    work: Path
    seed: int = 1
    train: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from those of :data:`tests.harness.training.TRAIN`."""

    @property
    def spec(self) -> RunSpec:
        train = Train.model_validate({**TRAIN, **self.train})
        spec = RunSpec(train=train, shards=self.shards, seed=self.seed, evaluations=(WATER,))
        return resolved([spec], Workspace(self.work))[0]

    @property
    def directory(self) -> Path:
        return Path(self.spec.draft(Workspace(self.work)).path)

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        return self.directory.name

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Those of steps, without evaluations."""
        found = map(json.loads, (self.directory / FILE).read_text().splitlines())
        return [line for line in found if "evaluation" not in line]

    @property
    def data(self) -> list[str]:
        """The digests of the batches."""
        return [line["data"] for line in self.lines]

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints."""
        found = (self.directory / "checkpoints").glob("step-*")
        return sorted(int(path.name[5:]) for path in found)

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines if "loss" in line]

    @property
    def notes(self) -> list[str]:
        found = (self.directory / NOTES).read_text().splitlines()
        return [json.loads(line)["note"] for line in found]

    def make(self) -> HereRun:
        """Train to the end."""
        run_one(self.spec, Workspace(self.work), Group(), Signer(bytes(32)))
        return self

    def make_until(self, step: int) -> HereRun:
        """Train until a step fails."""
        with _failing(step), pytest.raises(TrainingError, match=f"step {step}, .*stopped here"):
            self.make()
        return self


@contextmanager
def _failing(step: int) -> Iterator[None]:
    real = Engine._step

    def fails(self: Engine, loaded: LoadedStep) -> Any:
        if loaded.batch.step == step:
            raise RuntimeError("stopped here")
        return real(self, loaded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_step", fails)
        yield
