"""C4's lines: what is left is what the counts say is left."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.rules import Counting, count_statistics
from penstock.selectors.rewriting.c4_lines import C4Lines

LINES = [
    "The river turns the wheel [12] and the mill[citation needed].",
    "  Home   About  ",
    "We use cookies to give you a better service.",
    "Enable javascript to read on, please.",
    "Short one.",
    "A line that ends in nothing",
    'He said that "water is life."',
    "And so on and so on...",
    "[edit]",
    "",
]


def test_lines_of_prose_stay() -> None:
    (kept,) = C4Lines().edit(pa.array(["\n".join(LINES)], pa.large_string())).to_pylist()
    assert kept == 'The river turns the wheel  and the mill.\nHe said that "water is life."'
    assert C4Lines().edit(pa.array(["Home", ""], pa.large_string())).to_pylist() == [None, None]
    (short,) = C4Lines(min_words=2).edit(pa.array(["Short one."], pa.large_string())).to_pylist()
    assert short == "Short one."


@given(
    st.lists(st.lists(st.sampled_from(LINES), max_size=6).map("\r\n".join), max_size=5),
    st.integers(1, 8),
)
def test_as_many_lines_stay_as_are_counted(texts: list[str], words: int) -> None:
    array = pa.array(texts, pa.large_string())
    counts = count_statistics(array, Counting(ngrams=False, c4_min_words=words)).column("c4_lines")
    kept = C4Lines(min_words=words).edit(array).to_pylist()
    assert [len(text.split("\n")) if text else 0 for text in kept] == counts.to_pylist()


def test_it_runs_in_a_recipe_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "a", "text": "\n".join(LINES)}, {"id": "b", "text": "Home\nAbout"}]
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(
        "corpus: {path: pool.jsonl}\nrewrite: {prose: {use: c4_lines, by: none}}\n"
        "budget: {tokens: 16, rank: random, allow_short: true}\n"
        "tokenizer: {train: {vocab_size: 384}}\nshards: {sequence_length: 8}\n"
    )
    made = penstock.curate("recipe.yaml", workers=1)
    assert made.pool.kept == 1
    assert made.pool.documents["dropped"] == 1
    (name,) = made.pool.documents["dropped_by"]
    assert name.startswith("prose: ")
