"""BETR: a real run in both modes over a small world."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ArtefactError, SelectorError
from penstock.pipeline.runner import LocalRunner, in_order
from penstock.selectors import betr
from penstock.selectors.base import Fitting, ParallelMap, Target, serial_map
from penstock.selectors.betr import Betr, filter_rate
from penstock.selectors.classifiers.classifier import shrunk_log_odds
from penstock.selectors.encoders import distillation
from penstock.selectors.encoders.embedding import make_encoder
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.encoders.static import token_ids
from penstock.selectors.influence import influential_words
from penstock.selectors.kernels.ranking import RankedSample, Ranker, highest, leave_out
from tests.pools import sampler

# Documents about three things, and questions about one of them.

TOPICS = {
    "nature": "plants leaf sunlight water soil roots energy animals rocks planet heat oxygen "
    "seeds forest river cells minerals food moon gravity",
    "sport": "match striker goal league coach season penalty stadium referee trophy defender "
    "tournament fans score team club injury cup transfer keeper",
    "money": "bank loan interest market shares investor bond tax credit rate price fund profit "
    "budget dividend asset broker mortgage currency debt",
}


def pool(count: int) -> pa.Table:
    random = np.random.default_rng(11)
    topics = [list(TOPICS)[row % 3] for row in range(count)]
    texts = []
    for topic in topics:
        words = random.choice(TOPICS[topic].split(), size=int(random.integers(12, 40)))
        texts.append(f"The {' and the '.join(words)}.")
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(count)],
            "text": pa.array([*texts[:-1], " \n"], pa.large_string()),
            "source": topics,
        }
    )


def targets() -> list[Target]:
    random = np.random.default_rng(12)
    words = TOPICS["nature"].split()
    return [
        Target(
            benchmark="easy" if row < 30 else "hard",
            text=f"The {' and the '.join(random.choice(words, 5))}.",
        )
        for row in range(40)
    ]


def fitting(table: pa.Table, spread: ParallelMap = serial_map, **others: Any) -> Fitting:
    return Fitting(
        **{
            "sample": sampler(table),
            "encoder": lambda name: make_encoder(name, sampler(table), 4, spread=spread),
            "pool_size": len(table),
            "target": targets(),
            "seed": 4,
            "spread": spread,
            **others,
        }
    )


def batch_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


@pytest.fixture(scope="module")
def only_our_tokens() -> None:
    """Distil just the tokens that occur here: a second where the whole vocabulary takes 15."""
    tokens_of = distillation._text_tokens
    words = pa.array([target.text for target in targets()], pa.large_string())
    seen = pa.concat_arrays([pool(600)["text"].combine_chunks(), words])

    def few(tokenizer: Any) -> np.ndarray:
        return np.intersect1d(tokens_of(tokenizer), token_ids(tokenizer, seen)[0])

    patch = pytest.MonkeyPatch()
    patch.setattr(distillation, "_text_tokens", few)
    yield
    patch.undo()


SMALL = {"dim": 4, "min_count": 1, "bucket": 5000, "lr": [0.5], "epoch": [5, 20]}


@pytest.fixture(scope="module")
def fitted(only_our_tokens: None) -> Callable[[str], tuple[Betr, dict[str, Any]]]:
    """Real runs over real MiniLM, one for each mode."""
    made: dict[str, tuple[Betr, dict[str, Any]]] = {}

    def fit(mode: str) -> tuple[Betr, dict[str, Any]]:
        if mode not in made:
            scorer = Betr(mode=mode, encoder="static", top_share=0.3, rungs=8, **SMALL)
            made[mode] = (scorer, dict(scorer.fit(fitting(pool(600)))))
        return made[mode]

    return fit


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize(("flops", "percent"), [(1e20, 4.0), (1e22, 12.6), (1e23, 22.5)])
def test_the_filter_rate_law(flops: float, percent: float) -> None:
    assert 100 * filter_rate(flops) == pytest.approx(percent, abs=0.06)
    assert filter_rate(1e40) == 1


@pytest.mark.parametrize("mode", ["direct", "classifier"])
def test_the_top_of_the_ranking_is_about_the_target(fitted: Any, mode: str) -> None:
    scorer, facts = fitted(mode)
    assert scorer.kind == "scorer"
    table = pool(600)
    scores = scorer.score(batch_of(table))
    assert scores.dtype == np.float32 and scores.shape == (600,)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [599]  # the blank document
    top = np.argsort(-scores, kind="stable")[:150]  # NaN sorts last
    assert np.mean(np.array(table["source"].to_pylist())[top] == "nature") > 0.9
    assert facts["mode"] == mode and facts["sample"] == 599
    assert facts["examples"] == {"easy": 10, "hard": 10}  # balanced
    assert facts["rungs"] >= 16 and facts["coverage"] >= 0.3  # 8 x 20 is less than 0.3 x 599
    if mode == "classifier":
        assert facts["accuracy"] > 0.9 and facts["epoch"] in (5, 20)
        assert len(facts["trials"]) == 2 and facts["positives"] == 180


@pytest.mark.parametrize("mode", ["direct", "classifier"])
def test_the_same_bytes_from_workers_and_from_the_directory(
    fitted: Any, mode: str, tmp_path: Path, two_workers: LocalRunner
) -> None:
    scorer, facts = fitted(mode)
    table = pool(600)
    again = Betr(mode=mode, encoder="static", top_share=0.3, rungs=8, **SMALL)
    # Workers do not have the patch above, so they get the encoder.
    encoder = fitted("direct")[0]._ranking[0]
    given = fitting(table, in_order(two_workers), encoder=lambda name: encoder)
    assert dict(again.fit(given)) == facts
    expected = scorer.score(batch_of(table))
    assert sha256(again.score(batch_of(table))) == sha256(expected)
    for name, which in (("one", scorer), ("two", again)):
        (tmp_path / name).mkdir()
        which.save(tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()} == files
    loaded = Betr(mode=mode, encoder="static", top_share=0.3, rungs=8, **SMALL)
    with pytest.raises(SelectorError) as info:
        loaded.score(batch_of(table))
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path / "one")
    parts = [loaded.score(part) for part in table.combine_chunks().to_batches(max_chunksize=17)]
    assert sha256(np.concatenate(parts)) == sha256(expected)


def test_direct_scores_are_the_ranks_of_the_whole_pool(fitted: Any) -> None:
    scorer, facts = fitted("direct")
    encoder, ranker = scorer._ranking
    table = pool(600)
    vectors = on_lattice(encoder.encode(table["text"].combine_chunks()))[:599]
    product = ranker.examples.astype(np.int64) @ vectors.astype(np.int64).T
    ranks = 1 + (product[:, None, :] > product[:, :, None]).sum(axis=2)
    expected = np.minimum(ranks.min(axis=0), facts["rungs"] + 1)
    np.testing.assert_array_equal(scorer.score(batch_of(table))[:599], -expected)


def test_a_document_outside_the_sample_and_one_of_unknown_words(fitted: Any) -> None:
    scorer, facts = fitted("direct")
    batch = pa.record_batch(
        {
            "id": ["a", "b"],
            "text": pa.array(["plants and leaf and soil", "\U0001f9ff"], pa.large_string()),
            "source": ["new"] * 2,
        }
    )
    near, unknown = scorer.score(batch)
    assert near > unknown == -facts["rungs"] - 1


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_a_word_is_weighed_against_the_other_documents(fitted: Any, aggregate: str) -> None:
    """Each text without a word, ranked by a pool from which its document is taken out."""
    encoder, ranker = fitted("direct")[0]._ranking
    table = pool(600)
    vectors = on_lattice(encoder.encode(table["text"].combine_chunks()))[:599]
    whole = Ranker(
        examples=ranker.examples,
        top_r=highest((ranker.examples.astype(np.float32) @ vectors.astype(np.float32).T), 599),
        aggregate=aggregate,
    )
    scorer = Betr(mode="direct", encoder="static", aggregate=aggregate)
    scorer._ranking = encoder, whole
    best = np.argsort(-scorer.score(batch_of(table))[:599], kind="stable")
    unchanged = 0
    for row in [*best[:3], *best[200:202]]:
        text = table["text"][int(row)].as_py()
        others = np.delete(vectors, row, axis=0).astype(np.int64)

        def score(text: str, others: np.ndarray = others) -> float:
            own = on_lattice(encoder.encode(pa.array([text], pa.large_string())))[0]
            above = ranker.examples @ others.T > (ranker.examples @ own.astype(np.int64))[:, None]
            ranks = 1.0 + above.sum(axis=1)
            return -float(ranks.min() if aggregate == "max" else ranks.mean())

        document = batch_of(table.slice(row, 1))
        changes = {own.word: own.change for own in influential_words(scorer, document, most=50)}
        for word in set(re.findall(r"\w+", text)):
            shorter = re.sub(rf"\b{word}\b\.?", "", text)
            expected = score(text) - score(shorter)
            assert changes.get(word, 0.0) == pytest.approx(expected, abs=1e-4), word
            unchanged += expected == 0
    assert unchanged or aggregate == "mean", "some words of the nearest documents change nothing"


def test_a_document_outside_the_sample_is_left_out_of_nothing(fitted: Any) -> None:
    encoder, ranker = fitted("direct")[0]._ranking
    text = pa.array(["plants and leaf and soil", UNKNOWN], pa.large_string())
    for vector in on_lattice(encoder.encode(text)):
        assert leave_out(vector, ranker) is ranker


def test_what_a_score_means_goes_by_the_mode_of_the_fit() -> None:
    classifier = Betr(mode="classifier").describe_score({})
    direct = Betr(mode="direct").describe_score({})
    assert classifier == Betr.meaning and direct.startswith("rank")
    auto = Betr()
    assert auto.describe_score({"mode": "direct"}) == direct
    assert auto.describe_score({"mode": "classifier"}) == classifier
    assert classifier in auto.describe_score({}) and direct in auto.describe_score({})


UNKNOWN = "\U0001f9ff \U0001f9ff"
"""A text of which MiniLM's tokenizer knows no token."""


