"""Prompts to answers: what a language model said of each document, an artefact of its own.

An answer is expensive and never the same twice, so it is asked for once: the texts that are made
of answers are a function of this artefact. A worker asks for a unit's answers, with as many
requests under way as it was given, and writes them into a journal as they come.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import PenstockError, ScoringError
from penstock.hashing import hash_ids, mix, uniform
from penstock.pipeline.accounting import check_sum
from penstock.pipeline.rewriting.journal import Asked, Journal, journalled
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, iter_documents
from penstock.resources import Resources
from penstock.selectors.rewriting.base import (
    Answer,
    Completions,
    Document,
    Request,
    Rewriter,
    request_seed,
)
from penstock.storage import AnyPath, atomic_file

__all__ = ["Rewrite", "answers_of", "drawn", "make_answers", "named"]

_VERSION = 1

SECONDS_BETWEEN_NOTES = 60.0

_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("finish", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("completion_tokens", pa.int64(), nullable=False),
    ]
)
"""An answer a row, in the order of documents and of their requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A rewriter that was asked for, and who answers it."""

    name: str
    """The recipe's key."""
    rewriter: Rewriter
    completions: Completions
    share: float
    """Of the documents that are rewritten, drawn by hash of id."""
    seed: int

    def identity(self) -> dict[str, Any]:
        """What the answers depend on besides the documents and the model."""
        return {
            "rewriter": type(self.rewriter).__qualname__,
            "identity": dict(self.rewriter.identity()),
            "share": self.share,
            "seed": self.seed,
        }


def make_answers(
    rewrite: Rewrite,
    corpus: Artefact,
    units: Sequence[Unit],
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None],
) -> Artefact:
    """The answers for the documents of these units of a corpus, found or made.

    Raises:
        CompletionError: The model cannot be asked; what it had answered is kept.
    """
    inputs = {"corpus": corpus.fingerprint, "model": dict(rewrite.completions.identity())}

    def work(draft: Draft) -> Artefact:
        left = [unit for unit in units if draft.done(unit.name) is None]
        state = (rewrite, draft.path, min(runner.slots, max(1, len(left))))
        with _progress(rewrite.name, draft.path, progress):
            for index, record in runner.run(_ask, left, state, _ready, _needs_of(rewrite)):
                draft.record(left[index].name, [record])
                count = record.facts["requests"]
                progress(f"{rewrite.name}: {count:,} answers for {left[index].name}")
        done = [record for unit in units for record in draft.done(unit.name) or ()]
        facts = {
            key: sum(record.facts[key] for record in done)
            for key in ("documents", "requests", "errors", "prompt_tokens", "completion_tokens")
        }
        return draft.publish([unit.name for unit in units], facts)

    return workspace.make("answers", _VERSION, rewrite.identity(), inputs, work)


def answers_of(
    answers: AnyPath, record: FileRecord
) -> Iterator[tuple[int, list[tuple[str, Answer]]]]:
    """A unit's answers: the row of each document that was asked about, and (digest, answer)."""
    with pq.ParquetFile(Artefact(answers, {}, ()).verified(record)) as file:
        at = -1
        found: list[tuple[str, Answer]] = []
        for batch in file.iter_batches(1024, use_threads=False):
            for line in batch.to_pylist():
                row, digest = line.pop("row"), line.pop("digest")
                del line["index"]
                if row != at and found:
                    yield at, found
                    found = []
                at = row
                found.append((digest, Answer(**line)))
        if found:
            yield at, found


def drawn(ids: pa.Array, rewrite: Rewrite) -> np.ndarray:
    """(n,) bool: which documents are rewritten; a larger share adds to a smaller one's."""
    return np.asarray(uniform(hash_ids(ids, mix(rewrite.seed, "rewrite"))) < rewrite.share)


