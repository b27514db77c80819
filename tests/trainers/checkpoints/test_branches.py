"""Runs that continue from a checkpoint of another run: ``train.continue_from``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.artefact import Workspace
from penstock.errors import RecipeError, TrainingError
from penstock.recipe import Train
from penstock.trainers.branches import find_branch_point
from penstock.trainers.metrics import FILE
from penstock.trainers.run import train_all
from tests.harness.training import TRAIN
from tests.trainers.checkpoints.here import HereRun
from tests.trainers.conftest import write_shards

pytestmark = pytest.mark.usefixtures("process_group")

STEADY = {"schedule": "linear", "min_lr": 1e-2}
"""A rate that does not depend on the budget."""

REST = (37 - 2 * 8) * 32
"""Tokens that an undisturbed run has left after two steps."""


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory, _one_rank: None) -> HereRun:
    """A finished run of five steps at a steady rate, with a checkpoint of each."""
    every = {"checkpoint": {"minutes": None, "tokens": 256, "keep": 9}}
    work = tmp_path_factory.mktemp("undisturbed")
    return HereRun(shards=shards, work=work, train={**STEADY, **every}).make()


def branch(parent: HereRun, step: int | str, **train: Any) -> HereRun:
    settings = {**parent.train, "tokens": REST, "continue_from": f"{parent.name}@{step}", **train}
    return replace(parent, train=settings)


HOW: dict[str, dict[str, Any]] = {
    "same": {},
    "stage 1": {"deepspeed": {"zero_optimization": {"stage": 1}}},
    "stage 3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "torch": {"backend": "torch"},
}


@pytest.mark.parametrize(("seed", "how"), list(enumerate(HOW, 1)))
def test_at_the_same_rate_it_equals_the_undisturbed_run(
    undisturbed: HereRun, seed: int, how: str
) -> None:
    """Weights, moments, the count of steps and the data are those of the parent after two steps.

    The seed makes a run of its own; it changes neither the weights nor the order that go on.
    """
    run = replace(branch(undisturbed, 2, **HOW[how]), seed=seed)
    assert not (run.directory / FILE).exists()
    run.make()
    assert run.data == undisturbed.data[2:]
    np.testing.assert_allclose(run.losses, undisturbed.losses[2:], rtol=1e-6)
    assert run.lines[-1]["tokens"] == REST


def test_half_the_rate_of_an_unfinished_run(
    shards: Path, tmp_path: Path, undisturbed: HereRun
) -> None:
    parent = HereRun(shards=shards, work=tmp_path, train=STEADY).make_until(3)
    run = branch(parent, "last", lr=5e-3, min_lr=5e-3).make()
    assert run.data == undisturbed.data[2:]
    assert run.losses[0] == pytest.approx(undisturbed.losses[2], rel=1e-6)
    assert run.lines[0]["lr"] == 5e-3
    assert abs(run.losses[1] / undisturbed.losses[3] - 1) > 1e-4
    assert run.notes == [
        f"continuing run {parent.name} at step 2: each source goes on where it was"
    ]


def test_a_killed_branch_goes_on_without_its_parent(
    shards: Path, tmp_path: Path, undisturbed: HereRun
) -> None:
    parent = HereRun(shards=shards, work=tmp_path, train=STEADY).make_until(3)
    run = branch(parent, 2, checkpoint={"minutes": None, "tokens": 256}).make_until(2)
    shutil.rmtree(parent.directory)
    run.make()
    assert run.data == undisturbed.data[2:]
    np.testing.assert_allclose(run.losses, undisturbed.losses[2:], rtol=1e-6)
    further = branch(run, 2, tokens=5 * 32).make()
    assert further.data == undisturbed.data[4:], "a branch of a branch"


def test_other_shards_begin_a_new_order_which_is_told(
    undisturbed: HereRun, tmp_path: Path, tokenizer: Any
) -> None:
    others = write_shards(tmp_path, tokenizer, sequences=24, seed=5).path
    run = replace(branch(undisturbed, 2, tokens=256), shards=others).make()
    assert "the order of the data begins anew (other shards)" in run.notes[0]
    assert run.data != undisturbed.data[2:3]
    again = replace(branch(undisturbed, 3, tokens=256), shards=others).make()
    assert again.data != run.data, "the order depends on the step"


def test_it_is_named_by_run_and_step(undisturbed: HereRun, shards: Path, tmp_path: Path) -> None:
    def name(**train: Any) -> str:
        return HereRun(shards=shards, work=undisturbed.work, train=train).spec.fingerprint

    own = undisturbed.name
    assert name() != name(continue_from=f"{own}@2") != name(continue_from=f"{own}@3")
    assert name(continue_from=f"{own}@5") == name(continue_from=f"run/{own}@last")
    assert name(continue_from=f"{own}@5") == name(continue_from=f"{own[:9]}@5")
    assert name(continue_from=f"{own}@5") == name(continue_from=f"{undisturbed.directory}@last")
    absent = HereRun(shards=shards, work=tmp_path, train={"continue_from": f"{own}@5"})
    assert absent.spec.fingerprint == name(continue_from=f"{own}@5"), "bytes name nothing"


@pytest.mark.parametrize(
    ("reference", "problem", "expected"),
    [
        ("{own}@7", "the run has no such checkpoint", "one of the checkpoints of steps 1, 2, 3, 4"),
        ("0000000000000000@last", "there is no such run", "a run with checkpoints"),
        ("00000000@2", "there is no such run", "the name of a run, as `penstock ls` lists it"),
        ("/nowhere/base@2", "not the directory of a run", "one below `run` of a work directory"),
    ],
)
def test_what_is_not_there_is_named_before_anything_starts(
    undisturbed: HereRun, shards: Path, reference: str, problem: str, expected: str
) -> None:
    settings = {**undisturbed.train, "continue_from": reference.format(own=undisturbed.name)}
    spec = replace(undisturbed.spec, train=Train.model_validate({**TRAIN, **settings}))
    with pytest.raises(RecipeError) as info:
        train_all([spec], Workspace(undisturbed.work))
    assert info.value.key == "train.continue_from"
    assert info.value.problem == problem
    assert (info.value.expected or "").startswith(expected)


def test_a_damaged_checkpoint_and_another_model_are_refused(shards: Path, tmp_path: Path) -> None:
    parent = HereRun(shards=shards, work=tmp_path, train=STEADY).make_until(3)
    wide = branch(parent, 2, model={"layers": 1, "width": 48, "heads": 2})
    with pytest.raises(TrainingError) as info:
        wide.make()
    assert info.value.key == "train.model"
    assert (info.value.got or "").endswith(", 32)") and "48)" in (info.value.expected or "")
    deep = branch(parent, 2, model={"layers": 2, "width": 32, "heads": 2})
    with pytest.raises(TrainingError) as info:
        deep.make()
    assert (info.value.key, info.value.got) == ("train.model", "no such weight")
    cursor = find_branch_point(f"{parent.name}@2", Workspace(tmp_path)).path / "cursor.json"
    cursor.write_bytes(cursor.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(TrainingError) as info:
        branch(parent, 2).make()
    assert info.value.key == "train.continue_from" and "is damaged" in info.value.problem


def test_pins_are_kept(shards: Path, tmp_path: Path) -> None:
    """Half of the budget is reached in the third step."""
    pins = {"minutes": None, "tokens": 256, "keep": 1, "at": [1, 0.5, 99]}
    run = HereRun(shards=shards, work=tmp_path, train={"checkpoint": pins}).make()
    assert run.checkpoints == [1, 3, 5]
    assert "no step 99" in run.notes[0]
    alone = {"minutes": None, "at": 2}
    only = HereRun(shards=shards, work=tmp_path, seed=2, train={"checkpoint": alone}).make()
    assert only.checkpoints == [2, 5]
