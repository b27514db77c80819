from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ArtefactError
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation.evaluator import evaluate
from penstock.trainers.evaluation.examples import Evaluation, Example, TreeNats
from penstock.trainers.evaluation.scores import (
    METRICS,
    ExampleScores,
    Scores,
    ratio_of_sums,
)

from .conftest import READING

BIT = math.log(2)


def scores_of(examples: list[Example], choices: list[list[float]]) -> ExampleScores:
    """Scores where each text costs 10 bits more than its answer; nats are given in bits."""
    own = [np.array(bits) * BIT for bits in choices]
    texts = np.array([nats[one.answer] + 10 * BIT for one, nats in zip(examples, own)])
    return ExampleScores.of(examples, texts, own)


def test_standard_error_by_hand() -> None:
    """Bits 2 and 4 in 1 and 3 bytes: ratio 1.5, residuals ±0.5, se sqrt(2 · 0.5) / 4."""
    assert ratio_of_sums(np.array([2.0, 4.0]), np.array([1.0, 3.0])) == (1.5, 0.25)
    assert ratio_of_sums(np.array([3.0]), np.array([2.0])) == (1.5, 0.0)


def test_bits_per_byte_is_of_the_answer_and_of_a_text_without_question() -> None:
    """`é` has two bytes; the question has three bytes more: 4, 6 and 2 bits in 2, 1 and 5."""
    examples = [
        Example(context="q? ", choices=("é", "no"), answer=0),
        Example(context="q? ", choices=("a",)),
        Example(choices=("water",)),
    ]
    found = scores_of(examples, [[4, 1], [6], [2]]).summary()
    assert found["bits_per_byte"]["mean"] == pytest.approx(12 / 8)
    assert (found["bits_per_byte"]["bytes"], found["bits_per_byte"]["examples"]) == (8, 3)
    assert found["text_bits_per_byte"]["mean"] == pytest.approx(42 / 14)
    assert (found["text_bits_per_byte"]["bytes"], found["margin"]["examples"]) == (14, 1)


def test_accuracy_by_hand() -> None:
    """Three questions. Per byte: 1/1 < 3/2, 4/4 < 1.5/1 (é has two bytes: 2/2 = 2/2, the first).
    Plain: 1 < 3, 1.5 < 4, 2 = 2."""
    examples = [
        Example(context="q ", choices=("a", "bb"), answer=0),
        Example(context="q ", choices=("aaaa", "b"), answer=0),
        Example(context="q ", choices=("é", "bb"), answer=1),
    ]
    found = scores_of(examples, [[1, 3], [4, 1.5], [2, 2]]).summary()["accuracy"]
    assert (found["mean"], found["plain"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found["stderr"] == pytest.approx(math.sqrt(2 / 27)) == found["plain_stderr"]
    assert (found["chance"], found["examples"]) == (0.5, 3)


def test_choice_probability_and_margin_by_hand() -> None:
    """p per character of `éé` is 1/2 (2 bits of 2 characters), of `c` 1/4 and of `dddd` 1/2;
    bits per byte are 1/2, 2 and 1. In the second question the right choice is the last."""
    examples = [
        Example(context="q ", choices=("éé", "c", "dddd"), answer=0),
        Example(context="q ", choices=("a", "b"), answer=1),
    ]
    scores = scores_of(examples, [[2, 2, 4], [1, 2]])
    assert scores.table["choice_probability"].to_pylist() == pytest.approx([0.4, 1 / 3])
    assert scores.table["margin"].to_pylist() == pytest.approx([0.5, -1.0])
    found = scores.summary()
    assert found["choice_probability"]["mean"] == pytest.approx((0.4 + 1 / 3) / 2)
    assert found["choice_probability"]["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    # Of two values the standard error of the mean is half of their distance.
    assert found["choice_probability"]["stderr"] == pytest.approx((0.4 - 1 / 3) / 2)
    assert found["margin"]["mean"] == pytest.approx(-0.25)
    assert found["margin"]["stderr"] == pytest.approx(0.75)


def test_an_unlikely_choice_does_not_underflow() -> None:
    examples = [Example(context="q ", choices=("a", "b"))]
    scores = scores_of(examples, [[5000, 5001]])
    assert scores.table["choice_probability"].to_pylist() == pytest.approx([2 / 3])


def test_terms_of_two_models_pair_by_example() -> None:
    """Margins 3 and 5 against 1 and 4: differences 2 and 1, mean 1.5, standard error 0.5.
    Bits 4 and 6 against 5 and 9 in 1 and 3 bytes: -1, and residuals of 0."""
    examples = [
        Example(context="q ", choices=("a", "b")),
        Example(context="q ", choices=("aaa", "bbb")),
    ]
    first = scores_of(examples, [[4, 7], [6, 21]])
    second = scores_of(examples, [[5, 6], [9, 21]])

    def paired(metric: str) -> tuple[float, float]:
        (ours, weights), (theirs, others) = first.terms(metric), second.terms(metric)
        assert weights.tolist() == others.tolist()
        return ratio_of_sums(ours - theirs, weights)

    assert paired("margin") == pytest.approx((1.5, 0.5))
    assert paired("bits_per_byte") == pytest.approx((-1, 0))
    assert first.summary()["margin"]["stderr"] > 0.5


def test_values_of_examples_are_written_and_read(tmp_path: Path) -> None:
    examples = [Example(context="q ", choices=("a", "b")), Example(choices=("é",))]
    scores = scores_of(examples, [[1, 2], [3]])
    scores.write(tmp_path / "examples.parquet")
    read = ExampleScores.read(tmp_path / "examples.parquet")
    assert read.table.equals(scores.table) and read.summary() == scores.summary()
    assert read.table["margin"].to_pylist() == [1.0, None]
    pq.write_table(pa.table({"bits": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ArtefactError) as info:
        ExampleScores.read(tmp_path / "other.parquet")
    assert info.value.file == str(tmp_path / "other.parquet")


def test_metrics_of_choices_are_computed_where_there_are_choices(
    reader: TreeNats, opened: ShardSet
) -> None:
    question = Example(context="What flows?\n", choices=("water", "é"))
    evaluations = [
        Evaluation.of_texts("plain", "water"),
        Evaluation(name="quiz", examples=(question, Example(choices=("water",)))),
    ]
    found: Any = evaluate(evaluations, reader, opened.tokenizer, **READING)
    assert isinstance(found, Scores) and tuple(found.to_json()) == METRICS
    scores = found.to_json()
    assert set(scores["bits_per_byte"]) == set(scores["text_bits_per_byte"]) == {"plain", "quiz"}
    for metric in ("choice_probability", "margin", "accuracy"):
        assert {name: own["examples"] for name, own in scores[metric].items()} == {"quiz": 1}
    assert scores["bits_per_byte"]["plain"] == scores["text_bits_per_byte"]["plain"]
    assert scores["bits_per_byte"]["quiz"] != scores["text_bits_per_byte"]["quiz"]
