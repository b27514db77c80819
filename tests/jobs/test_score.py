"""A scorer of one's own on a sample: its numbers, its errors, a debugger that works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import penstock
from penstock.artefact import Workspace
from penstock.errors import ScoringError, SelectorError
from penstock.jobs.cli import main
from penstock.jobs.plan import Plan
from penstock.jobs.score import ScoredSample, score
from penstock.pipeline import columns
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import load_recipe
from tests.pools import documents, write_jsonl

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
clean: {rules: {mine: {use: "scored:drop"}}}
rewrite: {up: {use: "scored:Upper", by: none}}
select:
  x: {use: "scored:score"}
  fitted: {use: "scored:Fitted"}
  constant: {use: "scored:constant"}
  spread: {use: ingenious}
  mean: {use: mean_of, column: x, by: source}
budget: {tokens: 2000, rank: x}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""

SCORER = """
import json
import scored_helper

def score(texts):
    return [None if "w7" in text.split() else float(len(text)) for text in texts]

def constant(texts):
    return [1.0] * len(texts)

def drop(texts):
    return [False] * len(texts)

class Upper:
    version, replaces = 1, True
    def identity(self):
        return {}
    def edit(self, texts):
        return texts

class Fitted:
    def fit(self, fitting):
        self.mean = sum(len(text) for text in fitting.sample(50)["text"].to_pylist()) / 50
    def save(self, directory):
        (directory / "mean.json").write_text(json.dumps(self.mean))
    def load(self, directory):
        self.mean = json.loads((directory / "mean.json").read_text())
    def score(self, documents):
        return [len(text) - self.mean for text in documents["text"].to_pylist()]
"""

HELPER = """
def inverse(text):
    return 1 / (len(text) - LENGTH)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scored.py").write_text(SCORER)
    (tmp_path / "scored_helper.py").write_text(HELPER)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_jsonl(tmp_path / "pool.jsonl", documents(300))
    monkeypatch.setattr("penstock.own_modules._served", {})
    return tmp_path


def scored(project: Path, column: str, **options: Any) -> ScoredSample:
    plan = Plan.of(load_recipe(project / "recipe.yaml"))
    return score(plan, column, LocalRunner(1), **options)


def test_numbers_of_a_sample(project: Path) -> None:
    texts = {row["id"]: row["text"] for row in documents(300)}
    found = scored(project, "x", sample=100)
    assert 50 <= found.documents <= 200 and found.of == 300
    assert sum(found.counts) == found.documents - found.excluded
    best, worst = found.highest[0], found.lowest[0]
    assert best.score == len(texts[best.id]) == found.quantiles["1"]
    assert worst.score == len(texts[worst.id]) == found.quantiles["0"]
    assert (found.edges[0], found.edges[-1]) == (worst.score, best.score)
    assert len(found.highest) == len(found.lowest) == 3 and found.seconds > 0
    whole = scored(project, "x", sample=10_000)
    assert whole.documents == 300
    assert (found.asked, found.whole, whole.asked, whole.whole) == (100, False, 10_000, True)
    assert any("about 100 of 300" in line for line in found.lines())
    assert not any("about" in line for line in whole.lines())
    assert whole.excluded == sum("w7" in text.split() for text in texts.values())


def test_a_fitted_class_is_scored_with_the_model_of_curate(project: Path) -> None:
    """Here as in `curate`, which then finds the model made."""
    found = scored(project, "fitted")
    models = [*(project / "work" / "model").iterdir()]
    curated = penstock.curate(
        project / "recipe.yaml", settings=["budget.rank=fitted", "rewrite={}"], workers=1
    )
    assert [*(project / "work" / "model").iterdir()] == models
    fates = curated.columns["fitted"].manifest["inputs"]["model"][:16]
    assert fates == models[0].name and found.quantiles["1"] > 0 > found.quantiles["0"]


def test_the_scores_of_a_sample_are_not_kept(project: Path) -> None:
    scored(project, "x")
    stages = {one.manifest["stage"] for one in Workspace(project / "work").artefacts()}
    assert stages == {"corpus", "verdicts", "model", "rule_mine"}


