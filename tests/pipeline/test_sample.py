"""Samples: the same documents however the corpus is divided, about as many as requested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.artefact import Workspace
from penstock.pipeline.pool import Pool, sample_documents, sample_texts
from penstock.recipe_file import parse_recipe
from tests.pools import pool_of

COUNT = 5000


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    rows = [{"id": f"d{n}", "text": f"document {n} " + "x" * (n % 90)} for n in range(COUNT)]
    (root / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def divided_by(root: Path, unit_bytes: int) -> Pool:
    recipe = parse_recipe(
        {"corpus": {"path": "pool.jsonl"}, "budget": {"tokens": 1, "rank": "random"}}, root
    )
    return pool_of(recipe, Workspace(root / "work"), unit_bytes=unit_bytes)


@pytest.fixture(scope="module")
def whole(pool: Path) -> Pool:
    return divided_by(pool, 1 << 30)


def ids(made: Pool, count: int, seed: int = 1, purpose: str = "fit") -> list[str]:
    return sample_documents(made, count, seed, purpose).column("id").to_pylist()


def test_a_sample_has_about_as_many_documents_in_an_order_of_its_own(whole: Pool) -> None:
    drawn = ids(whole, 1000)
    assert abs(len(drawn) - 1000) < 5 * (1000 * 0.8) ** 0.5
    assert len(set(drawn)) == len(drawn)
    numbers = [int(name[1:]) for name in drawn]
    assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.15
    assert drawn == ids(whole, 1000)


def test_rows_belong_together(whole: Pool) -> None:
    for row in sample_documents(whole, 300, 1, "fit").to_pylist():
        assert row["text"].startswith(f"document {row['id'][1:]} ")
        assert row["source"] == "unknown"


def test_the_division_into_units_does_not_matter(pool: Path, whole: Pool) -> None:
    divided = divided_by(pool, 20_000)
    assert len(divided.units) > 10 and len(whole.units) == 1
    assert ids(divided, 700) == ids(whole, 700)
    assert list(sample_texts(divided, 9000, 1, "t")) == list(sample_texts(whole, 9000, 1, "t"))


def test_seed_and_purpose_draw_others(whole: Pool) -> None:
    samples = [set(ids(whole, 500)), set(ids(whole, 500, 2)), set(ids(whole, 500, 1, "other"))]
    for number, one in enumerate(samples):
        for other in samples[number + 1 :]:
            assert len(one & other) < 120  # 50 expected of independent draws
    assert set(ids(whole, 500)) == samples[0]


def test_a_smaller_sample_is_within_a_larger_one(whole: Pool) -> None:
    assert set(ids(whole, 200)) < set(ids(whole, 600))


def test_a_small_corpus_is_taken_whole(whole: Pool) -> None:
    assert len(ids(whole, COUNT)) == len(ids(whole, 10 * COUNT)) == COUNT


def test_no_documents_are_a_table_too(whole: Pool) -> None:
    table = sample_documents(whole, 0, 1, "fit")
    assert table.num_rows == 0
    assert table.column_names == ["id", "text", "source", "hash"]


def test_texts_have_about_the_size_that_was_asked(whole: Pool) -> None:
    size = sum(len(text.encode()) for text in sample_texts(whole, 50_000, 1, "tokenizer"))
    assert abs(size - 50_000) < 10_000
    total = whole.by_source["unknown"]["bytes"]
    assert sum(len(text) for text in sample_texts(whole, 10 * total, 1, "tokenizer")) == total
