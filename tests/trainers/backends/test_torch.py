"""The PyTorch back end against DeepSpeed's stage 0, and every feature of the trainer under it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from penstock.artefact import Workspace
from penstock.recipe import ModelShape, Train
from penstock.trainers.backends.torch import FILE, Torch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from tests.harness.training import TRAIN, Run, Trainings
from tests.trainers.conftest import recorded

TORCH = {"backend": "torch"}
HUNDRED = {"tokens": 100 * 8 * 32, "checkpoint": False}
"""Steps of 8 sequences, so 22 epochs of 37."""


def losses(run: Run) -> np.ndarray:
    """(steps, 2) float64: losses and gradient norms."""
    return np.array([(line["loss"], line["grad_norm"]) for line in run.lines()])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_steps_are_those_of_deepspeed(
    trainings: Trainings, shards: Path, tmp_path: Path, workers: int
) -> None:
    runs = [
        Run(shards=shards, work=tmp_path / name, train={**HUNDRED, "backend": name})
        for name in ("deepspeed", "torch")
    ]
    for run in runs:
        trainings.run(run, workers).well()
    theirs, ours = map(losses, runs)
    assert len(ours) == 100 and ours[-1, 0] < 0.8 * ours[0, 0]
    assert [line["data"] for line in runs[0].lines()] == [line["data"] for line in runs[1].lines()]
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-6)
    np.testing.assert_allclose(ours[:, 1], theirs[:, 1], rtol=1e-4)


def test_two_workers_then_one(trainings: Trainings, shards: Path, tmp_path: Path) -> None:
    whole, killed = (
        Run(shards=shards, work=tmp_path / name, train=TORCH) for name in ("whole", "killed")
    )
    trainings.run(whole, 2).well()
    died = trainings.run(killed, 2, {"rank": 1, "point": "step, before", "nth": 4})
    assert died.statuses[1] == -9
    trainings.run(killed, 1).well()
    assert killed.notes[0].endswith("checkpoints/step-00000002, written by 2 workers")
    assert [line["data"] for line in killed.lines()] == [line["data"] for line in whole.lines()]
    np.testing.assert_allclose(losses(killed)[:, 0], losses(whole)[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrote", "settings"),
    [
        ("torch", {}),
        ("deepspeed", {}),
        ("deepspeed", {"deepspeed": {"zero_optimization": {"stage": 1}}}),
        ("deepspeed", {"deepspeed": {"zero_optimization": {"stage": 3}}}),
    ],
    ids=["torch", "stage-0", "stage-1", "stage-3"],
)
def test_each_reads_the_checkpoint_of_the_other(
    trainings: Trainings, shards: Path, tmp_path: Path, wrote: str, settings: dict[str, Any]
) -> None:
    """Two workers of one back end are killed, one of the other takes over."""
    other = {"torch": "deepspeed", "deepspeed": "torch"}[wrote]
    died = Run(shards=shards, work=tmp_path / "died", train={"backend": wrote, **settings})
    trainings.run(died, 2, {"rank": 1, "point": "step, before", "nth": 4})
    # A signature is of one run; this one is another, of the other back end.
    run = Run(shards=shards, work=tmp_path / "run", train={"backend": other}, trusted=(tmp_path,))
    shutil.copytree(died.directory / "checkpoints", run.directory / "checkpoints")
    shutil.copy(died.directory / "metrics.jsonl", run.directory)
    trainings.run(run, 1).well()
    assert f"step-00000002, written by 2 workers, written by {wrote}" in run.notes[0]
    whole = Run(shards=shards, work=tmp_path / "whole", train={"backend": other})
    trainings.run(whole, 1).well()
    np.testing.assert_allclose(losses(run)[:, 0], losses(whole)[:, 0], rtol=1e-5)
    assert run.checkpoints == ["step-00000005"]


FEATURES: dict[str, dict[str, Any]] = {
    "reweighted": {"reweight": {"use": "loss", "strategy": "linupper"}},
    "recomputed": {"activation_checkpointing": True},
    "evaluated": {"evaluate_every": 600, "document_losses": True},
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("feature", FEATURES)
def test_features_do_what_they_do_under_deepspeed(
    trainings: Trainings, shards: Path, tmp_path: Path, feature: str, workers: int
) -> None:
    settings = {**FEATURES[feature], "checkpoint": False}
    theirs, ours = (
        Run(shards=shards, work=tmp_path / name, train={**settings, "backend": name})
        for name in ("deepspeed", "torch")
    )
    for run in (theirs, ours):
        trainings.run(run, workers).well()
    for mine, other in zip(ours.lines(), theirs.lines(), strict=True):
        numbers = {key for key, value in other.items() if isinstance(value, float)}
        for key in numbers - {"tokens_per_second", "loader_seconds", "mfu"}:
            assert mine[key] == pytest.approx(other[key], rel=1e-4), key
    if feature == "reweighted":
        assert all("weighted_loss" in line for line in ours.lines())
        mine, other = (pq.read_table(run.directory / "weights") for run in (ours, theirs))
        np.testing.assert_allclose(mine["weight"], other["weight"], rtol=1e-4)
    if feature == "evaluated":
        assert any("evaluation" in line for line in ours.lines())
        mine, other = (
            pq.read_table(next(run.work.glob("document_losses/*/*.parquet")))
            for run in (ours, theirs)
        )
        np.testing.assert_allclose(mine["nats"], other["nats"], rtol=1e-4)
    found, expected = (run.spec.find(Workspace(run.work)) for run in (ours, theirs))
    assert found and expected
    assert found.bits_per_byte["water"]["mean"] == pytest.approx(
        expected.bits_per_byte["water"]["mean"], rel=1e-5
    )


def test_the_export_is_read_by_transformers(
    trainings: Trainings, shards: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    run = Run(shards=shards, work=tmp_path, train={**TORCH, "checkpoint": False})
    trainings.run(run, 2).well()
    loaded = AutoModelForCausalLM.from_pretrained(run.directory / "model")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    with torch.no_grad():
        logits = loaded(torch.arange(1, 33)[None]).logits
    assert logits.shape == (1, 32, 320) and bool(logits.isfinite().all())


def test_bfloat16_has_float32_masters(shards: Path, tmp_path: Path) -> None:
    """Updates below a bfloat16's last bit move the masters and hardly a weight."""
    opened = ShardSet.open(shards)
    train = Train(model=ModelShape(layers=1, width=32, heads=2), weight_decay=0.0)
    model = build_model(train.model, opened, seed=1)
    backend = Torch(model, train, Group(), bf16=True)
    weight = next(model.parameters())
    before, master = weight.detach().clone(), backend._masters[0].detach().clone()
    assert weight.dtype == torch.bfloat16 and torch.equal(master.bfloat16(), before)
    for _ in range(3):
        backend.accumulate(sum(p.float().square().sum() for p in model.parameters()), last=True)
        norm = backend.step(1e-7)
        assert norm > 0
    assert (weight != before).float().mean() < 0.05
    real = opened.vocab_size  # rows of padding are zero, and their gradient is
    assert bool((backend._masters[0] != master)[:real].all())
    saved = recorded(tmp_path, backend.save(tmp_path))
    again = build_model(train.model, opened, seed=2)
    resumed = Torch(again, train, Group(), bf16=True)
    resumed.load(saved, workers=2)
    assert torch.equal(next(again.parameters()), weight)
    for made in (backend, resumed):
        made.accumulate(sum(p.float().square().sum() for p in made.model.parameters()), last=True)
        made.step(1e-2)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(weight, before)


