"""Rows by group in a file, of which any groups are read back and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from penstock.pipeline.grouped import read_groups, write_groups
from penstock.storage import AnyPath

KIND = np.dtype([("a", "<u8"), ("b", "<u4")])


@pytest.mark.parametrize("remote", [False, True])
def test_any_groups_come_back(tmp_path: Path, remote: bool) -> None:
    groups = np.array([1, 1, 1, 4, 4, 9])
    rows = np.empty(len(groups), dtype=KIND)
    rows["a"], rows["b"] = groups * 2**40, np.arange(len(groups))
    where: AnyPath = UPath("memory://grouped/x") if remote else tmp_path / "x"
    write_groups(where, rows, groups, 10)
    for first in range(10):
        assert (read_groups(where, KIND, first) == rows[groups == first]).all()
        for last in range(first, 11):
            inside = (groups >= first) & (groups < last)
            found = read_groups(where, KIND, first, last)
            assert found.dtype == KIND and (found == rows[inside]).all()


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    empty = np.empty(0, dtype=KIND)
    write_groups(tmp_path / "x", empty, empty["a"], 3)
    assert len(read_groups(tmp_path / "x", KIND, 0, 3)) == 0
