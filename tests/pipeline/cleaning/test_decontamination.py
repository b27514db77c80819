"""Documents that hold copies of evaluation examples: dropped, counted, and found again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.artefact import Workspace
from penstock.errors import InputError, RecipeError
from penstock.jobs.cli import main
from penstock.jobs.plan import Plan
from penstock.pipeline.cleaning.fates import FileOverlap, document_overlaps, file_overlaps
from penstock.pipeline.cleaning.overlaps.overlaps import Overlaps
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.pools import documents, write_jsonl

ONE = LocalRunner(1)

BEES = {"question": "What do the bees of this valley make?", "answer": "They make honey."}
LONG = {"text": " ".join(f"word{number}" for number in range(40))}
TINY = {"question": "Why?", "answer": "Because."}
WHALES = {"text": "Whales sing in every ocean of the world."}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Documents, of which some hold copies; the first copy of a duplicate does, too."""
    rows: list[dict[str, Any]] = documents(120, seed=5)
    rows[10]["text"] += "\nWHAT DO THE BEES\nof this valley  make -- they make honey"
    rows[20]["text"] += " " + " ".join(f"Word{number}," for number in range(9, 25))
    rows[30]["text"] += " " + " ".join(f"word{number}" for number in range(9, 21))  # 12 words
    rows[40]["text"] = "Why? Because. Nothing else is said here."
    rows[50]["text"] += " whales sing in every ocean of the world"
    rows[60]["text"] = rows[10]["text"].replace(" ", "  ")
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    write_jsonl(tmp_path / "made.eval.jsonl", [TINY, BEES, LONG])
    write_jsonl(tmp_path / "whales.jsonl", [WHALES])
    return tmp_path


def pool_of(project: Path, evaluate: list[str], **decontaminate: Any) -> Pool:
    tree = {
        "corpus": [{"path": "pool"}],
        "clean": {"decontaminate": decontaminate},
        "evaluate": evaluate,
        "budget": {"tokens": 1000, "rank": "random"},
    }
    plan = Plan.of(parse_recipe(tree, project))
    with Workspace.driving(plan.work) as workspace:
        return make_pool(plan.clean, make_corpus(plan.corpus, workspace, ONE), workspace, ONE)


def test_documents_with_copies_are_dropped_and_accounted_for(project: Path) -> None:
    pool = pool_of(project, ["made.eval.jsonl"])
    assert pool.documents["dropped_by"] == {"overlap": 3}
    assert pool.kept == 117
    expected = FileOverlap(file="made.eval.jsonl", documents=3, examples=3, unchecked=1)
    assert file_overlaps(pool) == [expected]
    (unit,) = pool.units
    found = {row: document_overlaps(pool, unit, row) for row in range(unit.of)}
    assert [row for row, own in found.items() if own] == [10, 20, 60]
    assert [own[0].example for own in found.values() if own] == [2, 3, 2]
    words = len((project / "pool" / "a.jsonl").read_text().splitlines()[20].split())
    assert 0 < found[20][0].share < 16 / (words - 20)


def test_two_files_and_their_columns(project: Path) -> None:
    both = pool_of(project, ["made.eval.jsonl", "whales.jsonl", "./made.eval.jsonl"])
    assert both.documents["dropped_by"] == {"overlap": 4}
    names = [(own.file, own.documents) for own in file_overlaps(both)]
    assert names == [("made.eval.jsonl", 3), ("whales.jsonl", 1)]
    made = {path.name for path in (project / "work" / "overlaps").iterdir()}
    assert len(made) == 2
    pool_of(project, ["whales.jsonl"])
    assert {path.name for path in (project / "work" / "overlaps").iterdir()} == made
    other = pool_of(project, [], files=["whales.jsonl"])
    assert other.documents["dropped_by"] == {"overlap": 1, "duplicate": 1}


