"""Muon for the matrices of the layers, AdamW for all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from penstock.errors import RecipeError, TrainingError
from penstock.recipe import ModelShape, Train
from penstock.trainers.backends import find_backend
from penstock.trainers.backends.muon import layer_matrices
from penstock.trainers.backends.torch import FILE, Torch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from tests.trainers.checkpoints.here import HereRun

MUON = {"backend": "torch", "optimizer": "muon"}

MATRICES = {
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
}
"""Of a layer of a Llama."""


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_matrices_of_the_layers_are_muons(shards: Path, tied: bool) -> None:
    shape = ModelShape(layers=2, width=32, heads=2, tie_embeddings=tied)
    model = build_model(shape, ShardSet.open(shards), seed=1)
    expected = {
        f"causal.model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in MATRICES
    }
    assert layer_matrices(model) == expected
    made = Torch(model, Train(model=shape, **MUON, weight_decay=0.3), Group(), bf16=False)
    weights = dict(model.named_parameters())
    adamw, muon = made._optimizers
    (group,) = muon.param_groups
    assert {id(own) for own in group["params"]} == {id(weights[name]) for name in expected}
    assert (group["weight_decay"], group["adjust_lr_fn"]) == (0.3, "match_rms_adamw")
    decays = {id(own): one["weight_decay"] for one in adamw.param_groups for own in one["params"]}
    others = {
        id(own): 0.3 * (own.dim() > 1) for name, own in weights.items() if name not in expected
    }
    assert decays == others and len(decays) == 6 + (not tied)


def test_tables_of_positions_and_vectors_stay_with_adamw() -> None:
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    found = layer_matrices(LanguageModel(GPT2LMHeadModel(config)))
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert found == {f"causal.transformer.h.0.{name}.weight" for name in names}


@pytest.mark.parametrize("bf16", [False, True])
def test_an_update_has_a_fifth_of_the_rate_whatever_the_shape(shards: Path, bf16: bool) -> None:
    """AdamW's first update of a table has the rate itself in each number."""
    shape = ModelShape(layers=1, width=32, heads=2, mlp_ratio=6.0)
    model = build_model(shape, ShardSet.open(shards), seed=1)
    train = Train(model=shape, **MUON, weight_decay=0.0)
    made = Torch(model, train, Group(), bf16=bf16)
    torch.manual_seed(0)
    before = {name: own.detach().clone() for name, own in zip(made._names, made._masters)}
    for own in made._masters:
        own.grad = torch.randn_like(own)
    made.step(0.01)
    for name, own in zip(made._names, made._masters):
        change = (own.detach() - before[name]).square().mean().sqrt() / 0.01
        if name in layer_matrices(model):
            assert 0.14 < change < 0.26, (name, own.shape, change)
        else:
            assert change == pytest.approx(1.0, rel=1e-2), name


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_stopped_run_goes_on_bit_for_bit(shards: Path, tmp_path: Path, dtype: str) -> None:
    settings = {**MUON, "dtype": dtype, "tokens": 12 * 256}
    whole = HereRun(shards=shards, work=tmp_path / "whole", train=settings).make()
    stopped = HereRun(shards=shards, work=tmp_path / "stopped", train=settings).make_until(7)
    kept = stopped.directory / "checkpoints" / "step-00000006" / FILE
    assert kept.exists()
    stopped.make()
    assert "step-00000006" in stopped.notes[0]
    assert stopped.losses == whole.losses and len(whole.losses) == 12
    assert whole.losses[-1] < whole.losses[0] - 0.3
    name = "model/model.safetensors"
    assert (stopped.directory / name).read_bytes() == (whole.directory / name).read_bytes()
    adamw = HereRun(shards=shards, work=tmp_path, train={**settings, "optimizer": "adamw"})
    assert adamw.name != whole.name
    assert "optimizer" not in adamw.spec._config()["train"], "it keeps its name from before"


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("parent", ["adamw", "muon"])
def test_a_branch_takes_the_optimizer_of_its_parent(
    shards: Path, tmp_path: Path, parent: str
) -> None:
    settings: dict[str, Any] = {"backend": "torch", "optimizer": parent}
    first = HereRun(shards=shards, work=tmp_path, train=settings).make_until(3)
    branch = {"continue_from": f"{first.name}@2", "backend": "torch"}
    other = {"adamw": "muon", "muon": "adamw"}[parent]
    with pytest.raises(TrainingError) as info:
        HereRun(shards=shards, work=tmp_path, train={**branch, "optimizer": other}).make()
    assert info.value.key == "train.optimizer"
    assert str(first.directory) in (info.value.file or "")
    same = HereRun(shards=shards, work=tmp_path, train={**branch, "optimizer": parent}).make()
    assert len(same.losses) == 5


def test_an_old_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(RecipeError) as info:
        find_backend("torch").check(Train(**MUON))
    assert info.value.key == "train.optimizer"
    find_backend("torch").check(Train(backend="torch"))


def test_it_is_refused_under_deepspeed() -> None:
    train = Train(optimizer="muon")
    with pytest.raises(RecipeError) as info:
        find_backend("deepspeed").check(train)
    assert (info.value.key, info.value.got) == ("train.optimizer", "muon")
    assert "`train.backend: torch`" in (info.value.fix or "")
    find_backend("torch").check(Train(**MUON))
