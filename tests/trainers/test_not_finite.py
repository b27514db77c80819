"""Steps whose loss or gradient is not finite, under each policy, stage and back end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.artefact import Artefact
from penstock.errors import TrainingError
from penstock.trainers.data.loader import LoadedStep
from penstock.trainers.engine import Engine
from tests.trainers.checkpoints.here import HereRun

pytestmark = pytest.mark.usefixtures("process_group")


@contextmanager
def infinite(*steps: int, what: str = "gradient") -> Iterator[None]:
    """Make gradients of these steps infinite, and with ``loss`` the loss not a number."""
    real = Engine._accumulate

    def spoiled(self: Engine, loaded: LoadedStep) -> torch.Tensor:
        if loaded.batch.step not in steps:
            return real(self, loaded)
        accumulate = self.backend.accumulate
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                self.backend,
                "accumulate",
                lambda loss, *, last: accumulate(loss * float("inf"), last=last),
            )
            total = real(self, loaded)
        return total * float("nan") if what == "loss" else total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_accumulate", spoiled)
        yield


def zero(stage: int, **more: Any) -> dict[str, Any]:
    return {"deepspeed": {"zero_optimization": {"stage": stage}}, **more}


@pytest.fixture(scope="module")
def skipped(shards: Path, tmp_path_factory: pytest.TempPathFactory, _one_rank: None) -> list[float]:
    """The losses of a run of the PyTorch back end that skips steps 2 and 3 of five."""
    settings = {"backend": "torch", "not_finite": "skip"}
    run = HereRun(shards=shards, work=tmp_path_factory.mktemp("skipped"), train=settings)
    with infinite(2, 3):
        return run.make().losses


@pytest.mark.parametrize("what", ["gradient", "loss"])
@pytest.mark.parametrize(
    "settings", [zero(0), zero(1), zero(3)], ids=["stage 0", "stage 1", "stage 3"]
)
def test_a_skipped_step_updates_nothing_and_is_counted(
    settings: dict[str, Any], what: str, shards: Path, tmp_path: Path, skipped: list[float]
) -> None:
    run = HereRun(shards=shards, work=tmp_path, train={**settings, "not_finite": "skip"})
    with infinite(2, 3, what=what):
        run.make()
    assert [line.get("not_finite") for line in run.lines] == [None, None, what, what, None]
    np.testing.assert_allclose(run.losses, skipped, rtol=1e-5)
    facts = Artefact.open(run.directory).facts
    assert (facts["not_finite"], facts["tokens"], facts["steps"]) == (2, 37 * 32, 5)
    assert f"step 2: the {what} is not finite; its batch is skipped" in run.notes


@pytest.mark.parametrize("settings", [{}, zero(1, dtype="bf16")], ids=["stage 0", "bf16"])
def test_back_takes_the_weights_of_a_checkpoint(
    settings: dict[str, Any], shards: Path, tmp_path: Path
) -> None:
    """Step 2 follows the checkpoint, step 3 fails: the last sees the weights that skipped both."""
    with infinite(2, 3):
        both = HereRun(
            shards=shards, work=tmp_path / "skip", train={**settings, "not_finite": "skip"}
        ).make()
    with infinite(3):
        run = HereRun(
            shards=shards, work=tmp_path / "back", train={**settings, "not_finite": "back"}
        ).make()
    assert "back to the weights of step 2, on with the batch after it" in run.notes[0]
    assert [line["step"] for line in run.lines] == [0, 1, 2, 3, 4]
    assert run.losses[-1] == pytest.approx(both.losses[-1], rel=1e-6)
    assert run.losses[2] != run.losses[-1]


def test_back_without_a_checkpoint_and_stop_end_the_run(shards: Path, tmp_path: Path) -> None:
    for number, (policy, key) in enumerate([("back", "train.not_finite"), ("stop", None)]):
        run = HereRun(shards=shards, work=tmp_path, seed=number, train={"not_finite": policy})
        with infinite(1), pytest.raises(TrainingError) as info:
            run.make()
        assert info.value.key == key
        assert "step 1" in info.value.problem and "gradient is" in info.value.problem
    # The policy is no part of the name: the stopped run goes on under another one.
    again = HereRun(shards=shards, work=tmp_path, seed=1, train={"not_finite": "skip"})
    assert again.directory == run.directory
    with infinite(1):
        assert len(again.make().losses) == 4


def test_many_in_a_row_end_the_run(shards: Path, tmp_path: Path) -> None:
    settings = {"backend": "torch", "not_finite": "skip", "batch_tokens": 64}
    run = HereRun(shards=shards, work=tmp_path, train=settings)
    with infinite(*range(2, 99)), pytest.raises(TrainingError) as info:
        run.make()
    assert info.value.key == "train.not_finite" and "11 steps in a row" in info.value.problem
