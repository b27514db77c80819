"""Short documents: no selector by a classifier may prefer them for being short.

The development pool's figures are in ``docs/lab.md``; here a generated pool shows the same effects.
Each document draws its words from two vocabularies; the share of the first is uniform over the
pool, so the log odds of a classifier of its top are spread without gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from penstock.selectors import preselect as module
from penstock.selectors.base import Fitting, Target
from penstock.selectors.betr import Betr
from penstock.selectors.encoders.static import StaticEncoder
from penstock.selectors.losses import CausalModel, Losses
from penstock.selectors.preselect import PreSelect
from tests.pools import sampler

GOOD = [f"good{number}" for number in range(60)]
OTHER = [f"other{number}" for number in range(60)]
SMALL = {"dim": 4, "min_count": 1, "bucket": 5000, "lr": [0.5], "epoch": [10]}


def pool(count: int = 3000) -> pa.Table:
    """A third of the documents have 4 to 12 words, the others 120 to 200."""
    random = np.random.default_rng(8)
    texts = []
    for number in range(count):
        size = random.integers(4, 13) if number % 3 == 0 else random.integers(120, 201)
        first = random.random(size) < random.random()
        words = np.where(first, random.choice(GOOD, size), random.choice(OTHER, size))
        texts.append(" ".join(words))
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(count)],
            "text": pa.array(texts, pa.large_string()),
            "source": [f"site-{row % 2}" for row in range(count)],
        }
    )


def encoder() -> StaticEncoder:
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *GOOD, *OTHER])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = np.zeros((len(vocabulary), 2), np.float32)
    table[1 : 1 + len(GOOD), 0] = table[1 + len(GOOD) :, 1] = 1
    return StaticEncoder("words", tokenizer, table, np.zeros(2, np.float32))


def fitting(table: pa.Table) -> Fitting:
    random = np.random.default_rng(5)
    target = [Target(benchmark="b", text=" ".join(random.choice(GOOD, 9))) for _ in range(50)]
    own = encoder()
    return Fitting(
        sample=sampler(table),
        pool_size=len(table),
        target=target,
        seed=4,
        encoder=lambda name: own,
    )


def betr(table: pa.Table, patch: pytest.MonkeyPatch) -> Betr:
    scorer = Betr(mode="classifier", encoder="static", aggregate="mean", **SMALL)
    scorer.fit(fitting(table))
    return scorer


def preselect(table: pa.Table, patch: pytest.MonkeyPatch) -> PreSelect:
    """Two models, of which the second is better on texts with more than 80 % of good words."""

    def read(texts: pa.ChunkedArray, model: CausalModel, spread: Any) -> Losses:
        words = [text.split() for text in texts.to_pylist()]
        better = [sum(word.startswith("good") for word in own) > 0.8 * len(own) for own in words]
        nats = np.ones(len(words)) + (np.array(better) if model.name == "worse" else 0)
        counts = np.array([len(text) for text in texts.to_pylist()])
        return Losses(nats=nats, tokens=counts, characters=counts)

    patch.setattr(module, "read_losses", read)
    scorer = PreSelect(models=["worse", "better"], max_characters=800, **SMALL)
    scorer.fit(fitting(table))
    return scorer


def batch(texts: Any) -> pa.RecordBatch:
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else pa.array(texts)
    labels = [str(row) for row in range(len(array))]
    columns = {"id": labels, "text": array.cast(pa.large_string()), "source": labels}
    return pa.record_batch(columns)


def taken(scores: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray:
    """The documents of the highest scores that have this share of all words: (n,) bool."""
    order = np.argsort(-scores, kind="stable")
    found = np.zeros(len(scores), bool)
    found[order[: int(np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum()))]] = True
    return found


@pytest.mark.parametrize("fit", [betr, preselect])
def test_short_texts_score_as_the_pool_does(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden: shrunk to log odds 0, two unknown words outranked 86 and 88 % of the pool; at a
    budget of 40 %, 99 and 38 % of the short documents were taken (on the development pool 60)."""
    table = pool()
    scorer = fit(table, monkeypatch)
    scores = scorer.score(batch(table["text"]))
    sizes = np.array([len(text.split()) for text in table["text"].to_pylist()])
    for unknown in scorer.score(batch(["zyx", "zyx xyz"])):
        assert 0.4 < np.mean(scores < unknown) < 0.65
    short = sizes < 20
    assert taken(scores, sizes, 0.4)[short].mean() < 0.3
