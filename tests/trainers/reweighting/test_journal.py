from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.errors import TrainingError
from penstock.trainers.reweighting import journal as module
from penstock.trainers.reweighting.journal import FOLDER, SCHEMA, WeightJournal


def write(journal: WeightJournal, *steps: int) -> None:
    for step in steps:
        journal.add(
            step=step,
            position=np.arange(3) + 3 * step,
            sequence=np.array([7, 5, 9]),
            start=np.zeros(3),
            loss=np.array([1.5, np.nan, step]),
            weight=np.array([0.25, 0, 0.75]),
        )


def steps(directory: Path) -> list[int]:
    table = pq.read_table(directory / FOLDER)
    assert table.schema.equals(SCHEMA)
    return sorted(set(table["step"].to_pylist()))


def test_rows_are_written_as_added(tmp_path: Path) -> None:
    journal = WeightJournal(tmp_path)
    write(journal, 0, 1)
    journal.flush()
    table = pq.read_table(tmp_path / FOLDER).to_pandas()
    assert table["position"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["sequence"].tolist() == [7, 5, 9] * 2
    assert table["loss"].isna().tolist() == [False, True, False] * 2
    assert table["weight"].sum() == 2


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    journal = WeightJournal(tmp_path)
    write(journal, 0, 1)
    first = journal.save()
    write(journal, 2, 3)
    journal.save()
    write(journal, 4)
    del journal  # killed
    again = WeightJournal(tmp_path)
    again.restore(first)
    assert steps(tmp_path) == [0, 1], "files written after the checkpoint are still there"
    write(again, 2, 3, 4, 5)
    again.flush()
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert pq.read_table(tmp_path / FOLDER).num_rows == 18


def test_a_new_run_removes_old_files(tmp_path: Path) -> None:
    journal = WeightJournal(tmp_path)
    write(journal, 0, 1)
    journal.flush()
    again = WeightJournal(tmp_path)
    write(again, 0)
    again.flush()
    assert steps(tmp_path) == [0]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    journal = WeightJournal(tmp_path)
    write(journal, 0)
    saved = journal.save()
    (path,) = (tmp_path / FOLDER).iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError) as info:
        WeightJournal(tmp_path).restore(saved)
    assert info.value.file == str(path)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_IN_MEMORY", 6)
    journal = WeightJournal(tmp_path)
    write(journal, 0, 1, 2)
    assert steps(tmp_path) == [0, 1]
    write(journal, 3)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_a_sample_takes_less_than_14_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    journal = WeightJournal(tmp_path)
    count = 256
    for step in range(400):
        journal.add(
            step=step,
            position=np.arange(count) + step * count,
            sequence=random.integers(0, 10**6, count),
            start=np.zeros(count),
            loss=random.normal(3, 0.3, count),
            weight=random.random(count) / count,
        )
    journal.flush()
    size = sum(path.stat().st_size for path in (tmp_path / FOLDER).iterdir())
    assert size / (400 * count) < 14
