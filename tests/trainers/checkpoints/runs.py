"""Runs of ``run_one`` on forked workers, without Ray; killed at a chosen point or left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.artefact import Workspace
from penstock.recipe import Train
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.trainers.evaluation.evaluator import Evaluation
from penstock.trainers.spec import RunSpec

ROOT = Path(__file__).resolve().parents[3]

WHOLE = os.environ.get("PENSTOCK_FAULTS") == "all"
"""Whether the long tests run too."""

TRAIN: dict[str, Any] = {
    "model": {"layers": 1, "width": 32, "heads": 2},
    "batch_tokens": 8 * 32,
    "micro_batch": 2,
    "lr": 1e-2,
    "warmup": 0.0,
    "checkpoint": {"minutes": None, "tokens": 2 * 8 * 32, "keep": 1},
}
"""37 sequences make 5 steps; checkpoints after 2 and 4, and one at the end."""


def spec_of(order: dict[str, Any]) -> RunSpec:
    """The run that an order asks for."""
    train = Train.model_validate(order["train"])
    return RunSpec(
        train=train,
        shards=Path(order["shards"]),
        seed=order["seed"],
        reweighter=PlannedReweighter(train.reweight, []) if train.reweight else None,
        evaluations=(Evaluation("water", ("water flows to the turbine", "hello " * 30)),),
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in a work directory of its own."""

    shards: Path
    work: Path
    seed: int = 1
    train: dict[str, Any] = field(default_factory=dict)
    """What differs from :data:`TRAIN`."""

    @property
    def order(self) -> dict[str, Any]:
        return {
            "train": {**TRAIN, **self.train},
            "shards": str(self.shards),
            "seed": self.seed,
            "work": str(self.work),
        }

    @property
    def spec(self) -> RunSpec:
        return spec_of(self.order)

    @property
    def directory(self) -> Path:
        """The run's draft, which becomes its artefact."""
        return Path(self.spec.draft(Workspace(self.work)).path)

    @property
    def checkpoints(self) -> list[str]:
        """What is in their directory, but for the name of the last attempt."""
        found = {path.name for path in (self.directory / "checkpoints").glob("*")}
        return sorted(found - {".attempt"})

    @property
    def finished(self) -> bool:
        return self.spec.find(Workspace(self.work)) is not None

    def lines(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def notes(self) -> list[str]:
        return [line["note"] for line in self.lines("notes.jsonl")]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What the workers came to."""

    statuses: list[int]
    """Negative: the signal that ended one."""
    logs: list[str]

    def well(self) -> None:
        assert not any(self.statuses), f"{self.statuses}\n{self.logs[0][-3000:]}"


class Warm:
    """Runs workers in forks of a process that has imported everything already."""

    def __init__(self, directory: Path) -> None:
        self._files = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trainers.checkpoints.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "LOCAL_SIZE": "1",
            },
        )

    def run(
        self,
        run: Run,
        workers: int,
        kill: dict[str, Any] | None = None,
        *,
        census: bool = False,
        patience: float = 10.0,
    ) -> Ended:
        """Run to the end, or to the kill.

        Args:
            run: Which.
            workers: How many.
            kill: ``rank``, ``point`` and ``nth``.
            census: Whether every worker writes down the points it passes.
            patience: Seconds after the first worker has died when the others are killed.
        """
        order = {
            **run.order,
            "workers": workers,
            "kill": kill,
            "census": census,
            "patience": patience,
            "files": str(self._files),
            "store": str(self._files / f"store-{uuid.uuid4().hex}"),
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        statuses = json.loads(self._process.stdout.readline())
        logs = [(self._files / f"log-{rank}").read_text() for rank in range(workers)]
        return Ended(statuses=statuses, logs=logs)

    def census(self, rank: int) -> Counter[str]:
        """The points that a worker of the last run passed, in order, and how often."""
        lines = (self._files / f"census-{rank}").read_text().splitlines()
        return Counter(json.loads(line) for line in lines)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
