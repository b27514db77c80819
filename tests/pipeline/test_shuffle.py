"""A shuffle: every row arrives once, whatever the order of the tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline import shuffle
from penstock.pipeline.shuffle import Shuffle, range_of, ranges_for

ROW = np.dtype([("key", "<u8"), ("value", "<i4")])


@pytest.mark.parametrize("groups", [1, 3, 64])
def test_every_row_arrives_once(tmp_path: Path, groups: int) -> None:
    rng = np.random.default_rng(groups)
    rows_of = Shuffle(directory=tmp_path, name="x", dtype=ROW, groups=groups, sources=4)
    sources = []
    for source in (2, 0, 3, 1):
        rows = np.empty(source * 100, ROW)
        rows["key"] = rng.integers(0, 2**64, len(rows), dtype=np.uint64)
        rows["value"] = rng.integers(0, 10, len(rows))
        record = rows_of.write(source, rows, range_of(rows["key"], groups), extra=1)
        assert record.facts == {"rows": len(rows), "extra": 1}
        assert record.path == f"scratch/x/{source:05d}"
        assert record.verified(tmp_path)
        sources.append((source, rows))
    everything = np.concatenate([rows for _, rows in sorted(sources, key=lambda pair: pair[0])])
    own = range_of(everything["key"], groups)
    for group in range(groups):
        found = rows_of.read(group)
        assert found.flags.writeable
        assert (found == everything[own == group]).all()  # in the order of sources and rows
    assert (np.sort(rows_of.read_source(3)) == np.sort(sources[2][1])).all()
    whole = rows_of.read(0, groups)
    assert (np.sort(whole) == np.sort(everything)).all()


def test_rows_of_a_group_stay_in_order(tmp_path: Path) -> None:
    rows_of = Shuffle(directory=tmp_path, name="x", dtype=ROW, groups=2, sources=1)
    rows = np.zeros(6, ROW)
    rows["value"] = np.arange(6)
    rows_of.write(0, rows, np.array([1, 0, 1, 0, 0, 1]))
    assert rows_of.read(0)["value"].tolist() == [1, 3, 4]
    assert rows_of.read(1)["value"].tolist() == [0, 2, 5]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.integers(1, 2**32 - 1))
def test_ranges_divide_the_keys_in_order(keys: list[int], ranges: int) -> None:
    keys.sort()
    found = range_of(np.array(keys, np.uint64), ranges)
    assert found.tolist() == [(key >> 32) * ranges >> 32 for key in keys]
    assert (np.diff(found) >= 0).all()


def test_ranges_are_even_and_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 70_000, dtype=np.uint64)
    sizes = np.bincount(range_of(keys, 7), minlength=7)
    assert len(sizes) == 7
    assert abs(sizes - 10_000).max() < 500
    assert ranges_for(0, ROW) == 1
    monkeypatch.setattr(shuffle, "TASK_BYTES", 12_000)
    assert ranges_for(1000, ROW) == 1
    assert ranges_for(1001, ROW) == 2
