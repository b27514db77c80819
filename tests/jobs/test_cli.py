"""The command line as a shell sees it: exit status, stdout, stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from penstock import __version__
from penstock.jobs.cli import main
from tests.pools import documents, write_jsonl

RECIPE = """\
work: out
corpus: pool.jsonl
select: {length: {use: "scorer:score"}}
budget: {tokens: 2_000, rank: length}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("project")
    write_jsonl(here / "pool.jsonl", documents(150))
    (here / "scorer.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    (here / "recipe.yaml").write_text(
        RECIPE.replace("corpus: pool.jsonl", "corpus: [{path: pool.jsonl}]")
    )
    return here


def penstock(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(project: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a command in this process: starting Python takes a second."""
    monkeypatch.chdir(project)
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.stderr


def test_curate_prints_one_object_last_and_the_rest_elsewhere(project: Path) -> None:
    done = penstock(project, "curate", "recipe.yaml", "--json", "--workers", "1")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    summary = json.loads(line)
    assert set(summary) == {
        "cut", "shards", "documents", "tokens", "by_source", "seconds", "digest",
    }  # fmt: skip
    assert set(summary["documents"]) == {"read", "kept", "dropped", "quarantined", "dropped_by"}
    assert summary["tokens"] == {"requested": 2_000, "delivered": 1_984}
    assert "documents kept" in done.stderr
    listed = json.loads(penstock(project, "ls", "out", "--json").stdout.splitlines()[-1])
    stages = {item["stage"] for item in listed["artefacts"]}
    assert stages == {"corpus", "model", "columns", "tokenizer", "tokens", "cut", "shards"}
    found = penstock(project, "why", "recipe.yaml", "d0000", "--json")
    (fate,) = json.loads(found.stdout.splitlines()[-1])["fates"]
    assert fate["fate"] in ("taken", "left")
    assert fate["scores"]["length"]["score"] == len(documents(1)[0]["text"])
    told = penstock(project, "report", "recipe.yaml", "--json")
    page = Path(json.loads(told.stdout.splitlines()[-1])["report"]).read_text()
    assert summary["digest"] in page


def test_the_selectors_are_listed_with_their_papers(project: Path) -> None:
    listed = json.loads(penstock(project, "selectors", "--json").stdout.splitlines()[-1])
    betr = next(item for item in listed["selectors"] if item["name"] == "betr")
    assert betr["summary"]
    assert betr["paper"]
    assert "aggregate" in betr["parameters"]


def test_the_version(project: Path) -> None:
    assert penstock(project, "--version").stdout.split()[-1] == __version__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["budgt.tokens=3"], "budgt: unknown key; did you mean 'budget'?"),
        (["budget.tokens=-5"], "budget.tokens: expected"),
        (["corpus=[{path: gone.jsonl}]"], "gone.jsonl: no such file"),
        (['corpus=[{path: "no-*.jsonl"}]'], "the pattern matches no file"),
        (["select.length.use=scorer:scoer"], "select.length.use:"),
        (["select.length.usee=3", "select.length.use=betr"], "usee"),
        (["evaluate=[gone.jsonl]"], "evaluate:"),
        (["budget.tokens=900_000"], "which holds"),
        (["tokenizer=gone.json"], "gone.json: no such file"),
    ],
)
def test_bad_input_exits_with_2_and_names_key_and_value(
    project: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], message: str
) -> None:
    arguments = [word for setting in settings for word in ("--set", setting)]
    status, stderr = told(
        project, monkeypatch, "curate", "recipe.yaml", "--workers", "1", *arguments
    )
    assert status == 2, stderr
    assert message in stderr
    assert "Traceback" not in stderr


def test_a_truncated_file_exits_with_2_and_names_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zstandard.ZstdCompressor().compress((project / "pool.jsonl").read_bytes())
    (project / "cut-off.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    status, stderr = told(
        project, monkeypatch, "curate", "recipe.yaml", "--set", "corpus=[{path: cut-off.jsonl.zst}]"
    )
    assert status == 2
    assert "cut-off.jsonl.zst: truncated or damaged after" in stderr


def test_a_scorer_that_raises_exits_with_1(project: Path) -> None:
    (project / "broken.py").write_text("def score(texts):\n    return 1 / 0\n")
    done = penstock(project, "curate", "recipe.yaml", "--set", "select.length.use=broken:score")
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "broken:score" in done.stderr
    assert "Traceback" not in done.stderr