def named(place: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a rewriter, which may be anyone's code; errors begin with ``place``."""
    try:
        return function(*arguments)
    except PenstockError as error:
        raise type(error)(f"{place}: {error}") from None
    except Exception as error:
        raise ScoringError(
            f"{place}: the rewriter raised {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _progress(name: str, directory: AnyPath, progress: Callable[[str], None]) -> Iterator[None]:
    """Tell now and then how much was answered: a unit may take hours."""
    ended = threading.Event()

    def tell() -> None:
        before = journalled(directory)
        if before:
            progress(f"{name}: {before / 2**20:,.2f} MiB of answers are there already")
        while not ended.wait(SECONDS_BETWEEN_NOTES):
            now = journalled(directory)
            if now != before:
                progress(f"{name}: {now / 2**20:,.2f} MiB of answers so far")
            before = now

    thread = threading.Thread(target=tell, name="answers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _needs_of(rewrite: Rewrite) -> Resources | None:
    return getattr(rewrite.completions, "needs", None)


def _ready(state: tuple[Rewrite, AnyPath, int]) -> tuple[Rewrite, AnyPath]:
    """Setup: a worker's part of the requests that may be under way, and its own model."""
    rewrite, directory, workers = state
    completions = rewrite.completions
    limit = getattr(completions, "concurrency", None)
    if limit is not None:
        completions = copy.copy(completions)
        completions.concurrency = max(1, limit // workers)  # type: ignore[attr-defined]
    return Rewrite(
        name=rewrite.name,
        rewriter=rewrite.rewriter,
        completions=completions,
        share=rewrite.share,
        seed=rewrite.seed,
    ), directory


def _ask(unit: Unit, state: tuple[Rewrite, AnyPath]) -> FileRecord:
    rewrite, directory = state
    wanted: list[Asked] = []
    documents = 0

    def missing() -> Iterator[tuple[Asked, Request, int]]:
        nonlocal documents
        for row, document in _documents(unit, rewrite):
            documents += 1
            place = f"rewrite.{rewrite.name}: document {document.id} of {unit.name}"
            for index, request in enumerate(named(place, rewrite.rewriter.requests, document)):
                asked = Asked(row, index, request.digest)
                wanted.append(asked)
                if asked not in journal.answers:
                    yield asked, request, request_seed(rewrite.seed, document.id, index)

    with Journal(directory, unit.name) as journal:
        for asked, answer in rewrite.completions.answers(missing()):
            journal.add(asked, answer)
        found = [journal.answers.get(asked) for asked in wanted]
    answered = [answer for answer in found if answer is not None]
    check_sum(unit.label, ("requests", len(wanted)), {"answered": len(answered)})
    return _written(directory, unit, wanted, answered, documents)


def _documents(unit: Unit, rewrite: Rewrite) -> Iterator[tuple[int, Document]]:
    start = 0
    for batch in iter_documents(unit, ("id", "text")):
        ids, texts = batch.column("id"), batch.column("text")
        for row in np.flatnonzero(drawn(ids, rewrite)).tolist():
            yield start + row, Document(id=ids[row].as_py(), text=texts[row].as_py())
        start += len(batch)


def _written(
    directory: AnyPath, unit: Unit, wanted: list[Asked], answers: list[Answer], documents: int
) -> FileRecord:
    """Under a name of their content: two attempts at a unit may have got different answers."""
    columns: Mapping[str, list[Any]] = {
        **{key: [getattr(asked, key) for asked in wanted] for key in ("row", "index", "digest")},
        **{name: [getattr(answer, name) for answer in answers] for name in _SCHEMA.names[3:]},
    }
    table = pa.table(columns, _SCHEMA)
    content = hashlib.sha256()
    for asked, answer in zip(wanted, answers):
        content.update(repr((asked, answer)).encode())
    name = f"answers-{unit.name}-{content.hexdigest()[:12]}.parquet"
    with atomic_file(directory / name) as sink:
        pq.write_table(table, sink, compression="zstd", row_group_size=4096)
    return FileRecord.of(
        name,
        sink,
        documents=documents,
        requests=len(wanted),
        errors=sum(bool(answer.error) for answer in answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
    )
