"""Training: the same bytes each time, from the words that scoring reads."""

import math

import numpy as np
import pytest

from penstock.errors import SelectorError
from penstock.selectors.classifiers.fasttext_training import train

BUCKET, DIM = 5003, 10
TEXTS = ["the river carries water", "the market sells bonds"] * 10


def tiny(seed=3):
    return train(TEXTS, [True, False] * 10, lr=0.5, dim=DIM, epoch=10, bucket=BUCKET, seed=seed)


def test_training_is_deterministic():
    """So small that malloc would return old memory, which fastText does not clear."""
    models = []
    for fill in (3.0, math.nan, -7.0):
        junk = [np.full((BUCKET + 8) * DIM, fill, np.float32) for _ in range(20)]
        del junk
        models.append(tiny())
    for matrix in ("get_input_matrix", "get_output_matrix"):
        first, *others = (getattr(model, matrix)().tobytes() for model in models)
        assert all(other == first for other in others)
    assert tiny(seed=4).get_input_matrix().tobytes() != models[0].get_input_matrix().tobytes()


def test_training_reads_the_words_that_scoring_reads():
    hostile = [
        "the river\ncarries </s> water",
        "__label__7 the market __label__1",
        "a\vb\0c\u2028d </s>",
    ]
    model = train(hostile, [True, False, True], dim=4, bucket=100, epoch=1)
    assert set(model.get_labels()) == {"__label__0", "__label__1"}
    assert set(model.get_words()) == {
        *("</s>", "the", "river", "carries", "market"),
        *("a", "b", "c\u2028d"),
    }


def test_training_refuses_one_class_and_unequal_lengths():
    with pytest.raises(SelectorError) as info:
        train(["a", "b"], [True, True])
    assert info.value.got == "one label"
    with pytest.raises(SelectorError) as info:
        train(["a", "b"], [True])
    assert info.value.got == "2 texts and 1 labels"
