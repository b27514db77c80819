"""Tests for a scorer of one's own: the properties that curating relies on.

::

    from penstock.testing import check_scorer

    def test_my_scorer() -> None:
        check_scorer("my_scorer:score", directory=".")

A column is computed in batches, in any order, by several processes, and again after a crash: a
scorer without these properties gives scores that depend on the number of workers.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import PenstockError, ScoringError, SelectorError
from penstock.hashing import hash_documents, mix
from penstock.pipeline.checking import (
    call_on_documents,
    call_plugin,
    scores_of,
)
from penstock.pipeline.plug_in_checks import check_facts, check_sendable
from penstock.pipeline.runner import LocalRunner
from penstock.plugin_frames import own_traceback
from penstock.recipe import SelectorSpec
from penstock.selectors.base import Documents, Fitting, Scorer, Target
from penstock.selectors.misspelt import misspelt_members
from penstock.selectors.registry import build
from penstock.text_hashes import hash_texts

__all__ = ["check_scorer"]

_SEED = 17

_KEY = "select.mine"
"""Key of the scorer in errors, in whose place its name is put at last."""

_TARGET = 8
"""Texts that are the target of a scorer that needs one, where none is given."""

_FINITE = (
    "return finite numbers (float32: up to 3.4e38), and NaN for a document that may not be taken: "
    "an infinite score, also +inf, counts as none, and the document is never taken"
)

_TEXTS = (
    "A short text.",
    "The same word, the same word, the same word, and then another one for the end.",
    "First line.\nSecond line with numbers 1, 2.5 and 1,000.\n\n\tThird line after an empty one.",
    "Grüße aus Köln; Привет, мир; 你好，世界; नमस्ते; مرحبا; 👩\u200d👧 and a zero-width\u200bspace.",
    "def f(x):\n    return x ** 2  # code\n",
    "a",
    "!!! ??? ...",
    "word " * 400,
)
"""Texts of which a scorer may make something unexpected; none is blank: cleaning drops those."""


def check_scorer(
    use: str,
    texts: Sequence[str] | None = None,
    *,
    directory: str | Path = ".",
    target: Sequence[str] = (),
    processes: bool = True,
    **parameters: Any,
) -> np.ndarray:
    """Check that a scorer has the properties which curating relies on.

    It has to give one number for each document, NaN (a function: or None) for one that may not be
    taken, not for all of them, and no infinity. It has to give the same number, to the last bit, in
    a second call, in batches of 1 and 7, in another order, after ``save`` and ``load``, and in two
    other processes, to which it is sent by a pickle. Where all scores are equal, a warning says so.

    Args:
        use: As in a recipe: ``module:function``, ``module:Class``, or a registered name.
        texts: Documents; by default 64 texts in several scripts, long and short.
        directory: Where the module is, as a recipe's directory.
        target: Texts of a target, for a scorer that needs one; the first 8 texts, with a warning,
            if none is given.
        processes: Whether to start the two processes.
        parameters: Parameters of the scorer.

    Returns:
        The scores, (n,) float32.

    Raises:
        SelectorError: It cannot be imported or made, or its scores depend on more than the
            document.
        ScoringError: It raised, or lacks a property; the message names it and a document. The
            traceback has the lines of the scorer's own files alone.
    """
    try:
        return _checked(use, texts, Path(directory).absolute(), target, processes, parameters)
    except PenstockError as error:
        if error.key is not None:
            error.key = error.key.replace(_KEY, use, 1)
        # One traceback, and of it the user's own lines alone: the message says the rest.
        raise error.with_traceback(own_traceback(error.__cause__)) from None


def _checked(
    use: str,
    texts: Sequence[str] | None,
    directory: Path,
    target: Sequence[str],
    processes: bool,
    parameters: Mapping[str, Any],
) -> np.ndarray:
    """Do the work of :func:`check_scorer`, with tracebacks of several errors."""
    spec = SelectorSpec.model_validate({"use": use, **parameters})
    selector = build("mine", spec, [directory])
    needs = selector.requirements
    if selector.kind != "scorer" or needs.quality or needs.answers or needs.embeddings:
        raise SelectorError(
            key=_KEY, expected="a scorer that reads the document alone", got=repr(use)
        )
    documents = _documents(list(texts or [f"{text} {n}" for n in range(8) for text in _TEXTS]))
    for name, member in misspelt_members(selector):
        warnings.warn(
            f"{use}: {name} is no member of a scorer; is it meant for {member}?", stacklevel=3
        )
    if needs.target and not target:
        target = documents.column("text").slice(0, _TARGET).to_pylist()
        warnings.warn(
            f"{use} needs a target: without target=[...] it is the first {len(target)} of the "
            "texts",
            stacklevel=3,
        )
    check_sendable(_KEY, selector)
    unfitted = copy.deepcopy(selector)
    check_facts(_KEY, call_plugin(_KEY, None, selector.fit, _fitting(documents, target)))
    scores = _scores(selector, documents)
    if (wrong := np.isinf(scores)).any():
        raise _broken("no infinite score", documents, wrong, scores, fix=_FINITE)

    own = scores[~np.isnan(scores)]
    if len(scores) and not len(own):
        raise ScoringError(
            key=_KEY,
            expected="a score for at least one document",
            got=f"NaN for all {len(scores):,}",
            fix="return numbers; or give texts that it scores, texts=[...]",
        )

    def compare(wanted: str, found: np.ndarray) -> None:
        differ = scores.view(np.uint32) != found.view(np.uint32)
        differ &= ~(np.isnan(scores) & np.isnan(found))
        if differ.any():
            raise _broken(f"the same score {wanted}", documents, differ, found, scores)

    compare("in a second call", _scores(selector, documents))
    for size in (1, 7):
        starts = range(0, len(documents), size)
        found = [_scores(selector, documents.slice(at, size)) for at in starts]
        compare(f"in batches of {size}", np.concatenate(found))
    order = np.argsort(hash_documents(documents, mix(_SEED, "order")), kind="stable")
    placed = np.empty_like(scores)
    placed[order] = _scores(selector, documents.take(pa.array(order)))
    compare("in another order", placed)
    with tempfile.TemporaryDirectory(prefix="penstock-check-") as name:
        call_plugin(_KEY, None, selector.save, Path(name))
        sent = copy.deepcopy(unfitted)  # a driver loads it too, but scores nothing
        for one in (unfitted, sent):
            call_plugin(_KEY, None, one.load, Path(name))
        compare("after save and load", _scores(unfitted, documents))
        if processes:
            compare("in two other processes", _elsewhere(sent, documents))
    if len(own) > 1 and (own == own[0]).all():
        warnings.warn(
            f"{use}: all scores of these texts are {own[0]:.6g}, so that the check says little: "
            "give texts that it tells apart, texts=[...]",
            stacklevel=3,
        )
    return scores


def _documents(texts: list[str]) -> Documents:
    array = pa.array(texts, pa.large_string())
    ids = [f"text-{number}" for number in range(len(texts))]
    columns = {"id": ids, "text": array, "source": ["check"] * len(texts)}
    return pa.record_batch({**columns, "hash": hash_texts(array)})


def _fitting(documents: Documents, target: Sequence[str]) -> Fitting:
    table = pa.Table.from_batches([documents])
    return Fitting(
        sample=lambda count, **asked: table.slice(0, count),
        pool_size=len(documents),
        sources={"check": documents.column("text").nbytes},
        target=[Target(benchmark="check", text=text) for text in target],
        seed=_SEED,
    )


def _scores(scorer: Scorer, documents: Documents) -> np.ndarray:
    ids = documents.column("id")
    returned = call_on_documents(_KEY, "the texts", ids, scorer.score, documents)
    return scores_of(returned, len(documents), _KEY, "the texts", ids)


def _elsewhere(scorer: Scorer, documents: Documents) -> np.ndarray:
    half = len(documents) // 2
    halves = [documents.slice(0, half), documents.slice(half)]
    check_sendable(_KEY, scorer)
    with closing(LocalRunner(2)) as runner:
        found = dict(runner.run(_score_half, halves, scorer, keep_state=True))
    return np.concatenate([found[0], found[1]])


def _score_half(documents: Documents, scorer: Scorer) -> np.ndarray:
    return _scores(scorer, documents)


def _broken(
    wanted: str,
    documents: Documents,
    wrong: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray | None = None,
    fix: str = "let a score depend on the document, the parameters and the fitted state alone",
) -> ScoringError:
    row = int(np.flatnonzero(wrong)[0])
    before = "" if scores is None else f"; at first it was {scores[row]:.9g}"
    return ScoringError(
        key=_KEY,
        file=f"document {documents.column('id')[row]}",
        expected=wanted,
        got=f"{found[row]:.9g}{before} ({np.count_nonzero(wrong):,} of {len(found):,} documents)",
        fix=fix,
    )
