"""Score: one scorer on a sample of documents, in this process: its scores, and its time.

It is for writing a scorer: ``breakpoint()`` works, since no worker process is started to score and
stdin is left alone. The corpus, the verdicts and the scorer's model are made as ``curate`` makes
them, and found again by it; the scores of the sample are not kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.activity import count_documents, step
from penstock.artefact import Workspace
from penstock.display import numbered, text_table
from penstock.errors import SelectorError, did_you_mean
from penstock.jobs.column_warnings import MOST, describe_constant
from penstock.jobs.plan import Plan
from penstock.jobs.prerequisites import check_plug_ins
from penstock.jobs.report.excerpts import excerpt
from penstock.pipeline.checking import call_on_documents, call_plugin, scores_of
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import make_corpus
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.samples import sample_documents
from penstock.pipeline.scoring.models import Column, Models
from penstock.pipeline.units import BATCH
from penstock.plugin_code import code_notes
from penstock.selectors.encoders.embedding import beginning, embed

__all__ = ["ScoredDocument", "ScoredSample", "score"]

_PURPOSE = "score"
"""Hash purpose of the sample: another than that of fits."""

_BINS = 20

_SLOW_DOCUMENT = 0.005
"""Seconds for a document from which on small tasks are worth it."""

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDocument:
    """A document of the sample."""

    id: str
    source: str
    score: float
    text: str
    """The beginning, on one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """Scores of a sample."""

    column: str
    documents: int
    excluded: int
    """Documents with NaN or an infinite score, which are never taken."""
    of: int
    """Documents of the pool, which the sample was drawn from."""
    asked: int
    """Documents that were asked for: each of the pool is drawn with the probability ``asked / of``,
    so that the sample has about as many, or all if the pool has no more."""
    seconds: float
    """Time of the scoring alone, without the fit."""
    quantiles: dict[str, float]
    """The lowest score, the 5th, 25th, 50th, 75th and 95th percentile, and the highest."""
    edges: tuple[float, ...]
    """The limits of the histogram's bins, ascending."""
    counts: tuple[int, ...]
    """Documents in each bin; the last one has both of its limits."""
    highest: tuple[ScoredDocument, ...]
    """The best first."""
    lowest: tuple[ScoredDocument, ...]
    """The worst first."""
    slowest: tuple[str, float] | None
    """The documents that took the longest time, such as ``document d17``, and seconds for each;
    None where none took a tenth of a second."""
    notes: tuple[str, ...]
    slow: bool = False
    """Whether the scorer's requirements say that it takes long for a document."""

    @property
    def whole(self) -> bool:
        """Whether the sample is the whole pool, so that all counts are exact."""
        return self.documents == self.of

    @property
    def documents_per_second(self) -> float:
        """Documents that one process scores in a second."""
        return self.documents / max(self.seconds, 1e-9)

    def __repr__(self) -> str:
        return text_table(f"ScoredSample of {self.column}", self.lines())

    def lines(self) -> list[str]:
        """Return the result for people: counts, time, a histogram, extremes, notes."""
        whole = self.of / self.documents_per_second
        took = f"{whole / 3600:.2g} hours" if whole > 3600 else f"{whole:.2g} s"
        lines = [
            f"{numbered(self.documents, 'document')} scored in {self.seconds:.3g} s, "
            f"{self.documents_per_second:,.0f} a second"
            + ("" if self.whole else f"; all {self.of:,} take about {took} in one process"),
            "the sample is exact: all documents of the pool"
            if self.whole
            else f"the sample is about {self.asked:,} of {self.of:,} documents, each drawn by a "
            "hash with the same probability, the same ones in every run",
        ]
        each = self.seconds / max(1, self.documents)
        if each > _SLOW_DOCUMENT and not self.slow:
            lines.append(
                f"a document takes {1000 * each:.3g} ms: a class whose `requirements` have "
                "Resources(slow=True) gets small tasks, which are committed one by one "
                "(docs/plugins.md)"
            )
        if self.slowest:
            lines.append(f"slowest: {self.slowest[0]}, {self.slowest[1]:.2g} s each")
        if self.excluded:
            lines.append(
                f"{self.excluded:,} without a score (NaN, None, infinite), which are never taken"
            )
        most = max(self.counts, default=0)
        for low, high, count in zip(self.edges, self.edges[1:], self.counts):
            bar = "#" * round(40 * count / most)
            lines.append(f"{low:12.5g} to {high:12.5g} {count:7,} {bar}".rstrip())
        for title, few in (("highest", self.highest), ("lowest", self.lowest)):
            lines += [f"{title}:"] if few else []
            lines += [f"  {one.score:.6g}  {one.id} ({one.source}): {one.text}" for one in few]
        return lines + list(self.notes)

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock score --json`` prints."""
        own = {key: value for key, value in asdict(self).items() if key not in ("edges", "counts")}
        return {
            **own,
            "whole": self.whole,
            "documents_per_second": self.documents_per_second,
            "histogram": {"edges": list(self.edges), "counts": list(self.counts)},
        }


def score(
    plan: Plan,
    column: str,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
    sample: int = 200,
    extremes: int = 3,
) -> ScoredSample:
    """Score a sample of the documents of a recipe's input files, before any rewriter.

    Args:
        plan: Plan of the recipe.
        column: A scorer of the recipe.
        runner: Makes the corpus and the verdicts; the scorer is fitted and run in this process.
        progress: Called with a line for each event.
        sample: Documents, about; all of a smaller pool.
        extremes: Documents that are shown with the highest and the lowest scores.

    Raises:
        SelectorError: There is no such scorer, or its scores depend on more than the document.
        ScoringError: The scorer raised, or did not return one float for each document.
    """
    if column in plan.unranked:
        budget = plan.recipe.budget.model_copy(update={"rank": column})
        plan = plan.derive(plan.recipe.model_copy(update={"budget": budget}))
    wanted = _scorer(plan, column)
    with Workspace.driving(plan.work) as workspace:
        corpus = make_corpus(plan.corpus, workspace, runner, progress)
        pool = make_pool(plan.clean, corpus, workspace, runner, progress)
        pool.checked()
        here = LocalRunner(1)
        models = Models(
            pool=pool, workspace=workspace, runner=here, seed=plan.recipe.seed, progress=progress
        )
        drawn = sample_documents(pool, sample, plan.recipe.seed, _PURPOSE, runner)
        documents = pa.Table.combine_chunks(drawn).to_batches(max_chunksize=BATCH)
        model = models.fitted(wanted)
        models.load(wanted, model)
        for line in code_notes(f"select.{column}", model.manifest["config"]["identity"], False):
            progress(line)
        with step(f"scoring column {column}", [drawn]) as own:
            own.documents = drawn.num_rows
            found, seconds, slowest = _timed(wanted, documents, models)
    scores = np.concatenate([np.empty(0, np.float32), *found])
    described = _described(column, scores, drawn, pool.kept, seconds, extremes)
    is_slow = wanted.selector.requirements.resources.slow
    return replace(described, slowest=slowest, asked=sample, slow=is_slow)


def _scorer(plan: Plan, name: str) -> Column:
    """Return a copy of a column of the plan that is scored document by document."""
    known = {one.name: one for one in plan.columns}
    if name not in known:
        raise SelectorError(
            key="--column",
            expected="a selector of the recipe",
            got=repr(name),
            fix=did_you_mean(name, known).lstrip("; "),
        )
    found = known[name]
    needs = found.selector.requirements
    of = f" ({needs.quality})" if needs.quality else ""
    depends = {
        f"another column{of}": found.selector.kind == "mean" or needs.quality is not None,
        "the other documents of the pool": found.selector.kind == "set",
        "answers of a language model": needs.answers is not None,
        "models that are trained first": bool(needs.model_ladder or needs.cluster_weights),
    }
    for upon, is_so in depends.items():
        if is_so:
            first = f"score {needs.quality} with this command; or " if needs.quality else ""
            raise SelectorError(
                f"its scores depend on {upon}, so that a sample has none of its own",
                key=f"select.{name}",
                fix=f"{first}run `penstock curate RECIPE --set budget.rank={name}`, which scores "
                "all documents, and look at them by `penstock sample RECIPE --near-cut` and "
                "`penstock why RECIPE ID`, with the same --set",
            )
    check_plug_ins([found], ())
    return replace(found, selector=copy.deepcopy(found.selector))


_FIRST, _CALL_SECONDS = 8, 0.5
"""Documents of the first call, and the seconds that a call should take: for lines of progress."""

_SLOW = 0.1
"""Seconds for a document from which on the slowest is named."""


def _timed(
    column: Column, documents: Sequence[pa.RecordBatch], models: Models
) -> tuple[list[np.ndarray], float, tuple[str, float] | None]:
    """Score in calls of a suitable size, counting; return scores, seconds and the slowest."""
    found, size = [], _FIRST
    whole, worst, slowest = 0.0, _SLOW, None
    for batch in documents:
        at = 0
        while at < len(batch):
            part = batch.slice(at, size)
            start = time.perf_counter()
            found.append(_scores(column, part, models))
            seconds = time.perf_counter() - start
            count_documents(len(part), part.nbytes)
            whole, each = whole + seconds, seconds / len(part)
            if each >= worst:
                first, last = part["id"][0], part["id"][-1]
                name = f"document {first}" if len(part) == 1 else f"documents {first} to {last}"
                worst, slowest = each, (name, each)
            at += len(part)
            size = min(max(1, int(size * min(8.0, _CALL_SECONDS / max(seconds, 1e-9)))), BATCH)
    return found, whole, slowest


def _scores(column: Column, documents: pa.RecordBatch, models: Models) -> np.ndarray:
    key, selector = f"select.{column.name}", column.selector
    ids = documents.column("id")
    assert selector.kind == "scorer"
    asked = selector.requirements.embeddings
    if asked is None:
        returned = call_on_documents(key, "the sample", ids, selector.score, documents)
    else:
        vectors = embed(beginning(documents.column("text")), models.load_encoder(asked.encoder))
        returned = call_plugin(key, "the sample", asked.score, documents, vectors)
    return scores_of(returned, len(documents), key, "the sample", ids)


def _described(
    column: str, scores: np.ndarray, drawn: pa.Table, of: int, seconds: float, extremes: int
) -> ScoredSample:
    finite = np.isfinite(scores)
    own = scores[finite].astype(np.float64)
    notes = []
    if len(own) and (most := float(np.mean(own == np.median(own)))) > MOST:
        notes.append(describe_constant(most, float(np.median(own))))
    if len(scores) and not len(own):
        notes.append("no document has a score, so that none can be taken")
    if infinite := int(np.isinf(scores).sum()):
        noun = numbered(infinite, "document has", "documents have")
        notes.append(f"{noun} an infinite score, which counts as none: return finite float32")
    counts, edges = np.histogram(own, _BINS) if len(own) else (np.empty(0), np.empty(0))
    order = np.flatnonzero(finite)[np.argsort(own, kind="stable")]

    def documents(rows: np.ndarray) -> tuple[ScoredDocument, ...]:
        return tuple(
            ScoredDocument(
                id=str(drawn["id"][row]),
                source=str(drawn["source"][row]),
                score=float(scores[row]),
                text=excerpt(drawn["text"][row].as_py(), 160),
            )
            for row in rows.tolist()
        )

    return ScoredSample(
        column=column,
        documents=len(scores),
        excluded=int(np.count_nonzero(~finite)),
        of=of,
        asked=len(scores),
        seconds=seconds,
        quantiles={f"{q:g}": float(np.quantile(own, q)) for q in _QUANTILES} if len(own) else {},
        edges=tuple(edges.tolist()),
        counts=tuple(int(count) for count in counts),
        highest=documents(order[::-1][:extremes]),
        lowest=documents(order[:extremes]),
        slowest=None,
        notes=tuple(notes),
    )
