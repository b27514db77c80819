"""The kit that tests a scorer of one's own finds each property that is missing."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import ScoringError, SelectorError
from penstock.testing import check_scorer

SCORERS = """
import itertools, os, threading
from penstock import PlainScorer
from penstock.selectors.base import Requirements
calls = itertools.count()

def length(texts): return [float(len(text)) for text in texts]
def excludes(texts): return [None if len(text) < 20 else len(text) % 7 for text in texts]
def constant(texts): return [0.5] * len(texts)
def nothing(texts): return [None] * len(texts)
def counts(texts): return [float(next(calls)) for _ in texts]
def batch(texts): return [float(len(text) / max(map(len, texts))) for text in texts]
def order(texts): return [float(n) for n, _ in enumerate(texts)]
def short(texts): return [1.0] * (len(texts) - 1)
def process(texts): return [float(os.getpid() == PARENT)] * len(texts)

def inverse(text): return 1 / (len(text) - 3)
def divides(texts): return [inverse(text) for text in texts]

def infinite(texts): return [float("inf")] * len(texts)

class Strings:
    def score(self, documents):
        texts = documents["text"].to_pylist()
        return [str(float(n)) if text == "b" else float(n) for n, text in enumerate(texts)]

class Infinite:
    def score(self, documents): return [float("inf")] * len(documents)

class Fitted(PlainScorer):
    def fit(self, fitting): self.mean = len(fitting.sample(9))
    def save(self, directory): (directory / "mean").write_text(str(self.mean))
    def load(self, directory): self.mean = int((directory / "mean").read_text())
    def score(self, documents): return [len(t) - self.mean for t in documents["text"].to_pylist()]

class Forgets:
    mean = 0
    def fit(self, fitting): self.mean = len(fitting.sample(9))
    def save(self, directory): ...
    def load(self, directory): ...
    def score(self, documents): return [len(t) - self.mean for t in documents["text"].to_pylist()]

class Unpicklable:
    def __init__(self): self.lock = threading.Lock()
    def score(self, documents): return [1.0] * len(documents)

class Empty(PlainScorer):
    pass

class Misspelt(PlainScorer):
    def fitt(self, fitting): ...
    def save(self, directory): ...
    def load(self, directory): ...
    def scored(self): ...
    def score(self, documents): return [len(t) for t in documents["text"].to_pylist()]

def large(texts): return [10.0 ** (30 + len(text) % 20) for text in texts]

class Targeted:
    def fit(self, fitting): self.words = {w for one in fitting.target for w in one.text.split()}
    def save(self, directory): (directory / "words").write_text(" ".join(sorted(self.words)))
    def load(self, directory): self.words = set((directory / "words").read_text().split())
    def score(self, documents):
        return [len(self.words & set(t.split())) for t in documents["text"].to_pylist()]

class Needing(Targeted):
    requirements = Requirements(target=True)
