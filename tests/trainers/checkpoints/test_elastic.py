"""Resume with another number of workers than wrote the checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.harness.training import Run, Trainings

WHOLE_ONLY = functools.partial(pytest.param, marks=pytest.mark.whole)

STEPS = 19
"""Four epochs of 37 sequences; checkpoints after 8 and 16 steps."""

LONGER = {
    "tokens": 37 * 32 * 4,
    "checkpoint": {"minutes": None, "tokens": 8 * 8 * 32, "keep": 2},
}


@pytest.fixture(scope="module")
def undisturbed(
    trainings: Trainings, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Run]:
    """Return the undisturbed run of two workers for a ZeRO stage."""

    @functools.cache
    def run_of(stage: int) -> Run:
        train = {**LONGER, "deepspeed": {"zero_optimization": {"stage": stage}}}
        run = Run(shards=shards, work=tmp_path_factory.mktemp("undisturbed"), train=train)
        trainings.run(run, 2).well()
        return run

    return run_of


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("stage", [WHOLE_ONLY(0), 1, WHOLE_ONLY(2), 3])
def test_fewer_or_more_workers_resume(
    trainings: Trainings,
    undisturbed: Callable[[int], Run],
    tmp_path: Path,
    stage: int,
    workers: int,
) -> None:
    run = replace(undisturbed(stage), work=tmp_path)
    died = trainings.run(run, 2, {"rank": 1, "point": "step, after", "nth": 12})
    assert died.statuses[1] == -9
    assert run.checkpoints == ["step-00000008"]
    trainings.run(run, workers).well()
    assert run.notes[0].endswith("checkpoints/step-00000008, written by 2 workers")
    expected = undisturbed(stage).lines()
    assert len(expected) == STEPS
    assert [line["data"] for line in run.lines()] == [line["data"] for line in expected]
    losses = np.array([line["loss"] for line in run.lines()])
    np.testing.assert_allclose(losses, [line["loss"] for line in expected], rtol=1e-6)
    assert losses[8] != losses[7] and np.ptp(losses[8:]) > 0.01, "it learns nothing"
    assert run.checkpoints == ["step-00000016", "step-00000019"]


BF16 = {"deepspeed": {"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}}


def test_bf16_without_zero_resumes(trainings: Trainings, shards: Path, tmp_path: Path) -> None:
    """Float32 weights are in DeepSpeed's wrapper of the optimiser there, and must not be lost."""
    runs = [Run(shards=shards, work=tmp_path / name, train=BF16) for name in ("whole", "killed")]
    trainings.run(runs[0], 1).well()
    assert trainings.run(runs[1], 1, {"rank": 0, "point": "step, after", "nth": 4}).statuses == [-9]
    trainings.run(runs[1], 1).well()
    assert runs[1].notes and not runs[0].notes
    losses = [[line["loss"] for line in run.lines()] for run in runs]
    assert losses[0] == losses[1]
