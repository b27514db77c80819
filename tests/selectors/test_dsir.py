"""DSIR against a naive version, golden buckets, and what an importance weight must be."""

from __future__ import annotations

import hashlib
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_ids, uniform
from penstock.selectors.base import Fitting, Target
from penstock.selectors.dsir import Dsir
from penstock.selectors.kernels import hashed_ngrams as kernel

# The algorithm as the paper and its code have it, a line for each step.


def naive_ngrams(text: str, ngrams: int = 2) -> list[str]:
    tokens = re.findall(r"\w+|[^\w\s]+", text.lower())
    return [
        " ".join(tokens[at : at + order])
        for order in range(1, ngrams + 1)
        for at in range(len(tokens) - order + 1)
    ]


def naive_buckets(text: str, buckets: int = 10_000, ngrams: int = 2) -> list[int]:
    return [
        int(hashlib.sha256(one.encode("utf-8")).hexdigest(), 16) % buckets
        for one in naive_ngrams(text, ngrams)
    ]


def hash_buckets(text: str, buckets: int = 10_000, ngrams: int = 2) -> np.ndarray:
    """Return the bucket of each n-gram of a text, unigrams first, in text order."""
    view = kernel._lowered(pa.array([text], pa.large_string()))
    scratch = kernel.NgramScratch.of(view, ngrams, buckets)
    tokens = kernel._tokenise(view.data, 0, view.offsets[-1], kernel._characters(), scratch)
    return scratch.buckets[: kernel._hash_ngrams(tokens, ngrams, buckets, scratch)].copy()


def naive_log_ratios(target: list[str], raw: list[str], buckets: int) -> np.ndarray:
    shares = []
    for texts in (target, raw):
        counts = np.zeros(buckets)
        for text in texts:
            for bucket in naive_buckets(text, buckets):
                counts[bucket] += 1
        shares.append(counts / counts.sum())
    return np.log(shares[0] + 1e-8) - np.log(shares[1] + 1e-8)


def naive_tokens(text: str) -> int:
    """The published length: floor((n-grams + n (n - 1) / 2) / n)."""
    return (len(naive_ngrams(text, 2)) + 1) // 2


WORDS = ["plants", "leaf", "sunlight", "water", "soil", "striker", "goal", "don't", "LOAN,", "é"]


def documents(count: int, seed: int = 3, longest: int = 60) -> list[str]:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(len(WORDS), 0.7))
    return [
        " ".join(random.choice(WORDS, size=int(random.integers(1, longest)), p=weights))
        for _ in range(count)
    ]


def table_of(texts: list[str]) -> pa.Table:
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["web"] * len(texts),
        }
    )


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return table_of(texts).to_batches()[0]


def fitting(raw: list[str], target: list[str], **others: Any) -> Fitting:
    return Fitting(
        **{
            "sample": lambda count: table_of(raw),
            "pool_size": len(raw),
            "target": [Target(benchmark="b", text=text) for text in target],
            **others,
        }
    )


@pytest.fixture(scope="module")
def fitted() -> Dsir:
    scorer = Dsir(buckets=300, min_tokens=10)
    scorer.fit(fitting(documents(80), documents(30, seed=4)))
    return scorer


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [(16, [0, 14, 9, 15, 6]), (10_000, [8288, 2366, 8505, 143, 8294])],
)
def test_golden_buckets(buckets: int, expected: list[int]) -> None:
    """Of: the, cat, sat, "the cat", "cat sat"."""
    assert hash_buckets("The cat sat", buckets).tolist() == expected


AWKWARD = [
    "",
    " \n\t\x00\x1c\u00a0\u3000",
    "a",
    "snake_case isn't 3.14, e.g. (x)... \u201cquoted\u201d\u2014dash",
    "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u03a3 \u03a3\u03b1",  # sigmas
    "\u0130STANBUL I\u0307 \u212aelvin \u023a\u1e9e \u01c5",  # lower case of other lengths
    "\u4f60\u597d\uff0c\u4e16\u754c \u0939\u093f\u0928\u094d\u0926\u0940 e\u0301",
    "\U0001d504 \U0001f9ff\U0001f9ff\U00010428",
    "x" * 54
    + " "
    + "y" * 55
    + " "
    + "z" * 56
    + " "
    + "." * 64
    + " "
    + "w" * 119
    + " "
    + "v" * 1000,
    "\u00e9" * 31 + "!" + "\u4e00" * 40,
    " ".join(f"w{number}" for number in range(200)),
]


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_buckets_are_those_of_hashlib(text: str) -> None:
    for buckets, ngrams in ((10_000, 2), (1, 1), (2**29, 3), (12_345, 4)):
        assert hash_buckets(text, buckets, ngrams).tolist() == naive_buckets(text, buckets, ngrams)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=40).map(" ".join),
    st.integers(1, 2**29),
    st.integers(1, 3),
)
def test_buckets_of_any_text(text: str, buckets: int, ngrams: int) -> None:
    assert hash_buckets(text, buckets, ngrams).tolist() == naive_buckets(text, buckets, ngrams)


