"""DCLM's classifier: its training set, its ranking, and lengths that it must not learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from penstock.errors import ArtefactError, SelectorError
from penstock.pipeline.runner import LocalRunner, in_order
from penstock.selectors.adapter import paths_of
from penstock.selectors.base import Fitting, Target
from penstock.selectors.classifiers import classifier
from penstock.selectors.classifiers.classifier import TrainingSet, Trial
from penstock.selectors.dclm import DclmQuality
from tests.fasttext_reference import train
from tests.pools import sampler

NATURE = ["plants", "leaf", "sunlight", "water", "soil", "roots", "energy", "rocks", "seeds"]
SPORT = ["match", "striker", "goal", "league", "coach", "season", "penalty", "stadium", "fans"]
SMALL = {"dim": 4, "bucket": 5000, "lr": 0.5, "epoch": 10}


def texts_of(words: list[str], count: int, least: int, most: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    sizes = random.integers(least, most, size=count)
    return [" \n".join(random.choice(words, size=size)) for size in sizes]


def pool() -> pa.Table:
    """A third about nature, a stub among them now and then, two thirds about sport."""
    texts = texts_of([*NATURE, "the"], 150, 40, 200, 1)
    texts += texts_of([*SPORT, "the"], 300, 40, 200, 2)
    texts += ["\u4f60\u597d\u4e16\u754c" * 40] * 5 + ["ok"] * 5 + [" \n"]
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["nature"] * 150 + ["sport"] * 300 + ["foreign"] * 5 + ["stub"] * 6,
        }
    )


def examples(count: int = 250) -> list[str]:
    return texts_of(NATURE, count, 4, 12, 3)


def fitting(**others: Any) -> Fitting:
    table = pool()
    return Fitting(
        **{
            "sample": sampler(table),
            "pool_size": len(table),
            "target": [Target(benchmark="b", text=text) for text in examples()],
            "seed": 4,
            **others,
        }
    )


def batch_of(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def lines(path: Path, *objects: object) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def fitted() -> tuple[DclmQuality, dict[str, Any]]:
    scorer = DclmQuality(**SMALL)
    return scorer, dict(scorer.fit(fitting()))


def test_good_documents_come_first(fitted: Any) -> None:
    scorer, facts = fitted
    assert scorer.kind == "scorer"
    table = pool()
    scores = scorer.score(batch_of(table))
    assert scores.dtype == np.float32 and scores.shape == (len(table),)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [460]  # the blank document
    assert ((scores[:460] > 0) & (scores[:460] < 1)).all()
    top = np.argsort(-scores, kind="stable")[:100]  # NaN sorts last
    assert set(np.array(table["source"].to_pylist())[top]) == {"nature"}
    assert roc_auc_score([1] * 150 + [0] * 300, scores[:450]) > 0.99
    assert facts["positives"] == len(set(examples())) and facts["labelled_negatives"] == 0
    assert facts["accuracy"] > 0.7 and facts["auc"] > 0.7 and facts["lr"] == 0.5
    share = np.mean(scores[:460] >= facts["top_tenth"])
    assert share == pytest.approx(0.1, abs=0.01)


def test_a_document_of_few_words_is_scored_as_one_of_the_pool(fitted: Any) -> None:
    scorer, _ = fitted
    texts = ["zyx", "plants", "plants " * 50, " ".join(NATURE * 2), "\u4f60\u597d" * 90]
    batch = pa.record_batch(
        {"id": list("abcde"), "text": pa.array(texts, pa.large_string()), "source": ["s"] * 5}
    )
    unknown, one, repeated, nine, foreign = scorer.score(batch)
    mean = 1 / (1 + np.exp(-scorer._centre))
    assert [unknown, foreign] == pytest.approx([mean, mean], rel=0.2)
    assert mean < one < nine  # a word is some evidence, nine distinct ones are more
    assert repeated < nine
    plain = DclmQuality(**SMALL, prior_words=0)
    plain.fit(fitting())
    assert plain._centre == 0
    unshrunk = log_odds(plain.score(batch))
    weights = np.array([1, 1, 1, 9, 1]) / np.array([51, 51, 51, 59, 51])
    expected = scorer._centre + (unshrunk - scorer._centre) * weights
    got = log_odds(np.array([unknown, one, repeated, nine, foreign]))
    np.testing.assert_allclose(got, expected, rtol=0.01)  # p is a float32, and near 1 for some


def log_odds(p: np.ndarray) -> np.ndarray:
    p = p.astype(np.float64)
    return np.log(p) - np.log1p(-p)


def test_without_shrinking_it_is_the_trained_models_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = []
    train_classifier = classifier.train_classifier

    def record_and_train(taken: TrainingSet, *others: Any) -> list[Trial]:
        recorded.append(taken)
        return train_classifier(taken, *others)

    monkeypatch.setattr(classifier, "train_classifier", record_and_train)
    scorer = DclmQuality(**SMALL, prior_words=0)
    facts = scorer.fit(fitting())
    (taken,) = recorded
    kept = ~taken.held_out
    model = train(
        [text for text, keep in zip(taken.texts, kept, strict=True) if keep],
        taken.labels[kept].tolist(),
        lr=0.5,
        epoch=10,
        **taken.settings,
    )
    scores = scorer.score(batch_of(pool()))
    for row in (0, 1, 200, 300, 452, 456):
        text = pool()["text"][row].as_py().replace("\n", " ")
        labels, chances = model.predict(text, k=2)
        expected = dict(zip(labels, chances, strict=True))["__label__1"]
        assert scores[row] == pytest.approx(expected, abs=2e-5)
    held_out = [text for text, out in zip(taken.texts, taken.held_out, strict=True) if out]
    found = [model.predict(text.replace("\n", " "), k=2) for text in held_out]
    p = [dict(zip(*one, strict=True))["__label__1"] for one in found]
    truth = taken.labels[taken.held_out]
    assert facts["auc"] == pytest.approx(roc_auc_score(truth, p), abs=2e-3)
    assert facts["accuracy"] == pytest.approx(np.mean((np.array(p) > 0.5) == truth), abs=1e-3)


def test_lengths_do_not_tell_negatives_from_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = []

    def record_only(taken: TrainingSet, *others: Any) -> None:
        recorded.append(taken)
        raise SelectorError("seen")

    monkeypatch.setattr(classifier, "train_classifier", record_only)
    for match_lengths in (True, False):
        with pytest.raises(SelectorError, match="seen"):
            DclmQuality(**SMALL, match_lengths=match_lengths).fit(fitting())
    for taken, matched in zip(recorded, (True, False), strict=True):
        lengths = np.array([len(text.split()) for text in taken.texts])
        good, bad = lengths[taken.labels], lengths[~taken.labels]
        assert len(good) == len(bad) and good.max() < 12
        assert (bad.mean() < 1.05 * good.mean()) == matched
        whole = [" ".join(text.split()) for text in pool()["text"].to_pylist()]
        negatives = [text for text, good in zip(taken.texts, taken.labels) if not good]
        assert all(any(" ".join(text.split()) in one for one in whole) for text in negatives[:20])
        # Not one label after the other: what is read last is remembered best.
        assert 0.3 < taken.labels[: len(bad)].mean() < 0.7
    passages = [text for text, good in zip(recorded[0].texts, recorded[0].labels) if not good]
    at_the_start = sum(any(one.startswith(text) for one in whole) for text in passages)
    assert at_the_start < 0.2 * len(passages)


def test_lengths_of_long_examples_do_not_give_them_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden: posts cut at 200 words against posts. With negatives cut and positives left, the
    number of words had an area under the curve of 0.748 and the classifier an accuracy of 0.593,
    so it ranked; on the development pool 0.794 of Reddit against Reddit."""
    recorded = []
    train_classifier = classifier.train_classifier

    def record_and_train(taken: TrainingSet, *others: Any) -> list[Trial]:
        recorded.append(taken)
        return train_classifier(taken, *others)

    monkeypatch.setattr(classifier, "train_classifier", record_and_train)
    posts = pa.array(texts_of(SPORT, 2000, 5, 400, 2), pa.large_string())
    table = pa.table({"id": [str(row) for row in range(2000)], "text": posts}).append_column(
        "source", pa.array(["reddit"] * 2000)
    )
    target = [Target(benchmark="b", text=text) for text in texts_of(SPORT, 1500, 200, 201, 7)]
    with pytest.raises(SelectorError, match="rank by chance"):
        DclmQuality(**{**SMALL, "epoch": 5}).fit(fitting(target=target, sample=sampler(table)))
    (taken,) = recorded
    lengths = np.array([len(text.split()) for text in taken.texts])
    good, bad = lengths[taken.labels], lengths[~taken.labels]
    assert sorted(good) == sorted(bad) and len(good) == 1500
    assert good.min() < 10 and good.max() == 200
    whole = {" ".join(text.split()[:20]) for text in texts_of(SPORT, 1500, 200, 201, 7)}
    cut = [text for text, label in zip(taken.texts, taken.labels) if label]
    short = [text for text in cut if 20 <= len(text.split()) < 150]
    starts = [" ".join(text.split()[:20]) in whole for text in short]
    assert len(short) > 200 and np.mean(starts) < 0.1, "passages, not beginnings"


