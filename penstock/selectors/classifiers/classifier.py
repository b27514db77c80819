"""fastText classifiers that are trained during a fit, with a check of their accuracy.

Added to plain training: a held-out tenth that chooses learning rate and epochs, because a
fastText left at its initialisation ranks as confidently as a good one; and a refusal to rank
if accuracy on the held-out tenth is near chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.compiling import cached
from penstock.errors import SelectorError
from penstock.hashing import uniform
from penstock.selectors.base import Fitting, ParallelMap
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.classifiers.fasttext_training import TrainingRows, find_rows, train
from penstock.selectors.kernels.distinct_words import count_distinct_words

__all__ = [
    "LEAST_EXAMPLES",
    "Texts",
    "TrainingSet",
    "Trial",
    "area_under_curve",
    "blank",
    "fit_classifier",
    "hold_out",
    "mean_log_odds",
    "shrink",
    "shrunk_log_odds",
    "train_classifier",
    "without_end",
]

_NAMES = {"accuracy": "accuracy", "auc": "area under the curve"}

HELD_OUT = 0.1
"""Share of the labelled documents that chooses among trials."""

_JUDGED = 10
"""Held-out documents of each label that judge a classifier, at least."""

LEAST_EXAMPLES = 91
"""Documents of a label of which a tenth, rounded up, are ten."""

NEAR_CHANCE = 0.55
"""Below this accuracy, or area under the curve, ranking is refused. BETR's classifier reaches about
0.75; one left at its initialisation reached 0.55, with all its scores within 1e-3 of 0.5. One
standard error on 1,300 held-out documents is 0.014; with fewer, the bound is two standard errors
above 0.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Training and held-out documents of every trial."""

    texts: list[str]
    labels: np.ndarray
    """(n,) bool, as many true as false."""
    held_out: np.ndarray
    """(n,) bool: documents that no trial is trained on."""
    settings: Mapping[str, int]
    """``dim`` and ``seed``, and the keywords of
    :func:`~penstock.selectors.classifiers.fasttext_training.find_rows`."""
    zero_eos: bool = False
    """True if each trained classifier gets :func:`without_end`, and is judged so."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trials:
    """What all trials of a grid share."""

    texts: pa.Array
    """(n,) large_string, training and held-out documents."""
    labels: np.ndarray
    held_out: np.ndarray
    data: TrainingRows
    """The training documents."""
    dim: int
    seed: int
    zero_eos: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A point of the grid, with its result."""

    lr: float
    epoch: int
    accuracy: float
    """Share of the held-out documents that p(positive) > 0.5 labels rightly."""
    auc: float
    """Area under the curve on the held-out documents."""
    training_accuracy: float
    classifier: CollapsedFastText

    @property
    def facts(self) -> dict[str, float]:
        return {
            "lr": self.lr,
            "epoch": self.epoch,
            "accuracy": round(self.accuracy, 4),
            "auc": round(self.auc, 4),
            "training_accuracy": round(self.training_accuracy, 4),
        }


def balanced_rows(chosen: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return the chosen rows and equally many others, by hash: (n,) bool to ascending rows."""
    rest = np.flatnonzero(~chosen)
    rest = rest[np.argsort(hashes[rest], kind="stable")][: int(chosen.sum())]
    return np.sort(np.concatenate([np.flatnonzero(chosen), rest]))


def is_held_out(hashes: np.ndarray) -> np.ndarray:
    """Return which documents are held out, about a tenth: (n,) uint64 to (n,) bool."""
    return uniform(hashes) < HELD_OUT


