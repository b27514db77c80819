"""Scorers that share a pass have the scores of single calls, and share the pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import SelectorError
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.classifiers import classifier as classifier_module
from penstock.selectors.classifiers.classifier import Texts, shrink, shrunk_log_odds
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.classifiers.fasttext_panel import BatchScorer
from penstock.selectors.fasttext import FastTextScorer
from tests.fasttext_reference import train

TEXTS = ["the river carries water", "the market sells bonds", "", " \t\n", "water " * 90]


class Shrunk:
    """A scorer of the kind of BETR's: a classifier's log odds, shrunk by the words they rest on."""

    def __init__(self, classifier: CollapsedFastText | None, prior_words: int = 50) -> None:
        self.classifier = classifier
        self.prior_words = prior_words

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        return np.where(texts.blank, np.float32(np.nan), shrink(scores, texts, self.prior_words))

    def score(self, documents: Documents) -> np.ndarray:
        texts = documents.column("text")
        if self.classifier is None:
            return np.zeros(len(texts), np.float32)
        return self.finish(self.classifier.score(texts), Texts(texts))


class Length:
    """A scorer that has no classifier."""

    def score(self, documents: Documents) -> np.ndarray:
        return np.array([len(text.as_py()) for text in documents.column("text")], np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = []
    for number, labels in enumerate(([True, False, False], [False, True, False])):
        texts = ["the river carries water", "the market sells bonds", "the council meets"]
        model = train(texts * 4, labels * 4, lr=0.5, dim=4, epoch=9, bucket=5003)
        paths.append(str(tmp_path_factory.mktemp("model") / f"{number}.bin"))
        model.save_model(paths[-1])
    return paths


@pytest.fixture
def scorers(models: list[str]) -> list[FastTextScorer]:
    fitted = [FastTextScorer(model=model) for model in models]
    for scorer in fitted:
        scorer.fit(Fitting(sample=lambda n: pa.table({}), pool_size=0))
    return fitted


def documents(texts: list[str]) -> Documents:
    ids = [f"d{number}" for number in range(len(texts))]
    return pa.record_batch(
        {
            "id": pa.array(ids),
            "text": pa.array(texts, pa.large_string()),
            "source": pa.array(["web"] * len(texts)),
        }
    )


@pytest.mark.slow
def test_shared_scores_equal_single_scores(scorers: list[FastTextScorer]) -> None:
    first, second = scorers
    everyone = [
        *scorers,
        as_selector(Shrunk(first._classifier)),
        as_selector(Length()),
        as_selector(Shrunk(second._classifier, 0)),
        as_selector(Shrunk(None)),
        FastTextScorer(model=first.model),  # another object of the same weights
    ]
    everyone[-1].fit(Fitting(sample=lambda n: pa.table({}), pool_size=0))
    batch = documents(TEXTS).slice(1)
    together = BatchScorer(everyone, batch)
    for scorer in everyone:
        scores = together.score(scorer)
        assert scores.dtype == np.float32
        np.testing.assert_array_equal(scores, scorer.score(batch))
    assert np.isnan(together.score(first)).tolist() == [False, True, True, False]


def test_two_classifiers_share_a_pass_over_the_words(
    scorers: list[FastTextScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    count = classifier_module.count_distinct_words
    monkeypatch.setattr(
        classifier_module, "count_distinct_words", lambda *a: counted.append(None) or count(*a)
    )
    length = as_selector(Length())
    shrunk = [as_selector(Shrunk(scorer._classifier)) for scorer in scorers]
    everyone = [*scorers, *shrunk, length]
    batch = documents(TEXTS)
    expected = [scorer.score(batch) for scorer in everyone]
    assert len(counted) == 2  # one for each scorer
    together = BatchScorer(everyone, batch)
    with monkeypatch.context() as patch:
        patch.delattr(CollapsedFastText, "score")
        for scorer, scores in zip(everyone, expected, strict=True):
            np.testing.assert_array_equal(together.score(scorer), scores)
        assert len(counted) == 3  # one for both
        with pytest.raises(AttributeError):  # it is scored alone
            BatchScorer([scorers[0], length], batch).score(scorers[0])
    np.testing.assert_array_equal(
        BatchScorer([scorers[0], length], batch).score(scorers[0]), expected[0]
    )


def test_scorers_without_a_classifier_are_left_out(scorers: list[FastTextScorer]) -> None:
    assert scorers[0].requirements.classifier is not None
    assert as_selector(Length()).requirements.classifier is None


def test_scores_that_are_shared_cannot_be_written_to(scorers: list[FastTextScorer]) -> None:
    class Careless(Shrunk):
        def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
            scores *= 2
            return scores

    careless = as_selector(Careless(scorers[0]._classifier))
    with pytest.raises(ValueError, match="read-only"):
        BatchScorer([*scorers, careless], documents(TEXTS)).score(careless)


def test_an_unfitted_scorer_raises(scorers: list[FastTextScorer]) -> None:
    unfitted = FastTextScorer(model=scorers[0].model)
    together = BatchScorer([*scorers, unfitted], documents(TEXTS))
    with pytest.raises(SelectorError) as info:
        together.score(unfitted)
    assert info.value.expected == "a fitted selector"
    assert len(together.score(scorers[0])) == len(TEXTS)


def test_no_documents(scorers: list[FastTextScorer]) -> None:
    assert BatchScorer(scorers, documents([])).score(scorers[0]).shape == (0,)


def test_shrinking_is_that_of_shrunk_log_odds(scorers: list[FastTextScorer]) -> None:
    texts = pa.array(TEXTS, pa.large_string())[1:]
    model = scorers[0]._classifier
    assert isinstance(model, CollapsedFastText)
    np.testing.assert_array_equal(
        shrink(model.score(texts), Texts(texts), 50), shrunk_log_odds(model, texts, 50)
    )
    assert Texts(texts).distinct_words.tolist() == [4, 0, 0, 1]


def test_a_loaded_scorer_shares_too(scorers: list[FastTextScorer], tmp_path: Path) -> None:
    scorers[0].save(tmp_path)
    loaded = FastTextScorer(model=scorers[0].model)
    loaded.load(tmp_path)
    batch = documents(TEXTS)
    np.testing.assert_array_equal(
        BatchScorer([loaded, scorers[1]], batch).score(loaded), scorers[0].score(batch)
    )
