"""Warnings of columns whose scores are nearly all equal, or follow the lengths of the texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from penstock.jobs.column_warnings import constant_columns, length_columns
from penstock.jobs.console import Console
from penstock.jobs.curate import curate
from penstock.jobs.why import fates_of
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import override, parse_recipe
from tests.pools import documents, make, recipe_of, write_jsonl


@pytest.mark.parametrize(("others", "warned"), [(0, True), (10, True), (20, False), (200, False)])
def test_a_nearly_constant_column_is_named(tmp_path: Path, others: int, warned: bool) -> None:
    """150 documents in several units, of which some have scores of their own, all over the pool."""
    rows = documents(150)
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    own = {row["id"] for row in rows[:: max(1, 150 // others)][:others]} if others else set()
    scores = {row["id"]: float(n if row["id"] in own else 3) for n, row in enumerate(rows, 10)}
    recipe = recipe_of(tmp_path, 2_000, ["s"], budget={"rank": "s"})
    made = make(recipe, {"s": scores}).curated()
    found = list(constant_columns(made.columns))
    equal = 1 - others / 150
    assert [line.partition(":")[0] for line in found] == (["select.s"] if warned else [])
    common = next(row["id"] for row in rows if row["id"] not in own) if others < 150 else "d0001"
    (fate,) = fates_of(made, common)
    assert fate["scores"]["s"].get("equal") == (pytest.approx(equal) if warned else None)


def test_random_ranks_and_single_documents_are_no_constant(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(1))
    recipe = recipe_of(tmp_path, 16, ["s"], budget={"rank": "s", "allow_short": True})
    made = make(recipe, {"s": {"d0000": 1.0}}).curated()
    assert list(constant_columns(made.columns)) == []
    (fate,) = fates_of(made, "d0000")
    assert "equal" not in fate["scores"]["s"]


@pytest.mark.parametrize(("sign", "noise", "told"), [(-1, 0, "short"), (1, 3, "long"), (1, 60, "")])
def test_scores_that_follow_lengths_are_told(
    tmp_path: Path, sign: int, noise: int, told: str
) -> None:
    """Texts of 1 to 40 words; the noise is that of up to so many words."""
    rows = documents(200)
    drawn = np.random.default_rng(7)
    words = drawn.integers(1, 41, 200)
    for row, count in zip(rows, words):
        row["text"] = " ".join(["stone"] * int(count)) + f" {row['id']}"
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    scores = sign * words + noise * drawn.random(200)
    recipe = recipe_of(tmp_path, 2_000, ["s"], budget={"rank": "s"})
    given = {row["id"]: float(score) for row, score in zip(rows, scores)}
    made = make(recipe, {"s": given}).curated()
    found = list(length_columns(made.pool, made.columns))
    assert len(found) == bool(told)
    if told:
        correlation = spearmanr(scores, [len(row["text"]) for row in rows]).statistic
        assert f"{correlation:+.2f}" in found[0] and f"{told} documents" in found[0]


@pytest.mark.parametrize(("tokens", "exhausted"), [(103, False), (100_000, True)])
def test_an_exhausted_pool_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokens: int, exhausted: bool
) -> None:
    rows = documents(20)
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    recipe = recipe_of(tmp_path, tokens, ["s"], budget={"rank": "s", "allow_short": True})
    made = make(recipe, {"s": {row["id"]: 1.0 for row in rows}}).curated()
    Console().curated(made)
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "tokens delivered" in one]
    assert ("budget.allow_short" in line) == exhausted


def test_a_column_that_is_only_carried_is_not_told(tmp_path: Path) -> None:
    """`short documents are taken first` was said of a column that takes none."""
    rows = documents(200)
    for number, row in enumerate(rows):
        row["text"] = " ".join(["stone"] * (1 + number % 40)) + f" {row['id']}"
    write_jsonl(tmp_path / "pool.jsonl", rows)
    (tmp_path / "carrying.py").write_text(
        "def lengths(texts):\n    return [-len(text) for text in texts]\n\n\n"
        "def hashes(texts):\n    return [sum(map(ord, text)) * 7919 % 97 for text in texts]\n"
    )
    tree = {
        "corpus": [{"path": "pool.jsonl"}],
        "select": {"own": {"use": "carrying:hashes"}, "length": {"use": "carrying:lengths"}},
        "budget": {"tokens": 1_000, "rank": "own"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 32, "carry": "length"},
    }
    told: dict[str, list[str]] = {}
    for rank in ("own", "length"):
        recipe = parse_recipe(override(tree, {"budget": {"rank": rank}, "work": rank}), tmp_path)
        lines = told[rank] = []
        curate(recipe, LocalRunner(1), lines.append)
    assert [any("select.length: the scores follow" in line for line in told[rank])
            for rank in ("own", "length")] == [False, True]  # fmt: skip
