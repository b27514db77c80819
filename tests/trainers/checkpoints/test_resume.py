"""Checkpoints that a run resumes from, that it refuses, and that it keeps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Artefact
from penstock.errors import TrainingError
from penstock.recipe import Train
from penstock.trainers.checkpoints.saving import Checkpoints
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group
from tests.harness.training import TRAIN, Run, Trainings
from tests.trainers.conftest import write_shards

KEEP_2 = {"checkpoint": {**TRAIN["checkpoint"], "keep": 2}}

DIES = {"rank": 0, "point": "step, after", "nth": 5}
"""After the checkpoints of steps 2 and 4, in the fifth step."""


@pytest.fixture
def stopped(trainings: Trainings, shards: Path, tmp_path: Path) -> Run:
    """A run of one worker with the checkpoints 2 and 4."""
    run = Run(shards=shards, work=tmp_path / "work", train=KEEP_2)
    assert trainings.run(run, 1, DIES).statuses == [-9]
    assert run.checkpoints == ["step-00000002", "step-00000004"]
    return run


@pytest.fixture(scope="module")
def undisturbed(
    trainings: Trainings, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    run = Run(shards=shards, work=tmp_path_factory.mktemp("undisturbed"), train=KEEP_2)
    trainings.run(run, 1).well()
    return run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def same(run: Run, expected: Run) -> None:
    for mine, theirs in zip(run.lines(), expected.lines(), strict=True):
        for key in ("step", "data", "tokens", "loss", "lr", "grad_norm"):
            assert mine[key] == theirs[key]


def test_a_damaged_checkpoint_is_passed_over(
    trainings: Trainings, stopped: Run, undisturbed: Run, tmp_path: Path
) -> None:
    folder = stopped.directory / "checkpoints"
    flip(folder / "step-00000004/deepspeed/mp_rank_00_model_states.pt")
    trainings.run(stopped, 1).well()
    damaged, going_on = stopped.notes
    assert damaged.startswith("the checkpoint of step 4 is damaged (")
    assert "mp_rank_00_model_states.pt: expected sha256 " in damaged
    assert going_on == f"going on at step 2 from {folder}/step-00000002"
    same(stopped, undisturbed)
    assert stopped.checkpoints == ["step-00000004", "step-00000005"]


def test_a_run_without_a_whole_checkpoint_starts_over(
    trainings: Trainings, stopped: Run, undisturbed: Run
) -> None:
    for path in stopped.directory.glob("checkpoints/step-*/cursor.json"):
        flip(path)
    trainings.run(stopped, 1).well()
    assert stopped.notes[-1] == "no checkpoint is whole; beginning anew"
    same(stopped, undisturbed)


def test_other_shards_are_refused(
    trainings: Trainings, stopped: Run, tokenizer: Any, tmp_path: Path
) -> None:
    other = replace(stopped, shards=write_shards(tmp_path, tokenizer, sequences=40).path)
    shutil.copytree(stopped.directory / "checkpoints", other.directory / "checkpoints")
    before = other.checkpoints
    ended = trainings.run(other, 1)
    assert ended.statuses == [70]
    assert f"that of step 4 of run {stopped.directory.name}" in ended.logs[0]
    ended = trainings.run(replace(other, trusted=(other.work,)), 1)  # whatever its signature
    assert ended.statuses == [70]
    assert "a checkpoint of the shards " in ended.logs[0]
    assert "train with the shards it began with, or delete" in ended.logs[0]
    assert other.checkpoints == before and not other.lines()


def test_settings_that_change_no_batch_may_change(
    trainings: Trainings, stopped: Run, undisturbed: Run
) -> None:
    """The same command with other settings is the same run; the checkpoints of step 4 serve it."""
    other = replace(stopped, train={"micro_batch": 4, "workers": 2, "checkpoint": False})
    assert other.directory == stopped.directory
    trainings.run(other, 2).well()
    assert "going on at step 4" in other.notes[0]
    assert [line["data"] for line in other.lines()] == [
        line["data"] for line in undisturbed.lines()
    ]
    for mine, theirs in zip(other.lines(), undisturbed.lines(), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    # A resumed run saves at its end, too: an evaluation can be killed as well.
    assert other.checkpoints == ["step-00000004", "step-00000005"]


def test_kept_checkpoints_are_part_of_the_run(undisturbed: Run) -> None:
    artefact = Artefact.open(undisturbed.directory)
    artefact.verify()
    kept = [record.path for record in artefact.named("checkpoints/")]
    assert {path.split("/")[1] for path in kept} == {"step-00000004", "step-00000005"}
    assert "checkpoints/step-00000004/manifest.json" in kept
    assert "checkpoints/step-00000004/cursor.json" in kept
    assert undisturbed.checkpoints == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("setting", [False, {}, {"minutes": 0.1}])
def test_a_short_run_has_no_checkpoint(
    trainings: Trainings, shards: Path, tmp_path: Path, setting: Any
) -> None:
    run = Run(shards=shards, work=tmp_path, train={"checkpoint": setting})
    trainings.run(run, 1).well()
    assert not (run.directory / "checkpoints").exists()


def test_the_clock_decides_for_all_workers(
    trainings: Trainings, shards: Path, tmp_path: Path
) -> None:
    run = Run(shards=shards, work=tmp_path, train={"checkpoint": {"minutes": 1e-9, "keep": 9}})
    trainings.run(run, 2).well()
    assert run.checkpoints == [f"step-{step:08d}" for step in range(1, 6)]


def test_weights_are_the_same_after_a_kill(
    trainings: Trainings, shards: Path, tmp_path: Path
) -> None:
    """The reweighter's state is restored, the journal has a row for each sample of each step."""
    reweight = {"use": "loss", "strategy": "linupper"}
    runs = [
        Run(shards=shards, work=tmp_path / name, train={"reweight": reweight})
        for name in ("whole", "killed")
    ]
    trainings.run(runs[0], 2).well()
    assert trainings.run(runs[1], 2, {**DIES, "nth": 4}).statuses[0] == -9
    trainings.run(runs[1], 2).well()
    assert runs[1].notes[0].startswith("going on at step 2 ")
    same(runs[1], runs[0])
    whole, killed = (pq.read_table(run.directory / "weights") for run in runs)
    assert whole["position"].to_pylist() == list(range(37))
    assert killed.equals(whole)
    assert np.ptp(whole["weight"].to_numpy()) > 0


