"""``import penstock`` as a script or a notebook uses it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import penstock
from penstock.jobs.cli import main
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.pipeline.runner import LocalRunner
from tests.pools import documents, write_jsonl

HEAVY = ("torch", "ray", "numba", "deepspeed", "transformers", "pyarrow", "numpy", "matplotlib")

NAMES = [
    "ArtefactError",
    "Backend",
    "BadInput",
    "BudgetError",
    "CompletionError",
    "Failure",
    "InputError",
    "JobError",
    "LeaseError",
    "PenstockError",
    "PlainScorer",
    "Recipe",
    "RecipeError",
    "Reweighter",
    "Rewriter",
    "Scorer",
    "ScoringError",
    "SelectorError",
    "SetSelector",
    "StorageError",
    "TrainingError",
    "UnmadeError",
    "WorkerError",
    "clean",
    "compare",
    "curate",
    "diff",
    "export",
    "load_recipe",
    "open",
    "sample",
    "train",
    "why",
]

RECIPE = """\
work: out
corpus: [{path: pool.jsonl}]
select: {length: {use: "lengths:score"}}
budget: {tokens: 2_000, rank: length}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = documents(150)
    for row in rows[::3]:
        row["source"] = "<b>web</b>"
    write_jsonl(tmp_path / "pool.jsonl", rows)
    (tmp_path / "lengths.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return path


def loaded_by(code: str) -> set[str]:
    """The top-level modules of a new process after ``code``."""
    code += "; import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_public_names_are_these() -> None:
    assert penstock.__all__ == NAMES
    assert set(NAMES) <= set(dir(penstock))
    for name in NAMES:
        assert getattr(penstock, name).__module__.startswith("penstock.")
    with pytest.raises(AttributeError, match="no attribute 'curat'"):
        _ = penstock.curat


def test_importing_loads_nothing_heavy() -> None:
    assert not loaded_by("import penstock").intersection(HEAVY)
    every = "import penstock, penstock.jobs.curate; [getattr(penstock, name) for name in "
    every += "penstock.__all__ if name != 'Backend']"  # whose methods take tensors
    assert not loaded_by(every).intersection(
        ("torch", "ray", "deepspeed", "transformers", "sentence_transformers", "faiss", "datasets",
         "tensorboard", "matplotlib",
         "pandas", "numba.cpython.unicode")  # by the first array, and by the first compiled call
    )  # fmt: skip


def test_types_are_shipped() -> None:
    assert files("penstock").joinpath("py.typed").is_file()
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    assert 'penstock = ["py.typed"]' in project.read_text()


def test_curate_and_open_give_results_that_print(recipe: Path) -> None:
    with pytest.raises(penstock.UnmadeError):
        penstock.open(recipe)
    lines: list[str] = []
    made = penstock.curate(recipe, workers=1, progress=lines.append)
    assert any("documents kept" in line for line in lines)
    assert "1,984 of 2,000 delivered" in repr(made) and made.shards.digest in repr(made)
    page = made._repr_html_()
    assert "&lt;b&gt;web&lt;/b&gt;" in page and "<b>web</b>" not in page
    found = penstock.open(str(recipe))
    assert isinstance(found, Curated) and found.shards.digest == made.shards.digest
    shards = penstock.open(made.shards.path)
    assert repr(shards).startswith(f"<shards {made.shards.fingerprint[:16]}: ")
    (made.shards.path / "manifest.json").unlink()
    part = penstock.open(recipe)
    assert isinstance(part, PartiallyCurated) and "length" in repr(part)
    with pytest.raises(penstock.InputError):
        penstock.open(made.shards.path)


def test_a_recipe_object_and_an_open_runner_are_taken_too(recipe: Path) -> None:
    loaded = penstock.load_recipe(recipe, ["budget.tokens=1000"])
    runner = LocalRunner(1)
    assert penstock.curate(loaded, runner=runner).cut.facts["delivered"] == 992
    assert isinstance(penstock.open(loaded), Curated)
    with pytest.raises(penstock.InputError, match="settings"):
        penstock.curate(loaded, settings=["seed=3"])


class Watched(LocalRunner):
    """Writes down when it is closed."""

    closed: list[str]

    def close(self) -> None:
        self.closed.append("closed")
        super().close()


@pytest.mark.parametrize("job", ["train", "compare"])
def test_only_a_runner_that_was_started_here_is_closed(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    pytest.importorskip("torch")
    from penstock.jobs import api, compare
    from penstock.jobs.report import page
    from penstock.trainers import run

    events: list[str] = []

    def train_all(specs: list[Any], *_: object, **options: object) -> list[Any]:
        events.append("train")
        return [Result() for _ in specs]

    class Result:
        tokens = 992

    monkeypatch.setattr(Watched, "closed", events, raising=False)
    monkeypatch.setattr(run, "train_all", train_all)
    monkeypatch.setattr(compare, "train_all", train_all)
    monkeypatch.setattr(page, "write_comparison", lambda comparison: [])
    monkeypatch.setattr(api, "open_runner", lambda kind, workers: Watched(1))
    write_jsonl(recipe.parent / "held_out.jsonl", documents(3))
    settings = ["evaluate=[held_out.jsonl]", "compare.arms.random.budget.rank=random"]
    run_it = getattr(penstock, job)
    run_it(recipe, settings=settings, runner=Watched(1))
    assert events == ["train"], "the caller's runner was closed"
    events.clear()
    run_it(recipe, settings=settings, runner="local")
    assert events == ["closed", "train", "closed"], "workers hold memory while models are trained"


def test_documents_are_looked_at_as_the_commands_do(recipe: Path) -> None:
    """Each function returns what its command prints with ``--json``."""
    other = ["budget.tokens=1_000"]
    for settings in ([], other):
        penstock.curate(recipe, settings=settings, runner="local", workers=1)

    def printed(*arguments: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(main, [*arguments, "--json"])
        assert done.exit_code == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    path = str(recipe)
    name = penstock.sample(recipe, 1, place="taken")[0]["id"]
    fates = penstock.why(recipe, name)
    assert json.loads(json.dumps(fates)) == printed("why", path, name)[-1]["fates"]
    words = fates[0]["text"][:40]
    assert name in [one["id"] for one in penstock.why(recipe, words, text=True)]
    drawn = penstock.sample(recipe, 3, place="left", seed=4)
    *lines, _ = printed("sample", path, "-n", "3", "--from", "left", "--seed", "4")
    assert json.loads(json.dumps(drawn)) == lines and len(lines) == 3
    found = penstock.diff(path, path, settings=other)
    assert json.loads(json.dumps(found)) == printed("diff", path, path, "--set", other[0])[-1]
    with pytest.raises(penstock.BadInput):
        penstock.why(recipe, "nobody")


def test_nothing_of_the_process_is_changed(recipe: Path) -> None:
    before = dict(os.environ), list(logging.getLogger().handlers), os.getcwd()
    penstock.curate(recipe, workers=1)
    with pytest.raises(penstock.RecipeError):
        penstock.curate(recipe, settings=["budget.tokens=-5"])
    after = dict(os.environ), list(logging.getLogger().handlers), os.getcwd()
    assert after == before
