"""A share that its source cannot hold is refused before anything is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import BudgetError, ScoringError
from penstock.jobs.curate import curate
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.pools import documents, write_jsonl


@pytest.mark.parametrize("rewrite", [{}, {"m": {"use": "mask", "by": "none"}}])
@pytest.mark.parametrize("tokens", [30_000, "90%"])
def test_the_error_comes_before_the_scores(
    tmp_path: Path, tokens: int | str, rewrite: dict[str, dict[str, str]]
) -> None:
    """Beside a rewriter it came at the cut, after all scores."""
    rows = documents(150)
    few = [row for row in rows if row["source"] == "code"][:5]
    write_jsonl(tmp_path / "pool.jsonl", [row for row in rows if row["source"] != "code"] + few)
    (tmp_path / "scorer_that_fails.py").write_text("def score(texts):\n    raise ValueError\n")
    tree = {
        "corpus": [{"path": "pool.jsonl"}],
        "rewrite": rewrite,
        "select": {"s": {"use": "scorer_that_fails:score"}},
        "budget": {"tokens": tokens, "rank": "s", "shares": {"code": 0.99}},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    with pytest.raises(BudgetError) as raised:
        curate(parse_recipe(tree, tmp_path), LocalRunner(1))
    assert raised.value.key == "budget.shares"
    assert not (tmp_path / "work" / "tokenizer").exists()
    small = {**tree["budget"], "tokens": 600, "shares": {"code": 0.05}}  # type: ignore[dict-item]
    with pytest.raises(ScoringError):
        curate(parse_recipe({**tree, "budget": small}, tmp_path), LocalRunner(1))
