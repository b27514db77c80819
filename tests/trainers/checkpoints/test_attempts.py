"""An attempt that was suspended destroys nothing of its successor's; links lead no write out.

The attacks and accidents: a process that goes on after another took over, at any moment of a
publish, a sweep or an export; a link in the place of a checkpoint's files; a file that another user
opened before it was signed; a sound checkpoint under another run or step.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import penstock.trainers.checkpoints.folder as folder_module
from penstock.errors import ArtefactError, StorageError, TrainingError
from penstock.recipe import Checkpoint
from penstock.trainers import worker
from penstock.trainers.backends.deepspeed import states
from penstock.trainers.checkpoints.folder import Folder, record_durably
from penstock.trainers.checkpoints.saving import Checkpoints, Cursor
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.checkpoints.verified import VerifiedFiles

SIGNER = Signer(bytes(32))

OTHER = 4242


class Alone:
    """A group of one worker, without PyTorch's process group."""

    rank = 0
    workers = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None:
        pass


def attempt(run: Path, generation: int = 0) -> Checkpoints:
    group: Any = Alone()
    return Checkpoints(
        run,
        Checkpoint(),
        shards="s" * 64,
        seed=1,
        backend="torch",
        layout="",
        group=group,
        signer=SIGNER,
        progress=lambda *note: None,
        generation=generation,
    )


def claimed(run: Path, generation: int = 0) -> Folder:
    made = Folder(run / "checkpoints", generation)
    made.claim()
    return made


def write(folder: Folder, step: int, text: str = "x") -> Callable[[], object]:
    """Write a checkpoint, and return what publishes it."""
    directory = folder.begin(step)
    name = Cursor(step=step, tokens=9, shards="s" * 64, seed=1, workers=1, backend="torch").write(
        directory
    )
    (directory / "state").write_text(text)
    records = record_durably(directory, [name, "state"])
    return lambda: folder.publish(step, records, SIGNER)


# -- attempts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [0, 1])
def test_a_publish_suspended_at_a_sync_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """It renamed over the successor's checkpoint of the same step, after its check."""
    old, real, calls = claimed(tmp_path / "run"), folder_module.sync_directory, []
    publish = write(old, 2, "old")

    def sync(path: Path) -> None:
        real(path)
        calls.append(path)
        if len(calls) == nth + 1:
            new = claimed(tmp_path / "run")
            if nth == 0:
                new.sweep()
                write(new, 2, "successor")()

    monkeypatch.setattr(folder_module, "sync_directory", sync)
    if nth == 0:
        with pytest.raises(TrainingError):
            publish()
        (found,) = old.committed()
        assert (found.path / "state").read_text() == "successor" and found.fault() is None
    else:
        publish()  # the new one began after the rename, and finds a whole checkpoint
        assert [one.fault() for one in old.committed()] == [None]


@pytest.mark.parametrize("call", ["sweep", "keep", "hide", "begin", "install"])
def test_an_earlier_attempt_deletes_nothing_of_its_successor(tmp_path: Path, call: str) -> None:
    old = claimed(tmp_path / "run")
    write(old, 2)()
    new = claimed(tmp_path / "run")
    write(new, 4)()
    begun = new.begin(6)
    model = tmp_path / "run" / "model"
    model.mkdir()
    before = sorted(path.name for path in old.path.iterdir())
    calls: dict[str, Callable[[], object]] = {
        "sweep": old.sweep,
        "keep": lambda: old.keep(0),
        "hide": lambda: old.hide(old.path / "step-00000004", "damaged"),
        "begin": lambda: old.begin(4),
        "install": lambda: old.install(old.path / "step-00000002", model),
    }
    with pytest.raises(TrainingError) as info:
        calls[call]()
    assert info.value.file == str(tmp_path / "run") and begun.is_dir() and model.is_dir()
    assert sorted(path.name for path in old.path.iterdir()) == before


def test_no_attempt_claims_over_one_of_a_later_driver(tmp_path: Path) -> None:
    """A process that was suspended before its claim deleted half a checkpoint of its successor."""
    new = claimed(tmp_path / "run", generation=3)
    begun = new.begin(4)
    for generation in (1, 2):
        with pytest.raises(TrainingError):
            attempt(tmp_path / "run", generation).find()
    new.check()
    assert begun.is_dir()
    again = claimed(tmp_path / "run", generation=3)  # as Ray's second try for the same driver
    claimed(tmp_path / "run", generation=4).check()
    for earlier in (new, again):
        with pytest.raises(TrainingError):
            earlier.check()


def test_a_finished_run_is_not_claimed(tmp_path: Path) -> None:
    old = claimed(tmp_path / "run")
    (old.path / ".attempt").unlink()  # as the sweep of a published run
    (tmp_path / "run" / "manifest.json").write_text("{}")
    for call in (old.check, claimed):
        with pytest.raises(TrainingError) as info:
            call(*([tmp_path / "run"] if call is claimed else []))
        assert info.value.file == str(tmp_path / "run")


def test_a_suspended_attempt_that_holds_the_lock_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.storage.locks.PATIENCE", 0.05)
    old = claimed(tmp_path / "run")
    with old.alone(), pytest.raises(StorageError) as info:
        claimed(tmp_path / "run")
    assert info.value.file == str(old.path / ".attempt")
    claimed(tmp_path / "run").check()


