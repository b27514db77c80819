"""A stopped run goes on when settings change that are no part of its trajectory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.artefact import Workspace
from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.trainers.backends import find_backend
from penstock.trainers.backends.deepspeed import layout
from penstock.trainers.checkpoints.saving import Cursor
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.modelling import build
from penstock.trainers.run import train_all
from tests.harness.training import Run, Trainings
from tests.trainers.checkpoints.here import HereRun
from tests.trainers.conftest import recorded

here = pytest.mark.usefixtures("process_group")


@pytest.fixture(scope="module")
def undisturbed(
    shards: Path, tmp_path_factory: pytest.TempPathFactory, _one_rank: None
) -> list[float]:
    """The losses of five steps of stage 0 in float32."""
    return HereRun(shards=shards, work=tmp_path_factory.mktemp("undisturbed")).make().losses


def zero(stage: int, **more: Any) -> dict[str, Any]:
    return {"deepspeed": {"zero_optimization": {"stage": stage}, **more}}


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (settings until step 3, settings from the checkpoint of step 2 on)
    "activation_checkpointing": ({}, {"activation_checkpointing": True}),
    "compile": ({}, {"compile": True}),
    "evaluate_every": ({}, {"evaluate_every": 256}),
    "stage 0 to 1": ({}, zero(1)),
    "stage 0 to 3": (zero(0), zero(3)),
    "stage 3 to 1": (zero(3), zero(1)),
    "stage 2 to 0": (zero(2, wall_clock_breakdown=False), {}),
}


@here
@pytest.mark.parametrize("change", CHANGES)
def test_the_run_equals_the_undisturbed_one(
    change: str,
    undisturbed: list[float],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[object] = []  # inductor would compile for half a minute
    monkeypatch.setattr(build, "compile_inner", compiled.append)
    monkeypatch.setattr(build, "check_compiler", lambda device: None)
    before, after = CHANGES[change]
    HereRun(shards=shards, work=tmp_path, train=before).make_until(3)
    run = HereRun(shards=shards, work=tmp_path, train=after).make()
    assert run.notes[0].startswith("going on at step 2 ")
    assert run.notes[0].endswith(", converted") == ("stage" in change)
    np.testing.assert_allclose(run.losses, undisturbed, rtol=1e-6)
    assert np.ptp(undisturbed) > 0.01, "it learns nothing"
    assert len(compiled) == (change == "compile")


@here
def test_a_finished_run_without_a_curve_is_named(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not trained again; one that has the curve is no reason for a warning."""
    every = {"evaluate_every": 256, "backend": "torch", "checkpoint": False}
    plain = HereRun(shards=shards, work=tmp_path, train={**every, "evaluate_every": None}).make()
    curved = HereRun(shards=shards, work=tmp_path, train=every, seed=2).make()
    specs = [replace(plain, train=every).spec, curved.spec]
    results = train_all(specs, Workspace(tmp_path))
    assert [result.path for result in results] == [plain.directory, curved.directory]
    (warning,) = [one for one in caplog.records if "evaluate_every" in one.getMessage()]
    assert str(plain.directory) in warning.getMessage()


BF16: dict[str, tuple[int, int]] = {"0 to 1": (0, 1), "1 to 0": (1, 0)}


@here
@pytest.mark.parametrize("change", BF16)
def test_in_bf16_masters_are_taken_over(change: str, shards: Path, tmp_path: Path) -> None:
    wrote, reads = ({"dtype": "bf16", **zero(stage)} for stage in BF16[change])
    whole = HereRun(shards=shards, work=tmp_path / "whole", train=reads).make()
    HereRun(shards=shards, work=tmp_path / "run", train=wrote).make_until(3)
    run = HereRun(shards=shards, work=tmp_path / "run", train=reads).make()
    assert run.notes[0].endswith(", converted")
    np.testing.assert_allclose(run.losses, whole.losses, rtol=1e-4)


def test_two_workers_partition_what_one_wrote(
    trainings: Trainings, shards: Path, tmp_path: Path, undisturbed: list[float]
) -> None:
    """Parts of weights are padded there, and small weights are gathered."""
    run = Run(shards=shards, work=tmp_path / "run", train=zero(0))
    trainings.run(run, 1, {"rank": 0, "point": "step, after", "nth": 3})
    later = replace(run, train=zero(3))
    assert later.directory == run.directory
    trainings.run(later, 2).well()
    assert later.notes[0].endswith("step-00000002, written by 1 worker, converted")
    losses = [line["loss"] for line in later.lines()]
    np.testing.assert_allclose(losses, undisturbed, rtol=1e-6)


def name(**train: Any) -> str:
    settings = Train.model_validate({"device": "cpu", **train})
    return str(find_backend(settings.backend).trajectory(settings))


def test_settings_of_deepspeed_are_divided() -> None:
    assert name() == name(**zero(3, comms_logger={"enabled": True}, bf16={"enabled": False}))
    offload = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    assert name() == name(deepspeed=offload)
    for numbers in (
        {"zero_optimization": {"stage": 3, "zero_quantized_gradients": True}},
        {"communication_data_type": "bf16"},
        {"fp16": {"enabled": True}},
        {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}},
    ):
        assert name() != name(deepspeed=numbers)


def test_the_type_is_resolved_before_the_name(shards: Path, tmp_path: Path) -> None:
    def spec(**train: Any) -> Any:
        found = HereRun(shards=shards, work=tmp_path, train=train).spec
        given = {"dtype": train.get("dtype", "auto")}
        return replace(found, train=found.train.model_copy(update=given))

    auto = spec()
    on_cpus, on_gpus = (auto.resolved(gpus=gpus) for gpus in (False, True))
    assert (on_cpus.train.dtype, on_gpus.train.dtype) == ("float32", "bf16")
    assert auto.fingerprint == on_cpus.fingerprint == spec(dtype="float32").fingerprint
    half = spec(dtype="bf16").fingerprint
    assert half == on_gpus.fingerprint != auto.fingerprint
    assert spec(dtype="bf16").resolved(gpus=False).fingerprint == half
    assert spec(deepspeed={"bf16": {"enabled": True}}).fingerprint == half
    torch_ = spec(backend="torch").resolved(gpus=True)
    assert torch_.train.dtype == "bf16"
    with pytest.raises(RecipeError) as info:
        find_backend("deepspeed").check(
            Train(dtype="float32", deepspeed={"bf16": {"enabled": True}})
        )
    assert (info.value.key, info.value.expected) == ("train.dtype", "bf16")


def test_a_cursor_of_format_2_is_of_the_default_layout(tmp_path: Path) -> None:
    def cursor(**values: Any) -> Cursor:
        known = {"step": 2, "tokens": 9, "shards": "x", "seed": 1, "workers": 1}
        return Cursor(**{**known, "backend": "deepspeed", "layout": "?", **values})

    cursor(format=2).write(tmp_path)
    text = (tmp_path / "cursor.json").read_text().replace('"layout":"?",', "")
    (tmp_path / "cursor.json").write_text(text)
    files: VerifiedFiles = recorded(tmp_path, ["cursor.json"])
    assert Cursor.read(files).layout == layout(Train(dtype="float32"))
