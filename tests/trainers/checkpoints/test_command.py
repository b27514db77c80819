"""``penstock train`` killed outright, and the same command again.

The ordinary suite kills a worker of a session (``tests/trainers/test_run.py``), and a process at
many points (``test_kills.py``).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import ROOT
from tests.harness.commands import Done, Running, running
from tests.pools import documents, write_jsonl

RECIPE: dict[str, Any] = {
    "corpus": [{"path": "pool.jsonl"}],
    "budget": {"tokens": 3_000, "rank": "random"},
    "tokenizer": {"train": {"vocab_size": 384}},
    "shards": {"sequence_length": 32},
    "evaluate": ["held-out.jsonl"],
    "train": {
        "model": {"layers": 1, "width": 32, "heads": 2},
        "tokens": 16_000,
        "batch_tokens": 256,
        "micro_batch": 4,
        "checkpoint": {"tokens": 2_560},
        "deepspeed": {"zero_optimization": {"stage": 1}},
        "workers": 2,
    },
}
"""63 steps, ten to a checkpoint."""

STEPS = 63


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("project")
    write_jsonl(here / "pool.jsonl", documents(150))
    write_jsonl(here / "held-out.jsonl", [{"text": "water flows to the turbine"}])
    (here / "recipe.yaml").write_text(json.dumps(RECIPE))
    return here


def started(project: Path, work: str, *settings: str) -> Running:
    changes = [part for setting in settings for part in ("--set", setting)]
    return Running(
        [
            *(sys.executable, "-m", "penstock", "train", str(project / "recipe.yaml"), "--json"),
            *("--runner", "local", "--workers", "1", "--set", f"work={work}", *changes),
        ],
        {
            **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
            "PYTHONPATH": str(ROOT),
        },
        project / f"log-{time.monotonic_ns()}",
    )


def trained(project: Path, work: str, *settings: str) -> Done:
    with running(started(project, work, *settings)) as run:
        return run.wait()


def lines(project: Path, work: str) -> list[dict[str, Any]]:
    (path,) = (project / work).glob("run/*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved(project: Path, work: str) -> list[Path]:
    return sorted((project / work).glob("run/*/checkpoints/step-*"))


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> list[dict[str, Any]]:
    """The steps of a run that is not killed."""
    done = trained(project, "undisturbed")
    assert done.summary["tokens"] == 16_000
    return lines(project, "undisturbed")


def everything(run: Running) -> None:
    """Kill all processes, as when the machine loses its power."""
    run.sweep()


def driver(run: Running) -> None:
    """Kill the driver; its workers end with it."""
    run.kill()


def worker(run: Running) -> None:
    """Kill one of two workers."""
    below = psutil.Process(run.process.pid).children(recursive=True)
    names = {child.pid: child.name() + " ".join(child.cmdline()) for child in below}
    workers = [pid for pid, name in names.items() if "runners.worker" in name]
    assert len(workers) == 2, names
    os.kill(workers[0], signal.SIGKILL)


@pytest.mark.whole
@pytest.mark.parametrize(
    "kill, workers", [(everything, 2), (everything, 1), (driver, 2), (worker, 2)]
)
def test_a_killed_run_continues(
    project: Path, undisturbed: list[dict[str, Any]], kill: Any, workers: int
) -> None:
    work = f"{kill.__name__}-{workers}"
    with running(started(project, work)) as run:
        run.until(lambda: len(saved(project, work)) == 2, 120)
        kill(run)
        done = run.wait()
    assert done.status == (1 if kill is worker else -9)
    assert "Traceback" not in done.stderr
    at = [int(path.name[5:]) for path in saved(project, work)]
    assert at and at[-1] < STEPS, "it had ended already"
    before = lines(project, work)[: at[-1]]
    done = trained(project, work, f"train.workers={workers}")
    assert done.summary["tokens"] == 16_000
    assert done.stderr.count("going on at step ") == 1
    assert int(done.stderr.split("going on at step ")[1].split()[0]) == at[-1]
    assert lines(project, work)[: at[-1]] == before
    found = lines(project, work)
    assert [line["step"] for line in found] == list(range(STEPS))
    for mine, theirs in zip(found, undisturbed, strict=True):
        assert mine["data"] == theirs["data"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6 if workers == 1 else 1e-12)
