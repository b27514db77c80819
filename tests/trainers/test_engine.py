"""Optimiser steps with DeepSpeed on one worker, in this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.errors import TrainingError
from penstock.recipe import ModelShape, Train
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group
from penstock.trainers.metrics import StepMetrics
from penstock.trainers.modelling.build import build_model
from tests.packed import collate, row_of

TRAIN = Train(
    model=ModelShape(layers=1, width=32, heads=2),
    batch_tokens=10 * 32 + 5,
    micro_batch=4,
    lr=1e-2,
    warmup=0.0,
)


pytestmark = pytest.mark.usefixtures("process_group")


def engine(shards: Path, train: Train = TRAIN, seed: int = 1) -> Engine:
    opened = ShardSet.open(shards)
    return Engine(train, opened, seed, Group())


def losses(made: Engine) -> list[StepMetrics]:
    try:
        return list(made.run())
    finally:
        made.close()


def test_one_pass_spends_the_budget_and_learns(shards: Path) -> None:
    steps = losses(engine(shards))
    assert [step.tokens for step in steps] == [320, 640, 960, 37 * 32]
    assert steps[-1].loss < steps[0].loss - 0.1
    assert all(step.grad_norm > 0 for step in steps)
    assert steps[0].lr > steps[-1].lr > 0


def test_the_loss_is_the_mean_over_the_global_batchs_predicted_tokens(shards: Path) -> None:
    """10 sequences go through as 4, 3 and 3 with unequal numbers of predicted tokens."""
    made = engine(shards)
    batch = collate(
        [row_of(made.shards, int(index)) for index in made.plan.global_batch(0).sequences]
    )
    model = build_model(TRAIN.model, made.shards, seed=1)
    logits = model.causal(
        input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.positions
    ).logits[:, :-1, : made.shards.vocab_size]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    first = losses(made)[0]
    assert first.loss == pytest.approx(loss.item(), rel=1e-6)
    assert first.grad_norm == pytest.approx(norm.item(), rel=1e-5)


def test_the_same_seed_gives_the_same_bits(shards: Path) -> None:
    first, again, other = (
        [(step.loss, step.grad_norm) for step in losses(engine(shards, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_train_as_stage_0(shards: Path, stage: int, tmp_path: Path) -> None:
    overrides = {"zero_optimization": {"stage": stage}}
    made = engine(shards, TRAIN.model_copy(update={"deepspeed": overrides}))
    found = [(step.loss, step.grad_norm) for step in made.run()]
    made.save(tmp_path / "model")
    made.close()
    expected = [(step.loss, step.grad_norm) for step in losses(engine(shards))]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 40_000


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o027, 0o640)])
def test_the_files_of_a_model_follow_the_umask(
    shards: Path, tmp_path: Path, umask: int, mode: int
) -> None:
    made = engine(shards, TRAIN.model_copy(update={"backend": "torch"}))
    before = os.umask(umask)
    try:
        made.save(tmp_path / "model")
    finally:
        os.umask(before)
        made.close()
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in found and set(found.values()) == {mode}


def test_a_failing_step_names_itself_its_shards_and_documents(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(shards)
    monkeypatch.setattr(made.backend, "step", lambda rate: 1 / 0)
    batch = made.plan.global_batch(0).sequences
    shown = ", ".join(map(str, batch[:3]))
    file = f"shard-0000{batch[0] // 19}"
    document = f"'{file}-{batch[0] % 19}-0'"
    told = f"step 0, sequences {shown}, .* of {file}.*, documents {document}.*: ZeroDivisionError"
    with pytest.raises(TrainingError) as info:
        losses(made)
    assert re.match(told, info.value.problem)


def test_a_loss_that_is_not_finite_stops_the_run(shards: Path) -> None:
    wild = TRAIN.model_copy(update={"lr": 1e30, "clip": 1e30})
    with pytest.raises(TrainingError) as info:
        losses(engine(shards, wild))
    assert re.match(
        r"step \d, .*: FloatingPointError: the (loss is nan|gradient is inf)", info.value.problem
    )


@pytest.mark.parametrize("tokens", [1, 31, 320, 1000, 37 * 32 + 7])
@pytest.mark.parametrize("micro_batch", [1, 3, 16])
def test_the_budget_is_spent_to_the_token(shards: Path, tokens: int, micro_batch: int) -> None:
    changes = {"tokens": tokens, "micro_batch": micro_batch}
    steps = losses(engine(shards, TRAIN.model_copy(update=changes)))
    assert steps[-1].tokens == tokens
    assert [step.tokens for step in steps[:-1]] == list(range(320, tokens, 320))


def test_tokens_beyond_the_budget_change_nothing(shards: Path) -> None:
    """The gradient of the last step is that of the counted tokens alone."""
    train = TRAIN.model_copy(update={"tokens": 45})
    made = engine(shards, train)
    first, last = made.plan.global_batch(0).sequences.tolist()
    batch = collate([row_of(made.shards, first), row_of(made.shards, last)])
    labels = batch.labels.clone()
    labels[1, 13:] = -100
    model = build_model(TRAIN.model, made.shards, seed=1)
    logits = model.causal(
        input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.positions
    ).logits[:, :-1, : made.shards.vocab_size]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    (step,) = losses(made)
    assert step.loss == pytest.approx(loss.item(), rel=1e-6)
    assert step.grad_norm == pytest.approx(norm.item(), rel=1e-5)