def test_an_audit_counts_and_off_does_nothing(project: Path) -> None:
    audit = pool_of(project, ["made.eval.jsonl"], action="audit")
    off = pool_of(project, ["made.eval.jsonl"], action=False)  # as YAML reads ``off``
    assert audit.documents == off.documents and audit.fingerprint == off.fingerprint
    assert audit.documents["dropped_by"] == {"duplicate": 1}
    assert [own.documents for own in file_overlaps(audit)] == [3]
    assert file_overlaps(off) == []


def test_grams_of_another_length(project: Path) -> None:
    assert pool_of(project, ["made.eval.jsonl"], ngram=12).documents["dropped_by"] == {"overlap": 4}
    assert pool_of(project, ["made.eval.jsonl"], ngram=17).documents["dropped_by"] == {"overlap": 2}


def test_a_changed_rule_reads_no_evaluation_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool_of(project, ["made.eval.jsonl"])

    def refuse(self: Overlaps) -> None:
        raise AssertionError("grams are indexed again")

    monkeypatch.setattr(Overlaps, "grams", property(refuse))
    audit = pool_of(project, ["made.eval.jsonl"], action="audit")
    assert [own.documents for own in file_overlaps(audit)] == [3]


def test_a_wrong_file_or_value_is_named(project: Path) -> None:
    (project / "broken.jsonl").write_text('{"question": "Who?"}\n')
    with pytest.raises(InputError) as info:
        pool_of(project, ["broken.jsonl"])
    assert str(info.value.file).endswith("broken.jsonl:1")
    with pytest.raises(InputError) as missing:
        pool_of(project, [], files=["nowhere.jsonl"])
    assert missing.value.key == "clean.decontaminate.files"
    for wrong in ({"ngram": 4}, {"ngram": 1001}, {"action": "keep"}):
        with pytest.raises(RecipeError) as refused:
            pool_of(project, [], **wrong)
        assert str(refused.value.key).startswith("clean.decontaminate")


def test_the_commands_name_the_examples(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project / "recipe.yaml").write_text(
        "corpus: {path: pool}\nbudget: {tokens: 1000, rank: random}\n"
        "tokenizer: {train: {vocab_size: 384}}\nshards: {sequence_length: 16}\n"
        "evaluate: made.eval.jsonl\n"
    )
    stdout = sys.stdout
    main(["clean", "recipe.yaml", "--json", "--workers", "1"], standalone_mode=False)
    (own,) = json.loads(capsys.readouterr().out.splitlines()[-1])["overlaps"]
    assert {**own, "largest": None} == {
        "file": "made.eval.jsonl",
        "documents": 3,
        "examples": 3,
        "unchecked": 1,
        "largest": None,
    }
    assert len(own["largest"]) == 2
    assert own["largest"][0]["share"] >= own["largest"][1]["share"] > 0
    monkeypatch.setattr(sys, "stdout", stdout)
    main(["clean", "recipe.yaml", "--workers", "1"], standalone_mode=False)
    assert "made.eval.jsonl: 3 documents" in capsys.readouterr().out
    lines: list[str] = []
    curated = penstock.curate("recipe.yaml", workers=1, progress=lines.append)
    assert any(line.startswith("made.eval.jsonl: 3 documents") for line in lines)
    assert curated.summary()["documents"]["dropped_by"] == {"overlap": 3}
    main(["why", "recipe.yaml", "d0020"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "rule overlap" in out and "overlaps with made.eval.jsonl" in out and "example 3" in out


def test_a_publication_that_was_cut_short_writes_no_kept_file_again(project: Path) -> None:
    pool = pool_of(project, ["made.eval.jsonl"])
    path = Path(str(pool.verdicts.path))
    assert not list((path / "records").glob("judged-*")), "scratch and its records are deleted"
    (path / "manifest.json").unlink()
    files = {one: one.stat().st_ino for one in path.glob("*.parquet")}
    assert [one.name for one in files] == ["overlaps-00000.parquet"]
    again = pool_of(project, ["made.eval.jsonl"])
    assert {one: one.stat().st_ino for one in files} == files
    assert again.verdicts.digest == pool.verdicts.digest
