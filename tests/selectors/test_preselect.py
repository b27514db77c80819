"""PreSelect: golden strengths, and real fits by tiny models trained on different texts."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors import preselect
from penstock.selectors.base import Fitting, ParallelMap, serial_map
from penstock.selectors.classifiers.classifier import (
    area_under_curve,
    hold_out,
    shrunk_log_odds,
)
from penstock.selectors.fasttext import FastTextScorer
from penstock.selectors.losses import CausalModel, Losses, read_losses
from penstock.selectors.predictive_strength import choose_sides, pairs_in_order
from penstock.selectors.preselect import PreSelect
from tests.fasttext_reference import train
from tests.pools import sampler
from tests.selectors.llamas import byte_tokenizer, write_model

TOPICS = {
    "nature": "plants leaf sunlight water soil roots energy animals rocks planet heat oxygen "
    "seeds forest river cells minerals food moon gravity",
    "sport": "match striker goal league coach season penalty stadium referee trophy defender "
    "tournament fans score team club injury cup transfer keeper",
}


def texts_of(topic: str, count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    words = TOPICS[topic].split()
    return [
        " and\n".join(random.choice(words, int(size))) for size in random.integers(14, 24, count)
    ]


def pool(count: int = 400) -> pa.Table:
    halves = [texts_of(topic, count // 2, 11) for topic in TOPICS]
    texts = [text for pair in zip(*halves, strict=True) for text in pair]
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(count)],
            "text": pa.array([*texts[:-1], " \n"], pa.large_string()),
            "source": ["site-a", "site-a", "site-b", "site-b"] * (count // 4),
        }
    )


NATURE = np.arange(400) % 2 == 0
"""Documents of the pool that are about nature: half of each source."""


def batch_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def fitting(table: pa.Table, spread: ParallelMap = serial_map, **others: Any) -> Fitting:
    return Fitting(
        **{
            "sample": sampler(table),
            "pool_size": len(table),
            "seed": 4,
            "spread": spread,
            **others,
        }
    )


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models: the better, the more of their training texts are about nature."""
    root = tmp_path_factory.mktemp("ladder")
    nature, sport = texts_of("nature", 200, 1), texts_of("sport", 200, 2)
    tokenizer = byte_tokenizer(nature[:50] + sport[:50])
    return [
        str(write_model(root / f"model-{share}", tokenizer, training_texts=training_texts))
        for share, training_texts in enumerate([sport, nature[:50] + sport[:50], nature])
    ]


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """Each model reads the same texts once, unless workers do it."""
    remembered: dict[Any, Losses] = {}

    def read(texts: pa.ChunkedArray, model: CausalModel, spread: ParallelMap) -> Losses:
        if spread is not serial_map:
            return read_losses(texts, model, spread)
        key = (model.name, *texts.to_pylist())
        if key not in remembered:
            remembered[key] = read_losses(texts, model, spread)
        return remembered[key]

    patch = pytest.MonkeyPatch()
    patch.setattr(preselect, "read_losses", read)
    yield
    patch.undo()


SMALL = {"max_characters": 100, "dim": 4, "bucket": 5000, "lr": [0.5], "epoch": [5, 15]}


@pytest.fixture(scope="module")
def fitted(ladder: list[str]) -> tuple[PreSelect, dict[str, Any]]:
    scorer = PreSelect(models=ladder, **SMALL)
    return scorer, dict(scorer.fit(fitting(pool())))


# Predictive strength.


def predictive_strength(nats: np.ndarray) -> np.ndarray:
    return pairs_in_order(nats) / math.comb(len(nats), 2)


def test_golden_strength() -> None:
    nats = np.array([[1.2], [1.0], [1.1]])
    assert predictive_strength(nats).tolist() == [2 / 3]
    assert pairs_in_order(nats).tolist() == [2]