"""


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Path]:
    text = SCORERS.replace("PARENT", str(os.getpid()))
    (tmp_path / "checked.py").write_text(text)
    yield tmp_path
    sys.modules.pop("checked", None)


@pytest.mark.parametrize("name", ["length", "excludes", "Fitted"])
def test_a_scorer_with_all_properties_passes(beside: Path, name: str) -> None:
    scores = check_scorer(f"checked:{name}", directory=beside)
    assert (scores.dtype, scores.shape) == (np.float32, (64,))
    assert np.isnan(scores).any() == (name == "excludes")


def test_texts_a_target_and_parameters_are_those_given(beside: Path) -> None:
    texts = ["a b", "b c d", "x"]
    scores = check_scorer(
        "checked:Targeted", texts, directory=beside, target=["b", "c"], processes=False
    )
    assert scores.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("counts", "the same score in a second call"),
        ("batch", "the same score in batches of 1"),
        ("order", "the same score in batches of 1"),
        ("Infinite", "no infinite score"),
        ("infinite", "no infinite score"),
        ("Forgets", "the same score after save and load"),
        ("process", "the same score in two other processes"),
    ],
)
def test_a_missing_property_is_named_with_a_document(
    beside: Path, name: str, expected: str
) -> None:
    with pytest.raises(ScoringError) as caught:
        check_scorer(f"checked:{name}", directory=beside)
    assert caught.value.expected == expected
    assert ("finite numbers" in str(caught.value.fix)) == (name.lower() == "infinite")
    assert str(caught.value.file).startswith("document text-")


def test_one_score_for_all_is_a_warning_and_none_at_all_an_error(beside: Path) -> None:
    with pytest.warns(UserWarning, match="0.5"):
        check_scorer("checked:constant", directory=beside, processes=False)
    with pytest.raises(ScoringError) as caught:
        check_scorer("checked:nothing", directory=beside, processes=False)
    assert (caught.value.key, caught.value.got) == ("checked:nothing", "NaN for all 64")
    assert "texts=" in str(caught.value.fix)


def test_a_wrong_number_of_scores_is_an_error(beside: Path) -> None:
    with pytest.raises(ScoringError, match="expected 64 scores, one for each text, got 63"):
        check_scorer("checked:short", directory=beside)


def test_a_number_in_words_is_refused_with_its_document(beside: Path) -> None:
    with pytest.raises(ScoringError) as caught:
        check_scorer("checked:Strings", ["a", "b"], directory=beside, processes=False)
    own = caught.value
    assert (own.file, own.expected, own.got) == ("document text-1", "a float", "'1.0', a str")


def test_an_error_of_the_scorer_is_one_traceback_of_its_own_lines(beside: Path) -> None:
    with pytest.raises(ScoringError) as caught:
        check_scorer("checked:divides", directory=beside)
    error = caught.value
    assert error.key == "checked:divides" and error.file == "document text-5"
    text = "".join(traceback.format_exception(error))
    assert text.count("Traceback") == 1 and "select.mine" not in text
    frames = [
        (Path(one.filename).name, one.name) for one in traceback.extract_tb(error.__traceback__)
    ]
    assert frames[1][0] == "testing.py"
    assert [name for file, name in frames[2:]] == ["divides", "<listcomp>", "inverse"] or [
        name for file, name in frames[2:]
    ] == ["divides", "inverse"]  # without a frame of its own from Python 3.12 on
    assert {file for file, _ in frames[2:]} == {"checked.py"}


def test_a_scorer_that_cannot_be_sent_to_a_worker_is_an_error(beside: Path) -> None:
    with pytest.raises(ScoringError) as caught:
        check_scorer("checked:Unpicklable", directory=beside)
    assert caught.value.expected == "an object that can be sent to a worker"


def test_missing_members_of_a_class_are_named(beside: Path) -> None:
    with pytest.raises(SelectorError) as caught:
        check_scorer("checked:Empty", directory=beside)
    assert caught.value.problem == "the class Empty has no score"
    (beside / "checked.py").write_text(
        "from penstock import PlainScorer\n"
        "class Keeps(PlainScorer):\n"
        "    def fit(self, fitting): self.x = 1\n"
        "    def save(self, directory): ...\n"
        "    def score(self, documents): return [self.x] * len(documents)\n"
    )
    with pytest.raises(SelectorError, match="Keeps has fit, but no load"):
        check_scorer("checked:Keeps", directory=beside)


@pytest.mark.parametrize("use", ["ingenious", "mean_of"])
def test_a_selector_of_more_than_documents_is_refused(use: str) -> None:
    others = {"column": "x", "by": "source"} if use == "mean_of" else {}
    with pytest.raises(SelectorError) as caught:
        check_scorer(use, **others)
    assert caught.value.expected == "a scorer that reads the document alone"


def test_a_misspelt_member_is_a_warning(beside: Path) -> None:
    with pytest.warns(UserWarning, match="fitt .* fit") as found:
        check_scorer("checked:Misspelt", directory=beside, processes=False)
    assert len(found) == 1


def test_a_target_that_is_needed_and_not_given_is_named(beside: Path) -> None:
    texts = [f"w{n}" for n in range(20)]
    with pytest.warns(UserWarning, match="first 8 of the texts"):
        scores = check_scorer("checked:Needing", texts, directory=beside, processes=False)
    assert scores.tolist() == [1.0] * 8 + [0.0] * 12


def test_a_finite_number_beyond_float32_is_refused_with_the_limits(beside: Path) -> None:
    with pytest.raises(ScoringError) as caught:
        check_scorer("checked:large", directory=beside, processes=False)
    assert "3.4e38" in str(caught.value.fix) and caught.value.got is not None
