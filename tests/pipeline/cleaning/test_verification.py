"""True similarity: equal to a search over all pairs of a band; bounded for large bands."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artefact import Draft, FileRecord
from penstock.pipeline.cleaning import verified_duplicates
from penstock.pipeline.cleaning.components import EDGE, unite
from penstock.pipeline.cleaning.minhash.signatures import Signatures, band_hashes
from penstock.pipeline.cleaning.minhash.verification import MOST_COMPARED, Sets, join_similar
from penstock.pipeline.cleaning.near_duplicates import (
    ALONE,
    KeyFiles,
    fill_components,
    read_components,
)
from penstock.pipeline.cleaning.verified_duplicates import TextFiles, fill_verified
from penstock.pipeline.runner import LocalRunner
from penstock.text_hashes import hash_normalised
from tests.pipeline.cleaning.reference import grams_of, jaccard
from tests.pipeline.cleaning.test_components import stars_of


def sets_of(sets: list[set[int]]) -> Sets:
    starts = np.cumsum([0, *map(len, sets)])
    values = [value for own in sets for value in sorted(own)]
    return Sets(starts, np.array(values, np.uint32))


DOCUMENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
        st.sets(st.integers(0, 8), min_size=1),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(DOCUMENTS, st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]))
def test_components_are_those_of_all_similar_pairs(rows: list[Any], threshold: float) -> None:
    pairs = [
        (at, other)
        for at, (component, bands, own) in enumerate(rows)
        for other, (its, its_bands, theirs) in enumerate(rows[:at])
        if component == its
        and any(a == b for a, b in zip(bands, its_bands))
        and len(own & theirs) / len(own | theirs) >= threshold
    ]
    stars = dict(unite(np.array(pairs, EDGE)).tolist())
    components, bands, sets = zip(*rows) if rows else ((), (), ())
    found = join_similar(
        np.array(components, np.int64),
        np.array(bands, np.uint64).reshape(-1, 2),
        sets_of(list(sets)),
        threshold,
    )
    assert found.tolist() == [stars.get(at, at) for at in range(len(rows))]


def test_a_threshold_that_is_met_exactly_joins() -> None:
    same = np.zeros(2, np.int64), np.ones((2, 1), np.uint64)
    for common, size, threshold in ((4, 5, 0.8), (21, 30, 0.7), (9, 10, 0.9), (3, 5, 0.6)):
        sets = sets_of([set(range(size)), set(range(common))])
        assert join_similar(*same, sets, threshold).tolist() == [0, 0]
        assert join_similar(*same, sets, threshold + 1e-9).tolist() == [0, 1]


def test_many_strangers_of_a_band_take_linear_time() -> None:
    """Each is compared with the first 64, to one of which a late one is similar."""
    count = 100_000
    sets = Sets(np.arange(count + 1) * 4, np.arange(4 * count, dtype=np.uint32))
    sets.shingles[-4:] = sets.shingles[4 * 63 : 4 * 64]
    components, bands = np.zeros(count, np.int64), np.ones((count, 1), np.uint64)
    join_similar(components[:2], bands[:2], sets, 0.5)
    began = time.process_time()
    found = join_similar(components, bands, sets, 0.5)
    assert time.process_time() - began < 5
    assert MOST_COMPARED == 64
    assert np.flatnonzero(found != np.arange(count)).tolist() == [count - 1]
    assert found[-1] == 63


NGRAM, THRESHOLD = 2, 0.6


def texts_of(seed: int) -> list[list[str]]:
    """Return units of texts: families of similar ones, with copies, and an empty unit."""
    rng = np.random.default_rng(seed)
    units = []
    for count in (30, 0, 45, 25):
        texts = []
        for _ in range(count):
            family = int(rng.integers(0, 8))
            words = [f"f{family}w{number}" for number in range(20)]
            for at in rng.integers(0, 20, int(rng.integers(0, 5))):
                words[at] = f"x{rng.integers(0, 3)}"
            texts.append(" ".join(words) if rng.random() < 0.95 else "")
        units.append(texts)
    return units


def write_files(directory: Path, units: list[list[str]], column: Signatures) -> list[KeyFiles]:
    files = []
    for number, texts in enumerate(units):
        array = pa.array(texts, pa.large_string())
        table = pa.table(
            {
                "text": array,
                "normal": hash_normalised(array),
                "bands": column.compute(array).column("bands"),
            }
        )
        name = f"unit-{number}.parquet"
        pq.write_table(table, directory / name, row_group_size=10)
        here = directory, FileRecord.found(directory, name)
        files.append(
            KeyFiles(unit=number, name=f"u{number}", documents=len(texts), normal=here, bands=here)
        )
    return files


def expected(units: list[list[str]], bands: np.ndarray) -> list[int]:
    numbers = [unit << 32 | row for unit, texts in enumerate(units) for row in range(len(texts))]
    texts = [text for own in units for text in own]
    grams = [grams_of(text, NGRAM) for text in texts]
    pairs = [
        (numbers[one], numbers[other])
        for one in range(len(texts))
        for other in range(one)
        if texts[one]
        and (bands[one] == bands[other]).any()
        and jaccard(grams[one], grams[other]) >= THRESHOLD
    ]
    stars = dict(stars_of(pairs))
    stars |= {first: first for first in stars.values()}
    return [stars.get(number, ALONE) for number in numbers]


@pytest.mark.parametrize("range_bytes", [3000, 2**25])
def test_components_of_texts_through_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_bytes: int
) -> None:
    units = texts_of(range_bytes)
    column = Signatures(threshold=0.3, ngram=NGRAM)
    files = write_files(tmp_path, units, column)
    whole = [text for own in units for text in own]
    bands = band_hashes(column.compute(pa.array(whole, pa.large_string())).column("bands"))
    wanted = expected(units, bands)
    monkeypatch.setattr(verified_duplicates, "RANGE_BYTES", range_bytes)
    made: list[list[int]] = []
    for workers in (1, 2) if range_bytes == 3000 else (1,):
        with closing(LocalRunner(workers)) as runner:
            first = Draft(tmp_path / f"a{workers}", {"fingerprint": "0" * 64})
            draft = Draft(tmp_path / f"b{workers}", {"fingerprint": "1" * 64})
            components = fill_components(first, files, column.banding.bands, runner)
            items = [
                TextFiles(
                    keys=item,
                    components=(first.path, record),
                    texts=item.normal,
                    bytes=sum(map(len, texts)),
                )
                for item, record, texts in zip(files, components, units)
                if item.normal
            ]
            args = items, column.banding.bands, NGRAM, THRESHOLD, runner
            records, unverified = fill_verified(draft, *args)
            assert fill_verified(draft, *args) == (records, 0)
            assert unverified == 0
        found = [read_components(draft.path, record).tolist() for record in records]
        made.append([component for own in found for component in own])
        loose = [read_components(first.path, record).tolist() for record in components]
        assert [component for own in loose for component in own] != wanted  # bands join more
    assert all(one == wanted for one in made)
    assert len(set(wanted)) - 1 > 3
    monkeypatch.setattr(verified_duplicates, "MOST_TEXTS", 1)
    with closing(LocalRunner(1)) as runner:
        draft = Draft(tmp_path / "c", {"fingerprint": "2" * 64})
        records, unverified = fill_verified(draft, *args[:-1], runner)
    assert unverified > 3
    left = [read_components(draft.path, record).tolist() for record in records]
    assert left == loose  # components of several texts are not compared