def test_strength_by_hand() -> None:
    # Columns: all in order, none, ties only, one tie, six models of which one is out of place.
    three = np.array([[3.0, 1.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0], [1.0, 3.0, 2.0, 1.0]])
    assert predictive_strength(three).tolist() == [1.0, 0.0, 0.0, 2 / 3]
    six = np.array([6.0, 4.0, 5.0, 3.0, 2.0, 1.0])[:, None]
    assert pairs_in_order(six).tolist() == [14]
    assert predictive_strength(six).tolist() == [14 / 15]


LOSSES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 6), st.integers(1, 5)),
    elements=st.integers(0, 8).map(float),
)


@given(LOSSES)
def test_strength_by_brute_force(nats: np.ndarray) -> None:
    models, documents = nats.shape
    pairs = [(i, j) for i in range(models) for j in range(models) if i < j]
    for document in range(documents):
        right = sum(nats[i, document] > nats[j, document] for i, j in pairs)
        assert predictive_strength(nats)[document] == right / len(pairs)


@given(LOSSES, st.floats(0.01, 100))
def test_order_reversed_and_losses_scaled(nats: np.ndarray, scale: float) -> None:
    strengths = predictive_strength(nats)
    np.testing.assert_array_equal(predictive_strength(nats * scale), strengths)
    without_ties = nats + np.linspace(0, 0.5, len(nats))[:, None]
    reversed_ = predictive_strength(without_ties[::-1])
    np.testing.assert_allclose(reversed_, 1 - predictive_strength(without_ties))


# Positives and negatives.


def test_negatives_climb_until_the_counts_match() -> None:
    pairs = np.repeat([0, 1, 2, 3], [60, 80, 500, 200])
    hashes = np.random.default_rng(2).permutation(len(pairs)).astype(np.uint64)
    positives, negatives = choose_sides(pairs, 3, np.zeros(len(pairs)), hashes)
    assert np.bincount(pairs[positives]).tolist() == [0, 0, 0, 200]
    assert np.bincount(pairs[negatives]).tolist() == [60, 80, 60]
    from_last = negatives[pairs[negatives] == 2]
    rest = np.setdiff1d(np.flatnonzero(pairs == 2), from_last)
    assert hashes[from_last].max() < hashes[rest].min()  # by hash, not by place


def test_positives_are_drawn_where_negatives_are_few() -> None:
    pairs = np.repeat([0, 1, 3], [60, 80, 500])
    hashes = np.random.default_rng(2).permutation(len(pairs)).astype(np.uint64)
    positives, negatives = choose_sides(pairs, 3, np.zeros(len(pairs)), hashes)
    assert np.bincount(pairs[negatives]).tolist() == [60, 80]
    assert len(positives) == 140 and (pairs[positives] == 3).all()
    order = np.random.default_rng(3).permutation(len(pairs))
    again, _ = choose_sides(pairs[order], 3, np.zeros(len(pairs)), hashes[order])
    assert set(hashes[order][again]) == set(hashes[positives])


@pytest.mark.parametrize(
    ("counts", "key"),
    [
        ([500, 99], "sample"),
        (
            [99, 500],
            "sample",
        ),
    ],
)
def test_too_few_of_a_kind_are_refused(counts: list[int], key: str) -> None:
    pairs = np.repeat([0, 1], counts)
    with pytest.raises(SelectorError) as info:
        choose_sides(pairs, 1, np.zeros(len(pairs)), np.arange(len(pairs), dtype=np.uint64))
    assert info.value.key == key


def test_a_tenth_of_each_label_is_held_out() -> None:
    labels = np.arange(300) % 3 == 0
    hashes = np.random.default_rng(2).permutation(300).astype(np.uint64)
    held_out = hold_out(labels, hashes)
    assert held_out[labels].sum() == 10 and held_out[~labels].sum() == 20


def test_area_under_the_curve() -> None:
    scores = np.array([0.9, 0.4, 0.4, 0.1], np.float32)
    labels = np.array([True, True, False, False])
    assert area_under_curve(scores, labels) == 0.875  # by hand: (1 + 1 + 1/2 + 1) / 4


