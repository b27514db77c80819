"""The whole of curating: the same bytes from every runner, and nothing made twice."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from penstock.errors import BadInput, RecipeError, ScoringError, SelectorError
from penstock.jobs.curate import curate
from penstock.pipeline.runner import LocalRunner, RayRunner
from penstock.recipe import Recipe, SelectorSpec
from penstock.recipe_file import parse_recipe
from tests.pools import documents, write_jsonl

SCORER = """
import os
from pathlib import Path

def score(texts):
    (Path(__file__).parent / "calls" / str(os.getpid())).touch()
    return [float(len(text)) for text in texts]

def raises(texts):
    raise KeyError("no such thing")

def nothing(texts):
    return [float("nan")] * len(texts)

def short(texts):
    return [1.0] * (len(texts) - 1)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory: two files of documents and a scorer."""
    rows = documents(240)
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows[:100])
    write_jsonl(tmp_path / "pool" / "b.jsonl", rows[90:])
    (tmp_path / "length_scorer.py").write_text(SCORER)
    (tmp_path / "calls").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_for(project: Path, function: str = "score", **budget: object) -> Recipe:
    return parse_recipe(
        {
            "corpus": [{"path": "pool/a.jsonl"}, {"path": "pool/b.jsonl"}],
            "select": {"length": {"use": f"length_scorer:{function}"}},
            "budget": {"tokens": 3_001, "rank": "length", **budget},
            "tokenizer": {"train": {"vocab_size": 384}},
            "shards": {"sequence_length": 32},
        },
        project,
    )


def test_local_and_ray_and_reversed_inputs_give_one_digest(
    project: Path, ray_session: None
) -> None:
    recipe = recipe_for(project)
    turned = recipe.model_copy(update={"corpus": recipe.corpus[::-1], "work": "other"})
    alone = curate(recipe, LocalRunner(1))
    assert len({p.name for p in (project / "calls").iterdir()} - {str(os.getpid())}) == 0
    on_ray = curate(turned, RayRunner())
    assert on_ray.shards.digest == alone.shards.digest
    assert on_ray.shards.path != alone.shards.path
    # It was the workers that called the user's function, not this process.
    assert {p.name for p in (project / "calls").iterdir()} - {str(os.getpid())}


def test_the_longest_documents_are_taken_and_the_budget_is_met(project: Path) -> None:
    made = curate(recipe_for(project), LocalRunner(1))
    summary = made.summary()
    assert summary["tokens"] == {"requested": 3_001, "delivered": 3_001 // 32 * 32}
    assert summary["documents"]["dropped_by"] == {"duplicate": 10}
    assert summary["documents"]["read"] == 250
    assert sum(tally["tokens"] for tally in summary["by_source"].values()) == 2_976
    assert set(summary["seconds"]) == {"corpus", "clean", "columns", "tokenizer", "cut", "shards"}


def test_another_budget_scores_nothing_and_another_scorer_does(project: Path) -> None:
    curate(recipe_for(project), LocalRunner(1))
    for call in (project / "calls").iterdir():
        call.unlink()
    again = curate(recipe_for(project, tokens=2_000), LocalRunner(1))
    assert again.cut.facts["delivered"] == 1_984
    assert not list((project / "calls").iterdir())
    (project / "length_scorer.py").write_text(SCORER.replace("float(len", "-float(len"))
    changed = curate(recipe_for(project, tokens=2_000), LocalRunner(1))
    assert list((project / "calls").iterdir())
    assert changed.cut.fingerprint != again.cut.fingerprint
    assert changed.cut.facts["documents"] > again.cut.facts["documents"]


def test_a_carried_column_is_in_the_shards_and_changes_no_cut(project: Path) -> None:
    plain_recipe = recipe_for(project, rank="random")
    shards = plain_recipe.shards.model_copy(update={"carry": "length"})
    plain = curate(plain_recipe, LocalRunner(1))
    made = curate(plain_recipe.model_copy(update={"shards": shards}), LocalRunner(1))
    assert made.cut.fingerprint == plain.cut.fingerprint
    assert made.shards.fingerprint != plain.shards.fingerprint
    assert plain.columns == {} and [*made.columns] == ["length"]
    assert dict(made._rows())["ranked by"] == "random"
    texts = {row["id"]: row["text"] for row in documents(240)}
    table = pa.concat_tables(
        pa.ipc.open_file(str(made.shards.verified(record))).read_all()
        for record in made.shards.named("shard-")
    )
    pairs = zip(table["doc_id"].to_pylist(), table["carried"].to_pylist())
    for ids, values in pairs:
        assert values == [float(len(texts[name])) for name in ids]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            "raises",
            ScoringError,
            "select.length: .*length_scorer:raises.*KeyError: 'no such thing'",
        ),
        ("short", ScoringError, r"expected \d+ scores, one for each text, got \d+"),
        ("nothing", BadInput, "budget.rank: length excludes all 240 documents"),
        ("scoer", BadInput, "select.length.use: .* such as score, got 'scoer'"),
    ],
)
def test_a_faulty_scorer_is_told_what_it_did(
    project: Path, function: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        curate(recipe_for(project, function), LocalRunner(1))


@pytest.mark.parametrize("tokens", [33, 100, 777, 1_023, 1_025, 2_222, 3_333, 4_095, 5_001, 6_789])
def test_ten_odd_budgets_are_met_to_the_sequence(project: Path, tokens: int) -> None:
    made = curate(recipe_for(project, tokens=tokens, shares={"wiki": 0.25}), LocalRunner(1))
    assert made.shards.facts["tokens"] == tokens // 32 * 32
    wiki = made.cut.facts["by_source"].get("wiki", {"tokens": 0})["tokens"]
    assert wiki == int(tokens * 0.25 // 32 * 32)


def test_a_source_with_less_than_a_sequence_is_told(project: Path) -> None:
    lines: list[str] = []
    recipe = recipe_for(project, tokens=40, shares="pool")
    groups = curate(recipe, LocalRunner(1), lines.append).cut.facts["groups"]
    assert [group["tokens"] for group in groups if group["tokens"]] == [32]
    empty = [group["source"] for group in groups[:-1] if not group["tokens"]]
    assert len(empty) >= 1
    (told,) = [line for line in lines if line.startswith("budget.shares: no sequence for")]
    assert all(name in told for name in empty)


def test_the_filter_rate_is_told_where_betr_ranks(project: Path) -> None:
    made = curate(recipe_for(project), LocalRunner(1))
    assert made.filter_rate() is None
    assert "filter_rate" not in made.summary()
    betr = made.recipe.model_copy(update={"select": {"length": SelectorSpec(use="betr")}})
    rate = replace(made, recipe=betr).summary()["filter_rate"]
    flops = 6 * (4 * 256**2 * (4 + 8)) * made.cut.facts["delivered"]
    assert rate["flops"] == flops
    assert rate["law"] == pytest.approx(4e-7 * flops**0.25)
    assert 0 < rate["budget"] < 1


@pytest.mark.parametrize("use", ["betr", "dsir", "dclm"])
def test_a_missing_target_is_told_before_any_work(project: Path, use: str) -> None:
    tree = {
        "corpus": [{"path": "pool/a.jsonl"}],
        "select": {"aimed": {"use": use}},
        "budget": {"tokens": 3_001, "rank": "aimed"},
    }
    with pytest.raises(SelectorError) as info:
        curate(parse_recipe(tree, project), LocalRunner(1))
    assert info.value.key == "select.aimed.target" and use in info.value.problem
    assert not (project / "work").exists()


def test_a_share_of_no_source_is_told_before_anything_is_scored(project: Path) -> None:
    with pytest.raises(RecipeError, match="the pool has no source 'wkii'; did you mean 'wiki'"):
        curate(recipe_for(project, shares={"wkii": 0.5}), LocalRunner(1))
    assert not any((project / "calls").iterdir())