def test_every_message_length_is_padded_as_by_hashlib() -> None:
    lengths = range(1, 200)  # one block up to 55 bytes, two up to 119
    text = " ".join("a" * length for length in lengths)
    assert hash_buckets(text, 2**29).tolist() == naive_buckets(text, 2**29)


def test_weights_are_those_of_the_naive_version(fitted: Dsir) -> None:
    raw, target = documents(80), documents(30, seed=4)
    ratios = naive_log_ratios(target, raw, 300)
    assert ratios.min() < -5 and ratios.max() > 0.1  # some buckets the target never met
    np.testing.assert_allclose(fitted._log_ratios, ratios, atol=2**-24)
    texts = documents(40, seed=5) + AWKWARD
    got = fitted.score(batch_of(texts))
    assert got.dtype == np.float32 and got.shape == (len(texts),)
    n_taken = 0
    for text, weight in zip(texts, got, strict=True):
        if naive_tokens(text) < 10:
            assert math.isnan(weight)
        else:
            n_taken += 1
            exact = math.fsum(fitted._log_ratios[naive_buckets(text, 300)])
            assert weight == np.float32(exact)
    assert 20 < n_taken < 45


def test_weights_are_not_divided_by_length(fitted: Dsir) -> None:
    text = documents(1, seed=6, longest=40)[0]
    tripled = "\n".join([text] * 3)
    seam = " ".join(re.findall(r"\w+|[^\w\s]+", text.lower())[i] for i in (-1, 0))
    ratios = fitted._log_ratios
    one, three = fitted.score(batch_of([text, tripled]))
    at_seams = 2 * ratios[naive_buckets(seam, 300)[-1]]
    assert three == pytest.approx(3 * one + at_seams, rel=1e-4)


def test_weights_may_be_divided_by_their_ngrams(fitted: Dsir) -> None:
    texts = [*documents(20, seed=6), "", "one"]
    sums, means = Dsir(buckets=300, min_tokens=0), Dsir(buckets=300, min_tokens=0, per_ngram=True)
    sums._log_ratios = means._log_ratios = fitted._log_ratios
    n_ngrams = np.array([max(1, len(naive_ngrams(text))) for text in texts])
    got = means.score(batch_of(texts))
    np.testing.assert_allclose(got, sums.score(batch_of(texts)) / n_ngrams, rtol=1e-6)
    assert np.isnan(got).tolist() == [False] * 20 + [True, False]


def test_the_same_distribution_weighs_nothing_and_draws_uniformly() -> None:
    texts = documents(400)
    scorer = Dsir(min_tokens=0)
    scorer.fit(fitting(texts, texts))
    weights = scorer.score(batch_of(texts))
    assert weights.tolist() == [0] * 400
    # The draw of the budget, score - ln(-ln u): long documents as often as short ones.
    drawn = np.zeros(400)
    for seed in range(200):
        noisy = weights - np.log(-np.log(uniform(hash_ids(table_of(texts)["id"], seed))))
        drawn[np.argsort(-noisy)[:100]] += 1
    lengths = np.array([len(text) for text in texts])
    long = lengths > np.median(lengths)
    assert drawn[long].mean() == pytest.approx(50, abs=1.5)


def test_a_mixture_is_drawn_towards_the_target() -> None:
    def about(words: str, seed: int) -> list[str]:
        random = np.random.default_rng(seed)
        return [" ".join(random.choice(words.split(), size=120)) for _ in range(50)]

    nature, sport = "plants leaf water soil roots", "match striker goal league cup"
    pool = about(nature, 1) + about(sport, 2)
    scorer = Dsir()
    facts = scorer.fit(fitting(pool, about(nature, 3)[:10]))
    weights = scorer.score(batch_of(pool))
    assert weights[:50].min() > 0 > weights[50:].max()
    assert facts["target_ngrams"] == 10 * 239 and facts["sample_ngrams"] == 100 * 239
    assert facts["sample"] == 100 and facts["short_share"] == 0
    assert facts["unseen_buckets"] > 9_900