def test_labelled_negatives_are_of_the_positives_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = []

    def record_only(taken: TrainingSet, *others: Any) -> None:
        recorded.append(taken)
        raise SelectorError("seen")

    monkeypatch.setattr(classifier, "train_classifier", record_only)
    good = [{"text": text} for text in texts_of(NATURE, 200, 50, 90, 3)]
    bad = [{"text": text, "label": 0} for text in texts_of(SPORT, 90, 5, 15, 6)]
    path = lines(tmp_path / "good.jsonl", *good, *bad)
    for match_lengths in (True, False):
        with pytest.raises(SelectorError, match="seen"):
            DclmQuality(positives=path, match_lengths=match_lengths, **SMALL).fit(fitting())
    for taken, equal in zip(recorded, (True, False), strict=True):
        lengths = np.array([len(text.split()) for text in taken.texts])
        assert (sorted(lengths[taken.labels]) == sorted(lengths[~taken.labels])) == equal


def test_a_short_document_is_not_good_for_being_short() -> None:
    """Where examples differ from the pool in nothing but their length, there is nothing to learn;
    against whole documents the classifier learns the length, and is sure of it."""
    target = [Target(benchmark="b", text=text) for text in texts_of(SPORT, 300, 4, 12, 7)]
    texts = pa.array(texts_of(SPORT, 300, 40, 200, 2), pa.large_string())
    table = pool().slice(150, 300).set_column(1, "text", texts)
    world = fitting(target=target, sample=sampler(table))
    with pytest.raises(SelectorError, match="rank by chance"):
        DclmQuality(**SMALL).fit(world)
    trapped = DclmQuality(**SMALL, match_lengths=False, prior_words=0)
    assert trapped.fit(world)["accuracy"] > 0.9
    short = table.slice(0, 50).set_column(
        1, "text", pa.array(texts_of(SPORT, 50, 4, 12, 8), pa.large_string())
    )
    assert np.median(trapped.score(batch_of(short))) > trapped.score(batch_of(table)).max()