def test_infinite_scores_are_noted_and_count_as_none(project: Path) -> None:
    text = (
        SCORER
        + """
def endless(texts):
    return [float("inf") if len(text) % 3 else float(len(text)) for text in texts]
"""
    )
    (project / "scored.py").write_text(text)
    recipe = (project / "recipe.yaml").read_text()
    changed = recipe.replace("select:\n", "select:\n  endless: {use: 'scored:endless'}\n", 1)
    (project / "recipe.yaml").write_text(changed)
    found = scored(project, "endless", sample=10_000)
    infinite = sum(len(row["text"]) % 3 != 0 for row in documents(300))
    assert found.excluded == infinite > 0 and sum(found.counts) == 300 - infinite
    assert any(f"{infinite} " in note and "infinite" in note for note in found.notes)


def test_a_slow_scorer_is_counted_and_its_slowest_document_named(project: Path) -> None:
    """Only the step and its seconds were shown, however many documents were done."""
    text = SCORER.replace(
        "    return [1.0] * len(texts)",
        "    from penstock.activity import current_steps\n    import time\n"
        "    seen.append([(s.name, s.counts.documents, s.documents) for s in current_steps()])\n"
        "    time.sleep(2.5 * (len(seen) == 2))\n    return [1.0] * len(texts)",
    )
    (project / "scored.py").write_text(text + "\nseen = []\n")
    found = scored(project, "constant", sample=30)
    seen = [dict((name, own) for name, *own in one) for one in sys.modules["scored"].seen]
    counts = [own["scoring column constant"] for own in seen]
    assert counts[0] == [0, found.documents] and counts[1] == [8, found.documents]
    assert found.slowest is not None
    name, seconds = found.slowest
    assert name.startswith("document") and seconds >= 0.1
    assert any(name in line for line in found.lines())


SLOW = """
import time
from penstock.resources import Resources
from penstock.selectors.base import Requirements
def score(texts):
    time.sleep(0.006 * len(texts))
    return [1.0 * len(text) for text in texts]
class Slow:
    requirements = Requirements(resources=Resources(slow=True))
    def score(self, documents): return score(documents["text"].to_pylist())
"""


@pytest.mark.parametrize("name", ["score", "Slow"])
def test_a_scorer_of_milliseconds_a_document_is_shown_what_helps(project: Path, name: str) -> None:
    (project / "slowly.py").write_text(SLOW)
    plan = Plan.of(load_recipe(project / "recipe.yaml", [f"select.x.use=slowly:{name}"]))
    found = score(plan, "x", LocalRunner(1), sample=20)
    assert found.slow == found.summary()["slow"] == (name == "Slow")
    hints = [line for line in found.lines() if "Resources(slow=True)" in line]
    assert len(hints) == (name == "score")


