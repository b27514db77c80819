"""Training: the bytes of fastText's own training, each time, from the words that scoring reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import SelectorError
from penstock.selectors.classifiers.fasttext_training import find_rows, train
from tests import fasttext_reference

TEXTS = ["the river carries water", "the market sells bonds", "water of the river", "a bond"] * 6
LABELS = [True, False, True, False] * 6
BUCKET = 5003
HOSTILE = [
    "the river\ncarries </s> water",
    "__label__7 the market __label__1",
    "a\vb\0c\u2028d </s>",
    "",
    " \r\n ",
    "\U0001f300 \xe9\xe8" * 9 + " water" * 300,
    "of_more_than_sixteen_bytes of_more_than_sixteen_bytez",
] * 3


def assert_same(
    texts: list[str], labels: list[bool], own: dict[str, Any], data: dict[str, int]
) -> None:
    ours = train(find_rows(texts, labels, **data), **own)
    theirs = fasttext_reference.collapsed(fasttext_reference.train(texts, labels, **own, **data))
    assert ours.weights.tobytes() == theirs.weights.tobytes()
    assert ours.words.tobytes() == theirs.words.tobytes()
    assert ours.starts.tobytes() == theirs.starts.tobytes()
    assert (ours.bucket, ours.word_ngrams) == (theirs.bucket, theirs.word_ngrams)
    assert np.abs(ours.weights).max() > 0.0001


@pytest.mark.parametrize(
    ("own", "data"),
    [
        ({"lr": 0.5, "dim": 16, "epoch": 10, "seed": 3}, {}),
        ({"lr": 0.1, "dim": 10, "epoch": 5, "seed": 0}, {"min_count": 2}),
        ({"lr": 2.0, "dim": 7, "epoch": 40, "seed": 2**31 - 1}, {"word_ngrams": 1}),
        ({"lr": 0.5, "dim": 100, "epoch": 3, "seed": 2**31 - 2}, {"word_ngrams": 3}),
        ({"lr": 0.5, "dim": 1, "epoch": 1, "seed": 5}, {"word_ngrams": 5, "bucket": 11}),
    ],
)
def test_the_bytes_are_those_of_fasttext(own: dict[str, Any], data: dict[str, int]) -> None:
    data = {"bucket": BUCKET, **data}
    assert_same(TEXTS, LABELS, own, data)
    labels = [index % 3 == 0 for index in range(len(HOSTILE))]
    assert_same(HOSTILE, labels, {**own, "lr": 0.3}, data)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("ab \n\0\xe9", max_size=40), min_size=4, max_size=20),
    st.integers(0, 2**31 - 1),
    st.integers(1, 20),
    st.integers(1, 4),
)
def test_generated_texts(texts: list[str], seed: int, dim: int, ngrams: int) -> None:
    labels = [index % 2 == 0 for index in range(len(texts))]
    data = {"word_ngrams": ngrams, "bucket": 97}
    ours = train(find_rows(texts, labels, **data), dim=dim, seed=seed, lr=0.4)
    theirs = fasttext_reference.train(texts, labels, dim=dim, seed=seed, lr=0.4, **data)
    assert ours.weights.tobytes() == fasttext_reference.collapsed(theirs).weights.tobytes()


def test_another_seed_gives_other_bytes() -> None:
    data = find_rows(TEXTS, LABELS, bucket=BUCKET)
    one, same, other = (train(data, lr=0.5, dim=4, seed=seed).weights for seed in (3, 3, 4))
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_tokens_and_rows_are_fasttexts() -> None:
    """By hand: known words in order, then bigrams; an end of line and a label are tokens."""
    data = find_rows(["b a b", "b c </s> b"], [True, False], min_count=2, bucket=1)
    known = bytes(data.words.view(np.uint8)).decode()
    words = [known[a:b] for a, b in zip(data.word_starts[:-1], data.word_starts[1:])]
    assert sorted(words) == ["</s>", "b"]
    b, end, bigram = words.index("b"), words.index("</s>"), 2
    assert data.rows.tolist() == [b, b, end, *[bigram] * 3, b, end, *[bigram] * 2]
    assert data.starts.tolist() == [0, 6, 10]
    assert data.tokens.tolist() == [5, 4]
    assert data.labels.tolist() == [data.positive, 1 - data.positive]


def test_training_that_diverges_is_refused() -> None:
    data = find_rows(TEXTS, LABELS, bucket=BUCKET)
    with pytest.raises(SelectorError) as info:
        train(data, lr=1e30, epoch=50, dim=4)
    assert (info.value.key, info.value.got) == ("lr", "1e+30")
    with pytest.raises((RuntimeError, ValueError)):
        fasttext_reference.train(TEXTS, LABELS, lr=1e30, epoch=50, dim=4, bucket=BUCKET)


def test_training_refuses_one_class_unequal_lengths() -> None:
    with pytest.raises(SelectorError) as info:
        find_rows(["a", "b"], [True, True])
    assert info.value.got == "one label"
    with pytest.raises(SelectorError) as info:
        find_rows(["a", "b"], [True])
    assert info.value.got == "2 texts and 1 labels"
