"""The export is the trained model, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipe import ModelShape, Train
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group

TRAIN = Train(
    model=ModelShape(layers=2, width=32, heads=2), batch_tokens=320, micro_batch=4, lr=1e-2
)


pytestmark = pytest.mark.usefixtures("process_group")


UNTIED = {"kv_heads": 1, "tie_embeddings": False, "qk_norm": True}


@pytest.mark.parametrize(
    ("stage", "bf16", "shape"),
    [
        *((stage, bf16, {}) for stage in (0, 3) for bf16 in (False, True)),
        (3, False, UNTIED),
        *((None, False, shape) for shape in ({}, UNTIED)),
    ],
)
def test_transformers_loads_the_export_and_gives_equal_logits(
    shards: Path, tmp_path: Path, stage: int | None, bf16: bool, shape: dict[str, Any]
) -> None:
    """``None`` for the stage is the PyTorch back end, in float32."""
    from transformers import AutoModelForCausalLM

    overrides: dict[str, Any] = {"zero_optimization": {"stage": stage}, "bf16": {"enabled": bf16}}
    changes: dict[str, Any] = (
        {"deepspeed": overrides} if stage is not None else {"backend": "torch"}
    )
    assert isinstance(TRAIN.model, ModelShape)
    changes["model"] = TRAIN.model.model_copy(update=shape)
    train = TRAIN.model_copy(update=changes)
    opened = ShardSet.open(shards)
    engine = Engine(train, opened, 1, Group())
    losses = [step.loss for step in engine.run()]
    least = 0.003 if shape else 0.05
    assert losses[-1] < losses[0] - least, "an export of what was trained, not of what it began as"
    tokens = torch.arange(1, 41).view(2, 20)
    live = engine.backend.model.eval().causal
    with torch.no_grad():
        expected = live(input_ids=tokens).logits[..., : opened.vocab_size]
    engine.save(tmp_path / "model")
    engine.close()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").eval()
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16 if bf16 else torch.float32}
    with torch.no_grad():
        found = loaded(input_ids=tokens).logits
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
