"""Some mutations of Arrow and Parquet files, in a process of their own; ``make fuzz`` has more."""

from __future__ import annotations

from tests.columnar.fuzzing import run


def test_mutated_files_end_in_errors_of_penstock() -> None:
    counts, wrong = run(seconds=60, seed=0, most=240)
    assert wrong == []
    assert min(counts.values()) >= 100
