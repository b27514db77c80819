"""Every ZeRO stage in float32 and bf16 trains as stage 0 does: losses, norms, and clipping."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import RecipeError
from penstock.recipe import ModelShape, Train
from penstock.trainers.backends.deepspeed import check, deepspeed_config
from penstock.trainers.backends.deepspeed import states as state
from penstock.trainers.backends.deepspeed.engine import DeepSpeed
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group
from tests.trainers.conftest import recorded

pytestmark = pytest.mark.usefixtures("process_group")

TRAIN = Train(
    model=ModelShape(layers=2, width=32, heads=2),
    batch_tokens=10 * 32,
    micro_batch=4,
    lr=1e-2,
    warmup=0.0,
    clip=0.05,
)
"""Ten sequences a step, as 4, 3 and 3, and a norm of about 1.3, which is clipped."""


def configured(stage: int, bf16: bool) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage}, "bf16": {"enabled": bf16}}


def engine(shards: Path, **changes: Any) -> Engine:
    train = TRAIN.model_copy(update=changes)
    opened = ShardSet.open(shards)
    return Engine(train, opened, 1, Group())


def trained(shards: Path, **changes: Any) -> np.ndarray:
    """(steps, 2) float64: losses and gradient norms."""
    made = engine(shards, **changes)
    try:
        return np.array([(step.loss, step.grad_norm) for step in made.run()])
    finally:
        made.close()


@cache
def expected(shards: Path) -> np.ndarray:
    return trained(shards, deepspeed=configured(0, bf16=False))


STAGES = [(stage, bf16) for bf16 in (False, True) for stage in (0, 1, 2, 3)]


@pytest.mark.parametrize("micro_batch", [4, 10])
@pytest.mark.parametrize(("stage", "bf16"), STAGES)
def test_losses_and_norms_are_those_of_stage_0_in_float32(
    shards: Path, stage: int, bf16: bool, micro_batch: int
) -> None:
    found = trained(shards, deepspeed=configured(stage, bf16), micro_batch=micro_batch)
    np.testing.assert_allclose(found[:, 0], expected(shards)[:, 0], rtol=3e-4 if bf16 else 1e-6)
    np.testing.assert_allclose(found[:, 1], expected(shards)[:, 1], rtol=2e-2 if bf16 else 1e-5)


@pytest.mark.parametrize("clip", [0.05, 1000.0])
@pytest.mark.parametrize(("stage", "bf16"), STAGES)
def test_the_accumulated_gradient_is_clipped_to_its_norm(
    shards: Path, stage: int, bf16: bool, clip: float
) -> None:
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    made = engine(shards, deepspeed=configured(stage, bf16), clip=clip)
    step = next(made.run())
    states = _states(made)
    given = torch.nn.utils.get_total_norm([state["exp_avg"].float() for state in states]) / 0.1
    made.close()
    assert step.grad_norm == pytest.approx(expected(shards)[0, 1], rel=1e-2)
    assert float(given) == pytest.approx(min(clip, step.grad_norm), rel=1e-3)


def _states(made: Engine) -> list[dict[str, Any]]:
    """Return the states of Adam, inside whatever DeepSpeed wraps it in."""
    assert isinstance(made.backend, DeepSpeed)
    optimizer = made.backend.engine.optimizer
    return list(getattr(optimizer, "optimizer", optimizer).state.values())


@pytest.mark.parametrize(("stage", "bf16"), STAGES)
def test_a_dry_run_leaves_no_state(shards: Path, stage: int, bf16: bool) -> None:
    """A first step of Adam moves each weight by the learning rate, whatever its gradient."""
    made = engine(shards, deepspeed=configured(stage, bf16), weight_decay=0.0)
    initial = made._model.causal.model.embed_tokens.weight.detach().clone()
    initial = initial if stage < 3 else None
    step = next(made.run())
    if initial is not None:
        weight = made._model.causal.model.embed_tokens.weight.detach()
        moved = (weight - initial).abs().float()
        assert float(moved[moved > 0].median()) == pytest.approx(step.lr, rel=1e-2)
    steps = [int(state["step"]) for state in _states(made)]
    made.close()
    assert steps and set(steps) == {1}


def test_bf16_takes_stage_1_unless_the_recipe_names_one() -> None:
    def stage(**changes: Any) -> int:
        config = deepspeed_config(TRAIN.model_copy(update=changes), accumulation=1, bf16=False)
        return int(config["zero_optimization"]["stage"])

    assert stage() == 0
    assert stage(deepspeed={"bf16": {"enabled": True}}) == 1
    assert stage(deepspeed=configured(0, bf16=True)) == 0
    assert stage(deepspeed={"zero_optimization": {"stage": 2}}) == 2


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_recomputed_activations_change_nothing(shards: Path, stage: int) -> None:
    made = engine(shards, deepspeed=configured(stage, bf16=False), activation_checkpointing=True)
    calls = []
    layer = made._model.causal.model.layers[1]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    found = np.array([(step.loss, step.grad_norm) for step in made.run()])
    made.close()
    np.testing.assert_allclose(found, expected(shards), rtol=1e-5)
    assert len(calls) == 2 * (3 * 3 + 2), "each micro-batch should run a layer twice"


def test_metrics_contain_the_utilisation(shards: Path) -> None:
    made = engine(shards)
    steps = list(made.run())
    made.close()
    assert all(0 < step.mfu < 1 for step in steps)
    assert made.parameters["total"] == 2 * 13_312 + 320 * 32 + 5 * 32
    assert made.parameters["without_embeddings"] == 2 * 13_312 + 5 * 32


def test_the_users_deepspeed_keys_are_merged_over_ours() -> None:
    train = TRAIN.model_copy(update={"deepspeed": {"zero_optimization": {"stage": 2}, "x": 1}})
    config = deepspeed_config(train, accumulation=3, bf16=True)
    assert config["zero_optimization"] == {"stage": 2}
    assert config["gradient_accumulation_steps"] == 3
    assert (config["bf16"], config["x"]) == ({"enabled": True}, 1)
    half = train.model_copy(update={"deepspeed": {"fp16": {"enabled": True}}})
    config = deepspeed_config(half, accumulation=3, bf16=True)
    assert config["bf16"] == {"enabled": False}, "DeepSpeed refuses both"


REFUSED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # name: (train.deepspeed, key below it, got, fix)
    "owned": ({"optimizer": {"type": "Lamb"}}, "optimizer", "", "use train.lr, train.betas"),
    "owned clip": ({"gradient_clipping": None}, "gradient_clipping", "", "use train.clip"),
    "owned checkpoint": (
        {"checkpoint": {"load_universal": True}},
        "checkpoint",
        "",
        "train.checkp",
    ),
    "slip": ({"zero_optimisation": {"stage": 3}}, "zero_optimisation", "", "'zero_optimization'"),
    "bf16 null": ({"bf16": None}, "bf16", "null", "write {enabled: true}"),
    "bf16 true": ({"bf16": True}, "bf16", "true", "write {enabled: true}"),
    "bf16 false": ({"bf16": False}, "bf16", "false", "write {enabled: false}"),
    "fp16 true": ({"fp16": True}, "fp16", "true", "write {enabled: true}"),
    "stage alone": ({"zero_optimization": 2}, "zero_optimization", "2", "write {stage: 2}"),
    "zero null": ({"zero_optimization": None}, "zero_optimization", "null", "write {stage: 1}"),
    "stage 4": ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage", "4", ""),
    "stage word": ({"zero_optimization": {"stage": "2"}}, "zero_optimization.stage", '"2"', ""),
    "stage null": ({"zero_optimization": {"stage": None}}, "zero_optimization.stage", "null", ""),
    "enabled word": ({"bf16": {"enabled": "yes"}}, "bf16.enabled", '"yes"', ""),
    "stage true": ({"zero_optimization": {"stage": True}}, "zero_optimization.stage", "true", ""),
    "enabled null": ({"bf16": {"enabled": None}}, "bf16.enabled", "null", ""),
    "profiler": ({"flops_profiler": True}, "flops_profiler", "true", "write {enabled: true}"),
    "both": (
        {"bf16": {"enabled": True}, "fp16": {"enabled": True}},
        "fp16.enabled",
        "both",
        "leave one out",
    ),
}


@pytest.mark.parametrize(("overrides", "key", "got", "fix"), REFUSED.values(), ids=REFUSED)
def test_keys_that_would_fail_in_a_worker_are_refused(
    overrides: dict[str, Any], key: str, got: str, fix: str
) -> None:
    with pytest.raises(RecipeError) as info:
        check(Train(deepspeed=overrides))
    assert info.value.key == f"train.deepspeed.{key}"
    assert (info.value.got or "") == got
    assert fix in (info.value.fix or "")


@pytest.mark.parametrize(
    "overrides",
    [
        {"zero_optimization": {"stage": 3}, "some_key_of_its_own": 1},
        {"bf16": {"enabled": False}, "zero_optimization": {"overlap_comm": True}},
        {"bf16": {}, "wall_clock_breakdown": True},
    ],
)
def test_keys_of_deepspeed_are_accepted(overrides: dict[str, Any]) -> None:
    check(Train(deepspeed=overrides))
    deepspeed_config(Train(deepspeed=overrides), accumulation=1, bf16=False)


def test_nothing_is_compiled(shards: Path) -> None:
    import deepspeed

    engine(shards).close()
    assert not any(deepspeed.ops.__compatible_ops__.values())


@pytest.mark.parametrize("reads", [0, 1])
@pytest.mark.parametrize("wrote", [0, 1])
def test_the_files_and_not_the_reading_stage_decide_whether_to_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrote: int, reads: int
) -> None:
    """By default the stage is 0 on a CPU and 1 on a GPU, and a run may move between them."""
    directory = tmp_path / "step-00000008"
    (directory / state.TAG).mkdir(parents=True)
    names = ["mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"]
    names = [f"{state.TAG}/{name}" for name in names[: 1 + wrote]]
    for name in names:
        (directory / name).touch()
    converted, loaded = [], []

    def convert(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        converted.append(source)

    monkeypatch.setattr(state, "_convert", convert)
    monkeypatch.setattr(state, "_load", lambda engine, found: loaded.append(found))
    optimizer = SimpleNamespace(param_groups=[], optimizer=SimpleNamespace(state={}))
    stub = SimpleNamespace(
        zero_optimization_stage=lambda: reads, optimizer=optimizer, _config=SimpleNamespace()
    )
    state.load_state(stub, recorded(directory, names), Group(), wrote=2)
    assert converted == [directory / state.TAG] * wrote
    assert len(loaded) == 1 and (loaded[0] == directory) == (not wrote)
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]
