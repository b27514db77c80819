"""A checkpoint is read once it was renamed, and as long as every byte is unchanged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError, TrainingError
from penstock.recipe import Train
from penstock.trainers.backends.deepspeed import layout
from penstock.trainers.checkpoints.folder import Folder, record_durably
from penstock.trainers.checkpoints.saving import Cursor
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.checkpoints.verified import VerifiedFiles

SIGNER = Signer(bytes(32))

CURSOR = Cursor(step=4, tokens=99, shards="a" * 64, seed=1, workers=2, backend="torch")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "checkpoints")
    made.claim()
    return made


def read(directory: Path) -> Cursor:
    records = [FileRecord.found(directory, "cursor.json")]
    return Cursor.read(VerifiedFiles.of(directory, records))


def names(folder: Folder) -> list[str]:
    return sorted(set(os.listdir(folder.path)) - {".attempt"})


def written(folder: Folder, step: int) -> Path:
    directory = folder.begin(step)
    (directory / "deepspeed").mkdir()
    (directory / "deepspeed" / "weights.pt").write_bytes(bytes(range(256)) * 4)
    return directory


def publish(folder: Folder, step: int) -> None:
    directory = written(folder, step)
    folder.publish(step, record_durably(directory, ["deepspeed/weights.pt"]), SIGNER)


def test_a_directory_counts_once_it_is_renamed(folder: Folder) -> None:
    written(folder, 4)
    assert folder.committed() == []
    publish(folder, 4)
    (found,) = folder.committed()
    assert (found.step, found.fault()) == (4, None)


def test_the_newest_are_kept(folder: Folder) -> None:
    for step in (100_000_000, 7, 99_999_999):
        publish(folder, step)
    assert [one.step for one in folder.committed()] == [100_000_000, 99_999_999, 7]
    folder.keep(2)
    assert names(folder) == ["step-100000000", "step-99999999"]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_follow_the_umask_and_only_their_user_may_write(
    folder: Folder, umask: int, mode: int
) -> None:
    """safetensors makes files of mode 0600: a group could not resume with ``--trust``."""
    directory = written(folder, 4)
    (directory / "deepspeed/weights.pt").chmod(0o600)
    before = os.umask(umask)
    try:
        record_durably(directory, ["deepspeed/weights.pt"])
    finally:
        os.umask(before)
    assert (directory / "deepspeed/weights.pt").stat().st_mode & 0o777 == mode
    assert os.listdir(directory) == ["deepspeed"]


def test_a_sweep_removes_temporary_directories_only(folder: Folder) -> None:
    publish(folder, 2)
    written(folder, 4)
    for name in (".step-00000001.old", ".step-00000001.damaged", ".universal.tmp", ".mine", "x"):
        (folder.path / name / "sub").mkdir(parents=True)
    folder.sweep()
    assert names(folder) == [".mine", "step-00000002", "x"]


@pytest.mark.parametrize("name", ["deepspeed/weights.pt", "manifest.json"])
@pytest.mark.parametrize("at", [0, 40, -1])
def test_one_flipped_bit_is_found(folder: Folder, name: str, at: int) -> None:
    publish(folder, 4)
    path = folder.path / "step-00000004" / name
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    (found,) = folder.committed()
    assert found.fault() is not None


@pytest.mark.parametrize("name", ["deepspeed/weights.pt", "manifest.json"])
def test_a_missing_file_is_found(folder: Folder, name: str) -> None:
    publish(folder, 4)
    (folder.path / "step-00000004" / name).unlink()
    (found,) = folder.committed()
    assert name in (found.fault() or "")


def test_each_worker_reads_its_share(folder: Folder) -> None:
    directory = written(folder, 4)
    CURSOR.write(directory)
    folder.publish(4, record_durably(directory, ["deepspeed/weights.pt", "cursor.json"]), SIGNER)
    (directory.parent / "step-00000004" / "cursor.json").write_text("{}")
    (found,) = folder.committed()
    faults = [found.fault(share, 2) for share in range(2)]
    assert faults[0] is None and "cursor.json" in (faults[1] or "")


def test_a_damaged_one_is_hidden_until_it_is_swept(folder: Folder) -> None:
    publish(folder, 2)
    publish(folder, 4)
    folder.hide(folder.committed()[0].path, "damaged")
    assert [one.step for one in folder.committed()] == [2]
    publish(folder, 4)
    folder.sweep()
    assert names(folder) == ["step-00000002", "step-00000004"]


def test_a_step_may_be_saved_again(folder: Folder) -> None:
    publish(folder, 4)
    publish(folder, 4)
    assert names(folder) == ["step-00000004"]


def test_a_file_that_the_first_worker_cannot_see_is_refused(folder: Folder) -> None:
    directory = written(folder, 4)
    records = record_durably(directory, ["deepspeed/weights.pt"])
    (directory / "deepspeed" / "weights.pt").unlink()
    with pytest.raises(ArtefactError) as info:
        folder.publish(4, records, SIGNER)
    assert (info.value.file or "").endswith("deepspeed/weights.pt")
    assert (info.value.expected, info.value.got) == ("1024 bytes", "none")
    assert folder.committed() == []


def test_a_file_without_a_record_is_refused(folder: Folder) -> None:
    directory = written(folder, 4)
    records = record_durably(directory, ["deepspeed/weights.pt"])
    (directory / "other").touch()
    with pytest.raises(ArtefactError) as info:
        folder.publish(4, records, SIGNER)
    assert (info.value.file or "").endswith("/other")
    assert (info.value.expected, info.value.got) == ("no bytes", "0")


def test_an_earlier_attempt_cannot_write(folder: Folder) -> None:
    directory = written(folder, 4)
    records = record_durably(directory, ["deepspeed/weights.pt"])
    later = Folder(folder.path)
    later.claim()
    for call in (lambda: folder.begin(6), lambda: folder.publish(4, records, SIGNER), folder.check):
        with pytest.raises(TrainingError) as info:
            call()
        assert info.value.file == str(folder.path.parent)
    publish(later, 4)
    later.sweep()
    assert names(later) == ["step-00000004"]


def test_the_cursor_reads_back(tmp_path: Path) -> None:
    CURSOR.write(tmp_path)
    assert read(tmp_path) == CURSOR


def test_a_cursor_of_format_1_is_read(tmp_path: Path) -> None:
    """It named DeepSpeed's stage, and no back end, since there was one only."""
    old = {"format": 1, "step": 4, "tokens": 99, "shards": "a" * 64, "seed": 1, "workers": 2}
    (tmp_path / "cursor.json").write_text(json.dumps({**old, "stage": 1}))
    laid_out = layout(Train(dtype="float32"))
    assert read(tmp_path) == Cursor(**{**old, "backend": "deepspeed", "layout": laid_out})


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    CURSOR.write(tmp_path)
    path = tmp_path / "cursor.json"
    path.write_text(path.read_text().replace('"format":3', '"format":4'))
    with pytest.raises(TrainingError) as info:
        read(tmp_path)
    assert (info.value.file, info.value.got) == (str(tmp_path), "4")
    assert "format 3" in (info.value.expected or "") and "upgrade" in (info.value.fix or "")


def test_other_shards_and_another_seed_are_refused(tmp_path: Path) -> None:
    CURSOR.check(tmp_path, "a" * 64, 1)
    with pytest.raises(TrainingError) as info:
        CURSOR.check(tmp_path, "b" * 64, 1)
    assert info.value.got == "a" * 16 and "b" * 16 in (info.value.expected or "")
    with pytest.raises(TrainingError) as info:
        CURSOR.check(tmp_path, "a" * 64, 2)
    assert info.value.got == "1" and "seed 2" in (info.value.expected or "")