def hold_out(labels: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Hold out a tenth of each label, by hash: (n,) bool and (n,) uint64 to (n,) bool."""
    held_out = np.zeros(len(labels), bool)
    for label in (False, True):
        rows = np.flatnonzero(labels == label)
        count = math.ceil(HELD_OUT * len(rows))
        held_out[rows[np.argsort(hashes[rows], kind="stable")[:count]]] = True
    return held_out


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of (positive, negative) pairs in the right order; a tie counts one half.

    Scores and labels are (n,).
    """
    negatives = np.sort(scores[~labels])
    below = np.searchsorted(negatives, scores[labels], side="left")
    up_to = np.searchsorted(negatives, scores[labels], side="right")
    return float((below + up_to).mean() / 2 / len(negatives))


def fit_classifier(
    selector: Any,
    texts: list[str],
    labels: np.ndarray,
    held_out: np.ndarray,
    fitting: Fitting,
    *,
    by: Literal["accuracy", "auc"] = "accuracy",
    zero_eos: bool = False,
) -> tuple[Trial, dict[str, Any]]:
    """Train a selector's classifiers, and choose one.

    Args:
        selector: It has fastText's settings as parameters; ``lr`` and ``epoch`` are a grid.
        texts: Documents, (n,).
        labels: (n,) bool.
        held_out: (n,) bool: documents that choose.
        fitting: Inputs of the fit.
        by: Chooses: ``accuracy``, which depends on where 0.5 is, or ``auc``, which does not.
        zero_eos: See :attr:`TrainingSet.zero_eos`.

    Returns:
        The best trial on the held-out documents, the first of equals; and facts.

    Raises:
        SelectorError: Too few documents are held out, or no trial is better than chance.
    """
    names = ("word_ngrams", "dim", "min_count", "bucket")
    settings = {**{name: getattr(selector, name) for name in names}, "seed": fitting.seed % 2**31}
    lesson = TrainingSet(
        texts=texts, labels=labels, held_out=held_out, settings=settings, zero_eos=zero_eos
    )
    count = len(selector.lr) * len(selector.epoch)
    fitting.progress(f"training {count} classifiers on {len(texts):,} texts")
    trials = train_classifier(lesson, selector.lr, selector.epoch, fitting.spread)
    figures = [getattr(trial, by) for trial in trials]
    highest = max(figures)
    judged = int(held_out.sum())
    least = max(NEAR_CHANCE, 0.5 + 2 * 0.5 / math.sqrt(judged))
    if highest < least:
        raise SelectorError(
            key="lr, epoch",
            expected=f"a classifier with an {_NAMES[by]} of at least {least:.2f} on "
            f"{judged} held-out documents",
            got=f"{highest:.2f} at best: it would rank by chance",
            fix="add learning rates or epochs, or use a larger sample or more examples",
        )
    best = trials[figures.index(highest)]
    return best, {
        "held_out": judged,
        "accuracy": best.facts["accuracy"],
        "auc": best.facts["auc"],
        "lr": best.lr,
        "epoch": best.epoch,
        "trials": [trial.facts for trial in trials],
    }


def train_classifier(
    lesson: TrainingSet, lrs: Sequence[float], epochs: Sequence[int], spread: ParallelMap
) -> list[Trial]:
    """Train one classifier for each pair of a learning rate and a number of epochs.

    Raises:
        SelectorError: A label has fewer than ten held-out documents.
    """
    judged = np.bincount(lesson.labels[lesson.held_out], minlength=2).min()
    if judged < _JUDGED:
        raise SelectorError(
            key="sample",
            expected=f"at least {_JUDGED} held-out documents of each label, to judge by",
            got=f"{judged} of {len(lesson.labels)}",
            fix="use a larger sample or more examples",
        )
    kept = np.flatnonzero(~lesson.held_out)
    settings = dict(lesson.settings)
    dim, seed = settings.pop("dim"), settings.pop("seed")
    data = find_rows([lesson.texts[row] for row in kept], lesson.labels[kept].tolist(), **settings)
    points = list(itertools.product(lrs, epochs))
    # Longest first: in the grid's order, two workers would end far apart.
    order = sorted(range(len(points)), key=lambda at: -points[at][1])
    work = _Trials(
        texts=pa.array(lesson.texts, pa.large_string()),
        labels=lesson.labels,
        held_out=lesson.held_out,
        data=data,
        dim=dim,
        seed=seed,
        zero_eos=lesson.zero_eos,
    )
    trials = spread(_try, [points[at] for at in order], work)
    return [trial for _, trial in sorted(zip(order, trials), key=lambda pair: pair[0])]


def _try(point: tuple[float, int], work: _Trials) -> Trial:
    lr, epoch = point
    classifier = train(work.data, lr=lr, dim=work.dim, epoch=epoch, seed=work.seed)
    if work.zero_eos:
        classifier = without_end(classifier)
    scores = classifier.score(work.texts)
    right = (scores > 0.5) == work.labels
    return Trial(
        lr=lr,
        epoch=epoch,
        accuracy=float(right[work.held_out].mean()),
        auc=area_under_curve(scores[work.held_out], work.labels[work.held_out]),
        training_accuracy=float(right[~work.held_out].mean()),
        classifier=classifier,
    )


def without_end(classifier: CollapsedFastText) -> CollapsedFastText:
    """Set the row of the end-of-line token to zero, where there is one."""
    weights = classifier.weights.copy()
    if classifier.eos_row >= 0:
        weights[classifier.eos_row] = 0
    return replace(classifier, weights=weights)


def shrunk_log_odds(
    classifier: CollapsedFastText, texts: pa.Array, prior_words: float, centre: float = 0.0
) -> np.ndarray:
    """Return log odds whose distance from ``centre`` is multiplied by w / (w + prior_words).

    fastText averages over a document's words, so the most extreme scores belong to documents with
    the fewest: stubs, one phrase repeated, scripts without spaces between words. The posterior
    mean of w noisy values, with a prior at the centre that weighs as much as k values, is
    w / (w + k) of their average's distance from it. A repeated word adds no information, so w
    counts distinct words.

    The centre is the pool's mean (:func:`mean_log_odds`): a document of few words then scores as
    one of which nothing is known but its pool. A classifier that is trained on as many positives
    as negatives has its zero elsewhere: shrunk to BETR's, above which lies a quarter of the pool,
    the text "a" outranked 72 % of the development pool, and a cut of 40 % of the bytes took 55 % of
    the texts shorter than 200 characters; centred 54 and 24 %.

    Measured over 65,686 documents, 12,000 of them in the classifier's training set. Of the best
    2 % by characters, 41 % were shorter than 200 characters, and with k = 50 none. Of the unseen
    documents there, 10 % belonged to the tenth to be found, and 45 % with k = 50 (1.2 % of all
    unseen ones did). The area under the curve rose from 0.817 to 0.825. Setting the end-of-line
    row to zero, PreSelect's remedy for the same bias, changed neither.

    Args:
        classifier: A fitted classifier.
        texts: (n,) string or large_string.
        prior_words: k.
        centre: Log odds.

    Returns:
        (n,) float32; the centre for a text without a word.
    """
    return shrink(classifier.score(texts), Texts(texts), prior_words, centre)


def mean_log_odds(classifier: CollapsedFastText, array: pa.Array) -> float:
    """Return the mean log odds of the texts that have a word, (n,) large_string; 0 without one.

    The sum is exact, so the order of the texts does not matter.
    """
    texts = Texts(array)
    log_odds = shrink(classifier.score(array), texts, 0)
    known = log_odds[~texts.blank & (texts.distinct_words > 0) & ~np.isnan(log_odds)]
    return math.fsum(known.tolist()) / max(1, len(known))


class Texts:
    """A batch's texts, with properties that several scorers use, computed once."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array
        """(n,) string or large_string."""

    @cached_property
    def blank(self) -> np.ndarray:
        """(n,) bool: which texts are blank; see :func:`blank`."""
        return blank(self.array)

    @cached_property
    def distinct_words(self) -> np.ndarray:
        """(n,) int64: number of distinct words of each, exact up to a few hundred."""
        return count_distinct_words(self.array)


def shrink(scores: np.ndarray, texts: Texts, prior_words: float, centre: float = 0.0) -> np.ndarray:
    """Return :func:`shrunk_log_odds` from a classifier's ``scores``, (n,) float32."""
    return _shrunk(scores, texts.distinct_words, float(prior_words), float(centre))


@cached(nogil=True)
def _shrunk(scores: np.ndarray, words: np.ndarray, prior: float, centre: float) -> np.ndarray:
    out = np.empty(len(scores), np.float32)
    for row in range(len(scores)):
        # float32 ends at 1 - 2^-24; beyond it all are equally sure.
        p = min(max(float(scores[row]), 1e-30), 1 - 2.0**-25)
        weight = words[row] / (words[row] + prior) if words[row] else 0.0
        out[row] = centre + (math.log(p) - math.log(1 - p) - centre) * weight
    return out


def blank(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return which texts hold only white space: (n,) bool."""
    if isinstance(texts, pa.ChunkedArray):  # by chunks, so as not to hold a trimmed copy of all
        return np.concatenate([np.empty(0, bool), *map(blank, texts.chunks)])
    empty = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)
    return np.asarray(pc.fill_null(empty, True).to_numpy(zero_copy_only=False))
