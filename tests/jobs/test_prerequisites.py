"""What would stop a run after cleaning stops it before the first stage, and ``check`` finds it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import penstock
from penstock.errors import ScoringError, SelectorError
from penstock.jobs.checking.check import check_recipe
from penstock.jobs.plan import Plan
from penstock.jobs.score import score
from penstock.pipeline.cleaning.function_rule import FunctionRule
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import load_recipe
from penstock.testing import check_scorer
from tests.pools import documents, write_jsonl

RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
select: {mine: {use: "required:Fine"}}
budget: {tokens: 2000, rank: mine}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""

SCORERS = """
import threading
import numpy as np

class Fine:
    def score(self, documents): return [1.0 + len(text) for text in documents["text"].to_pylist()]

class Locked(Fine):
    def __init__(self): self.lock = threading.Lock()

class LockedLater(Fine):
    lock = None
    def score(self, documents):
        self.lock = self.lock or threading.Lock()
        return super().score(documents)

class Saved(Fine):
    returned = None
    def fit(self, fitting): return self.returned
    def save(self, directory): ...
    def load(self, directory): ...

class Path(Saved):
    returned = {"path": "a", "sink": 1.5, "words": ["b"]}
class Object(Saved):
    returned = {"fine": 1, "model": object()}
class Single(Saved):
    returned = {"share": np.float32(1)}
class Infinite(Saved):
    returned = {"loss": float("inf")}
class Itself(Saved):
    def fit(self, fitting): return self

class Loads(Saved):
    def load(self, directory): self.lock = threading.Lock()

class Edits:
    version, replaces = 1, True
    def __init__(self): self.lock = threading.Lock()
    def identity(self): return {}
    def edit(self, texts): return texts
"""


CLASS = "class Quits:\n    def score(self, documents): raise BdbQuit"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "required.py").write_text(SCORERS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_jsonl(tmp_path / "pool.jsonl", documents(150))
    return tmp_path


def use(name: str) -> str:
    return f"select.mine.use=required:{name}"


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        (use("Locked"), "select.mine"),
        ("rewrite={locked: {use: 'required:Edits', by: none}}", "rewrite.locked"),
    ],
)
def test_a_plug_in_that_cannot_be_sent_is_found_before_anything_starts(
    project: Path, setting: str, key: str
) -> None:
    recipe = project / "recipe.yaml"
    found = check_recipe(recipe, [setting])
    assert [(one.level, one.key) for one in found.errors] == [("error", key)]
    with pytest.raises(ScoringError) as caught:
        penstock.curate(recipe, settings=[setting], workers=1)
    assert (caught.value.key, str(caught.value)) == (key, found.errors[0].text)
    assert "lock" in str(caught.value.got)
    assert not (project / "work").exists()
    if key == "select.mine":
        with pytest.raises(ScoringError) as scored:
            score(Plan.of(load_recipe(recipe, [setting])), "mine", LocalRunner(1))
        assert scored.value.key == key and not (project / "work").exists()


@pytest.mark.slow
def test_a_lock_made_with_the_first_documents_needs_no_pickle(project: Path) -> None:
    curated = penstock.curate(project / "recipe.yaml", settings=[use("LockedLater")], workers=1)
    assert curated.columns["mine"].facts["documents"] == curated.pool.kept
    assert len(check_scorer("required:LockedLater", directory=project)) == 64


@pytest.mark.slow
def test_a_loaded_model_that_cannot_be_sent_is_named(project: Path) -> None:
    with pytest.raises(ScoringError) as caught:
        penstock.curate(project / "recipe.yaml", settings=[use("Loads")], workers=2)
    assert caught.value.key == "select.mine" and "lock" in str(caught.value.got)


@pytest.mark.parametrize(
    ("name", "member"),
    [("Object", "'model'"), ("Single", "'share'"), ("Infinite", "'loss'"), ("Itself", "fit")],
)
def test_what_a_fit_reports_is_json(project: Path, name: str, member: str) -> None:
    plan = Plan.of(load_recipe(project / "recipe.yaml", [use(name)]))
    with pytest.raises(ScoringError) as caught:
        score(plan, "mine", LocalRunner(1))
    assert caught.value.key == "select.mine" and member in str(caught.value.file)
    with pytest.raises(ScoringError) as checked:
        check_scorer(f"required:{name}", directory=project, processes=False)
    assert checked.value.got == caught.value.got


def test_check_warns_of_what_the_source_shows(project: Path) -> None:
    source = "class Odd:\n    def fitt(self, fitting): import required_absent\n"
    source += "    def score(self, documents): return []\n"
    (project / "odd.py").write_text(source)
    found = check_recipe(project / "recipe.yaml", ["select.mine.use=odd:Odd"])
    warned = [
        (one.kind, list(one.names)) for one in found.findings if "select.mine" in str(one.key)
    ]
    assert warned == [("missing_library", []), ("misspelt_member", ["fit"])]
    assert not found.errors


@pytest.mark.parametrize("source", ["def score(texts): raise BdbQuit", CLASS])
def test_the_end_of_a_debugger_is_an_interrupt(project: Path, source: str) -> None:
    name = "score" if source.startswith("def") else "Quits"
    (project / "quits.py").write_text(f"from bdb import BdbQuit\n{source}\n")
    recipe = load_recipe(project / "recipe.yaml", [f"select.mine.use=quits:{name}"])
    with pytest.raises(KeyboardInterrupt):
        score(Plan.of(recipe), "mine", LocalRunner(1))


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ("[0.5] * len(texts)", "0.5, a float, for text 0"),
        ("[True]", "1"),
        ("[True] + ['no'] * (len(texts) - 1)", "'no', a str, for text 1"),
        ("None", "a NoneType"),
    ],
)
def test_what_a_rule_returns_is_described_in_words_of_python(
    project: Path, returned: str, got: str
) -> None:
    (project / "returns.py").write_text(f"def drop(texts): return {returned}\n")
    rule = FunctionRule("own", {"use": "returns:drop"}, [project])
    with pytest.raises(ScoringError) as caught:
        rule.compute(pa.array(["a", "b", "c"], pa.large_string()))
    assert (caught.value.key, caught.value.got) == ("clean.rules.own", got)


def test_facts_may_have_the_names_of_fields_of_records(project: Path) -> None:
    plan = Plan.of(load_recipe(project / "recipe.yaml", [use("Path")]))
    assert score(plan, "mine", LocalRunner(1)).documents == 150


def test_a_name_of_rescore_is_checked_first(project: Path) -> None:
    with pytest.raises(SelectorError) as caught:
        penstock.curate(project / "recipe.yaml", workers=1, rescore=["mien"])
    assert (caught.value.key, caught.value.got) == ("--rescore", "'mien'")
    assert not (project / "work").exists()