def test_the_same_bytes_from_workers_and_from_the_directory(
    fitted: Any, tmp_path: Path, two_workers: LocalRunner
) -> None:
    scorer, facts = fitted
    again = DclmQuality(**SMALL)
    assert dict(again.fit(fitting(spread=in_order(two_workers)))) == facts
    for name, which in (("one", scorer), ("two", again)):
        (tmp_path / name).mkdir()
        which.save(tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()} == files
    loaded = DclmQuality(**SMALL)
    with pytest.raises(SelectorError) as info:
        loaded.score(batch_of(pool()))
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path / "one")
    parts = [loaded.score(part) for part in pool().combine_chunks().to_batches(max_chunksize=17)]
    assert np.concatenate(parts).tobytes() == scorer.score(batch_of(pool())).tobytes()


def test_the_order_of_the_pool_and_of_the_examples_does_not_matter(fitted: Any) -> None:
    scorer, facts = fitted
    table = pool().take(pa.array(np.random.default_rng(5).permutation(461)))
    target = [Target(benchmark="b", text=text) for text in reversed(examples())]
    other = DclmQuality(**SMALL)
    assert dict(other.fit(fitting(sample=sampler(table), target=target))) == facts
    expected = scorer.score(batch_of(pool()))
    assert other.score(batch_of(pool())).tobytes() == expected.tobytes()


