"""A resumed run has one line for each step, in JSON lines and in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock.artefact import Workspace
from penstock.recipe import Train
from penstock.trainers.evaluation.scores import Scores
from penstock.trainers.metrics import FILE, MetricsLog, StepMetrics, add_note
from penstock.trainers.run import _Tail
from penstock.trainers.spec import RunSpec


def metrics(step: int, loss: float = 1.0) -> StepMetrics:
    return StepMetrics(
        step=step,
        tokens=10 * step + 10,
        loss=loss,
        lr=0.1,
        tokens_per_second=5.0,
        grad_norm=1.0,
        data="00",
        loader_seconds=0.0,
        mfu=0.0,
    )


def write(directory: Path, start: int, steps: Sequence[int], loss: float) -> MetricsLog:
    log = MetricsLog(directory, start)
    for step in steps:
        log.write(metrics(step, loss).line())
    log.close()
    return log


def lines(directory: Path) -> list[tuple[int, float]]:
    read = map(json.loads, (directory / FILE).read_text().splitlines())
    return [(line["step"], line["loss"]) for line in read]


def events(directory: Path) -> list[tuple[int, float]]:
    """Return steps and losses of the event file, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (directory / "tensorboard").iterdir()
    read = EventAccumulator(str(file))
    read.Reload()
    points = read.Scalars("train/loss")
    assert [one.wall_time for one in points] == sorted(one.wall_time for one in points)
    return [(one.step, one.value) for one in points]


def test_a_run_that_resumes(tmp_path: Path) -> None:
    write(tmp_path, 0, range(5), 2.0)
    with open(tmp_path / FILE, "a") as file:  # killed while it wrote
        file.write('{"step": 5, "lo')
    log = write(tmp_path, 3, range(3, 6), 1.0)
    expected = [(0, 2.0), (1, 2.0), (2, 2.0), (3, 1.0), (4, 1.0), (5, 1.0)]
    assert lines(tmp_path) == events(tmp_path) == expected
    assert log.last["step"] == 5


def test_a_finished_run_resumes_without_a_step(tmp_path: Path) -> None:
    write(tmp_path, 0, range(5), 2.0)
    log = write(tmp_path, 5, [], 1.0)
    assert (log.last["step"], log.last["tokens"]) == (4, 50)
    assert len(lines(tmp_path)) == len(events(tmp_path)) == 5


def test_evaluations_of_steps_that_are_not_repeated_are_kept(tmp_path: Path) -> None:
    scores = Scores({})
    log = MetricsLog(tmp_path)
    for step in range(5):
        log.write(metrics(step).line())
        log.write(scores.line(step, 10 * step + 10))
    log.close()
    for start, expected in ((5, [0, 1, 2, 3, 4]), (2, [0, 1])):
        log = MetricsLog(tmp_path, start)
        log.close()
        read = list(map(json.loads, (tmp_path / FILE).read_text().splitlines()))
        assert [line["step"] for line in read if "evaluation" in line] == expected
        assert [line["step"] for line in read if "loss" in line] == list(range(start))
        assert log.last["step"] == start - 1


def test_a_run_that_starts_over(tmp_path: Path) -> None:
    write(tmp_path, 0, range(5), 2.0)
    write(tmp_path, 0, range(2), 1.0)
    assert lines(tmp_path) == events(tmp_path) == [(0, 1.0), (1, 1.0)]


@pytest.fixture
def spec(shards: Path) -> RunSpec:
    return RunSpec(train=Train(), shards=shards, seed=1)


def test_lines_of_a_resumed_run_reach_the_driver(spec: RunSpec, tmp_path: Path) -> None:
    """No line of the earlier attempt; the step of resumption; then each step once."""
    workspace = Workspace(tmp_path)
    directory = spec.draft(workspace).staging()
    add_note(directory, "an old note", 1)
    write(directory, 0, range(5), 2.0)
    tail = _Tail(spec, workspace)
    assert list(tail.lines()) == []
    add_note(directory, "going on at step 3", 3)
    log = MetricsLog(directory, 3)
    note_line, last = tail.lines()
    assert note_line == {"note": "going on at step 3", "step": 3}
    assert (last["step"], last["loss"]) == (2, 2.0)
    for step in (3, 4):
        log.write(metrics(step, 1.0).line())
    assert [line["step"] for line in tail.lines()] == [3, 4]
    assert list(tail.lines()) == []
    log.close()


def test_lines_of_a_new_run_reach_the_driver(spec: RunSpec, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    directory = spec.draft(workspace).staging()
    tail = _Tail(spec, workspace)
    assert list(tail.lines()) == []
    write(directory, 0, range(3), 2.0)
    assert [line["step"] for line in tail.lines()] == [0, 1, 2]
