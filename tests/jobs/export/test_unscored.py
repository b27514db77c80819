"""Documents that are taken without a score in a column that does not rank."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from penstock.jobs.curate import Curated, curate
from penstock.jobs.export import export
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.jobs.export.test_export import read_lines, read_parquet_files, read_saved
from tests.pools import documents, write_jsonl


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    at = tmp_path_factory.mktemp("unscored")
    write_jsonl(at / "pool.jsonl", documents(150))
    (at / "halves.py").write_text(
        "def rank(texts):\n    return [sum(map(ord, text)) * 7919 % 97 for text in texts]\n\n\n"
        "def half(texts):\n    return [None if len(text) % 2 else 1.0 for text in texts]\n"
    )
    tree = {
        "corpus": [{"path": "pool.jsonl"}],
        "select": {"own": {"use": "halves:rank"}, "half": {"use": "halves:half"}},
        "budget": {"tokens": 2_000, "rank": "own"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 32, "carry": "half"},
    }
    return curate(parse_recipe(tree, at), LocalRunner(1))


@pytest.mark.parametrize(
    ("to", "read"),
    [("parquet", read_parquet_files), ("jsonl", read_lines), ("datasets", read_saved)],
)
def test_no_score_is_null(curated: Curated, tmp_path: Path, to: str, read: Any) -> None:
    export(curated, to, str(tmp_path / "out"), LocalRunner(1))
    rows = read(tmp_path / "out")
    for row in rows:
        assert row["scores"]["half"] == (None if len(row["text"]) % 2 else 1.0)
        assert row["scores"]["own"] is not None
    assert {row["scores"]["half"] for row in rows} == {None, 1.0}


def test_duckdb_averages_what_there_is(curated: Curated, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    export(curated, "parquet", str(tmp_path / "out"), LocalRunner(1))
    found = duckdb.sql(
        f"select avg(scores.half), max(scores.half) from '{tmp_path}/out/data/*.parquet'"
    ).fetchall()
    assert found == [(1.0, 1.0)] and not any(map(math.isnan, found[0]))


@pytest.mark.parametrize("to", ["numpy", "megatron"])
def test_rows_of_documents_have_null(curated: Curated, tmp_path: Path, to: str) -> None:
    export(curated, to, str(tmp_path / "out"), LocalRunner(1))
    rows = pq.read_table(tmp_path / "out" / "documents").to_pydict()
    assert set(rows["carried"]) == {None, 1.0} and None not in rows["score"]