def test_minimum_length_is_in_tokens(fitted: Dsir) -> None:
    texts = ["w " * 99, "w " * 100, "w, " * 50, "word" * 1000, " \n "]
    scorer = Dsir(buckets=300)
    scorer._log_ratios = fitted._log_ratios
    assert np.isnan(scorer.score(batch_of(texts))).tolist() == [True, False, False, True, True]
    scorer = Dsir(buckets=300, min_tokens=0)
    scorer._log_ratios = fitted._log_ratios
    assert np.isnan(scorer.score(batch_of(texts))).tolist() == [False] * 4 + [True]


def test_the_pools_count_stops_at_the_limit_and_not_at_a_position() -> None:
    raw, target = documents(300), documents(20, seed=4)
    whole = Dsir(buckets=50).fit(fitting(raw, target))
    assert whole["sample"] == 300
    limited = Dsir(buckets=50, max_ngrams=2000)
    facts = limited.fit(fitting(raw, target))
    assert 2000 <= facts["sample_ngrams"] < 2000 + 2 * 60 and facts["sample"] < 100
    shuffled = table_of(raw).take(pa.array(np.random.default_rng(8).permutation(300)))
    again = Dsir(buckets=50, max_ngrams=2000)
    assert again.fit(fitting(raw, target, sample=lambda count: shuffled)) == facts
    assert again._log_ratios.tobytes() == limited._log_ratios.tobytes()
    other = Dsir(buckets=50, max_ngrams=2000)
    other.fit(fitting(raw, target, seed=1))
    assert other._log_ratios.tobytes() != limited._log_ratios.tobytes()


def test_the_same_bytes_from_the_directory_and_in_any_batch(fitted: Dsir, tmp_path: Path) -> None:
    assert fitted.kind == "scorer"
    texts = documents(60, seed=9) + AWKWARD
    expected = fitted.score(batch_of(texts))
    fitted.save(tmp_path)
    loaded = Dsir(buckets=300, min_tokens=10)
    with pytest.raises(SelectorError) as info:
        loaded.score(batch_of(texts))
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path)
    parts = [loaded.score(part) for part in table_of(texts).to_batches(max_chunksize=7)]
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    backwards = loaded.score(batch_of(texts[::-1]))
    assert backwards[::-1].tobytes() == expected.tobytes()
    assert loaded.score(batch_of(["a"]).slice(1)).shape == (0,)


def test_foreign_state_is_refused(fitted: Dsir, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError) as info:
        Dsir().load(tmp_path)
    assert info.value.file
    fitted.save(tmp_path)
    with pytest.raises(ArtefactError, match="expected 10000 log ratios, got"):
        Dsir().load(tmp_path)


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(SelectorError) as info:
        Dsir().fit(fitting(documents(3), []))
    assert info.value.key == "target"
    with pytest.raises(SelectorError) as info:
        Dsir().fit(fitting(["", " "], documents(3)))
    assert info.value.key == "sample"


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"buckets": 0}, "buckets"),
        ({"buckets": 2**29 + 1}, "buckets"),
        ({"ngrams": "2"}, "ngrams"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"smoothing": 0}, "smoothing"),
        ({"sample": True}, "sample"),
        ({"per_ngram": 1}, "per_ngram"),
        ({"max_ngrams": 1.5}, "max_ngrams"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Dsir(**parameters)
    assert info.value.key == key


def test_identity_is_the_parameters() -> None:
    assert Dsir().identity() == Dsir().identity()
    assert Dsir().identity()["min_tokens"] == 100
    assert Dsir(smoothing=1e-6).identity() != Dsir().identity()


def test_faster_than_the_naive_version(fitted: Dsir) -> None:
    """12 times on a free core; a third of that is required, since other tests run in parallel."""
    batch = batch_of(documents(300, longest=900))
    fitted.score(batch)

    def seconds(work: Any) -> float:
        took = []
        for _ in range(3):
            start = time.process_time()
            work()
            took.append(time.process_time() - start)
        return min(took)

    ours = seconds(lambda: fitted.score(batch)) / 300
    few = batch["text"].to_pylist()[:30]
    naive = seconds(lambda: [naive_buckets(text) for text in few]) / 30
    assert naive / ours > 4
