"""Perplexity bands: what a budget takes of each, by a tiny random model's own perplexities."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ArtefactError, SelectorError
from penstock.resources import Resources
from penstock.selectors.base import Fitting
from penstock.selectors.losses import CausalModel
from penstock.selectors.perplexity import Perplexity
from tests.selectors.llamas import byte_tokenizer, write_model

LESSON = "water flows down the penstock and turns the turbine under the old grey dam"
BANDS = ["low", "middle", "high"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = byte_tokenizer([LESSON] * 4)
    return str(write_model(tmp_path_factory.mktemp("tiny"), tokenizer))


def pool(count: int = 200) -> pa.Table:
    random = np.random.default_rng(6)
    texts = [
        " ".join(random.choice(LESSON.split(), int(size))) for size in random.integers(3, 30, count)
    ]
    texts[7], texts[8] = "", " \n\u00a0"
    texts[10] = texts[11]
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(count)],
            "text": pa.array(texts, pa.large_string()),
            "source": ["words"] * count,
        }
    )


def batch_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def fitting(table: pa.Table, **others: Any) -> Fitting:
    return Fitting(**{"sample": lambda count: table, "pool_size": len(table), **others})


def fitted(band: str, model: str, **parameters: Any) -> Perplexity:
    scorer = Perplexity(model=model, band=band, **parameters)
    scorer.fit(fitting(pool()))
    return scorer


@pytest.fixture(scope="module")
def places(model: str) -> np.ndarray:
    """Each document's rank by perplexity over the number of documents, by a plain sort."""
    texts = pool()["text"]
    nats = CausalModel(model).losses(texts).nats_per_token
    nats[[7, 8]] = np.nan
    ranks = np.full(len(texts), np.nan)
    some = np.flatnonzero(~np.isnan(nats))
    ranks[some[np.argsort(nats[some])]] = (np.arange(len(some)) + 0.5) / len(some)
    return ranks


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize(
    ("band", "first", "last"),
    [
        ("low", lambda x: 0, lambda x: x),
        ("middle", lambda x: 0.5 - x / 2, lambda x: 0.5 + x / 2),
        ("high", lambda x: 1 - x, lambda x: 1),
    ],
)
def test_a_budget_takes_the_band(
    model: str, places: np.ndarray, band: str, first: Any, last: Any, share: float
) -> None:
    scores = fitted(band, model).score(batch_of(pool()))
    assert scores.dtype == np.float32 and scores.shape == (200,)
    count = round(share * 198)
    taken = np.argsort(-scores, kind="stable")[:count]
    inside = (places >= first(share)) & (places <= last(share))
    assert np.isin(taken, np.flatnonzero(inside)).sum() >= count - 2  # ends of the band


@pytest.mark.parametrize("band", BANDS)
def test_scores_by_hand(model: str, band: str) -> None:
    """Against perplexity as it is written: exp of the mean loss."""
    table = pool().filter(pa.array(np.arange(200) != 8)).slice(9, 5)
    losses = CausalModel(model).losses(table["text"])
    perplexity = np.exp(losses.nats / losses.tokens)
    scorer = Perplexity(model=model, band=band)
    scorer.fit(fitting(table))
    scores = scorer.score(batch_of(table))
    if band == "middle":  # row of five, one of them twice: places 0, 1/4, 1/2, 3/4 and 1
        ranks = np.array([(perplexity < one).sum() for one in perplexity]) / 4
        once = np.array([(perplexity == one).sum() == 1 for one in perplexity])
        assert once.sum() == 3
        np.testing.assert_allclose(scores[once], -np.abs(ranks - 0.5)[once], atol=1e-6)
    else:
        sign = 1 if band == "high" else -1
        np.testing.assert_allclose(scores, sign * np.log(perplexity), rtol=1e-6)


@pytest.mark.parametrize("band", BANDS)
def test_blank_documents_are_never_taken_and_duplicates_are_equal(model: str, band: str) -> None:
    scores = fitted(band, model).score(batch_of(pool()))
    assert np.flatnonzero(~np.isfinite(scores)).tolist() == [7, 8]
    assert scores[10] == scores[11]


def test_values_outside_the_sample_are_farthest(model: str, places: np.ndarray) -> None:
    scorer = Perplexity(model=model)
    half = np.flatnonzero((places > 0.25) & (places < 0.75))
    scorer.fit(fitting(pool().take(pa.array(half))))
    scores = scorer.score(batch_of(pool()))
    outside = (places < 0.25) | (places > 0.75)
    assert (scores[outside] == -0.5).all() and outside.sum() > 90
    assert (scores[half] > -0.5).sum() >= len(half) - 4  # the ends, and one of them twice


def test_equal_documents_share_the_middle_of_their_places(model: str) -> None:
    """Of ten documents four are one: places 3 to 6 of 0 to 9, whose middle is the median."""
    table = pool().filter(pa.array((np.arange(200) < 7) | (np.arange(200) >= 12)))
    nats = CausalModel(model).losses(table["text"]).nats_per_token
    rows = np.argsort(nats)[[10, 20, 30, 90, 90, 90, 90, 160, 170, 180]]
    scorer = Perplexity(model=model)
    scorer.fit(fitting(table.take(pa.array(rows))))
    scores = scorer.score(batch_of(table.take(pa.array(rows))))
    np.testing.assert_allclose(scores[3:7], 0, atol=1e-3)
    np.testing.assert_allclose(scores[[0, 1, 2]], [-0.5, -0.5 + 1 / 9, -0.5 + 2 / 9], atol=2e-3)