def test_positives_from_a_file_with_labels(tmp_path: Path) -> None:
    good = [{"text": text} for text in examples(200)]
    good += [{"question": "What do plants need?", "answer": f"water {n}"} for n in range(20)]
    bad = [{"text": text, "label": 0} for text in texts_of(SPORT, 90, 5, 15, 6)]
    path = lines(tmp_path / "good.jsonl", *good, *bad)
    scorer = DclmQuality(positives=path, **SMALL)
    facts = scorer.fit(fitting(target=[]))
    assert facts["labelled_negatives"] == 90
    assert facts["positives"] == len({str(line) for line in good})
    scores = scorer.score(batch_of(pool()))
    assert roc_auc_score([1] * 150 + [0] * 300, scores[:450]) > 0.99
    few = DclmQuality(positives=path, sample=120, **SMALL)
    assert few.fit(fitting(target=[]))["positives"] == 120


def test_identity_is_the_parameters_and_the_files_contents(tmp_path: Path) -> None:
    one = DclmQuality(positives=lines(tmp_path / "a.jsonl", {"text": "a"})).identity()
    same = DclmQuality(positives=lines(tmp_path / "b.jsonl", {"text": "a"})).identity()
    other = DclmQuality(positives=lines(tmp_path / "c.jsonl", {"text": "b"})).identity()
    assert one == same != other and str(tmp_path) not in str(one)
    assert DclmQuality().identity()["positives"] is None
    assert paths_of(DclmQuality) == ("positives",)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"label": 1}, "positives"),
        ({"text": "a", "label": "hq"}, "positives"),
        ({"text": "a", "label": 0}, "positives"),
        ({"text": 5 * [1]}, "positives"),
        ([1], "positives"),
    ],
)
def test_a_wrong_line_is_named(line: object, key: str, tmp_path: Path) -> None:
    scorer = DclmQuality(positives=lines(tmp_path / "good.jsonl", line))
    with pytest.raises(SelectorError) as info:
        scorer.fit(fitting())
    assert info.value.key == key


def test_too_little_or_nothing_to_tell_apart_is_refused() -> None:
    with pytest.raises(SelectorError) as info:
        DclmQuality().fit(fitting(target=[]))
    assert info.value.key == "positives"
    with pytest.raises(SelectorError) as info:
        DclmQuality().fit(fitting(sample=sampler(pool().slice(460))))
    assert info.value.key == "sample"
    with pytest.raises(SelectorError) as info:
        DclmQuality(**SMALL).fit(fitting(target=fitting().target[:20]))
    assert info.value.key == "sample"
    assert "10" in str(info.value)
    same = [Target(benchmark="b", text=text) for text in pool()["text"].to_pylist()[:450]]
    scorer = DclmQuality(**{**SMALL, "epoch": 1, "lr": 0.01})
    with pytest.raises(SelectorError, match="rank by chance"):
        scorer.fit(fitting(target=same))
    assert scorer._classifier is None


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"positives": "gone.jsonl"}, "positives"),
        ({"positives": 3}, "positives"),
        ({"sample": 0}, "sample"),
        ({"match_lengths": "no"}, "match_lengths"),
        ({"lr": []}, "lr"),
        ({"lr": [0.1, -1]}, "lr"),
        ({"epoch": 2.5}, "epoch"),
        ({"prior_words": -1}, "prior_words"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        DclmQuality(**parameters)
    assert info.value.key == key


def test_a_directory_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError) as info:
        DclmQuality().load(tmp_path)
    assert info.value.file


def test_negatives_of_one_source() -> None:
    """REWIRE's filter: against rewrites, not against the pool."""
    asked: list[tuple[int, str | None]] = []
    table = pool()

    def sample(count: int, *, source: str | None = None) -> pa.Table:
        asked.append((count, source))
        return sampler(table)(count, source=source)

    scorer = DclmQuality(**SMALL, negatives="sport")
    facts = scorer.fit(fitting(sample=sample, pool_size=10**9))
    assert facts["positives"] == 250
    assert asked == [(20_250, "sport")], "no document of another source is read"
    sport = table.filter(pa.compute.equal(table["source"], "sport"))
    nature = table.filter(pa.compute.equal(table["source"], "nature"))
    assert np.nanmean(scorer.score(batch_of(nature))) > np.nanmean(scorer.score(batch_of(sport)))
    with pytest.raises(SelectorError) as info:
        DclmQuality(**SMALL, negatives="rewire").fit(fitting())
    assert info.value.key == "negatives"
    with pytest.raises(SelectorError) as info:
        DclmQuality(negatives=7)  # type: ignore[arg-type]
    assert info.value.key == "negatives"