def test_each_source_has_as_many_of_both() -> None:
    """One source has nine documents of strength 1 in ten, another one in ten, a third none."""
    random = np.random.default_rng(6)
    groups = np.repeat([0, 1, 2], 1000)
    strongest = random.random(3000) < np.repeat([0.9, 0.1, 0.0], 1000)
    pairs = np.where(strongest, 15, random.integers(0, 15, 3000))
    hashes = random.permutation(3000).astype(np.uint64)
    positives, negatives = choose_sides(pairs, 15, groups, hashes)
    for group, few in ((0, ~strongest[:1000]), (1, strongest[1000:2000])):
        assert (groups[positives] == group).sum() == (groups[negatives] == group).sum() == few.sum()
    assert not (groups[positives] == 2).any() and not (groups[negatives] == 2).any()
    assert (pairs[positives] == 15).all() and pairs[negatives].max() < 15
    own = negatives[groups[negatives] == 1]
    left = np.setdiff1d(np.flatnonzero((groups == 1) & ~strongest), own)
    assert pairs[own].max() <= pairs[left].min(), "the least of its source"
    order = random.permutation(3000)
    again = choose_sides(pairs[order], 15, groups[order], hashes[order])
    for one, other in zip(again, (positives, negatives)):
        assert set(order[one]) == set(other)


# Whole fits.


def test_documents_that_rank_the_models_right_are_preferred(
    fitted: tuple[PreSelect, dict[str, Any]],
) -> None:
    scorer, facts = fitted
    assert scorer.kind == "scorer"
    scores = scorer.score(batch_of(pool()))
    assert scores.dtype == np.float32 and scores.shape == (400,)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [399]  # the blank document
    assert scores[NATURE].min() > np.nanmax(scores[~NATURE])
    assert ((scores[:-1] >= 0) & (scores[:-1] <= 1)).all()
    by_pairs = facts["by_pairs_in_order"]
    assert len(by_pairs) == 4 and sum(by_pairs) == facts["sample"] == 399
    assert by_pairs[3] > 150 and by_pairs[0] > 100
    assert 100 <= facts["positives"] <= min(by_pairs[3], sum(by_pairs[:3]))
    assert facts["strength_one"] == round(by_pairs[3] / 399, 4)
    assert set(facts["strength_one_by_source"]) == {"site-a", "site-b"}
    assert facts["auc"] > 0.9 and facts["auc"] == max(trial["auc"] for trial in facts["trials"])
    assert len(facts["trials"]) == 2 and facts["held_out"] >= 20
    assert len(facts["bits_per_character"]) == 3


def test_the_order_of_the_models_decides(ladder: list[str]) -> None:
    lines: list[str] = []
    scorer = PreSelect(models=ladder[::-1], **SMALL)
    scorer.fit(fitting(pool(), progress=lines.append))
    scores = scorer.score(batch_of(pool()))
    assert scores[NATURE].max() < np.nanmin(scores[~NATURE])


def test_models_in_reverse_order_give_a_warning(ladder: list[str]) -> None:
    """All documents are about nature, and the last model has seen the least of it."""
    lines: list[str] = []
    table = pool().filter(pa.array(NATURE))
    with pytest.raises(SelectorError) as info:
        PreSelect(models=ladder[::-1], **SMALL).fit(fitting(table, progress=lines.append))
    assert info.value.key == "sample"
    assert any("worst to best?" in line for line in lines)


def test_the_same_bytes_from_workers_from_any_order_and_from_the_directory(
    fitted: tuple[PreSelect, dict[str, Any]], ladder: list[str], tmp_path: Path
) -> None:
    scorer, facts = fitted
    table = pool()
    expected = scorer.score(batch_of(table))

    def elsewhere(function: Any, items: Any, shared: Any = None) -> Iterator[Any]:
        results = [
            pickle.loads(pickle.dumps(function(item, pickle.loads(pickle.dumps(shared)))))
            for item in reversed(items)
        ]
        return reversed(results)

    again = PreSelect(models=ladder, **SMALL)
    assert dict(again.fit(fitting(table, elsewhere))) == facts
    assert again.score(batch_of(table)).tobytes() == expected.tobytes()

    order = np.random.default_rng(5).permutation(len(table))
    shuffled = scorer.score(batch_of(table.take(pa.array(order))))
    assert shuffled.tobytes() == expected[order].tobytes()

    scorer.save(tmp_path)
    loaded = PreSelect(models=ladder, **SMALL)
    loaded.load(tmp_path)
    assert loaded.score(batch_of(table)).tobytes() == expected.tobytes()


