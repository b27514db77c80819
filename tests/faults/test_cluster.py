"""A Ray cluster of three nodes: nodes lost in the middle of a stage change no byte."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil

from tests.harness.commands import Running, running
from tests.harness.nodes import Nodes, ray_nodes
from tests.harness.project import Project, digest, make_project


def test_nodes_that_are_lost_in_the_middle_of_stages(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.keep_a_diary(slow=0.1)
    with ray_nodes(2) as nodes, running(start(project, nodes)) as run:
        corpus = project.work_directory / "corpus"
        run.until(lambda: len(project.records("corpus")) >= 5)
        victim = run.until(lambda: nodes.stop(lambda worker: writes(worker, corpus)))
        assert not list(corpus.glob("*/manifest.json"))
        nodes.kill(victim)
        nodes.add()

        run.until(lambda: len(project.records("columns")) >= 15)
        victim = run.until(lambda: nodes.stop(lambda worker: worker.pid in scoring(project)))
        at_work = scoring(project)  # while the worker is stopped; others add entries
        dead = nodes.kill(victim)
        lost = {first for pid, first in at_work.items() if pid in dead}
        assert lost
        assert not list(project.work_directory.glob("columns/*/manifest.json"))
        done = run.wait()
    assert done.digest == digest(), done.stderr
    assert done.summary["documents"]["read"] == 976
    calls = Counter(entry["first"] for entry in project.diary() if entry["event"] == "begin")
    assert lost <= {first for first, count in calls.items() if count > 1}
    assert project.scored() == len(calls)
    print(f"{len(lost)} items lost with the node, {calls.total() - len(calls)} done again")


def start(project: Project, nodes: Nodes) -> Running:
    return project.start("--runner", "ray", RAY_ADDRESS=nodes.address)


def writes(worker: psutil.Process, directory: Path) -> bool:
    """Return whether a process has an open file below a directory."""
    return any(Path(file.path).is_relative_to(directory) for file in worker.open_files())


def scoring(project: Project) -> dict[int, str]:
    """Return the first document of each worker's current batch, by process id."""
    at: dict[int, str] = {}
    for entry in project.diary():
        if entry["event"] == "begin":
            at[entry["pid"]] = entry["first"]
        else:
            at.pop(entry["pid"], None)
    return at