def test_a_late_export_leaves_the_successors_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was suspended in its last step; another one finished the run meanwhile."""
    run = tmp_path / "run"
    run.mkdir()

    class Late:
        reweighting = None

        def __init__(self, *args: Any, **named: Any) -> None:
            pass

        def run(self, step: int) -> Any:
            claimed(run)
            (run / "model").mkdir()
            (run / "model/model.safetensors").write_text("successor")
            return iter(())

        def save(self, directory: Path) -> None:
            directory.mkdir(exist_ok=True)
            (directory / "model.safetensors").write_text("stale")

        def close(self) -> None:
            pass

    monkeypatch.setattr(worker, "Engine", Late)
    monkeypatch.setattr(worker, "MetricsLog", lambda *args: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(worker, "_save_tokenizer", lambda *args: None)
    values: Any = SimpleNamespace(
        train=SimpleNamespace(not_finite="stop"), seed=1, reweighter=None, parent=None
    )
    group: Any = Alone()
    with pytest.raises(TrainingError):
        worker._train(values, values, run, attempt(run), values, group, ExitStack())
    assert (run / "model/model.safetensors").read_text() == "successor"


# -- other runs and steps ---------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a/checkpoints/step-00000400", "b/checkpoints/step-00000007"])
def test_a_signature_is_of_one_run_and_one_step(tmp_path: Path, place: str) -> None:
    """A copy of a run with another learning rate was resumed from, at a step it never took."""
    write(claimed(tmp_path / "a"), 7)()
    source, copy = tmp_path / "a/checkpoints/step-00000007", tmp_path / place
    assert (found := attempt(tmp_path / "a").find()) is not None and found.step == 7
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, copy)
    with pytest.raises(TrainingError) as info:
        attempt(tmp_path / place[0]).find()
    assert info.value.file == str(copy / "manifest.json") and copy.is_dir()
    assert "step 7 of run a" in (info.value.got or "")
    assert f"--trust {tmp_path / place[0]}" in (info.value.fix or "")


# -- links and other users --------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def test_a_checkpoint_is_closed_to_others_while_it_is_written(tmp_path: Path) -> None:
    """One who had opened a file when its mode was 0664 wrote to it after it was signed."""
    before = os.umask(0o002)
    try:
        folder = claimed(tmp_path / "run")
        publish = write(folder, 2)
        (begun,) = folder.path.glob(".step-*")
        assert stat.S_IMODE(begun.stat().st_mode) == 0o700
        (begun / "deepspeed").mkdir()
        publish()
    finally:
        os.umask(before)
    made = [folder.path, *folder.path.rglob("*")]
    assert len(made) == 7 and [path for path in made if path.stat().st_mode & 0o022] == []


def test_what_is_unpickled_is_what_was_compared(tmp_path: Path) -> None:
    """Also where somebody holds the file open since before it was signed."""
    path = tmp_path / "step" / "a"
    path.parent.mkdir()
    torch.save([1], path)
    path.chmod(0o644)
    (record,) = record_durably(path.parent, ["a"])
    with open(path, "r+b") as held, VerifiedFiles.of(path.parent, [record]).opened(path) as source:
        torch.save([2], held)
        held.flush()
        assert torch.load(source, weights_only=False) == [1]


def test_a_checkpoint_exchanged_while_it_is_written_is_not_signed(
    tmp_path: Path, victim: Path
) -> None:
    folder = claimed(tmp_path / "run")
    publish = write(folder, 2)
    (begun,) = folder.path.glob(".step-*")
    shutil.copytree(begun, tmp_path / "copy")
    begun.rename(tmp_path / "gone")
    for target in (tmp_path / "copy", None):
        if target:
            begun.symlink_to(target)
        else:
            begun.unlink()
            (tmp_path / "copy").rename(begun)
        with pytest.raises(ArtefactError) as info:
            publish()
        assert info.value.file == str(begun) and folder.committed() == []


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/.attempt"])
def test_a_claim_writes_through_no_link(tmp_path: Path, victim: Path, name: str) -> None:
    if name == "checkpoints" and os.geteuid():
        pytest.skip("not run: needs root")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path if name == "checkpoints" else victim)
    if os.geteuid() == 0:
        os.chown(link, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(StorageError) as info:
        claimed(tmp_path / "run")
    assert (info.value.file, victim.read_text()) == (str(link), "precious")
    assert not (tmp_path / ".attempt").exists()


def test_a_conversion_writes_through_no_link(tmp_path: Path, victim: Path) -> None:
    """`torch.save` truncated the file to which a link led; so did the converter's directory."""
    home = tmp_path / "home"
    (home / "deepspeed").mkdir(parents=True)
    (home / "thesis").touch()
    (tmp_path / ".universal.tmp").symlink_to(home)
    with pytest.raises(FileExistsError):
        states._convert(tmp_path / "step", tmp_path / ".universal.tmp" / "deepspeed")
    (tmp_path / "p.pt").symlink_to(victim)
    with states._only_verified(VerifiedFiles(tmp_path, {})):
        torch.save([1], tmp_path / "p.pt")
        assert torch.load(tmp_path / "p.pt") == [1]
    assert victim.read_text() == "precious" and len(list(home.iterdir())) == 2


def test_a_sweep_removes_a_link_and_not_what_it_leads_to(tmp_path: Path, victim: Path) -> None:
    folder = claimed(tmp_path / "run")
    (folder.path / ".step-00000002.0a.tmp").symlink_to(tmp_path)
    folder.sweep()
    assert [path.name for path in folder.path.iterdir()] == [".attempt"]
    assert victim.read_text() == "precious"
