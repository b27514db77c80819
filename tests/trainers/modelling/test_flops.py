from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from penstock.recipe import ModelFrom, ModelShape
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.flops import (
    PEAK_FLOPS,
    Utilisation,
    count_parameters,
    peak_flops,
)
from penstock.trainers.modelling.model import LanguageModel
from tests.packed import PackedSequence, collate

MATRICES = 4 * 32 * 32 + 3 * 32 * 96
HEAD = 320 * 32


@pytest.fixture(scope="module")
def model(shards: Path) -> LanguageModel:
    return build_model(ModelShape(layers=1, width=32, heads=2), ShardSet.open(shards), seed=0)


def batch() -> Batch:
    """Documents of 1, 3, 3 and 1 tokens; 4 of the 8 tokens have a label."""
    rows = [([5, 6, 7, 8], [0, 1]), ([1, 2, 3, 4], [0, 3])]
    return collate([PackedSequence(np.array(a, np.uint16), np.array(b, np.int32)) for a, b in rows])


def test_parameters_are_counted_once(model: LanguageModel) -> None:
    assert count_parameters(model) == dict(
        total=MATRICES + HEAD + 3 * 32, without_embeddings=MATRICES + 3 * 32
    )


def test_a_golden_batch(model: LanguageModel) -> None:
    attended = 1 * 2 + 3 * 4 + 3 * 4 + 1 * 2
    assert Utilisation(model).flops(batch()) == 6 * (8 * MATRICES + 4 * HEAD + 32 * attended)


def test_pytorch_counts_the_same_operations_in_products_with_weights(model: LanguageModel) -> None:
    with FlopCounterMode(display=False) as counter:
        model(batch()).backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for operator, n in counts.items() if "mm" in str(operator))
    padded = 384 * 32  # whose rows beyond the 320 are no operations of the model
    assert products == pytest.approx(6 * (8 * MATRICES + 4 * padded), rel=1e-3)


@pytest.mark.parametrize("plain", [True, False])
def test_another_architecture_applies_its_head_to_labels_or_to_every_token(
    plain: bool, shards: Path, tmp_path: Path
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
    GPT2LMHeadModel(
        GPT2Config(vocab_size=320, bos_token_id=0, eos_token_id=0, **sizes)
    ).save_pretrained(tmp_path)
    found = build_model(ModelFrom(hf=str(tmp_path)), ShardSet.open(shards), seed=0)
    assert found.plain_head
    found.plain_head = plain
    matrices = 3 * 12 * 32 * 32
    biases_and_norms = 3 * (9 * 32 + 4 * 32) + 2 * 32
    assert count_parameters(found) == dict(
        total=matrices + biases_and_norms + HEAD + 32 * 32,
        without_embeddings=matrices + biases_and_norms,
    )
    assert Utilisation(found).flops(batch()) == 6 * (
        8 * matrices + (4 if plain else 8) * HEAD + 3 * 32 * 28
    )


def test_utilisation_is_flops_over_seconds_and_peak(model: LanguageModel) -> None:
    used = Utilisation(model)
    used.peak = 1e9
    used.add(batch())
    used.add(batch())
    assert used.take(0.5) == pytest.approx(2 * used.flops(batch()) / 0.5e9)
    assert used.take(0.5) == 0


def test_the_peak_of_a_cpu_is_measured_by_a_product() -> None:
    cpu = torch.device("cpu")
    rate = peak_flops(cpu, torch.float32)
    assert 1e9 < rate < 1e14
    assert peak_flops(cpu, torch.float32) == rate, "measured once"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
    ],
)
def test_the_peak_of_a_gpu_is_the_published_value(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak
    assert peak in PEAK_FLOPS.values()
