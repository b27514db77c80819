"""Corpus to columns: one pass over the text for all scorers that have no column yet.

A scorer is fitted once (the *model*, an artefact of its own) and then gives every document of
every unit a float32, written row-aligned with the unit. Columns are what a cut reads; cutting
again at another budget touches no text.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, canonical, fingerprint
from penstock.errors import PenstockError, ScoringError
from penstock.needs import Needs
from penstock.pipeline.accounting import check_sum
from penstock.pipeline.runner import Runner, in_order
from penstock.pipeline.sample import sample_documents
from penstock.pipeline.units import Unit, iter_documents, units_of
from penstock.selectors.base import Documents, Fitting, Scorer, Target
from penstock.storage import Place, atomic_file

__all__ = ["Column", "make_columns", "read_scores"]

VERSION = 1

_STATE = "state"
"""Directory of a model that belongs to the scorer."""

_FACTS = "facts.json"
"""What the scorer said of its fit, beside its state: there is always one file to a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A scorer that was asked for, and what it is to aim at."""

    name: str
    scorer: Scorer
    target: Sequence[Target] = ()
    target_hashes: Sequence[str] = ()
    """sha256 of the target files, in the recipe's order."""


def make_columns(
    columns: Sequence[Column],
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    seed: int,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Artefact]:
    """A column for each scorer, found or made.

    Raises:
        SelectorError: A scorer cannot be fitted on this sample and target.
        ScoringError: A scorer raised, or returned something other than one float a document.
    """
    finished: dict[str, Artefact] = {}
    drafts: dict[str, Draft] = {}
    for column in columns:
        model = _fitted(column, corpus, workspace, runner, seed, note)
        inputs = {"corpus": corpus.fingerprint, "model": model.fingerprint}
        config = {"selector": column.name}
        found = workspace.find("columns", fingerprint("columns", VERSION, config, inputs))
        if found:
            finished[column.name] = found
        else:
            column.scorer.load(model.local() / _STATE)
            drafts[column.name] = workspace.draft("columns", VERSION, config, inputs)
    if drafts:
        units = units_of(corpus)
        missing = [
            (unit, [name for name, draft in drafts.items() if draft.done(unit.name) is None])
            for unit in units
        ]
        left = [(unit, names) for unit, names in missing if names]
        state = [
            (column.name, column.scorer, drafts[column.name].path)
            for column in columns
            if column.name in drafts
        ]
        needs = _needs_of([column for column in columns if column.name in drafts])
        for index, records in runner.run(_score_unit, left, state, _as_it_is, needs):
            unit, _ = left[index]
            for name, record in records.items():
                drafts[name].record(unit.name, [record])
            note(f"scored {unit.documents:,} documents of {unit.name}")
        for name, draft in drafts.items():
            done = [draft.done(unit.name) or () for unit in units]
            counts = {
                key: sum(record.facts[key] for records in done for record in records)
                for key in ("documents", "excluded")
            }
            scored = counts["documents"] - counts["excluded"]
            check_sum(
                f"{draft.path}",
                ("documents kept in the corpus", corpus.facts["documents"]["kept"]),
                {"scored": scored, "excluded": counts["excluded"]},
            )
            finished[name] = draft.publish([unit.name for unit in units], counts)
    return {column.name: finished[column.name] for column in columns}


def read_scores(columns: Place, record: FileRecord) -> np.ndarray:
    """A unit's scores, after comparing the checksum: (n,) float32, NaN where excluded."""
    path = Artefact(columns, {}, ()).verified(record)
    return pq.read_table(path, columns=["score"]).column("score").to_numpy()


