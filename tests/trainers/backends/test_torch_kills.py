"""SIGKILL at a point of a worker of the PyTorch back end, then the same run again, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from penstock.trainers.backends.torch import FILE
from tests.harness.training import Run, Trainings
from tests.trainers.checkpoints.test_kills import kill_and_go_on, kill_everywhere, weights

pytestmark = pytest.mark.faults

TORCH = {"backend": "torch"}


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(
    request: pytest.FixtureRequest,
    trainings: Trainings,
    shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, int]:
    """A run without a kill, and its number of workers; the census is of its points."""
    run = Run(shards=shards, work=tmp_path_factory.mktemp("undisturbed"), train=TORCH)
    trainings.run(run, request.param, census=True).well()
    assert [line["step"] for line in run.lines()] == list(range(5))
    return run, request.param


SAVE = "checkpoints/.step.tmp"

KILLS = {
    "in a forward pass": ("forward, after", 7),
    "in a backward pass": ("backward, before", 9),
    "before an optimiser step": ("step, before", 4),
    "while the first is begun": (f"mkdir {SAVE}, after", 1),
    "half of the state": (f"write {SAVE}/{FILE}, half", 2),
    "half of the manifest": (f"write {SAVE}/manifest.json, half", 2),
    "before the rename": ("rename checkpoints/step, before", 2),
    "after the rename": ("rename checkpoints/step, after", 2),
    "in the export": ("write checkpoints/.model.tmp/config.json, half", 1),
    "in the evaluation": ("evaluation, before", 1),
    "half of the evaluation": ("write evaluation/.evaluation-00000000.parquet, half", 1),
}


@pytest.mark.parametrize("point, nth", KILLS.values(), ids=KILLS.keys())
def test_a_killed_run_resumes_exactly(
    trainings: Trainings, undisturbed: tuple[Run, int], tmp_path: Path, point: str, nth: int
) -> None:
    run, workers = undisturbed
    kill = {"rank": 0, "point": point, "nth": nth}
    kill_and_go_on(trainings, replace(run, work=tmp_path), run, [kill], workers)


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_a_run_resumes_from_a_kill_at_every_point(
    trainings: Trainings,
    undisturbed: tuple[Run, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, workers = undisturbed
    trainings.run(replace(run, work=tmp_path / "census"), workers, census=True).well()
    points = [trainings.census(rank) for rank in range(workers)]
    struck = kill_everywhere(trainings, run, points, tmp_path, workers)
    with capsys.disabled():
        saves = struck["of a save"]
        print(f"\n{workers} workers: killed at {struck.total()} points, {saves} of them of a save")
    assert struck["of a save"] >= 30


def test_a_reweighted_run_resumes_exactly(
    trainings: Trainings, shards: Path, tmp_path: Path
) -> None:
    whole, killed = (
        Run(
            shards=shards,
            work=tmp_path / name,
            train={**TORCH, "reweight": {"use": "loss", "strategy": "linupper"}},
        )
        for name in ("whole", "killed")
    )
    trainings.run(whole, 2).well()
    died = trainings.run(killed, 2, {"rank": 0, "point": "step, before", "nth": 4})
    assert died.statuses[0] == -9
    trainings.run(killed, 2).well()
    assert [line["loss"] for line in killed.lines()] == [line["loss"] for line in whole.lines()]
    assert weights(killed) == weights(whole)
    mine, other = (pq.read_table(run.directory / "weights") for run in (killed, whole))
    assert mine.equals(other)
