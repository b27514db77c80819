"""Samples: the same documents however the corpus is divided, about as many as requested."""

from __future__ import annotations

import contextlib
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artefact import Workspace
from penstock.errors import ArtefactError
from penstock.hashing import hash_documents, mix
from penstock.pipeline import units
from penstock.pipeline.pages import PAGE_ERRORS, read_texts
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.samples import inside, sample_documents, sample_texts
from penstock.pipeline.units import SCHEMA, iter_documents
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


def bytes_read() -> int:
    """Return the bytes that this process has read by system calls."""
    counters = Path("/proc/self/io").read_text().split()
    return int(counters[counters.index("rchar:") + 1])


needs_counters = pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="this system does not count bytes"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """20,000 documents of 1 to 3 kB that compress by a third, of two sources; some are dropped."""
    root = tmp_path_factory.mktemp("large")
    draw = np.random.default_rng(3)
    with open(root / "pool.jsonl", "w") as file:
        for number, size in enumerate(draw.integers(500, 1500, 20_000).tolist()):
            source = "wiki" if number % 8 == 0 else "web"
            text = draw.bytes(size).hex() if number % 50 else ""
            file.write(json.dumps({"id": f"d{number}", "text": text, "source": source}) + "\n")
    return divided_by(root, 16 << 20)


@needs_counters
def test_only_pages_with_drawn_documents_are_read(large: Pool) -> None:
    sample_documents(large, 1, 2, "warm")
    size = sum(record.bytes for record in large.corpus.files)
    before = bytes_read()
    drawn = sample_documents(large, 20, 1, "fit")
    assert 5 < len(drawn) < 40
    assert bytes_read() - before < 0.05 * size  # 0.0498; 0.0489 without checks of pages


def test_a_sample_is_that_of_a_scan(large: Pool) -> None:
    rows = pa.concat_tables(
        pa.Table.from_batches([batch]) for unit in large.units for batch in iter_documents(unit)
    )
    drawn = inside(rows, 300 / large.kept, 5, "fit")
    expected = rows.filter(pa.array(drawn))
    order = np.argsort(hash_documents(expected, mix(5, "fit", "order")), kind="stable")
    expected = expected.take(pa.array(order))
    assert len(expected) > 200
    with closing(LocalRunner(2)) as two:
        for runner in (None, two):
            found = sample_documents(large, 300, 5, "fit", runner)
            assert found.equals(expected.cast(found.schema))


def test_a_sample_of_one_source_has_as_many(large: Pool) -> None:
    drawn = sample_documents(large, 400, 1, "fit", source="wiki")
    assert set(drawn["source"].to_pylist()) == {"wiki"}
    assert abs(len(drawn) - 400) < 5 * 400**0.5
    assert not len(sample_documents(large, 400, 1, "fit", source="none"))


def test_texts_are_cut_to_a_prefix(whole: Pool) -> None:
    full = sample_documents(whole, 200, 1, "fit")["text"].to_pylist()
    cut = sample_documents(whole, 200, 1, "fit", characters=11)["text"].to_pylist()
    assert cut == [text[:11] for text in full]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """2,000 documents of one source, 400 and 40 of others, each of 7 to 206 characters; the
    characters of one source have three bytes."""
    root = tmp_path_factory.mktemp("sources")
    chance = np.random.default_rng(5)
    counts = {"web": 2000, "wiki": 400, "zh": 40}
    with open(root / "pool.jsonl", "w") as file:
        for source, count in counts.items():
            for number, size in enumerate(chance.integers(1, 201, count).tolist()):
                text = f"{number:06d}" + ("水" if source == "zh" else "x") * size
                row = {"id": f"{source}-{number}", "text": text, "source": source}
                file.write(json.dumps(row) + "\n")
    return divided_by(root, 20_000)


def tally(table: pa.Table) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in table["source"].value_counts().to_pylist()}


def test_a_balanced_sample_has_as_many_of_each_source_as_far_as_it_has_them(sources: Pool) -> None:
    drawn = tally(sample_documents(sources, 300, 1, "fit", balanced=True))
    assert drawn["zh"] == 40
    assert abs(drawn["wiki"] - 130) < 40 and abs(drawn["web"] - 130) < 40
    everything = sample_documents(sources, 10**6, 1, "fit", balanced=True)
    assert len(everything) == sources.kept > 2400
    plain = tally(sample_documents(sources, 300, 1, "fit"))
    assert plain["web"] > 5 * plain["wiki"]
    with closing(LocalRunner(2)) as two:
        again = sample_documents(sources, 300, 1, "fit", two, balanced=True)
    assert again.equals(sample_documents(sources, 300, 1, "fit", balanced=True))


