"""Shared state is on a node once, and cannot be written to."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from penstock.errors import StorageError
from penstock.pipeline.runner import LocalRunner, RayRunner
from penstock.pipeline.runners.worker import SharedState

SIZE = 200 << 20


def through_a_file(value: Any, directory: Path) -> Any:
    SharedState.of(value).save(directory / "state")
    parcel = SharedState.load(directory / "state")
    (directory / "state").unlink()
    return parcel.open()


def test_values_arrive_as_they_were(tmp_path: Path) -> None:
    factor = 3
    value = {
        "numbers": np.arange(10.0),
        "none": np.empty(0, np.uint16),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "strided": np.arange(10)[::2],
        "table": pa.table({"x": ["a", None, "c"]}),
        "text": "é",
        "function": lambda x: x * factor,
    }
    found = through_a_file(value, tmp_path)
    for name in ("numbers", "none", "columns", "strided"):
        np.testing.assert_array_equal(found[name], value[name])
        assert found[name].dtype == value[name].dtype
    assert found["table"] == value["table"]
    assert (found["text"], found["function"](2)) == ("é", 6)


def test_arrays_are_aligned_and_read_only(tmp_path: Path) -> None:
    found = through_a_file([np.arange(n, dtype=np.uint8) for n in (1, 63, 64, 65)], tmp_path)
    assert [array.ctypes.data % 64 for array in found] == [0] * 4
    with pytest.raises(ValueError, match="read-only"):
        found[0][0] = 1


def test_a_full_disk_names_the_file_and_the_fix() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with pytest.raises(StorageError) as caught:
        SharedState.of(np.zeros(1 << 20)).save(Path("/dev/full"))
    assert (caught.value.file, "TMPDIR" in str(caught.value.fix)) == ("/dev/full", True)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def read(_: int, table: np.ndarray) -> tuple[int, int, int, bool]:
    """Every byte is touched; what is counted is memory that stands for no file."""
    total = int(table.sum())
    memory = psutil.Process().memory_info()
    return os.getpid(), total, memory.rss - memory.shared, table.flags.writeable


@pytest.mark.slow
def test_two_workers_do_not_hold_a_large_array_each() -> None:
    items = list(range(16))
    with closing(LocalRunner(2)) as runner:
        small = {pid: own for _, (pid, _, own, _) in runner.run(read, items, np.ones(1))}
        large = dict(runner.run(read, items, np.ones(SIZE, np.uint8)))
    assert {total for _, total, _, _ in large.values()} == {SIZE}
    assert not any(writeable for *_, writeable in large.values())
    assert len(small) == 2
    for pid, _, own, _ in large.values():
        assert own - small[pid] < SIZE / 8


def test_ray_s_workers_share_it_too(ray_session: None) -> None:
    shared = np.ones(20 << 20, np.uint8)
    for keep in (False, True):
        found = dict(RayRunner().run(read, list(range(4)), shared, keep))
        assert {(total, writeable) for _, total, _, writeable in found.values()} == {
            (20 << 20, False)
        }