def test_documents_are_counted_within_a_batch_once_for_all_scorers(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(columns, "count_documents", lambda number, size: counts.append(number))
    settings = ["budget.rank={x: 1, constant: 1}", "rewrite={}", "clean.rules={}"]
    penstock.curate(project / "recipe.yaml", settings=settings, workers=1)
    assert sum(counts) == 300 and max(counts) <= 128


def test_no_score_at_all_is_noted_and_no_extremes_are_shown(project: Path) -> None:
    (project / "scored.py").write_text(SCORER.replace("[1.0] * len", "[None] * len"))
    found = scored(project, "constant")
    assert (found.excluded, found.slowest, len(found.notes)) == (found.documents, None, 1)
    assert not {"highest:", "lowest:"} & set(found.lines())


def test_one_score_for_nearly_all_is_noted(project: Path) -> None:
    assert len(scored(project, "constant").notes) == 1
    assert scored(project, "x").notes == ()


@pytest.mark.parametrize(
    ("column", "key"),
    [("spread", "select.spread"), ("mean", "select.mean"), ("none", "--column")],
)
def test_a_column_that_a_sample_does_not_have_is_refused(
    project: Path, column: str, key: str
) -> None:
    with pytest.raises(SelectorError) as caught:
        scored(project, column)
    assert caught.value.key == key
    if column != "none":
        assert f"--set budget.rank={column}" in str(caught.value.fix)
    assert not (project / "work").exists()


def test_the_commands_of_a_refusal_name_the_recipe(project: Path) -> None:
    command = ["score", str(project / "recipe.yaml"), "--column", "spread", "--set", "seed=2"]
    done = CliRunner().invoke(main, command)
    words = f"{project}/recipe.yaml --set seed=2"
    assert done.exit_code == 2 and "RECIPE" not in done.stderr
    for verb, rest in (
        ("curate", "--set budget.rank=spread"), ("sample", "--near-cut"), ("why", "ID")
    ):  # fmt: skip
        assert f"`penstock {verb} {words} {rest}`" in done.stderr


def test_the_command_and_its_object(project: Path) -> None:
    command = ["score", str(project / "recipe.yaml"), "--column", "x", "--workers", "1", "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == {
        "asked", "column", "documents", "documents_per_second", "excluded", "highest", "histogram",
        "lowest", "notes", "of", "quantiles", "seconds", "slow", "slowest", "whole",
    }  # fmt: skip
    assert len(found["histogram"]["edges"]) == len(found["histogram"]["counts"]) + 1


def test_a_breakpoint_in_a_scorer_opens_the_debugger(project: Path) -> None:
    """The scorer runs in the process of the command, whose stdin is that of the terminal."""
    text = SCORER.replace("    return [None if", "    breakpoint()\n    return [None if")
    (project / "scored.py").write_text(text)
    command = [sys.executable, "-m", "penstock", "score", "recipe.yaml", "--column", "x"]
    done = subprocess.run(
        [*command, "--sample", "10000"],
        cwd=project,
        # Ray sets PYTHONBREAKPOINT to its own debugger, where another test connected to one.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONBREAKPOINT": ""},
        input="p len(texts) * 1_000_003\n" + 20 * "continue\n",  # once for each call
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(8 * 1_000_003) in done.stdout


def failing(project: Path, **functions: str) -> str:
    """Have functions fail at one document, by its length; return its id."""
    lengths = [len(row["text"]) for row in documents(300)]
    at = next(n for n, size in enumerate(lengths) if lengths.count(size) == 1)
    (project / "scored_helper.py").write_text(HELPER.replace("LENGTH", str(lengths[at])))
    text = (project / "scored.py").read_text()
    for before, after in functions.values():
        assert before in text
        text = text.replace(before, after)
    (project / "scored.py").write_text(text)
    return str(documents(300)[at]["id"])


SCORE = ("float(len(text)) for text in texts]", "scored_helper.inverse(text) for text in texts]")
DROP = ("[False] * len(texts)", "[scored_helper.inverse(text) > 9 for text in texts]")
EDIT = (
    "        return texts\n",
    "        [scored_helper.inverse(str(t)) for t in texts]\n        return texts\n",
)
FITTED = ("[len(text) - self.mean for", "[scored_helper.inverse(text) for")


@pytest.mark.parametrize(
    ("change", "key", "settings"),
    [
        (SCORE, "select.x", ["rewrite={}"]),
        (FITTED, "select.fitted", ["rewrite={}", "budget.rank=fitted"]),
        (DROP, "clean.rules.mine", []),
        (EDIT, "rewrite.up", []),
    ],
)
def test_an_error_names_the_document_and_the_users_own_lines(
    project: Path, change: tuple[str, str], key: str, settings: list[str]
) -> None:
    failed = failing(project, it=change)
    with pytest.raises(ScoringError) as caught:
        penstock.curate(project / "recipe.yaml", settings=settings, workers=1)
    assert (caught.value.key, caught.value.file) == (key, f"document {failed}")
    assert "ZeroDivisionError" in caught.value.problem
    frames = caught.value.problem.partition("(")[2]
    assert frames.index("scored.py:") < frames.index("scored_helper.py:3 in inverse")
    assert "return 1 / (len(text)" in frames and "penstock" not in frames


def test_an_error_of_a_whole_batch_names_the_batch(project: Path) -> None:
    text = SCORER.replace(
        "    return [None if",
        "    if len(texts) > 200: raise KeyError('many')\n    return [None if",
    )
    (project / "scored.py").write_text(text)
    with pytest.raises(ScoringError) as caught:
        scored(project, "x", sample=10_000)
    assert str(caught.value.file).startswith("documents ")


def test_an_error_when_a_class_is_made_has_its_line(project: Path) -> None:
    text = SCORER.replace(
        "    def fit(", "    def __init__(self):\n        self.x = {}['no']\n    def fit("
    )
    (project / "scored.py").write_text(text)
    with pytest.raises(SelectorError) as caught:
        scored(project, "fitted")
    assert caught.value.key == "select.fitted.use"
    assert "in __init__: self.x = {}['no']" in caught.value.problem


def test_scores_are_those_of_curate(project: Path) -> None:
    found = scored(project, "x", sample=10_000, extremes=300)
    curated = penstock.curate(project / "recipe.yaml", settings=["rewrite={}"], workers=1)
    texts = {row["id"]: row["text"] for row in documents(300)}
    kept = [one for one in found.highest if not np.isnan(one.score)]
    assert {one.id for one in kept} <= texts.keys()
    assert len(kept) == 300 - curated.columns["x"].facts["excluded"]