def test_examples_without_a_token_of_the_encoder_are_left_out(fitted: Any) -> None:
    encoder, _ = fitted("direct")[0]._ranking
    lines: list[str] = []
    own = [one for one in targets() if one.benchmark == "hard"]
    without = Target(benchmark="hard", text=UNKNOWN, place="t.jsonl:3")

    def fit(*examples: Target) -> tuple[Betr, dict[str, Any]]:
        made = Betr(mode="direct", encoder="static", top_share=0.3, rungs=8, **SMALL)
        given = fitting(
            pool(600), encoder=lambda name: encoder, target=list(examples), progress=lines.append
        )
        return made, dict(made.fit(given))

    expected, facts = fit(*own)
    assert not any("left out" in line for line in lines)
    more, others = fit(*own, without, without)
    assert others == facts and facts["examples"] == {"hard": 10}
    assert any("2 of 12 examples" in line and "t.jsonl:3" in line for line in lines)
    scores = more.score(batch_of(pool(600)))
    assert sha256(scores) == sha256(expected.score(batch_of(pool(600))))
    assert len(np.unique(scores[~np.isnan(scores)])) > 8, "not one rank for all"
    with pytest.raises(SelectorError) as info:
        fit(without)
    assert info.value.key == "target" and "t.jsonl:3" in str(info.value.got)


