"""No command is silent for five seconds: by a clock of its own, and in a real, slow job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numba.extending
import pytest
from click.testing import CliRunner

import penstock.compiling  # noqa: F401  it listens to numba
from penstock.activity import (
    Step,
    add_counts,
    compiling,
    count_documents,
    current_steps,
    send_counts,
    set_compiling,
    step,
)
from penstock.cluster import connect, cpus
from penstock.errors import InputError
from penstock.jobs.checking import check, init
from penstock.jobs.cli import main
from penstock.jobs.curate import curate
from penstock.jobs.heartbeat import SILENCE_SECONDS, Heartbeat, describe_steps
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.pipeline.runners.counting import counts_of
from penstock.recipe_file import load_recipe
from tests.harness import ROOT
from tests.pools import documents, write_jsonl


def test_a_line_comes_after_silent_seconds_and_names_the_step() -> None:
    lines: list[str] = []
    now = [100.0]
    steps: list[Step] = []
    heart = Heartbeat(lines.append, lambda: steps, lambda: now[0])
    now[0] += SILENCE_SECONDS
    heart.beat()
    assert lines == [], "no step is under way"
    steps += [Step("curate", began=100.0), Step("fitting select.x", began=101.0)]
    heart.beat()
    assert lines == ["curate, fitting select.x: for 2 s"]
    now[0] += SILENCE_SECONDS / 2
    heart.heard()
    now[0] += SILENCE_SECONDS / 2
    heart.beat()
    assert len(lines) == 1
    now[0] += SILENCE_SECONDS / 2
    heart.beat()
    assert len(lines) == 2


def _compile(item: int, _: None) -> bool:
    """Compile a loop that no cache has, and return whether this process notes it meanwhile."""
    seen = []

    def probed() -> int:
        return 1

    def calls() -> int:
        return probed()

    @numba.extending.overload(probed)
    def overloaded() -> Callable[[], int]:
        seen.append(compiling())
        return lambda: 1

    numba.njit(calls)()
    return seen[0]


def test_a_compilation_is_told_by_a_worker_and_in_the_driver() -> None:
    lines: list[str] = []
    now = [100.0]
    heart = Heartbeat(lines.append, lambda: [Step("check", began=100.0)], lambda: now[0])
    for begins in (True, False):
        now[0] += SILENCE_SECONDS
        set_compiling(begins)
        heart.beat()
    assert lines[0].startswith("check: for 3 s; compiling loops, once for each stage")
    assert lines[1] == "check: for 6 s"
    now[0] += SILENCE_SECONDS
    set_compiling(True)
    heart.beat()
    set_compiling(False)
    assert lines[2:] == ["check: for 9 s; compiling loops"], "explained in the first line alone"
    assert _compile(0, None), "in the process itself"
    assert not compiling()
    told: list[bool] = []
    runner = LocalRunner(2)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("penstock.pipeline.runners.worker.set_compiling", told.append)
            assert sorted(runner.run(_compile, [0, 1])) == [(0, False), (1, False)]
    finally:
        runner.close()
    assert told[:1] == [True]
    assert told.count(True) == told.count(False)


def test_no_line_comes_while_a_question_waits() -> None:
    lines: list[str] = []
    now = [100.0]
    heart = Heartbeat(lines.append, lambda: [Step("init", began=100.0)], lambda: now[0])
    with heart.paused():
        now[0] += 10 * SILENCE_SECONDS
        heart.beat()
    heart.beat()
    assert lines == []
    now[0] += SILENCE_SECONDS
    heart.beat()
    assert len(lines) == 1


@pytest.mark.parametrize("command", ["check", "init"])
def test_a_look_at_the_inputs_is_a_step_that_lines_name(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look on a machine compiles loops, for 17 s of CPU time."""
    (tmp_path / "r.yaml").write_text(
        "corpus: [{path: a.jsonl}]\nbudget: {tokens: 9, rank: random}\n"
    )
    seen: list[str] = []

    def look(*_: object, **__: object) -> None:
        seen.extend(own.name for own in current_steps())
        raise InputError("enough")

    monkeypatch.setattr(check, "check_recipe", look)
    monkeypatch.setattr(init, "init_recipe", look)
    assert CliRunner().invoke(main, [command, str(tmp_path / "r.yaml")]).exit_code == 2
    assert seen == [command]


