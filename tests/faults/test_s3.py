"""The whole job on S3, and on an S3 with errors and delays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from penstock.artefact import Artefact
from penstock.storage import as_path
from tests.harness import WHOLE
from tests.harness.commands import Done, running
from tests.harness.project import Project, digest, make_project
from tests.s3 import BUCKET, Trouble, environment, troubled

UNIT_BYTES = 60_000
"""Bytes of a unit: few units, because requests are slow: 690 of them for 6 units."""

INPUTS = ("a.jsonl", "d.jsonl.zst", "e.parquet")
"""Files of the project that are used, for the same reason."""


@pytest.fixture
def project(s3: str, tmp_path: Path) -> Iterator[Project]:
    """Write inputs and target to S3; the recipe and the scorer are on this machine."""
    project = make_project(tmp_path)
    root = f"{BUCKET}/{tmp_path.name}"
    store = S3FileSystem()
    for name in (*INPUTS, project.target):
        store.put_file(str(tmp_path / name), f"{root}/{'pool/' * (name in INPUTS)}{name}")
        (tmp_path / name).unlink()
    with environment(PENSTOCK_CACHE=str(tmp_path / "cache")):
        yield replace(
            project,
            inputs=[f"s3://{root}/pool/*.jsonl*", f"s3://{root}/pool/e.parquet"],
            target=f"s3://{root}/{project.target}",
            work=f"s3://{root}/work",
            by_line=False,
            unit_bytes=UNIT_BYTES,
        )


def ended(project: Project, *arguments: str) -> Done:
    with running(project.command(*arguments)) as run:
        return run.wait()


def test_the_whole_job_and_its_reports(project: Project) -> None:
    done = project.curate("--runner", "local", "--workers", "2")
    assert done.digest == digest(UNIT_BYTES, INPUTS, by_line=False)
    assert done.summary["shards"].startswith(f"{project.work}/shards/")
    assert not (project.directory / "s3:").exists() and not project.work_directory.exists()
    recipe = str(project.directory / "recipe.yaml")
    listed = ended(project, "ls", project.work, "--json").summary["artefacts"]
    assert {item["stage"] for item in listed} == {
        "corpus", "verdicts", "model", "columns", "tokenizer", "tokens", "cut", "shards",
    }  # fmt: skip
    [fate] = ended(project, "why", recipe, "d0200", "--json").summary["fates"]
    assert fate["fate"] in ("taken", "left")
    page = ended(project, "report", recipe, "--json").summary["report"]
    assert page.startswith(project.work)
    assert done.digest in S3FileSystem().read_text(page)


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.whole)])
def test_a_store_with_errors_and_delays(project: Project, s3: str, runner: str) -> None:
    # A failed request is sent again after about a second, and most requests wait for another.
    trouble = Trouble(errors=0.15 if WHOLE else 0.05, slow=0.1, delay=0.1, seed=11)
    with troubled(s3, trouble):
        done = project.curate("--runner", runner, "--workers", "2")
    assert done.digest == digest(UNIT_BYTES, INPUTS, by_line=False), done.stderr
    assert trouble.failed > 10 and trouble.delayed > 20
    print(f"{trouble.requests} requests, {trouble.failed} failed, {trouble.delayed} delayed")


def test_a_killed_run_goes_on(project: Project) -> None:
    project = replace(project, unit_bytes=16_000)
    project.keep_a_diary(slow=0.1)
    with running(project.start("--runner", "local", "--workers", "2")) as run:
        run.until(lambda: run.stderr.count("scored") >= 5)
        run.kill()
    done = project.curate("--workers", "2")
    assert done.digest == digest(16_000, INPUTS, by_line=False)
    cut = Artefact.open(as_path(done.summary["cut"]))
    assert not all(record.facts["documents"] for record in cut.files), "no empty unit"
    calls = Counter(entry["first"] for entry in project.diary() if entry["event"] == "begin")
    assert len(calls) > 6
    assert calls.total() - len(calls) <= 4


def nothing_exists(project: Project) -> Project:
    return replace(project, work="s3://nosuchbucket/work")


def no_input(project: Project) -> Project:
    return replace(project, inputs=[f"s3://{BUCKET}/gone/*.jsonl"])


def no_input_bucket(project: Project) -> Project:
    return replace(project, inputs=["s3://nosuchbucket/a.jsonl"])


def no_target(project: Project) -> Project:
    return replace(project, target=f"s3://{BUCKET}/gone.jsonl")


def as_it_is(project: Project) -> Project:
    return project


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_CONFIG_FILE": "/dev/null",
}
WRONG: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "no bucket for the work": (nothing_exists, {}, 1, "s3://nosuchbucket/work"),
    "no such input": (no_input, {}, 2, f"s3://{BUCKET}/gone/*.jsonl: the pattern matches no file"),
    "no bucket of an input": (no_input_bucket, {}, 2, "s3://nosuchbucket/a.jsonl"),
    "no such target": (no_target, {}, 2, f"select.near.target: s3://{BUCKET}/gone.jsonl: no such"),
    "no credentials": (as_it_is, CREDENTIALS, 2, "nable to locate credentials"),
}


@pytest.mark.parametrize("change, setting, status, message", WRONG.values(), ids=WRONG.keys())
def test_errors_of_a_store_name_the_key_and_the_path(
    project: Project, change: Any, setting: dict[str, str], status: int, message: str
) -> None:
    done = change(project).curate("--workers", "1", **setting)
    assert message in done.stderr
    assert done.status == status
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.whole
def test_a_store_that_cannot_be_reached(project: Project) -> None:
    with running(project.start("--workers", "1", AWS_ENDPOINT_URL="http://127.0.0.1:9")) as run:
        done = run.wait(200)
    assert done.status in (1, 2) and "Traceback" not in done.stderr
    assert "http://127.0.0.1:9/" in done.stderr
