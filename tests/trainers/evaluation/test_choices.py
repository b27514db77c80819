from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import InputError
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import run_evaluator
from penstock.trainers.evaluation.choices import Question, WindowNats, choice_nats, score_choices
from penstock.trainers.evaluation.evaluator import Evaluation, evaluate
from penstock.trainers.evaluation.run_evaluator import window_reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

from .conftest import CONTEXT, READING, log_p

QUESTIONS = [
    Question(context="What flows?\n", choices=("water", "the turbine — 水", "é"), answer=0),
    Question(context="water flows to the ", choices=("turbine", "penstock"), answer=1),
    Question(context="the water " * 12 + "is ", choices=("Ωmega", "a turbine " * 12), answer=0),
]


def by_hand(model: LanguageModel, tokenizer: Any, question: Question, choice: str) -> float:
    """Find the boundary by decoding: the first token that adds bytes to the choice."""
    ids = tokenizer.encode(question.context + choice).ids
    before = len(question.context.encode())
    first = next(
        place for place in range(len(ids)) if len(_bytes(tokenizer, ids[: place + 1])) > before
    )
    seen = [0, *ids][-(CONTEXT + 1) :]
    return -sum(log_p(model, seen)[-(len(ids) - first) :])


def _bytes(tokenizer: Any, ids: list[int]) -> str:
    """One character for each byte, as in byte-level BPE."""
    return "".join(tokenizer.id_to_token(one) for one in ids)


def test_parity_with_one_choice_at_a_time(
    model: LanguageModel, reader: WindowNats, tokenizer: Any
) -> None:
    found = choice_nats(QUESTIONS, reader, tokenizer, **READING)
    expected = [
        [by_hand(model, tokenizer, question, choice) for choice in question.choices]
        for question in QUESTIONS
    ]
    assert [len(own) for own in found] == [3, 2, 2]
    assert np.concatenate(found) == pytest.approx(np.concatenate(expected), rel=1e-6)
    long = [
        len(tokenizer.encode(QUESTIONS[2].context + choice).ids) for choice in QUESTIONS[2].choices
    ]
    assert long[0] > CONTEXT, "a question that loses its beginning"
    assert len(tokenizer.encode(QUESTIONS[2].choices[1]).ids) > CONTEXT, (
        "a choice that loses its beginning"
    )


def test_the_space_before_a_choice_is_scored_only_within_the_first_token_of_the_choice(
    model: LanguageModel, reader: WindowNats, tokenizer: Any
) -> None:
    """`Ġthe` is one token; before `water` the space is a token of its own."""
    merged = Question(context="to ", choices=("the",), answer=0)
    apart = Question(context="to ", choices=("water",), answer=0)
    tokens = [tokenizer.encode(one.context + one.choices[0]).tokens for one in (merged, apart)]
    assert [own[-1] for own in tokens] == ["Ġthe", "water"] and tokens[1][-2] == "Ġ"
    (first,), (second,) = choice_nats([merged, apart], reader, tokenizer, **READING)
    ids = [[0, *tokenizer.encode(text).ids] for text in ("to the", "to water")]
    assert first == pytest.approx(-log_p(model, ids[0])[-1], rel=1e-6)
    assert second == pytest.approx(-log_p(model, ids[1])[-1], rel=1e-6)


def test_trimmed_offsets_give_the_same(reader: WindowNats, tokenizer: Any) -> None:
    """GPT-2 and similar tokenizers trim white space from offsets."""
    from tokenizers import Tokenizer, processors

    trimmed = Tokenizer.from_str(tokenizer.to_str())
    trimmed.post_processor = processors.ByteLevel(trim_offsets=True)
    assert trimmed.encode("a b").offsets != tokenizer.encode("a b").offsets
    ours, theirs = (
        np.concatenate(choice_nats(QUESTIONS, reader, one, **READING))
        for one in (tokenizer, trimmed)
    )
    assert np.array_equal(ours, theirs)


def test_a_choice_without_tokens_is_refused(reader: WindowNats) -> None:
    from tokenizers import Tokenizer, models

    letters = Tokenizer(models.BPE({"<eos>": 0, "i": 1, "s": 2}, []))
    quiz = Question(context="is ", choices=("水",), answer=0)
    with pytest.raises(InputError) as info:
        choice_nats([quiz], reader, letters, **READING)
    assert info.value.key == "evaluate" and "'水'" in info.value.problem


class _Given:
    """A reader of known nats, in the order of the choices."""

    def __init__(self, nats: list[float]) -> None:
        self._nats = np.array(nats)

    def __call__(self, windows: Any) -> np.ndarray:
        assert len(windows) == len(self._nats)
        return self._nats


def test_accuracy_by_hand(tokenizer: Any) -> None:
    """Three questions. Per byte: 1/1 < 3/2, 4/4 < 1.5/1 (é has two bytes: 2/2 = 2/2, the first).
    Plain: 1 < 3, 1.5 < 4, 2 = 2."""
    questions = [
        Question(context="q ", choices=("a", "bb"), answer=0),
        Question(context="q ", choices=("aaaa", "b"), answer=0),
        Question(context="q ", choices=("é", "bb"), answer=1),
    ]
    given: Any = _Given([1, 3, 4, 1.5, 2, 2])
    found = score_choices(questions, given, tokenizer, **READING)
    assert (found.mean, found.plain) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.stderr == pytest.approx(math.sqrt(2 / 27)) == found.plain_stderr
    assert (found.chance, found.examples) == (0.5, 3)


def test_batches_padding_and_ranks_change_no_score(
    model: LanguageModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = window_reader(model, Group())
    together = np.concatenate(choice_nats(QUESTIONS, reader, tokenizer, **READING))
    monkeypatch.setattr(run_evaluator, "BATCH_TOKENS", 1)
    alone = np.concatenate(choice_nats(QUESTIONS, reader, tokenizer, **READING))
    assert together == pytest.approx(alone, rel=1e-6)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total)
    shares = [
        np.concatenate(
            choice_nats(QUESTIONS, window_reader(model, Group(rank, 3)), tokenizer, **READING)
        )
        for rank in range(3)
    ]
    assert np.array_equal(sum(shares), alone)
    assert sum(bool(share.any()) for share in shares) == 3


def test_accuracy_is_computed_where_there_are_questions(
    reader: WindowNats, opened: ShardSet
) -> None:
    evaluations = [
        Evaluation("plain", ("water",)),
        Evaluation("quiz", ("water",), tuple(QUESTIONS)),
    ]
    scores = evaluate(evaluations, reader, opened.tokenizer, **READING).to_json()
    assert set(scores["bits_per_byte"]) == {"plain", "quiz"}
    assert set(scores["accuracy"]) == {"quiz"}
    assert scores["accuracy"]["quiz"]["examples"] == 3


def test_the_name_of_the_end_of_text_is_ordinary_text(reader: WindowNats, opened: ShardSet) -> None:
    """Of one token, the text would have one loss; its 13 characters have several."""
    alone, longer = (
        evaluate([Evaluation("x", (text,))], reader, opened.tokenizer, **READING)
        for text in ("a", "a<|endoftext|>")
    )
    nats = [
        scores.bits_per_byte["x"].mean * scores.bits_per_byte["x"].bytes
        for scores in (alone, longer)
    ]
    assert nats[1] - nats[0] > 4 * nats[0]
