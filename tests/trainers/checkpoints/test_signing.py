"""A checkpoint that someone else put into a work directory runs no code.

The attacks: a checkpoint with a pickle and its own manifest, in a work directory that another user
can write; a file that is exchanged between its check and its use; a file beside those of the
manifest; a key that others could have read or written.
"""

from __future__ import annotations

import json
import os
import pickle
import stat
from dataclasses import asdict, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.artefact import FileRecord, canonical
from penstock.errors import ArtefactError, BadInput, StorageError, TrainingError
from penstock.storage import files_under
from penstock.trainers.backends.deepspeed import states
from penstock.trainers.checkpoints.folder import record_durably
from penstock.trainers.checkpoints.manifest import MANIFEST, SignedManifest
from penstock.trainers.checkpoints.signing import Signer, key_file, trusting
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.metrics import NOTES, add_note
from tests.harness.training import Run, Trainings

OURS = Signer(bytes(32))
DIES = {"rank": 0, "point": "step, after", "nth": 3}
"""After the checkpoint of step 2."""


class Payload:
    """Pickles as a call that makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def plant(checkpoint: Path, mark: Path, manifest: Any) -> None:
    """Put a pickle in the place of each file of DeepSpeed, and a manifest that fits beside it.

    ``manifest`` is called with the records of the files.
    """
    for path in (checkpoint / "deepspeed").glob("*.pt"):
        torch.save({"module": Payload(mark)}, path)
    names = [name for name in files_under(checkpoint) if name != MANIFEST]
    records = [FileRecord.found(checkpoint, name) for name in names]
    (checkpoint / MANIFEST).write_bytes(manifest(records))


def unsigned(records: list[FileRecord]) -> bytes:
    """As Penstock wrote manifests before they were signed."""
    return canonical([asdict(one) for one in records])


def with_another_key(records: list[FileRecord]) -> bytes:
    return SignedManifest.of(records, Signer(b"2" * 32), "run", 2).encoded()


def with_our_keys_name(records: list[FileRecord]) -> bytes:
    forged = SignedManifest.of(records, Signer(b"2" * 32), "run", 2)
    return replace(forged, key=Signer(bytes.fromhex(RUN_KEY)).name).encoded()


RUN_KEY = "11" * 32


@pytest.fixture
def stopped(trainings: Trainings, shards: Path, tmp_path: Path) -> Run:
    run = Run(shards=shards, work=tmp_path / "work", train={"backend": "deepspeed"}, key=RUN_KEY)
    assert trainings.run(run, 1, DIES).statuses == [-9]
    assert run.checkpoints == ["step-00000002"]
    return run


def test_a_planted_checkpoint_is_never_unpickled(
    trainings: Trainings, stopped: Run, tmp_path: Path
) -> None:
    """It is refused, or passed over where our key's name is forged; ``--trust`` reads it."""
    checkpoint, mark = stopped.directory / "checkpoints/step-00000002", tmp_path / "executed"
    for manifest in (unsigned, with_another_key):
        plant(checkpoint, mark, manifest)
        ended = trainings.run(stopped, 1)
        assert ended.statuses == [70]
        assert f"{checkpoint / MANIFEST}: " in ended.logs[0]
        assert f"--trust {stopped.directory}" in ended.logs[0]
        assert stopped.checkpoints == ["step-00000002"] and not mark.exists()
    trainings.run(replace(stopped, trusted=(stopped.work,)), 1)
    assert mark.exists(), "else this test shows nothing"
    mark.rmdir()
    plant(checkpoint, mark, with_our_keys_name)
    trainings.run(stopped, 1).well()
    assert stopped.notes[-1] == "no checkpoint is whole; beginning anew" and not mark.exists()


def test_an_unsigned_checkpoint_of_a_trusted_directory_is_resumed_from(
    trainings: Trainings, stopped: Run
) -> None:
    """As one of an older version; what is saved then is signed."""
    checkpoint = stopped.directory / "checkpoints/step-00000002"
    (checkpoint / MANIFEST).write_bytes(unsigned(list(SignedManifest.read(checkpoint).files)))
    trainings.run(replace(stopped, trusted=(stopped.work,)), 1).well()
    assert stopped.notes[0].startswith("going on at step 2 ")
    (saved,) = (stopped.directory / "checkpoints").glob("step-*")
    signer = Signer(bytes.fromhex(RUN_KEY))
    assert SignedManifest.read(saved).fault(saved, signer) is None


