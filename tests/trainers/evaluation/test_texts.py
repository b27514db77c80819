from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from penstock.errors import InputError
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import evaluator, run_evaluator
from penstock.trainers.evaluation.choices import Question, WindowNats
from penstock.trainers.evaluation.evaluator import Evaluation, evaluate, score_texts, text_nats
from penstock.trainers.evaluation.run_evaluator import window_reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

from .conftest import CONTEXT, READING, log_p

TEXTS = ("water", "", "the turbine flows — through Ωmega water " * 4, "pen\nstock ", "é")


def by_hand(model: LanguageModel, tokenizer: Any, text: str) -> float:
    """Window by window."""
    ids = [0, *tokenizer.encode(text).ids]
    starts = range(0, len(ids) - 1, CONTEXT)
    return -sum(sum(log_p(model, ids[start : start + CONTEXT + 1])) for start in starts)


def test_parity_with_one_text_at_a_time(
    model: LanguageModel, reader: WindowNats, tokenizer: Any
) -> None:
    assert len(tokenizer.encode(TEXTS[2]).ids) > 2 * CONTEXT
    expected = [by_hand(model, tokenizer, text) for text in TEXTS]
    found = text_nats(TEXTS, reader, tokenizer, **READING)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[1] == 0
    assert text_nats([""], reader, tokenizer, **READING).tolist() == [0]
    score = score_texts(TEXTS, reader, tokenizer, **READING)
    size = sum(len(text.encode()) for text in TEXTS)
    assert score.mean == pytest.approx(sum(expected) / math.log(2) / size)
    assert (score.bytes, score.examples) == (size, len(TEXTS))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_small_batches_and_many_ranks_give_the_same(
    model: LanguageModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(run_evaluator, "BATCH_TOKENS", 40)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total)
    passes: list[int] = []

    def share(rank: int, workers: int) -> np.ndarray:
        def counting(windows: Any) -> torch.Tensor:
            passes[-1] += 1
            return model(windows)

        passes.append(0)
        reader = window_reader(counting, Group(rank, workers))
        return text_nats(TEXTS, reader, tokenizer, **READING)

    alone = share(0, 1)
    shares = [share(rank, workers) for rank in range(workers)]
    assert sum(bool(part.any()) for part in shares) > 1
    assert np.array_equal(sum(shares), alone)
    assert set(passes[1:]) == {-(-passes[0] // workers)}, "a pass may be a collective operation"


def test_standard_error_by_hand() -> None:
    """Bits 2 and 4 in 1 and 3 bytes: ratio 1.5, residuals ±0.5, se sqrt(2 · 0.5) / 4."""
    score = evaluator._ratio(np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    assert (score.mean, score.stderr) == (1.5, 0.25)


def test_an_evaluation_without_text_is_refused(reader: WindowNats, opened: ShardSet) -> None:
    with pytest.raises(InputError) as info:
        evaluate([Evaluation("none", ("",))], reader, opened.tokenizer, **READING)
    assert (info.value.key, info.value.file) == ("evaluate", "none")


def test_no_text_of_an_evaluation_gives_the_end(tmp_path: Path) -> None:
    """As in the shards, also where the tokenizer has the end without the flag `special`."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain = Tokenizer(models.BPE({letter: n for n, letter in enumerate(sorted(alphabet))}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.add_tokens([AddedToken("</s>", special=False, normalized=False)])
    end = plain.token_to_id("</s>")
    plain.save(str(tmp_path / "tokenizer.json"))
    text = "a </s> b"
    assert end in plain.encode(text).ids
    read: list[Any] = []

    def reader(windows: Any) -> np.ndarray:
        read.extend(windows)
        return np.ones(len(windows))

    question = Question(context="q ", choices=(text, "c"), answer=0)
    given = Evaluation(name="web", texts=(text,), questions=(question,))
    evaluate([given], reader, tmp_path / "tokenizer.json", eos=end, context=64)
    assert len(read) == 3
    for window in read:
        assert window.inputs[0] == end
        assert end not in [*window.inputs[1:], *window.targets]