def test_a_classifier_near_chance_is_refused(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Betr(mode="classifier", encoder="static", top_share=0.3, **SMALL)
    encoder = fitted("direct")[0]._ranking[0]
    noise = np.random.default_rng(1).random(599)  # a top unrelated to the texts
    ranker = Ranker(examples=np.zeros((20, 4)), top_r=np.zeros((20, 8)))
    ranked = RankedSample(ranker=ranker, scores=noise, coverage=1.0)
    monkeypatch.setattr(betr, "rank_sample", lambda *_, **__: ranked)
    with pytest.raises(SelectorError, match="rank by chance; add learning rates"):
        scorer.fit(fitting(pool(600), encoder=lambda name: encoder))
    assert scorer._classifier is None


def test_too_little_to_learn_from_is_refused(only_our_tokens: None, fitted: Any) -> None:
    scorer = Betr(mode="classifier", encoder="static", **SMALL)
    encoder = fitted("direct")[0]._ranking[0]
    with pytest.raises(SelectorError) as info:
        scorer.fit(fitting(pool(60), encoder=lambda name: encoder))
    assert info.value.key == "sample"
    assert "10" in str(info.value)
    with pytest.raises(SelectorError) as info:
        Betr().fit(fitting(pool(60), target=[]))
    assert info.value.key == "target"
    with pytest.raises(SelectorError) as info:
        Betr().fit(fitting(pool(60).slice(59)))
    assert info.value.key == "sample"


def test_auto_takes_the_sentence_encoder_and_no_classifier_for_little(tmp_path: Path) -> None:
    scorer = Betr(encoder="auto")
    facts = scorer.fit(fitting(pool(30), target=targets()[:4]))
    assert (facts["mode"], facts["encoder_kind"]) == ("direct", "sentence")
    scores = scorer.score(batch_of(pool(30)))
    scorer.save(tmp_path)
    loaded = Betr()
    loaded.load(tmp_path)
    assert sha256(loaded.score(batch_of(pool(30)))) == sha256(scores)


def test_a_score_that_rests_on_few_words_is_shrunk() -> None:
    class Sure:
        def score(self, texts: pa.Array) -> np.ndarray:
            return np.full(len(texts), 0.75, np.float32)

    many = "".join(f"w{number}\n" for number in range(10))
    strings = ["skipped", "one two", many, "", "\u4e2d" * 90, "again and again " * 30]
    texts = pa.array(strings, pa.large_string())
    got = shrunk_log_odds(Sure(), texts.slice(1), 50)  # type: ignore[arg-type]
    weights = np.array([2 / 52, 10 / 60, 0, 1 / 51, 2 / 52])
    np.testing.assert_allclose(got, np.log(3) * weights, rtol=1e-6)
    np.testing.assert_allclose(shrunk_log_odds(Sure(), texts, 0)[0], np.log(3), rtol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"mode": "both"}, "mode"),
        ({"encoder": ""}, "encoder"),
        ({"top_share": 3}, "top_share"),
        ({"top_share": True}, "top_share"),
        ({"sample": 0}, "sample"),
        ({"rungs": 1.5}, "rungs"),
        ({"lr": []}, "lr"),
        ({"lr": [0.1, "x"]}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"epoch": [0]}, "epoch"),
        ({"balanced": "yes"}, "balanced"),
        ({"prior_words": -1}, "prior_words"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Betr(**parameters)
    assert info.value.key == key


def test_identity_is_the_hyperparameters_and_the_encoders_contents(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("1")  # of a saved encoder
    one = Betr(encoder=str(tmp_path)).identity()
    assert str(tmp_path) not in str(one) and one["rungs"] == 512
    (tmp_path / "encoder.json").write_text("2")
    assert Betr(encoder=str(tmp_path)).identity() != one


def test_a_directory_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError) as info:
        Betr().load(tmp_path)
    assert info.value.file