# -- manifests --------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    made = tmp_path / "run" / "checkpoints" / "step-00000002"
    made.mkdir(parents=True)
    (made / "cursor.json").write_text("{}")
    records = [FileRecord.found(made, "cursor.json")]
    (made / MANIFEST).write_bytes(SignedManifest.of(records, OURS, "run", 2).encoded())
    return made


def test_a_signature_is_of_this_content_and_this_key(checkpoint: Path) -> None:
    found = SignedManifest.read(checkpoint)
    assert found.fault(checkpoint, OURS) is None
    changed = replace(found, files=(replace(found.files[0], sha256="0" * 64),))
    assert MANIFEST in (changed.fault(checkpoint, OURS) or "")
    assert MANIFEST in (replace(found, signature="").fault(checkpoint, OURS) or "")
    for other in (replace(found, key=""), replace(found, key="f" * 16)):
        with pytest.raises(TrainingError) as info:
            other.fault(checkpoint, OURS)
        assert info.value.file == str(checkpoint / MANIFEST)
        assert f"--trust {checkpoint.parent.parent}" in (info.value.fix or "")
        trusted = Signer(bytes(32), [checkpoint.parents[2]])
        assert other.fault(checkpoint, trusted) is None
        assert not Signer(bytes(32), [checkpoint / "below"]).trusts(checkpoint)


RECORD = b'{"path": "a", "bytes": 1, "sha256": "%s", "facts": {"x": %s}}'