def test_only_long_documents_are_drawn_if_asked(sources: Pool) -> None:
    drawn = sample_documents(sources, 300, 1, "fit", shortest=156, characters=156, balanced=True)
    texts = drawn["text"].to_pylist()
    assert {len(text) for text in texts} == {156}
    counts = tally(drawn)
    assert 4 < counts["zh"] < 20, "a quarter of 40: of those drawn, not by bytes alone"
    assert abs(counts["wiki"] - counts["web"]) < 60 and sum(counts.values()) > 200
    whole = sample_documents(sources, 10**6, 1, "fit", shortest=156)
    assert tally(whole)["web"] == pytest.approx(2000 * 51 / 200, abs=90)
    assert min(map(len, whole["text"].to_pylist())) == 156
    assert set(drawn["id"].to_pylist()) < set(whole["id"].to_pylist())


def test_a_share_of_each_source_is_left(sources: Pool) -> None:
    drawn = sample_documents(sources, 10**6, 1, "fit", balanced=True, most=0.75)
    counts = tally(drawn)
    assert counts["web"] == pytest.approx(1500, abs=100) and 20 < counts["zh"] < 40
    rows = pa.concat_tables(
        pa.Table.from_batches([batch]) for unit in sources.units for batch in iter_documents(unit)
    )
    possible = rows.filter(pa.array(inside(rows, 0.75, 1, "fit")))
    assert set(drawn["id"].to_pylist()) == set(possible["id"].to_pylist())


@pytest.mark.parametrize("kind", ["unit", "rows"])
@pytest.mark.parametrize("fault", ["flipped", "short", "missing", "other"])
def test_a_file_that_changed_is_refused(pool: Path, kind: str, fault: str) -> None:
    work = pool / f"work-{kind}-{fault}"
    recipe = parse_recipe(
        {"corpus": {"path": "pool.jsonl"}, "budget": {"tokens": 1, "rank": "random"}}, pool
    )
    made = pool_of(recipe, Workspace(work), unit_bytes=100_000)
    (unit, other), record = made.units[:2], "record" if kind == "unit" else "rows"
    path, else_path = (made.corpus.path / getattr(one, record).path for one in (unit, other))
    data = bytearray(path.read_bytes())
    if fault == "flipped":
        data[len(data) // 3] ^= 1
    elif fault == "other":
        data = bytearray(else_path.read_bytes())
    path.write_bytes(data[:-9] if fault == "short" else data)
    if fault == "missing":
        path.unlink()
    with pytest.raises(ArtefactError) as info:
        sample_documents(made, COUNT, 1, "fit")
    assert str(info.value.file) == str(path)
    assert (info.value.got is not None) == (fault != "missing")


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(max_size=300), min_size=1, max_size=60),
    rows=st.lists(st.integers(0, 59), max_size=60),
    group=st.integers(1, 70),
    page=st.integers(1, 2000),
)
def test_texts_of_single_rows(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    rows: list[int],
    group: int,
    page: int,
) -> None:
    path = tmp_path_factory.mktemp("pages") / "texts.parquet"
    count = len(texts)
    table = pa.table([texts] * 2 + [["a"] * count] + [[None] * count] * 2, schema=SCHEMA)
    options = {**units._PAGES, "data_page_size": page}
    pq.write_table(table, path, row_group_size=group, compression="zstd", **options,
                   use_dictionary=["source"], write_statistics=False)  # fmt: skip
    wanted = sorted({row for row in rows if row < count})
    found = read_texts(path, path.stat().st_size, 1, np.array(wanted, np.int64))
    assert found.to_pylist() == [texts[row] for row in wanted]


@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4),
       cut=st.integers(0, 400))  # fmt: skip
def test_bytes_that_are_no_such_file_are_errors(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("pages") / "texts.parquet"
    texts = [f"text {n} " * 20 for n in range(100)]
    table = pa.table([texts] * 2 + [["a"] * 100] + [[None] * 100] * 2, schema=SCHEMA)
    options = {**units._PAGES, "data_page_size": 500}
    pq.write_table(table, path, compression="zstd", **options,
                   use_dictionary=["source"], write_statistics=False)  # fmt: skip
    data = bytearray(path.read_bytes())
    for place, bits in flips:
        data[place % len(data)] ^= bits
    path.write_bytes(data[cut:])
    with contextlib.suppress(*PAGE_ERRORS):
        found = read_texts(path, len(data) - cut, 1, np.arange(0, 100, 7))
        assert len(found) == 15
