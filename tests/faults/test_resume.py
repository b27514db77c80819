"""A killed run continues from its records, and a work directory has one driver at a time."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.harness.commands import Running, running
from tests.harness.project import Project, digest, make_project

WORKERS = 2
IN_FLIGHT = 2 * WORKERS
"""Items that the local runner hands out at a time."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def stamps(paths: list[Path]) -> dict[Path, tuple[int, int]]:
    """Return inode and time of files: they change when a file is written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def part(path: Path) -> str:
    """Return the number of the part of the corpus that a file belongs to."""
    found = re.search(r"\d{5}", path.name)
    assert found, path
    return found[0]


def started(project: Project) -> Running:
    return project.start("--runner", "local", "--workers", str(WORKERS))


def killed(project: Project, pattern: str, count: int) -> None:
    """Run until ``count`` files match a pattern, then send SIGKILL."""
    with running(started(project)) as run:
        run.until(lambda: len(list(project.work_directory.glob(pattern))) >= count)
        run.kill()


def test_a_corpus_that_was_half_written_and_verdicts_that_were_half_made_go_on(
    project: Project,
) -> None:
    parts = 19  # of 39
    killed(project, "corpus/*/records/*.json", parts)
    [corpus] = project.work_directory.glob("corpus/*")
    parts_of = {path: part(path) for path in corpus.iterdir() if path.is_file()}
    recorded = stamps(project.records("corpus"))
    done = {path.stem for path in recorded}
    begun = set(parts_of.values())
    assert done <= begun and len(begun - done) <= IN_FLIGHT
    written = stamps([path for path, name in parts_of.items() if name in done])
    assert len(written) >= 3 * parts, "the texts, the rows and the counts of each"

    groups = 20  # about: of 976 documents, 60 each
    killed(project, "verdicts/*/records/*.json", groups + 5)
    assert stamps(list(recorded)) == recorded and stamps(list(written)) == written
    [verdicts] = project.work_directory.glob("verdicts/*")
    assert not (verdicts / "manifest.json").exists()
    names = Counter(path.name.partition("-")[0] for path in project.records("verdicts"))
    assert names["judged"] >= groups and names["repeats"] > 0, "it was in the second pass"
    records = project.records("verdicts")
    made = {one["path"] for path in records for one in json.loads(path.read_bytes())}
    found = stamps([*records, *(verdicts / name for name in made)])

    killed(project, "verdicts/*/records/settled-*.json", groups // 2)
    assert stamps(list(found)) == found
    settled = stamps(list(verdicts.glob("records/settled-*.json")))
    assert project.curate("--workers", str(WORKERS)).digest == digest()
    assert stamps(list(settled)) == settled
    assert stamps(list(written)) == written
    assert not (verdicts / "scratch").exists()


def test_documents_that_were_scored_are_not_scored_again(project: Project) -> None:
    project.keep_a_diary(slow=0.05)
    killed(project, "columns/*/records/*.json", 20)
    before = Counter(entry["first"] for entry in project.diary() if entry["event"] == "begin")
    recorded = project.records("columns")
    assert len(recorded) >= 20
    in_flight = len(before) - project.scored()  # none, where the kill came between two items
    assert 0 <= in_flight <= IN_FLIGHT
    kept = stamps(recorded)
    done = project.curate("--workers", str(WORKERS))
    assert done.digest == digest()
    calls = Counter(entry["first"] for entry in project.diary() if entry["event"] == "begin")
    units = project.scored()
    assert len(calls) == units > 40
    assert in_flight <= sum(calls.values()) - units <= IN_FLIGHT
    assert max(calls.values()) <= 2
    assert stamps(list(kept)) == kept


def test_a_second_driver_is_refused_and_a_dead_one_is_replaced(project: Project) -> None:
    project.keep_a_diary(slow=0.1)
    with running(started(project)) as first:
        first.until(lambda: len(project.records("columns")) >= 3)
        project.keep_a_diary(slow=2)  # so that it does not end before the second one
        second = project.curate("--workers", "1")
        assert second.status == 1
        assert f"{project.work_directory}: in use by penstock curate" in second.stderr
        assert f"(process {first.process.pid} on " in second.stderr
        assert "Traceback" not in second.stderr and not second.stdout
        assert first.process.poll() is None
        first.kill()
    project.keep_a_diary(slow=0)
    with running(started(project)) as third:
        third.until(lambda: "scored" in third.stderr)
        assert third.wait().digest == digest()


@pytest.mark.whole
def test_an_interrupted_run_reports_it_and_continues(project: Project) -> None:
    project.keep_a_diary(slow=0.05)
    with running(started(project)) as first:
        first.until(lambda: len(project.records("columns")) >= 10)
        first.process.send_signal(signal.SIGINT)
        done = first.wait()
    assert done.status == 130
    assert done.stderr.splitlines()[-1].startswith("penstock: interrupted")
    assert "Traceback" not in done.stderr
    assert project.curate("--workers", str(WORKERS)).digest == digest()
