from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import InputError
from penstock.recipe import ModelShape
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import texts
from penstock.trainers.evaluation.texts import Evaluation, Evaluator
from penstock.trainers.modelling.model import LanguageModel, build_model

TEXTS = ("water", "", "the turbine flows — through Ωmega water " * 4, "pen\nstock ", "é")


@pytest.fixture(scope="module")
def opened(shards: Path) -> ShardSet:
    return ShardSet.open(shards)


@pytest.fixture(scope="module")
def model(opened: ShardSet) -> LanguageModel:
    return build_model(ModelShape(layers=2, width=32, heads=2), opened, seed=3).eval()


def evaluator(model: LanguageModel, opened: ShardSet) -> Evaluator:
    return Evaluator(model, opened.tokenizer, eos=opened.eos, context=opened.sequence_length)


def by_hand(model: LanguageModel, tokenizer: Any, text: str, context: int) -> float:
    """Token by token, window by window, through the full logits."""
    ids = tokenizer.encode(text).ids
    nats = 0.0
    for start in range(0, len(ids), context):
        inputs = [0, *ids][start : start + context][: len(ids) - start]
        logits = model.causal(torch.tensor([inputs]), use_cache=False).logits[0].double()
        log_p = logits.log_softmax(dim=-1)
        nats -= sum(float(log_p[place, ids[start + place]]) for place in range(len(inputs)))
    return nats


@torch.inference_mode()
def test_parity_with_one_text_at_a_time(
    model: LanguageModel, opened: ShardSet, tokenizer: Any
) -> None:
    assert len(tokenizer.encode(TEXTS[2]).ids) > 2 * opened.sequence_length
    expected = [by_hand(model, tokenizer, text, 32) for text in TEXTS]
    found = evaluator(model, opened).nats(TEXTS)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[1] == 0
    score = evaluator(model, opened).score(Evaluation("it", TEXTS))
    size = sum(len(text.encode()) for text in TEXTS)
    assert score.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / size)
    assert (score.bytes, score.examples) == (size, len(TEXTS))


def test_small_batches_and_many_ranks_give_the_same(
    model: LanguageModel, opened: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "BATCH_TOKENS", 40)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total)
    scorer = evaluator(model, opened)
    alone = scorer.nats(TEXTS)
    shares = [scorer.nats(TEXTS, rank=rank, workers=3) for rank in range(3)]
    assert sum(bool(share.any()) for share in shares) > 1
    assert np.allclose(sum(shares), alone, rtol=1e-14)


def test_standard_error_by_hand() -> None:
    """Bits 2 and 4 in 1 and 3 bytes: ratio 1.5, residuals ±0.5, se sqrt(2 · 0.5) / 4."""
    score = texts._ratio(np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    assert (score.bits_per_byte, score.stderr) == (1.5, 0.25)


def test_no_texts_are_refused(model: LanguageModel, opened: ShardSet) -> None:
    with pytest.raises(InputError, match="evaluate: none: expected texts"):
        evaluator(model, opened).score(Evaluation("none", ("",)))