def _fitted(
    column: Column,
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    seed: int,
    note: Callable[[str], None],
) -> Artefact:
    """The model of a scorer: its fitted state as data files, and the facts of the fit."""
    scorer = column.scorer
    config = {"identity": dict(scorer.identity()), "version": scorer.version, "seed": seed}
    inputs = {"corpus": corpus.fingerprint, "target": list(column.target_hashes)}

    def fit(draft: Draft) -> list[FileRecord]:
        # A copy is fitted: workers get what the model says, not what this process came to hold.
        fitted = copy.deepcopy(scorer)
        fitting = Fitting(
            # Not by the column's name: a model serves every column of the same identity.
            sample=lambda count: sample_documents(corpus, count, seed, "fit"),
            pool_size=int(corpus.facts["documents"]["kept"]),
            target=column.target,
            seed=seed,
            spread=in_order(runner),
            note=lambda line: note(f"{column.name}: {line}"),
        )
        state = draft.staging() / _STATE
        shutil.rmtree(state, ignore_errors=True)  # what a killed attempt may have left
        state.mkdir()
        try:
            facts = fitted.fit(fitting)
            fitted.save(state)
        except PenstockError as error:  # begins with the parameter at fault
            raise type(error)(f"select.{column.name}.{error}") from error.__cause__
        except Exception as error:  # a selector may be anyone's code
            raise ScoringError(
                f"select.{column.name}: fitting raised {type(error).__name__}: {error}"
            ) from error
        names = sorted(
            f"{_STATE}/{path.relative_to(state).as_posix()}"
            for path in state.rglob("*")
            if path.is_file()
        )
        with atomic_file(draft.path / _FACTS) as sink:
            sink.write(canonical(dict(facts)))
        said = FileRecord(path=_FACTS, bytes=sink.bytes, sha256=sink.sha256, facts=dict(facts))
        return [said, *draft.adopt(names)]

    def work(draft: Draft) -> Artefact:
        if draft.done("model") is None:
            draft.record("model", fit(draft))
        said, *_ = draft.done("model") or ()
        return draft.publish(["model"], said.facts)

    return workspace.make("model", VERSION, config, inputs, work)


def _needs_of(columns: Sequence[Column]) -> Needs:
    """What one worker must have that runs all of these scorers."""
    asked = [
        replace(needs, by=f"select.{column.name}")
        for column in columns
        if (needs := getattr(column.scorer, "needs", None)) is not None
    ]
    return Needs(
        cpus=max([1, *(needs.cpus for needs in asked)]),
        gpus=max([0, *(needs.gpus for needs in asked)]),
        memory=sum(needs.memory or 0 for needs in asked) or None,
        by=", ".join(needs.by for needs in asked) or "the stage",
    )


def _as_it_is(state: Any) -> Any:
    """Setup of the scoring pass: the fitted scorers, kept loaded by each worker."""
    return state


def _score_unit(
    item: tuple[Unit, Sequence[str]], state: Sequence[tuple[str, Scorer, Place]]
) -> Mapping[str, FileRecord]:
    """One unit under every scorer that has not scored it: its text is read once."""
    unit, names = item
    wanted = [column for column in state if column[0] in names]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for documents in iter_documents(unit):
        for name, scorer, _ in wanted:
            parts[name].append(_score(name, scorer, documents, unit))
    records: dict[str, FileRecord] = {}
    for name, _, directory in wanted:
        scores = np.concatenate(parts[name])
        file = f"{unit.name}.parquet"
        with atomic_file(directory / file) as sink:
            pq.write_table(
                pa.table({"score": pa.array(scores, pa.float32(), from_pandas=False)}),
                sink,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
            )
        records[name] = FileRecord.of(
            file, sink, documents=len(scores), excluded=int(np.isnan(scores).sum())
        )
    return records


def _score(name: str, scorer: Scorer, documents: Documents, unit: Unit) -> np.ndarray:
    """One batch: (n,) float32, where whatever is not finite is NaN, that is, never taken."""
    ids = documents.column("id")
    place = f"select.{name}: documents {ids[0]} to {ids[-1]} of {unit.name}"
    try:
        returned = scorer.score(documents)
    except PenstockError as error:
        raise type(error)(f"{place}: {error}") from None
    except Exception as error:  # a selector may be anyone's code
        raise ScoringError(f"{place}: the scorer raised {type(error).__name__}: {error}") from error
    try:
        scores = np.asarray(returned, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ScoringError(f"{place}: expected one float for each document: {error}") from None
    if scores.shape != (len(documents),):
        raise ScoringError(
            f"{place}: expected {len(documents)} scores, one for each document, got an array of "
            f"shape {scores.shape}"
        )
    return np.where(np.isfinite(scores), scores, np.float32(np.nan))
