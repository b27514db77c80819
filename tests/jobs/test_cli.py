"""The command line in a shell: exit status, stdout, stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner, Result

from penstock import __version__
from penstock.jobs.cli import main
from penstock.lease import Lease
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


def penstock(project: Path, *arguments: str, **setting: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=project,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            **setting,
        },
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


@pytest.mark.slow
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
    assert stages == {
        "corpus", "verdicts", "model", "columns", "tokenizer", "tokens", "cut", "shards",
    }  # fmt: skip
    found = penstock(project, "why", "recipe.yaml", "d0000", "--json")
    (fate,) = json.loads(found.stdout.splitlines()[-1])["fates"]
    assert fate["fate"] in ("taken", "left")
    assert fate["scores"]["length"]["score"] == len(documents(1)[0]["text"])
    told = penstock(project, "report", "recipe.yaml", "--json")
    page = Path(json.loads(told.stdout.splitlines()[-1])["report"]).read_text()
    assert summary["digest"] in page


@pytest.mark.slow
def test_the_selectors_are_listed_with_their_papers(project: Path) -> None:
    listed = json.loads(penstock(project, "selectors", "--json").stdout.splitlines()[-1])
    betr = next(item for item in listed["selectors"] if item["name"] == "betr")
    assert betr["summary"]
    assert betr["paper"]
    assert "aggregate" in betr["parameters"]
    told = penstock(project, "selectors", "kmq").stdout
    assert "weights" in told and "multiply the cluster budgets" in told
    (project / "told_own.py").write_text(
        "from penstock import PlainScorer\n\n"
        "class Lin(PlainScorer):\n    paths = ('model',)\n\n"
        "    def __init__(self, *, model: str, gamma: float = 1.0): ...\n\n"
        "    def score(self, documents): ...\n\n"
        "def score(texts, *, least: int = 50):\n    'Score by length.'\n"
    )
    own = penstock(project, "selectors", "told_own:Lin").stdout.splitlines()
    assert own[:3] == ["told_own:Lin: no docstring", "    model (str, a path): required",
                       "    gamma (float): 1.0"]  # fmt: skip
    assert not any("Scores documents" in line for line in own), "of the base class"
    function = penstock(project, "selectors", "told_own:score").stdout
    assert function.count("Score by length.") == 1 and "least (int): 50" in function
    wrong = penstock(project, "selectors", "kqm")
    for name in ("told_own", "told_own.py"):
        listed = penstock(project, "selectors", name)
        assert listed.returncode == 2 and "told_own:Lin, told_own:score" in listed.stderr
    assert wrong.returncode == 2 and "kqm: no such selector; did you mean 'kmq'?" in wrong.stderr


def test_the_version(project: Path) -> None:
    assert penstock(project, "--version").stdout.split()[-1] == __version__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["budgt.tokens=3"], "budgt: recipe.yaml: unknown key; did you mean 'budget'?"),
        (["budget.tokens=-5"], "budget.tokens: recipe.yaml: expected"),
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
    assert "cut-off.jsonl.zst: ends inside a zstd frame" in stderr


def test_a_scorer_that_raises_exits_with_1(project: Path) -> None:
    (project / "broken.py").write_text("def score(texts):\n    return 1 / 0\n")
    done = penstock(project, "curate", "recipe.yaml", "--set", "select.length.use=broken:score")
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "broken:score" in done.stderr
    assert "Traceback" not in done.stderr


# -- what only looks ----------------------------------------------------------------------------


@pytest.fixture
def fresh(project: Path, tmp_path: Path) -> Path:
    """A copy of the project of which nothing is made yet."""
    for name in ("pool.jsonl", "scorer.py", "recipe.yaml"):
        shutil.copy(project / name, tmp_path / name)
    return tmp_path


def ran(project: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.chdir(project)
    return CliRunner().invoke(main, arguments)


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["why", "report"])
def test_looking_makes_nothing_and_says_what_would(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    arguments = [command, "recipe.yaml", *(["d0000", "--json"] if command == "why" else [])]
    done = ran(fresh, monkeypatch, *arguments)
    assert done.exit_code == 1
    assert "pool.jsonl: not read into" in done.stderr
    assert "run `penstock curate recipe.yaml`" in done.stderr
    assert "no command has read" in done.stderr
    assert not (fresh / "out").exists()
    assert ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1").exit_code == 0
    whole = ran(fresh, monkeypatch, *arguments)
    assert whole.exit_code == 0, whole.stderr
    for stage in ("shards", "cut", "columns", "model"):
        shutil.rmtree(fresh / "out" / stage)
        before = bytes_of(fresh / "out")
        done = ran(fresh, monkeypatch, *arguments)
        what = stage if stage in ("shards", "cut") else "the column length"
        unmade = f"out: {what} of this recipe: not made yet; run `penstock curate recipe.yaml`"
        assert unmade in done.stderr
        assert bytes_of(fresh / "out") == before
        assert done.exit_code == (command == "report")
        if command == "why":
            found = json.loads(done.stdout.splitlines()[-1])
            (fate,) = found["fates"]
            assert fate["fate"] == "kept" and fate["text"] and unmade in found["unmade"]
            assert set(fate["scores"]) == ({"length"} if stage in ("shards", "cut") else set())
    shutil.rmtree(fresh / "out" / "corpus")
    assert "out: corpus of this recipe: not made yet" in ran(fresh, monkeypatch, *arguments).stderr


def test_what_is_made_can_be_looked_at_while_another_driver_works(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1").exit_code == 0
    other = "import sys, time; from pathlib import Path; from penstock.lease import Lease; "
    other += "Lease(Path('out')).hold(); print(flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", other], cwd=fresh, stdout=subprocess.PIPE, env=environment
    ) as driver:
        assert driver.stdout is not None and driver.stdout.readline()
        shutil.rmtree(fresh / "out" / "shards")
        refused = ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1")
        assert refused.exit_code == 1 and "in use by" in refused.stderr
        done = ran(fresh, monkeypatch, "why", "recipe.yaml", "d0000", "--json")
        (fate,) = json.loads(done.stdout.splitlines()[-1])["fates"]
        assert fate["fate"] == "kept"
        driver.kill()


def test_a_report_is_not_written_on_shards_that_changed(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1").exit_code == 0
    (shard,) = (fresh / "out").glob("shards/*/*.arrow")
    shard.unlink()
    for command in ("curate", "report"):
        done = ran(fresh, monkeypatch, command, "recipe.yaml", "--workers", "1")
        assert done.exit_code == 1
        assert f"{shard}: recorded but missing" in done.stderr
        assert "digest" not in done.stdout


def test_why_is_told_in_words(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (fresh / "pool.jsonl").open("a") as pool:
        text = documents(150)[7]["text"].replace(" ", "   ")
        pool.write(json.dumps({"id": "copy", "text": text, "source": "web"}) + "\n")
    done = ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1")
    (verdicts,) = (fresh / "out").glob("verdicts/*")
    assert f"the reason of each dropped document: {verdicts}\n" in done.stdout
    told = ran(fresh, monkeypatch, "why", "recipe.yaml", "copy").stdout
    assert told.startswith("copy (web): dropped; rule duplicate: repeats d0007\n")
    assert f"  text: {' '.join(text.split())[:30]}" in told
    told = ran(fresh, monkeypatch, "why", "recipe.yaml", "d0000").stdout
    assert re.search(
        r"\n  score in length: \d+, higher than \d+\.\d% of the documents with a score\n", told
    )
    assert f"  text: {documents(1)[0]['text'][:30]}" in told


def test_why_needs_no_document_that_is_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--set", "clean.where=bytes < 0", "--json")
    assert (
        ran(fresh, monkeypatch, "clean", "recipe.yaml", *options, "--workers", "1").exit_code == 0
    )
    done = ran(fresh, monkeypatch, "why", "recipe.yaml", "d0000", *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (fate,) = found["fates"]
    size = len(documents(1)[0]["text"].encode())
    assert (fate["fate"], fate["why"]) == ("dropped", "rule where")
    values = {"values": {"bytes": size}, "other_kinds": {}}
    assert fate["where"] == {"condition": "bytes < 0", "holds": False, **values}
    assert f"fails where: bytes < 0: bytes {size}\n" in done.stderr
    assert "no document is left" in found["unmade"]
    assert ran(fresh, monkeypatch, "report", "recipe.yaml", *options).exit_code == 2


def test_ls_tells_what_a_failed_run_left(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fresh / "scorer.py").write_text("def score(texts):\n    return 1 / 0\n")
    assert ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1").exit_code == 1
    (left,) = (fresh / "out" / "columns").iterdir()
    assert not list(left.iterdir()), "it failed before the first file"
    done = ran(fresh, monkeypatch, "ls", "out", "--json")
    rows = json.loads(done.stdout.splitlines()[-1])["artefacts"]
    (row,) = [row for row in rows if row["state"] != "finished"]
    assert row.pop("last_used")
    assert row == {
        "stage": "columns",
        "name": "columns",
        "recipes": [str(fresh / "recipe.yaml")],
        "fingerprint": left.name,
        "state": "unfinished",
        "files": 0,
        "bytes": 0,
        "path": str(left),
        "fix": f"run the command that began it again, or delete {left}",
    }
    assert row["fix"] in ran(fresh, monkeypatch, "ls", "out").stdout.replace("\n", "")
    lease = Lease(fresh / "out")
    lease.hold()
    done = ran(fresh, monkeypatch, "ls", "out", "--json")
    rows = json.loads(done.stdout.splitlines()[-1])["artefacts"]
    assert f"(process {os.getpid()} on " in next(row["fix"] for row in rows if "fix" in row)
    lease.release()
    assert lease.driver() is None


def test_why_says_that_more_documents_have_the_text(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1").exit_code == 0
    texts = [json.loads(line)["text"] for line in (fresh / "pool.jsonl").read_text().splitlines()]
    alone = next(text for text in texts if sum(text in other for other in texts) == 1)
    for text, count, more in (("e", 10, True), (alone, 1, False)):
        done = ran(fresh, monkeypatch, "why", "recipe.yaml", "--text", text, "--json")
        found = json.loads(done.stdout.splitlines()[-1])
        assert (len(found["fates"]), found["more"]) == (count, more)
        assert ("more documents contain it" in done.stderr) == more


def test_ls_tells_what_is_finished_and_what_lacks_files(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran(fresh, monkeypatch, "curate", "recipe.yaml", "--workers", "1").exit_code == 0
    (fresh / "out" / "report" / ("0" * 16)).mkdir(parents=True)
    (fresh / "out" / "report" / ("0" * 16) / "report.html").touch()
    next((fresh / "out").glob("shards/*/*.arrow")).write_bytes(b"short")
    next((fresh / "out").glob("cut/*/unit-*")).unlink()
    next((fresh / "out").glob("columns/*/manifest.json")).unlink()
    next((fresh / "out").glob("tokenizer/*/manifest.json")).write_text("{")
    done = ran(fresh, monkeypatch, "ls", "out", "--json")
    assert done.exit_code == 0
    rows = {row["stage"]: row for row in json.loads(done.stdout.splitlines()[-1])["artefacts"]}
    assert {stage: row["state"] for stage, row in rows.items()} == {
        "corpus": "finished",
        "verdicts": "finished",
        "model": "finished",
        "columns": "unfinished",
        "tokenizer": "damaged",
        "tokens": "finished",
        "cut": "damaged",
        "shards": "damaged",
        "report": "finished",
    }
    shards = fresh / "out" / "shards" / rows["shards"]["fingerprint"][:16]
    assert rows["shards"]["fault"] == (
        f"{shards}: 1 of 2 files are missing or of another size, shard-00000.arrow first; delete "
        "it and run again to make it anew"
    )
    told = ran(fresh, monkeypatch, "ls", "out").stdout
    assert rows["shards"]["fault"] in told and "unfinished" in told
    assert "not a manifest (Expecting property name" in rows["tokenizer"]["fault"]


@pytest.mark.parametrize(
    ("work", "message"),
    [
        ("pool.jsonl", "pool.jsonl: no such directory, expected a recipe's work directory"),
        ("empty", "empty: holds no artefacts, expected a recipe's work directory"),
        ("theirs", "theirs: holds no artefacts, expected a recipe's work directory"),
        ("s3:/bucket/work", "did you mean 's3://bucket/work'?"),
        ("s3://", "expected a bucket, as in s3://bucket/work, got 's3://'"),
    ],
)
def test_ls_of_what_is_no_work_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch, work: str, message: str
) -> None:
    (project / "empty").mkdir(exist_ok=True)
    (project / "theirs" / "penstock-0" / "staging" / ("0" * 16)).mkdir(parents=True, exist_ok=True)
    status, stderr = told(project, monkeypatch, "ls", work)
    assert message in stderr
    assert status == 2


PARTIAL = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": ""}
NONE = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


@pytest.mark.parametrize("keys", [NONE, PARTIAL], ids=["none", "partial"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("curate", "recipe.yaml", "--workers", "1", "--set", "work=s3://bucket/work"),
        ("ls", "s3://bucket/work"),
    ],
    ids=["curate", "ls"],
)
def test_missing_credentials_are_told(
    project: Path, arguments: tuple[str, ...], keys: dict[str, str]
) -> None:
    """In a process of its own: a client that was made keeps its credentials."""
    done = penstock(
        project,
        *arguments,
        **keys,
        AWS_SHARED_CREDENTIALS_FILE="/dev/null",
        AWS_CONFIG_FILE="/dev/null",
        AWS_EC2_METADATA_DISABLED="true",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile" in done.stderr
    assert "penstock: s3://bucket/work" in done.stderr


def test_every_command_but_logs_takes_json() -> None:
    """docs/commands.md says so."""
    without = [
        name
        for name, command in main.commands.items()
        if not any(own.name == "as_json" for own in command.params)
    ]
    assert without == ["logs"]
