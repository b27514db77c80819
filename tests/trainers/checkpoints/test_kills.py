"""SIGKILL at a point of a worker, then the same run again: the same steps, losses and weights.

An undisturbed run records the points that it passes. The ordinary suite kills at a dozen of them,
``PENSTOCK_FAULTS=all`` at each of them on both workers.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Workspace
from penstock.trainers.checkpoints.folder import Folder
from tests.harness.training import Run, Trainings

ZERO_2 = {"deepspeed": {"zero_optimization": {"stage": 2}}}

SAVE = "checkpoints/.step.tmp"
ZERO = f"{SAVE}/deepspeed/zero_pp_rank_"

FEW: dict[str, tuple[int, str, int]] = {
    "in a forward pass": (1, "forward, after", 7),
    "in a backward pass": (0, "backward, before", 9),
    "before an optimiser step": (1, "step, before", 4),
    "while the first is begun": (0, f"mkdir {SAVE}, after", 1),
    "half of rank 0's state": (0, f"write {SAVE}/deepspeed/mp_rank_00_model_states.pt, half", 2),
    "half of rank 1's state": (1, f"write {ZERO}1_mp_rank_00_optim_states.pt, half", 2),
    "while the other one waits": (1, "all_gather_object, before", 3),
    "half of the manifest": (0, f"write {SAVE}/manifest.json, half", 2),
    "before the rename": (0, "rename checkpoints/step, before", 2),
    "after the rename": (0, "rename checkpoints/step, after", 2),
    "while an old one goes": (0, f"unlink checkpoints/.step.old/{ZERO[len(SAVE) + 1 :]}", 1),
    "in the export": (0, "write checkpoints/.model.tmp/config.json, half", 1),
    "in the evaluation": (1, "evaluation, before", 1),
    "before the evaluation's manifest": (0, "link evaluation/manifest.json, before", 1),
}
"""Rank, beginning of the point's name, and number among the points of that name."""


@pytest.fixture(scope="module")
def undisturbed(
    trainings: Trainings, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Make the run that all others must equal, with the census of its points."""
    run = Run(shards=shards, work=tmp_path_factory.mktemp("undisturbed"), train=ZERO_2)
    trainings.run(run, 2, census=True).well()
    assert [line["step"] for line in run.lines()] == list(range(5))
    return run


@pytest.fixture(scope="module")
def points(trainings: Trainings, undisturbed: Run) -> list[Counter[str]]:
    """Return how often each worker passes each point."""
    return [trainings.census(rank) for rank in range(2)]


UNSTEADY = ("write tensorboard", "mkdir checkpoints/.step.tmp/deepspeed")
"""Points that a worker may not pass: of a thread, and of the worker that comes first."""


def weights(run: Run) -> str:
    return hashlib.sha256((run.directory / "model/model.safetensors").read_bytes()).hexdigest()


def whole(run: Run) -> list[int]:
    """Return the steps of the checkpoints; each must be as its manifest says."""
    found = Folder(run.directory / "checkpoints").committed()
    assert [one.fault() for one in found] == [None] * len(found)
    return [one.step for one in found]


def kill_and_go_on(
    trainings: Trainings,
    run: Run,
    undisturbed: Run,
    kills: list[dict[str, Any]],
    workers: int = 2,
) -> None:
    noted = 0
    for kill in kills:
        before = whole(run)
        ended = trainings.run(run, workers, kill)
        assert ended.statuses[kill["rank"]] == -9, f"{kill} never happened: {ended}"
        assert noted == len(run.notes) or before or "point" in kill
        noted = len(run.notes)
        if run.finished:
            break
    kept = whole(run)
    assert len(kept) <= 2, "one more than is kept, while the old one goes"
    trained = run.spec.run(Workspace(run.work)) is not None
    if not run.finished:
        trainings.run(run, workers).well()
        going_on = [
            progress for progress in run.notes[noted:] if progress.startswith("going on at step")
        ]
        expected_steps = [] if trained else kept[:1]
        assert [int(progress.split()[4]) for progress in going_on] == expected_steps
    assert run.finished
    assert run.checkpoints == ["step-00000005"]
    expected = undisturbed.lines()
    same = [(line["step"], line["tokens"], line["data"]) for line in run.lines()]
    assert same == [(line["step"], line["tokens"], line["data"]) for line in expected]
    assert [line["loss"] for line in run.lines()] == [line["loss"] for line in expected]
    assert weights(run) == weights(undisturbed)
    found, wanted = (one.spec.find(Workspace(one.work)) for one in (run, undisturbed))
    assert found and wanted and found.bits_per_byte == wanted.bits_per_byte


@pytest.mark.parametrize("rank, begins, nth", FEW.values(), ids=FEW.keys())
def test_a_killed_run_resumes(
    trainings: Trainings,
    undisturbed: Run,
    points: list[Counter[str]],
    tmp_path: Path,
    rank: int,
    begins: str,
    nth: int,
) -> None:
    point = next(name for name in points[rank] if name.startswith(begins))
    run = replace(undisturbed, work=tmp_path)
    kill_and_go_on(trainings, run, undisturbed, [{"rank": rank, "point": point, "nth": nth}])


def test_a_run_is_killed_while_it_resumes(
    trainings: Trainings, undisturbed: Run, tmp_path: Path
) -> None:
    """Twice in a row: with a half-written checkpoint there, and while the metrics are cut back."""
    kills = [
        {"rank": 0, "point": "rename checkpoints/step, before", "nth": 2},
        {"rank": 0, "point": "rmdir checkpoints/.step.old, before", "nth": 1},
        {"rank": 1, "point": "load_checkpoint, after", "nth": 1},
        {"rank": 0, "point": "write .metrics.jsonl, half", "nth": 1},
        {"rank": 0, "point": "replace metrics.jsonl, after", "nth": 1},
        {"rank": 1, "point": "forward, before", "nth": 4},
    ]
    run = replace(undisturbed, work=tmp_path)
    kill_and_go_on(trainings, run, undisturbed, kills)


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_a_run_resumes_from_a_kill_at_every_point(
    trainings: Trainings,
    undisturbed: Run,
    points: list[Counter[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    struck = kill_everywhere(trainings, undisturbed, points, tmp_path)
    with capsys.disabled():
        print(f"\nkilled at {struck.total()} points, {struck['of a save']} of them of a save")
    assert struck["of a save"] >= 30


def kill_everywhere(
    trainings: Trainings,
    undisturbed: Run,
    points: list[Counter[str]],
    directory: Path,
    workers: int = 2,
) -> Counter[str]:
    """Kill a new run at each point of each worker, and resume it; return the number of kills."""
    chance = random.Random(7)
    struck: Counter[str] = Counter()
    for rank, passed in enumerate(points):
        for number, (point, times) in enumerate(passed.items()):
            if point.startswith(UNSTEADY):
                continue
            run = replace(undisturbed, work=directory / f"{rank}-{number}")
            kill = {"rank": rank, "point": point, "nth": chance.randint(1, times)}
            print(kill)
            kill_and_go_on(trainings, run, undisturbed, [kill], workers)
            struck["of a save" if "checkpoints" in point else "elsewhere"] += 1
    return struck
