"""Tests that need a GPU: its attention kernel, training in bf16, and utilisation.

``pytest -m gpu`` runs these where there is one. A subprocess trains, because DeepSpeed decides for
a process once whether it computes on a CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.recipe import ModelShape
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling.attention import _has_kernel, span_arguments, span_attention
from penstock.trainers.modelling.build import build_model
from tests.packed import PackedSequence, collate
from tests.trainers.conftest import write_shards

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

GPU = torch.device("cuda")


def packed(length: int, *rows: Sequence[int]) -> Batch:
    random = np.random.default_rng(0)
    return collate(
        [
            PackedSequence(random.integers(1, 320, length).astype(np.uint16), np.array(r, np.int32))
            for r in rows
        ]
    )


@pytest.mark.parametrize("groups", [8, 2])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_over_spans_is_that_of_the_cpu(
    groups: int, window: int | None, dtype: torch.dtype
) -> None:
    """Forward and backward; in bf16 by the variable-length kernel, if this PyTorch has it."""
    batch = packed(256, (0, 100, 101, 180), (0,), (0, 128), (0, 1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 8, 256, 64), (4, groups, 256, 64), (4, groups, 256, 64)]
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    direction = torch.randn(4, 256, 8, 64, generator=generator).to(dtype)

    def found(device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        moved = [part.to(device, dtype).requires_grad_() for part in inputs]
        arguments = span_arguments(batch.to(device))
        result, _ = span_attention(
            torch.nn.Module(), *moved, None, sliding_window=window, **arguments
        )
        made = [result, *torch.autograd.grad(result, moved, direction.to(device, dtype))]
        return [part.detach().cpu().float() for part in made]

    near = {"rtol": 2e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    for mine, theirs in zip(found(GPU, dtype), found(torch.device("cpu"), torch.float32)):
        torch.testing.assert_close(mine, theirs, **near)


def test_this_pytorch_has_the_kernel() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("flash attention needs compute capability 8.0")
    assert _has_kernel(GPU), "attention goes span by span; use PyTorch 2.11 or newer"


def test_no_document_sees_another_in_bf16(shards: Path) -> None:
    opened = ShardSet.open(shards)
    model = build_model(ModelShape(layers=2, width=64, heads=4), opened, seed=1)
    model = model.to(GPU, torch.bfloat16).eval()
    batch = packed(32, (0, 9, 17), (0,)).to(GPU)
    with torch.inference_mode():
        before = model.logits(batch).flatten(0, 1)
        for start, end in [(0, 9), (9, 17), (17, 32), (32, 64)]:
            changed = batch.to(GPU)
            ids = changed.input_ids.view(-1).clone()
            ids[start:end] = ids[start:end] % 319 + 1
            object.__setattr__(changed, "input_ids", ids.view(2, 32))
            after = model.logits(changed).flatten(0, 1)
            others = torch.ones(64, dtype=torch.bool)
            others[start:end] = False
            assert torch.equal(before[others], after[others])
            assert not torch.equal(before[~others], after[~others])


TRAINS = """\
import json, sys
from pathlib import Path
import torch
from penstock.recipe import Train
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group

shards, store, train = sys.argv[1:]
torch.distributed.init_process_group("nccl", f"file://{store}", rank=0, world_size=1)
device = torch.device("cuda", 0)
engine = Engine(
    Train.model_validate_json(train), ShardSet.open(Path(shards)), 1, Group(device=device)
)
steps = [(step.loss, step.grad_norm, step.tokens_per_second, step.mfu) for step in engine.run()]
dtype = str(next(engine._model.parameters()).dtype)
facts = {"steps": steps, "dtype": dtype, "parameters": engine.parameters["total"]}
print(json.dumps(facts | {"memory": torch.cuda.max_memory_allocated()}))
engine.close()
torch.distributed.destroy_process_group()
"""


def trained(shards: Path, store: Path, **train: Any) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "DS_ACCELERATOR"}
    done = subprocess.run(
        [sys.executable, "-c", TRAINS, str(shards), str(store), json.dumps(train)],
        env=environment | {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


SMALL: dict[str, Any] = {
    "model": {"layers": 2, "width": 64, "heads": 4},
    "batch_tokens": 320,
    "micro_batch": 4,
    "lr": 1e-2,
    "warmup": 0.0,
}


def staged(stage: int, bf16: bool = True) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage}, "bf16": {"enabled": bf16}}


def test_zero_1_to_3_in_bf16_train_as_float32_does(shards: Path, tmp_path: Path) -> None:
    expected = trained(shards, tmp_path / "0", **SMALL, deepspeed=staged(0, bf16=False))
    assert expected["dtype"] == "torch.float32"
    wanted = np.array(expected["steps"])
    for stage in (1, 2, 3):
        found = trained(shards, tmp_path / str(stage), **SMALL, deepspeed=staged(stage))
        assert found["dtype"] == "torch.bfloat16"
        steps = np.array(found["steps"])
        np.testing.assert_allclose(steps[:, 0], wanted[:, 0], rtol=3e-3)
        np.testing.assert_allclose(steps[:, 1], wanted[:, 1], rtol=5e-2)


@pytest.mark.parametrize("backend", ["deepspeed", "torch"])
def test_a_gpu_trains_in_bf16(shards: Path, tmp_path: Path, backend: str) -> None:
    found = trained(shards, tmp_path / "0", backend=backend, **SMALL)
    assert found["dtype"] == "torch.bfloat16"
    float32 = trained(shards, tmp_path / "1", deepspeed=staged(0, bf16=False), **SMALL)
    steps = np.array(found["steps"])
    wanted = np.array(float32["steps"])
    np.testing.assert_allclose(steps[:, 0], wanted[:, 0], rtol=3e-3)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"compile": True}])
def test_gpu_utilisation_with_350_million_parameters(
    tokenizer: Any, tmp_path: Path, options: dict[str, bool]
) -> None:
    """Print tokens/s, MFU and memory: 24 layers of width 1024, 2,048 tokens, 16 a step."""
    made = write_shards(tmp_path, tokenizer, sequences=16 * 12, length=2048)
    train = {
        "model": {"layers": 24, "width": 1024, "heads": 16, "mlp_ratio": 3.3},
        "batch_tokens": 16 * 2048,
        "micro_batch": 8,
        "lr": 3e-4,
    }
    found = trained(made.path, tmp_path / "store", **train, **options)
    rates = np.array(found["steps"])[4:]
    with_options = ", ".join(options) or "plain"
    print(
        f"\n{torch.cuda.get_device_name()}, {with_options}: {found['parameters'] / 1e6:.0f} M "
        f"parameters, {np.median(rates[:, 2]):,.0f} tokens/s, MFU {np.median(rates[:, 3]):.3f}, "
        f"{found['memory'] / 2**30:.1f} GiB"
    )
    assert 345e6 < found["parameters"] < 355e6
    assert 0.05 < np.median(rates[:, 3]) < 1