MALFORMED = [
    *(b"", b"{", b"[1]", b"null", b"3", b'{"files": 3}', b'{"files": [{"path": 1}]}', b"[" * 10**5),
    *(b"[" + RECORD % (b"", b"NaN") + b"]", b"[" + RECORD % (rb"\ud800", b"1") + b"]"),
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_manifest_is_damage(checkpoint: Path, content: bytes) -> None:
    (checkpoint / MANIFEST).write_bytes(content)
    assert MANIFEST in (SignedManifest.read(checkpoint).fault(checkpoint, OURS) or "")


def test_a_manifest_that_is_a_pipe_is_damage(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()
    os.mkfifo(checkpoint / MANIFEST)
    assert MANIFEST in (SignedManifest.read(checkpoint).fault(checkpoint, OURS) or "")


# -- files ------------------------------------------------------------------------------------


def files(directory: Path, **contents: Any) -> VerifiedFiles:
    for name, value in contents.items():
        torch.save(value, directory / name)
    return VerifiedFiles.of(directory, [FileRecord.found(directory, one) for one in contents])


def test_only_recorded_bytes_are_unpickled(tmp_path: Path) -> None:
    """Also from a file that is exchanged after its check, and from one beside the others."""
    mark = tmp_path / "executed"
    (tmp_path / "step").mkdir()
    found = files(tmp_path / "step", a={"x": torch.arange(3)})
    real = torch.load
    with found.opened(tmp_path / "step/a") as source:
        torch.save(Payload(mark), tmp_path / "step/b")
        os.replace(tmp_path / "step/b", tmp_path / "step/a")
        assert real(source, weights_only=False)["x"].tolist() == [0, 1, 2]
    torch.save(Payload(mark), tmp_path / "step/b")
    os.mkfifo(tmp_path / "step/pipe")
    pipe = VerifiedFiles(found.directory, {str(tmp_path / "step/pipe"): "0" * 64})
    for name, own in (("a", found), ("b", found), ("pipe", pipe), ("c", found)):
        with pytest.raises(ArtefactError) as info, states._only_verified(own):
            torch.load(tmp_path / "step" / name, weights_only=False)
        assert info.value.file == str(tmp_path / "step" / name)
    assert not mark.exists() and torch.load is real


def test_a_file_that_someone_holds_open_is_copied_before_it_is_compared(tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    found = files(tmp_path / "step", a=[1, 2])
    path = tmp_path / "step/a"
    content = path.read_bytes()
    for mode in (0o644, 0o666):
        path.write_bytes(content)
        path.chmod(mode)
        with found.opened(path) as source, open(path, "r+b") as other:
            other.write(b"\0" * 64)
            other.flush()
            assert source.read() == content
            assert Path(f"/dev/fd/{source.fileno()}").read_bytes() == content


def test_files_of_a_conversion_are_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    found = files(tmp_path / "step", a=[1])
    with states._only_verified(found) as written:
        torch.save([2], tmp_path / "made")
        assert torch.load(tmp_path / "made", weights_only=False) == [2]
        (tmp_path / "made").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
        with pytest.raises(ArtefactError):
            torch.load(tmp_path / "made", weights_only=False)
    assert [*written] == [str(tmp_path / "made")] and not (tmp_path / "executed").exists()


def test_nothing_is_signed_that_another_user_put_there(tmp_path: Path) -> None:
    """Between the writing of a file by a library and the reading of its sha256."""
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "a").chmod(0o666)
    (record,) = record_durably(tmp_path, ["a"])
    assert record == FileRecord.found(tmp_path, "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    (tmp_path / "b").symlink_to("a")
    with pytest.raises((OSError, StorageError)):
        record_durably(tmp_path, ["b"])
    if os.geteuid():
        pytest.skip("not run in full: needs root")
    os.chown(tmp_path / "a", 1, 1)
    with pytest.raises(ArtefactError) as info:
        record_durably(tmp_path, ["a"])
    assert (info.value.file, "of user 1" in (info.value.got or "")) == (str(tmp_path / "a"), True)


def test_a_runs_lines_are_never_appended_through_a_link(tmp_path: Path) -> None:
    """As to a shell's settings of the user who resumes a run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "profile").write_text("mine\n")
    notes = tmp_path / "run" / NOTES
    notes.symlink_to(tmp_path / "profile")
    with pytest.raises(StorageError) as info:
        add_note(tmp_path / "run", "x")
    assert info.value.file == str(notes)
    notes.unlink()
    os.mkfifo(notes)
    with pytest.raises(StorageError):
        add_note(tmp_path / "run", "x")
    notes.unlink()
    add_note(tmp_path / "run", "x")
    add_note(tmp_path / "run", "y", 3)
    assert [json.loads(line) for line in notes.read_text().splitlines()] == [
        {"note": "x"},
        {"note": "y", "step": 3},
    ]
    assert (tmp_path / "profile").read_text() == "mine\n"


# -- the key ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "penstock" / "checkpoint.key"


def test_a_key_is_made_once_for_its_owner_alone(config: Path) -> None:
    with ThreadPool(8) as pool:
        names = {signer.name for signer in pool.map(lambda _: Signer.of_user(), range(8))}
    assert len(names) == 1 and key_file() == config
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert [path.name for path in config.parent.iterdir()] == [config.name]


def test_the_key_is_not_shown(config: Path) -> None:
    from ray.train.v2._internal.state.schema import _to_json_serializable_value

    signer = Signer.of_user()
    key = config.read_text().strip()
    shown = json.dumps(_to_json_serializable_value({"signer": signer, "more": [signer]}))
    assert signer.name in shown
    assert key not in shown and repr(bytes.fromhex(key)) not in shown
    assert signer.name not in key


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o602])
def test_a_key_that_others_can_open_is_refused(config: Path, mode: int) -> None:
    Signer.of_user()
    config.chmod(mode)
    with pytest.raises(StorageError) as info:
        Signer.of_user()
    assert (info.value.file, f"mode {mode:o}" in (info.value.got or "")) == (str(config), True)


def test_no_link_and_no_other_file_is_a_key(config: Path, tmp_path: Path) -> None:
    config.parent.mkdir(parents=True)
    (tmp_path / "other").write_text("0" * 64)
    (tmp_path / "other").chmod(0o600)
    config.symlink_to(tmp_path / "other")
    with pytest.raises(StorageError):
        Signer.of_user()
    config.unlink()
    for content in ("", "0" * 63, "0" * 65, "z" * 64):
        config.write_text(content)
        config.chmod(0o600)
        with pytest.raises(StorageError):
            Signer.of_user()


def test_a_key_of_another_user_is_refused(config: Path) -> None:
    if os.geteuid():
        pytest.skip("not run: needs root")
    Signer.of_user()
    os.chown(config, 1, 1)
    with pytest.raises(StorageError) as info:
        Signer.of_user()
    assert "of user 1," in (info.value.got or "")


def test_without_a_place_for_a_key_nothing_is_trusted_later(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.parent.parent.write_text("a file where a directory should be")
    assert Signer.of_user().name != Signer.of_user().name
    assert [record.name for record in caplog.records] == [
        "penstock.trainers.checkpoints.signing"
    ] * 2


def test_directories_are_trusted_within_the_context(config: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with trusting([tmp_path / "work"]):
        signer = Signer.of_user()
    assert signer.trusts(tmp_path / "work/run/x") and not signer.trusts(tmp_path)
    assert not Signer.of_user().trusts(tmp_path / "work")
    with pytest.raises(BadInput), trusting([tmp_path / "missing"]):
        pass