def test_the_end_of_line_row_is_zeroed_and_may_be_left(
    fitted: tuple[PreSelect, dict[str, Any]], ladder: list[str]
) -> None:
    zeroed = fitted[0]._classifier
    left = PreSelect(models=ladder, zero_eos=False, **SMALL)
    left.fit(fitting(pool()))
    assert zeroed is not None and left._classifier is not None
    row = zeroed.eos_row
    assert zeroed.weights[row] == 0 != left._classifier.weights[row]
    others = np.arange(len(zeroed.weights)) != row
    assert zeroed.weights[others].tobytes() == left._classifier.weights[others].tobytes()


def test_words_that_are_few_count_less(
    fitted: tuple[PreSelect, dict[str, Any]], ladder: list[str], tmp_path: Path
) -> None:
    scorer, facts = fitted
    documents = batch_of(pool())
    texts = documents.column("text")
    plain = PreSelect(models=ladder, prior_words=0, **SMALL)
    assert plain.fit(fitting(pool()))["centre"] == 0
    p = plain.score(documents)[:-1].astype(np.float64)
    centre = np.mean(np.log(p / (1 - p)))
    assert facts["centre"] == pytest.approx(centre, abs=0.01)
    log_odds = shrunk_log_odds(scorer._classifier, texts, 50, centre)[:-1]
    np.testing.assert_allclose(scorer.score(documents)[:-1], 1 / (1 + np.exp(-log_odds)), rtol=1e-4)


def test_only_the_beginning_is_read_and_learned(ladder: list[str]) -> None:
    table = pool()
    long = pa.array([text + "goalless " * 300 for text in table["text"].to_pylist()])
    table = table.set_column(1, "text", long.cast(pa.large_string()))
    scorer = PreSelect(models=ladder, **SMALL)
    scorer.fit(fitting(table))
    words = scorer._classifier.words.tobytes()  # type: ignore[union-attr]
    assert b"sunlight" in words and b"goalless" not in words