def test_documents_a_second_and_the_time_left() -> None:
    work = Step("", items=4, done=1, documents=8_000, began=0.0)
    work.counts.add(2_000, 30_000_000)
    line = describe_steps([Step("curate"), Step("columns"), work], 10.0)
    assert line == (
        "curate, columns: 2,000 of 8,000 documents, 200/s, 3.0 MB/s, 1 of 4 parts, "
        "about 0:00:30 left"
    )
    assert describe_steps([Step("columns"), Step("", items=1, documents=9, began=0.0)], 5.0) == (
        "columns: for 5 s, 0 of 9 documents"
    )
    last = Step("", items=22, done=21, documents=1_000, began=0.0, passing="score unit")
    last.counts.add(1_000, 0)
    last.counted = 10.0  # nothing was counted since then: the rate is that until then
    line = describe_steps([Step("columns"), last], 100.0)
    assert line == "columns (score unit): 1,000 of 1,000 documents, 100/s, 21 of 22 parts"
    unknown = Step("", items=4, began=0.0)
    assert unknown.seconds_left(10.0) is None
    unknown.done = 2
    assert unknown.seconds_left(10.0) == 10.0


def test_counts_go_to_the_innermost_step_that_has_items() -> None:
    class Unit:
        documents = 50

    with step("outer"), step("", [(Unit(), "x"), Unit()]) as work, step("inner"):
        count_documents(30, 100)
        add_counts(20, 1)
        assert [own.name for own in current_steps()[-3:]] == ["outer", "", "inner"]
    assert (work.documents, work.counts.documents, work.counts.bytes) == (100, 50, 101)
    with step("", [1, Unit()]) as work:
        assert work.documents == 0, "one item does not tell"


def test_a_worker_sends_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    now = [1000.0]
    monkeypatch.setattr("penstock.activity.time.monotonic", lambda: now[0])
    try:
        send_counts(lambda *both: sent.append(both))
        for _ in range(100):
            now[0] += 0.1
            count_documents(1, 10)
    finally:
        send_counts(None)
    assert 9 <= len(sent) <= 11
    assert all(own in ((1, 10), (10, 100)) for own in sent)


def _counted(item: int, _: None) -> int:
    for _ in range(4):
        time.sleep(0.6)
        count_documents(10, 1000)
    return item


def _counts_of(runner: Runner) -> int:
    """Run items that count 80 documents; return the most that the driver knew while they ran."""
    known = 0
    for _ in runner.run(_counted, [0, 1]):
        known = max(known, current_steps()[-1].counts.documents)
    return known


def test_workers_send_their_counts_to_the_driver() -> None:
    runner = LocalRunner(2)
    try:
        assert 20 <= _counts_of(runner) <= 80
    finally:
        runner.close()


@pytest.mark.usefixtures("ray_session")
def test_workers_on_ray_send_their_counts_to_the_driver() -> None:
    runner = RayRunner()
    _counts_of(runner)  # the actor is there from here on
    ray = connect()
    ray.get(counts_of(ray, sys.path).actor.add.remote(1_000, 0))  # left by an earlier run
    assert 10 <= _counts_of(runner) <= 160


SLOW = """\
import os, time

WAITS = os.path.exists(os.path.join(os.path.dirname(__file__), "waits"))

class Lengths:
    name, version, kind, requires_target = "lengths", 1, "scorer", False

    def fit(self, fitting):
        time.sleep(7 * WAITS)
        return {}

    def score(self, documents):
        time.sleep(7 * WAITS)
        return [len(text) for text in documents.column("text").to_pylist()]

    def save(self, directory): ...
    def load(self, directory): ...
"""


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_the_longest_silence_of_a_slow_job_is_below_five_seconds(
    runner: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(120))
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "recipe.yaml").write_text(
        "corpus: [{path: pool.jsonl}]\nselect: {length: {use: 'slow:Lengths'}}\n"
        "budget: {tokens: 1_500, rank: length}\ntokenizer: {train: {vocab_size: 384}}\n"
        "shards: {sequence_length: 32}\n"
    )
    there = curate(load_recipe(tmp_path / "recipe.yaml", ["work=fast"]), LocalRunner(1))
    (tmp_path / "waits").touch()
    command = f"-m penstock curate recipe.yaml --runner {runner} --workers 2 --json"
    with subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stderr and job.stdout
        lines = [(time.monotonic(), line) for line in job.stderr]
        last = job.stdout.read().splitlines()
    told = "".join(line for _, line in lines)
    assert job.returncode == 0, told
    assert [json.loads(line)["digest"] for line in last] == [there.shards.digest]
    times = [at for at, _ in lines]
    # The last line is of the result; how long Python takes to end after it is no silence of a job.
    # Where more processes want to run than there are cores, each gets its turn that much later.
    busy = max(1.0, os.getloadavg()[0] / cpus())
    assert max(b - a for a, b in pairwise(times)) <= 5.0 * busy, told
    assert "curate, columns, model, fitting select.length: for" in told
    before = told.partition("120 records read")[0].splitlines()
    assert [line for line in before if not line.startswith("[")] == [], "of Ray or a library"