def test_a_weight_that_one_worker_did_not_use(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker sums equally many numbers, or the collective would not end."""
    summed = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: summed.append(len(total)))
    model = build_model(ModelShape(layers=1, width=32, heads=2), ShardSet.open(shards), seed=1)
    backend = Torch(model, Train(), Group(0, 2), bf16=False)
    first, second, *_ = model.parameters()
    before = second.detach().clone()
    backend.accumulate(first.square().sum(), last=True)
    backend.step(1e-2)
    assert summed == [sum(p.numel() for p in model.parameters())]
    np.testing.assert_allclose(second.detach(), before * (1 - 1e-2 * 0.1), rtol=1e-6)


def test_a_weight_that_the_only_worker_did_not_use_is_saved(shards: Path, tmp_path: Path) -> None:
    """It decays and has moments of zero, as with several workers."""
    model = build_model(ModelShape(layers=1, width=32, heads=2), ShardSet.open(shards), seed=1)
    backend = Torch(model, Train(), Group(), bf16=False)
    first, second, *_ = model.parameters()
    before = second.detach().clone()
    backend.accumulate(first.square().sum(), last=True)
    backend.step(1e-2)
    np.testing.assert_allclose(second.detach(), before * (1 - 1e-2 * 0.1), rtol=1e-6)
    backend.load(recorded(tmp_path, backend.save(tmp_path)), workers=1)


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does(shards: Path) -> None:
    settings = {**TRAIN, "tokens": 40 * 8 * 32, "checkpoint": False, **TORCH}
    train = Train.model_validate(settings)
    found = []
    for bf16 in (False, True):
        made = Engine(train, ShardSet.open(shards), 1, Group())
        if bf16:
            made.backend = Torch(made._model, train, Group(), bf16=True)
        found.append([step.loss for step in made.run()])
        made.close()
    np.testing.assert_allclose(found[1], found[0], rtol=1e-2)


def test_it_is_part_of_the_runs_name_unless_it_is_the_default(shards: Path, tmp_path: Path) -> None:
    def name(**train: Any) -> str:
        return Run(shards=shards, work=tmp_path, train=train).spec.fingerprint

    assert name() == name(backend="deepspeed") != name(backend="torch")


def test_the_state_is_safe_to_read(trainings: Trainings, shards: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    run = Run(shards=shards, work=tmp_path, train=TORCH)
    trainings.run(run, 1).well()
    found = safe_open(run.directory / "checkpoints/step-00000005" / FILE, framework="pt")
    model = ModelShape(**TRAIN["model"])
    named = {
        name for name, _ in build_model(model, ShardSet.open(shards), seed=1).named_parameters()
    }
    kinds = ("weight", "exp_avg", "exp_avg_sq")
    assert set(found.keys()) == {"step", *(f"{kind}.{name}" for kind in kinds for name in named)}
    assert int(found.get_tensor("step")) == 5
    digest = hashlib.sha256((run.directory / "checkpoints/step-00000005" / FILE).read_bytes())
    assert (
        digest.hexdigest()
        in (run.directory / "checkpoints/step-00000005/manifest.json").read_text()
    )