def test_strangers_documents(fitted: tuple[PreSelect, dict[str, Any]]) -> None:
    texts = ["", " \u00a0\n", "\u0000", "漢字" * 50, "x" * 100_000, "__label__1 </s>", "\U0001f600"]
    batch = pa.record_batch(
        {
            "id": [str(row) for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["s"] * len(texts),
        }
    )
    scores = fitted[0].score(batch)
    assert np.isnan(scores[:2]).all()
    nature = fitted[0].score(batch_of(pool()))[0:-1:2]
    assert not (scores[2:] > nature.max()).any()


# A ready classifier.


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = pool()
    model = train(
        table["text"].to_pylist()[:-1],
        NATURE[:-1].tolist(),
        lr=0.5,
        dim=4,
        bucket=1000,
    )
    path = tmp_path_factory.mktemp("ready") / "ready.bin"
    model.save_model(str(path))
    return str(path)


@pytest.mark.parametrize("zero_eos", [True, False])
def test_a_ready_classifier_scores_as_fasttext_does(
    ready: str, zero_eos: bool, tmp_path: Path
) -> None:
    published = {"model": ready, "zero_eos": zero_eos}
    scorer, plain = PreSelect(prior_words=0, **published), FastTextScorer(**published)
    assert scorer.fit(fitting(pool())) == plain.fit(fitting(pool()))
    documents = batch_of(pool())
    expected = plain.score(documents)
    assert scorer.score(documents).tobytes() == expected.tobytes()
    assert np.nanstd(expected) > 0.1
    scorer.save(tmp_path)
    loaded = PreSelect(prior_words=0, **published)
    loaded.load(tmp_path)
    assert loaded.score(documents).tobytes() == expected.tobytes()
    shrunk = PreSelect(**published)
    shrunk.fit(fitting(pool()))
    unknown = shrunk.score(batch_of(pool().slice(0, 1).set_column(1, "text", [["zyx"]])))
    odds = np.log(expected[:-1] / (1 - expected[:-1].astype(np.float64)))
    assert unknown == pytest.approx(1 / (1 + np.exp(-odds.mean())), abs=0.02)


# Identity and parameters.


def test_identity_holds_contents_and_no_path(ladder: list[str], ready: str, tmp_path: Path) -> None:
    first = PreSelect(models=ladder).identity()
    assert str(Path(ladder[0]).parent) not in repr(first)
    assert "model.safetensors" in first["models"][0]
    assert first != PreSelect(models=ladder[::-1]).identity()
    for change in ({"sample": 7}, {"stride": 7}, {"dtype": "bfloat16"}, {"zero_eos": False}):
        assert PreSelect(models=ladder, **change).identity() != first
    by_model = PreSelect(model=ready).identity()
    assert str(Path(ready).parent) not in repr(by_model)
    assert by_model != PreSelect(model=ready, zero_eos=False).identity()
    assert by_model != PreSelect(model=ready, prior_words=9).identity()
    assert by_model == PreSelect(model=ready, sample=7).identity()  # which does not count


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({}, "models"),
        ({"models": ["a", "b"], "model": __file__}, "models"),
        ({"models": ["a", "b"], "ladder": True}, "models"),
        ({"ladder": 7}, "ladder"),
        ({"ladder": {"shape": 1}}, "ladder.shape"),
        ({"ladder": {"shapes": [[1, 6, 2]]}}, "ladder.shapes"),
        ({"ladder": {"shapes": [[1, 64]]}}, "ladder.shapes"),
        ({"ladder": {"shapes": [[1, 64, 2]], "tokens": 9}}, "ladder"),
        ({"models": []}, "models"),
        ({"models": ["a"]}, "models"),
        ({"models": "a"}, "models"),
        ({"models": ["a", "b", "a"]}, "models"),
        ({"models": ["a", 3]}, "models"),
        ({"models": ["a", "/no/such"]}, "models"),
        ({"models": ["a", ["b"]]}, "models"),
        ({"model": "/no/such.bin"}, "model"),
        ({"model": ["a"]}, "model"),
        ({"models": ["a", "b"], "sample": 0}, "sample"),
        ({"models": ["a", "b"], "max_characters": 0}, "max_characters"),
        ({"models": ["a", "b"], "window": 0}, "window"),
        ({"models": ["a", "b"], "stride": -1}, "stride"),
        ({"models": ["a", "b"], "device": "tpu"}, "device"),
        ({"models": ["a", "b"], "dtype": "int8"}, "dtype"),
        ({"models": ["a", "b"], "lr": []}, "lr"),
        ({"models": ["a", "b"], "epoch": 0.5}, "epoch"),
        ({"models": ["a", "b"], "word_ngrams": 0}, "word_ngrams"),
        ({"models": ["a", "b"], "dim": 0}, "dim"),
        ({"models": ["a", "b"], "min_count": 0}, "min_count"),
        ({"models": ["a", "b"], "bucket": 0}, "bucket"),
        ({"models": ["a", "b"], "zero_eos": 1}, "zero_eos"),
        ({"models": ["a", "b"], "prior_words": -1}, "prior_words"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        PreSelect(**parameters)
    assert info.value.key == key


def test_states_that_cannot_score(ladder: list[str], tmp_path: Path) -> None:
    scorer = PreSelect(models=ladder)
    with pytest.raises(SelectorError) as info:
        scorer.score(batch_of(pool()))
    assert info.value.expected == "a fitted selector"
    with pytest.raises(ArtefactError) as info:
        scorer.load(tmp_path)
    assert info.value.file
    blank = pool().slice(399)
    with pytest.raises(SelectorError) as info:
        scorer.fit(fitting(blank))
    assert info.value.key == "sample"