def test_strangers_documents(model: str) -> None:
    texts = ["漢字" * 100, "\u0000\ufffd" * 30, "x" * 3000, "the the the", "<|endoftext|>"]
    batch = pa.record_batch(
        {"id": list("abcde"), "text": pa.array(texts, pa.large_string()), "source": ["s"] * 5}
    )
    for band in BANDS:
        scores = fitted(band, model).score(batch)
        assert np.isfinite(scores).all() and (scores <= 0).all() == (band != "high")


@pytest.mark.parametrize("band", BANDS)
def test_the_same_bytes_from_workers_from_any_order_and_from_the_directory(
    model: str, band: str, tmp_path: Path
) -> None:
    table = pool()
    expected = fitted(band, model).score(batch_of(table))

    def elsewhere(function: Any, items: Any, shared: Any = None) -> Iterator[Any]:
        return reversed(
            [function(item, pickle.loads(pickle.dumps(shared))) for item in items[::-1]]
        )

    scorer = Perplexity(model=model, band=band)
    scorer.fit(fitting(table, spread=elsewhere))
    order = np.random.default_rng(5).permutation(len(table))
    shuffled = scorer.score(batch_of(table.take(pa.array(order))))
    assert shuffled.tobytes() == expected[order].tobytes()
    alone = np.concatenate([scorer.score(batch_of(table.slice(row, 1))) for row in range(20)])
    assert alone.tobytes() == expected[:20].tobytes()

    scorer.save(tmp_path)
    loaded = pickle.loads(pickle.dumps(Perplexity(model=model, band=band)))
    loaded.load(tmp_path)
    assert loaded.score(batch_of(table)).tobytes() == expected.tobytes()


def test_facts_tell_the_sample(model: str) -> None:
    facts = Perplexity(model=model).fit(fitting(pool()))
    assert facts["band"] == "middle" and facts["sample"] == 198
    losses = CausalModel(model).losses(pool()["text"])
    nats = np.delete(losses.nats_per_token, [7, 8])
    assert facts["perplexity"]["50 %"] == round(math.exp(np.median(nats)), 2)
    assert list(facts["perplexity"].values()) == sorted(facts["perplexity"].values())


@pytest.mark.parametrize("band", ["low", "high"])
def test_an_end_needs_no_sample(model: str, band: str) -> None:
    def none(count: int) -> pa.Table:
        raise AssertionError("a sample was drawn")

    scorer = Perplexity(model=model, band=band)
    assert scorer.fit(Fitting(sample=none, pool_size=200)) == {"band": band}
    assert scorer.kind == "scorer"


def test_only_the_beginning_is_read(model: str) -> None:
    longer = pool().set_column(
        1, "text", pa.array([text + "!" * 50 for text in ["the old dam"] * 200], pa.large_string())
    )
    scores = Perplexity(model=model, band="high", max_characters=11).score(batch_of(longer))
    nats = CausalModel(model).losses(pa.array(["the old dam"], pa.large_string())).nats_per_token
    assert set(scores.tolist()) == set(nats.astype(np.float32).tolist())


def test_identity_holds_contents_and_no_path(model: str) -> None:
    first = Perplexity(model=model).identity()
    assert str(Path(model).parent) not in repr(first) and "model.safetensors" in first["model"]
    for change in (
        {"band": "low"},
        {"sample": 5},
        {"max_characters": 5},
        {"window": 5},
        {"stride": 5},
        {"device": "cuda"},
        {"dtype": "bfloat16"},
    ):
        assert Perplexity(**{"model": model, **change}).identity() != first


def test_cuda_requires_a_gpu(model: str) -> None:
    assert Perplexity(model=model).requirements.resources == Resources(slow=True)
    assert Perplexity(model=model, device="cuda").requirements.resources == Resources(
        gpus=1, slow=True
    )


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"model": "/no/such"}, "model"),
        ({"model": ["a"]}, "model"),
        ({"band": "lowest"}, "band"),
        ({"sample": 0}, "sample"),
        ({"max_characters": 0}, "max_characters"),
        ({"window": 0}, "window"),
        ({"stride": 0}, "stride"),
        ({"device": "tpu"}, "device"),
        ({"dtype": "half"}, "dtype"),
    ],
)
def test_bad_parameters(model: str, parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Perplexity(**{"model": model, **parameters})
    assert info.value.key == key


def test_states_that_cannot_score(model: str, tmp_path: Path) -> None:
    scorer = Perplexity(model=model)
    with pytest.raises(SelectorError) as info:
        scorer.score(batch_of(pool()))
    assert info.value.expected == "a fitted selector"
    with pytest.raises(ArtefactError) as info:
        scorer.load(tmp_path)
    assert info.value.file
    np.save(tmp_path / "quantiles.npy", np.arange(5.0))
    with pytest.raises(ArtefactError, match="1001 ascending"):
        scorer.load(tmp_path)
    with pytest.raises(SelectorError) as info:
        scorer.fit(fitting(pool().slice(7, 2)))
    assert info.value.key == "sample"
