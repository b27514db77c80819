"""Attacks by modules in the current directory; a user's own modules and their neighbours work."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import ScoringError, SelectorError
from penstock.own_modules import hidden_neighbour
from penstock.plugin_code import hidden_neighbours
from penstock.selectors.functions import FunctionScorer
from tests.pools import documents, write_jsonl

ROOT = Path(__file__).resolve().parents[1]

RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
select: {x: {use: "own_scorer:score"}}
budget: {tokens: 2000, rank: x}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""

SCORER = """
from own_helper import Factor
def score(texts):
    from own_package.deep import shift  # when it is called, in a worker
    try:
        import own_absent
    except ModuleNotFoundError:
        return [len(text) * Factor(2).value + shift for text in texts]
"""


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr("penstock.own_modules._served", {})
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "planted_")):
            del sys.modules[name]


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory whose parents are closed to others or sticky."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-own-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def project(at: Path) -> Path:
    (at / "own_package").mkdir(parents=True)
    (at / "own_package" / "__init__.py").touch()
    (at / "own_package" / "deep.py").write_text("from own_other import shift\n")
    (at / "own_other.py").write_text("shift = 1\n")
    (at / "own_helper.py").write_text(
        "class Factor:\n    def __init__(self, value): self.value = value\n"
    )
    (at / "own_scorer.py").write_text(SCORER)
    (at / "recipe.yaml").write_text(RECIPE)
    write_jsonl(at / "pool.jsonl", documents(150))
    return at


@pytest.mark.parametrize(
    "runner", [("local", "1"), pytest.param(("ray", "1"), marks=pytest.mark.slow)]
)
def test_a_command_runs_no_module_of_the_current_directory(
    outside: Path, runner: tuple[str, str]
) -> None:
    """Attack: optional modules of libraries in a directory that all users may write to."""
    own, hostile = project(outside / "own"), outside / "hostile"
    hostile.mkdir()
    for name in ("own_absent", "coverage", "lz4", "isal", "simplejson", "uvloop", "opentelemetry"):
        (hostile / f"{name}.py").write_text(
            f"open({str(outside / name)!r}, 'w')\nraise ImportError"
        )
    hostile.chmod(0o1777)
    (outside / "bin").mkdir()
    (outside / "bin" / "penstock").write_text("from penstock.jobs.cli import main; main()")
    done = subprocess.run(
        [
            sys.executable, outside / "bin" / "penstock", "curate", own / "recipe.yaml",
            "--runner", runner[0], "--workers", runner[1],
        ],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in outside.iterdir()) == ["bin", "hostile", "own"]


def test_only_the_named_module_and_its_neighbours_find_what_lies_beside_them(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside)
    path = list(sys.path)
    scorer = FunctionScorer("own_scorer:score", [project(outside / "own")])
    assert scorer.called(["abc", "d"]) == [7, 3]
    assert sys.path == path
    (outside / "own" / "planted_neighbour.py").write_text("raise SystemExit('planted')")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("planted_neighbour")


@pytest.mark.parametrize(
    ("modes", "owners", "open_one"),
    [
        ({".": 0o777}, {}, "."),
        ({"..": 0o777}, {}, ".."),
        ({"own_scorer.py": 0o666}, {}, "own_scorer.py"),
        ({".": 0o1777}, {"own_scorer.py": 4242}, "."),
        ({".": 0o1777}, {"__pycache__": 4242}, "."),
        ({"__pycache__": 0o777}, {}, "__pycache__"),
    ],
)
def test_a_module_that_another_user_may_have_written_is_refused(
    outside: Path, modes: dict[str, int], owners: dict[str, int], open_one: str
) -> None:
    if owners and os.geteuid():
        pytest.skip("NOT RUN: only root can give files to another user")
    own = project(outside / "mine" / "own")
    (own / "__pycache__").mkdir()
    for name, mode in modes.items():
        (own / name).chmod(mode)
    for name, owner in owners.items():
        os.chown(own / name, owner, owner)
    with pytest.raises(SelectorError) as caught:
        FunctionScorer("own_scorer:score", [own])
    assert (caught.value.key, str(caught.value.fix).split("`")[1]) == (
        "use",
        f"chmod o-w {os.path.realpath(own / open_one)}",
    )
    assert "own_scorer" not in sys.modules and "own_helper" not in sys.modules


def test_a_neighbour_or_submodule_that_another_user_may_have_written_is_refused(
    outside: Path,
) -> None:
    own = project(outside / "own")
    (own / "own_helper.py").chmod(0o666)
    with pytest.raises(SelectorError, match="own_helper is not imported"):
        FunctionScorer("own_scorer:score", [own])
    (own / "own_package" / "deep.py").chmod(0o666)
    with pytest.raises(SelectorError, match=r"own_package.deep is not imported"):
        FunctionScorer("own_package.deep:score", [own])


def test_the_current_directory_of_another_user_serves_nothing(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        pytest.skip("NOT RUN: only root can give files to another user")
    own = project(outside / "own")
    monkeypatch.chdir(own)
    assert FunctionScorer("own_scorer:score", ["/nowhere", own]).called(["abc"]) == [7]
    os.chown(own, 4242, 4242)
    assert FunctionScorer("own_scorer:score", [own]).called(["abc"]) == [7]  # a colleague's recipe
    del sys.modules["own_scorer"]
    with pytest.raises(SelectorError, match="belongs to another user"):
        FunctionScorer("own_scorer:score", ["/nowhere", own])


def test_the_current_directory_is_behind_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a module of the current directory in place of the one that PYTHONPATH names."""
    for name, value in (("library", 1), ("here", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own_named.py").write_text(f"def score(texts): return [{value}]\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "library")])
    assert FunctionScorer("own_named:score", ["/nowhere", Path.cwd()]).called([""]) == [1]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not imported ``wave``, of Python's own library."""
    before = sys.modules.pop("wave", None)
    yield
    sys.modules.pop("wave", None)
    if before is not None:
        sys.modules["wave"] = before


@pytest.mark.usefixtures("fresh")
def test_a_neighbour_comes_behind_pythons_own_library_and_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("library", 1), ("own", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own_installed.py").write_text(f"value = {value}\n")
    own = tmp_path / "own"
    (own / "wave.py").write_text("open = None\n")
    (own / "own_scorer.py").write_text(
        "import own_installed, wave\n"
        "def score(texts): return [own_installed.value, callable(wave.open)]\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "library")])
    scorer = FunctionScorer("own_scorer:score", [own])
    assert scorer.called([""]) == [1, True]
    assert "wave" not in scorer.code.modules
    files = [own / "own_installed.py", own / "wave.py"]
    assert hidden_neighbours(scorer.code) == [("own_installed", files[0]), ("wave", files[1])]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import queue\ndef score(texts): return [queue.weight]", ScoringError),
        ("from queue import weight\ndef score(texts): return [weight]", SelectorError),
        ("import queue\ndef score(texts): return [queue.Queue.weight]", None),
        ("import queue\ndef score(texts): return [queue.Queue().weight]", None),
    ],
)
def test_an_error_names_the_neighbour_that_another_module_hides(
    outside: Path, source: str, error: type[Exception] | None
) -> None:
    (outside / "queue.py").write_text("weight = 2\n")
    (outside / "own_scorer.py").write_text(source)
    with pytest.raises(error or ScoringError) as caught:
        FunctionScorer("own_scorer:score", [outside]).called([""])
    assert ("queue.py" in str(getattr(caught.value, "fix", None))) == (error is not None)
    assert hidden_neighbour("queue", outside) == outside / "queue.py"
    assert hidden_neighbour("random", outside) is None