@pytest.mark.usefixtures("process_group")
def test_further_files_are_returned(shards: Path, tmp_path: Path) -> None:
    """A reweighter's state and journal: any bytes by name."""
    opened = ShardSet.open(shards)
    engine = Engine(Train.model_validate(TRAIN), opened, 1, Group())
    noted: list[tuple[str, int | None]] = []

    def checkpoints(seed: int = 1) -> Checkpoints:
        return Checkpoints(
            tmp_path,
            None,
            shards=opened.artefact.digest,
            seed=seed,
            backend="deepspeed",
            layout="",
            group=Group(),
            signer=Signer(bytes(32)),
            progress=lambda line, step=None: noted.append((line, step)),
        )

    first = checkpoints()
    assert first.find() is None and not first.ever
    files = {"journal": bytes(range(256)), "state.json": b"{}"}
    first.save(engine.backend, 3, 99, files)
    later = checkpoints()
    cursor = later.find()
    assert cursor and (cursor.step, cursor.tokens) == (3, 99) and later.ever
    assert later.load(cursor, engine.backend) == files
    engine.close()
    assert noted == [(f"going on at step 3 from {tmp_path}/checkpoints/step-00000003", 3)]
    with pytest.raises(TrainingError) as info:
        checkpoints(seed=2).find()
    assert (info.value.got, "seed 2" in (info.value.expected or "")) == ("1", True)
    flip(tmp_path / "checkpoints/step-00000003/state/journal")
    assert checkpoints().find() is None
    assert "state/journal: expected sha256" in noted[-2][0]
