"""The answers stage: prompts of a rewriter to answers of a language model, as an artefact.

An answer is expensive and differs each time, so it is requested once: the rewritten texts are a
function of this artefact. A worker requests a unit's answers, with a bounded number of requests
under way, and writes them into a journal as they arrive, so that a killed run requests nothing
twice. An incomplete line at the end of a file of an earlier attempt is ignored; see
:class:`penstock.storage.LineLog`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.columnar import OwnParquet
from penstock.display import logger_of
from penstock.hashing import hash_documents, mix, uniform
from penstock.pipeline.checking import call_plugin, check_sum
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, iter_documents
from penstock.plugin_code import PluginCode, code_of
from penstock.selectors.adapter import class_of
from penstock.selectors.rewriting.base import (
    Answer,
    Completions,
    Document,
    Editor,
    Prompter,
    Request,
    Rewriter,
    request_seed,
)
from penstock.storage import AnyPath, LineLog, atomic_file, sizes_under

__all__ = [
    "AnswerJournal",
    "Questions",
    "RequestKey",
    "Rewrite",
    "answers_of",
    "draw",
    "identity_of",
    "journal_bytes",
    "make_answers",
]

_JOURNAL = "journal"

_log = logger_of("penstock.rewriting")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Identifies a request of a unit, to which an answer belongs."""

    row: int
    """Row of the document in the corpus's unit."""
    index: int
    """Number of the request among those of its document."""
    digest: str
    """Digest of the request."""


class AnswerJournal(LineLog):
    """The journal of one unit: reads the answers of earlier attempts, and appends new ones.

    Args:
        directory: Directory of the draft of the answers.
        unit: Name of the unit.
    """

    def __init__(self, directory: AnyPath, unit: str) -> None:
        super().__init__(directory / _JOURNAL / unit)
        self.answers: dict[RequestKey, Answer] = {}
        """All answers, those of earlier attempts included."""
        for content in self.read():
            for key, answer in _entries(content):
                self.answers.setdefault(key, answer)

    def append(self, key: RequestKey, answer: Answer) -> None:
        self.answers[key] = answer
        content = json.dumps([asdict(key), asdict(answer)]).encode()
        self.add(b"%08x %s\n" % (zlib.crc32(content), content))


def journal_bytes(directory: AnyPath) -> int:
    """Add up the sizes of the journals in a draft of answers."""
    return sum(sizes_under(directory / _JOURNAL).values())


def _entries(content: bytes) -> Iterator[tuple[RequestKey, Answer]]:
    """Read the lines of a file up to the first incomplete one."""
    for line in content.split(b"\n")[:-1]:
        crc, _, body = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(body):
            return
        try:
            key, answer = json.loads(body)
            yield RequestKey(**key), Answer.of(**answer)
        except (ValueError, TypeError, RecursionError):
            # An earlier version wrote what a server claimed. The request is sent again.
            _log.warning("an answer in the journal cannot be read: it is requested again")


_VERSION = 2

REPORT_SECONDS = 60.0

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

_PROBABILITIES = pa.field("probabilities", pa.list_(pa.float64()))
"""A further column, where some answer has probabilities of choices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Prompts for the documents of a pool, with the language model that answers them."""

    name: str
    """Key of the rewriter or selector."""
    section: str
    """The recipe's section: ``rewrite`` or ``select``."""
    prompter: Prompter
    completions: Completions
    share: float
    """Share of the documents that are asked about, drawn by hash of id and text."""
    seed: int
    code: PluginCode = field(init=False, repr=False, compare=False)
    """The prompter's code, which must be the same in every worker."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", code_of(class_of(self.prompter)))

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    def identity(self) -> dict[str, Any]:
        """Identify what the answers depend on besides the documents and the model."""
        return identity_of(self.prompter, self.code, self.share, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """A rewriter of the recipe, with the language model that answers its prompts."""

    name: str
    """Key of the rewriter under ``rewrite``."""
    rewriter: Rewriter
    completions: Completions
    share: float
    """Share of the documents that are rewritten, drawn by hash of id and text."""
    seed: int
    code: PluginCode = field(init=False, repr=False, compare=False)
    """The rewriter's code, which must be the same in every worker."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", code_of(class_of(self.rewriter)))

    @property
    def questions(self) -> Questions:
        return Questions(
            name=self.name,
            section="rewrite",
            prompter=self.rewriter,
            completions=self.completions,
            share=self.share,
            seed=self.seed,
        )

    def identity(self) -> dict[str, Any]:
        """Identify what the texts depend on besides the documents and the answers."""
        return identity_of(self.rewriter, self.code, self.share, self.seed)


def identity_of(
    rewriter: Prompter | Editor, code: PluginCode, share: float, seed: int
) -> dict[str, Any]:
    """Identify a rewriter or selector with what it is applied to, for a fingerprint."""
    return {
        "rewriter": class_of(rewriter).__qualname__,
        **({"code": code.identity()} if code.roots else {}),
        "identity": dict(rewriter.identity()),
        "share": share,
        "seed": seed,
    }


def make_answers(
    questions: Questions,
    pool: Pool,
    units: Sequence[Unit],
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None],
) -> Artefact:
    """Find or request the answers for the documents of some units of a pool.

    A request of the same document that was answered for another pool of the corpus, as with other
    rules or another share, is not sent again.

    Raises:
        CompletionError: The model cannot be reached; the answers so far are kept.
    """
    inputs = {
        "corpus": pool.corpus.fingerprint,
        "pool": pool.fingerprint,
        "model": dict(questions.completions.identity()),
    }

    def work(draft: Draft) -> Artefact:
        earlier = _earlier_answers(workspace, questions, inputs)
        by_name = {unit.name: (unit, earlier.get(unit.name, [])) for unit in units}
        left = sum(draft.done(name) is None for name in by_name)
        worker = replace(
            questions, completions=questions.completions.split(min(runner.slots, max(1, left)))
        )
        with _reported(questions.name, draft.path, progress):
            records = draft.fill(
                runner.run,
                _request_answers,
                by_name,
                (worker, draft.path),
                lambda item, files: progress(
                    f"{questions.name}: {files[0].facts['requests']:,} answers for {item[0].name}"
                ),
                keep_state=True,
                needs=questions.completions.requirements.resources,
            )
        return draft.publish(
            by_name,
            {
                key: sum(record.facts[key] for record in records)
                for key in ("documents", "requests", "errors", "prompt_tokens", "completion_tokens")
            },
        )

    return workspace.make("answers", _VERSION, questions.identity(), inputs, work)


def answers_of(
    answers: AnyPath, record: FileRecord
) -> Iterator[tuple[int, list[tuple[str, Answer]]]]:
    """Read a unit's answers: the row of each document with requests, and (digest, answer)s."""
    with OwnParquet(record.verified(answers)) as file:
        at = -1
        found: list[tuple[str, Answer]] = []
        for batch in file.iter_batches(1024, use_threads=False):
            for line in batch.to_pylist():
                row, digest = line.pop("row"), line.pop("digest")
                del line["index"]
                line["probabilities"] = tuple(line.get("probabilities") or ())
                if row != at and found:
                    yield at, found
                    found = []
                at = row
                found.append((digest, Answer(**line)))
        if found:
            yield at, found


def draw(documents: pa.RecordBatch, share: float, seed: int) -> np.ndarray:
    """Draw the documents to rewrite: (n,) bool; a larger share contains a smaller one."""
    draws = uniform(hash_documents(documents, mix(seed, "rewrite")))
    return np.asarray(draws < share)


@contextmanager
def _reported(name: str, directory: AnyPath, progress: Callable[[str], None]) -> Iterator[None]:
    """Report once a minute how much was answered: a unit may take hours."""
    ended = threading.Event()

    def report() -> None:
        before = journal_bytes(directory)
        if before:
            progress(f"{name}: {before / 2**20:,.2f} MiB of answers are there already")
        while not ended.wait(REPORT_SECONDS):
            now = journal_bytes(directory)
            if now != before:
                progress(f"{name}: {now / 2**20:,.2f} MiB of answers so far")
            before = now

    thread = threading.Thread(target=report, name="answers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


_UnitAnswers = tuple[AnyPath, FileRecord]
"""An artefact of answers, and its file of one unit."""


def _earlier_answers(
    workspace: Workspace, questions: Questions, inputs: Mapping[str, Any]
) -> dict[str, list[_UnitAnswers]]:
    """List files of answers of the same model to documents of the same corpus, by unit."""
    found: dict[str, list[_UnitAnswers]] = {}
    for answers in workspace.finished("answers"):
        theirs = answers.manifest["inputs"]
        same = all(theirs.get(name) == inputs[name] for name in ("corpus", "model"))
        if same and answers.manifest["config"]["seed"] == questions.seed:
            for record in answers.files:
                unit = record.path.removeprefix("answers-").rpartition("-")[0]
                found.setdefault(unit, []).append((answers.path, record))
    return found


def _known_answers(files: Sequence[_UnitAnswers]) -> dict[RequestKey, Answer]:
    """Read the answers of earlier artefacts to one unit, without those that are errors."""
    return {
        RequestKey(row, index, digest): answer
        for path, record in files
        for row, answers in answers_of(path, record)
        for index, (digest, answer) in enumerate(answers)
        if not answer.error
    }


def _request_answers(
    item: tuple[Unit, Sequence[_UnitAnswers]], state: tuple[Questions, AnyPath]
) -> FileRecord:
    unit, earlier = item
    questions, directory = state
    known = _known_answers(earlier)
    wanted: list[RequestKey] = []
    documents = 0

    def missing() -> Iterator[tuple[RequestKey, Request, int]]:
        nonlocal documents
        for row, document in _documents(unit, questions):
            documents += 1
            at = f"document {document.id} of {unit.name}"
            requests = call_plugin(questions.key, at, questions.prompter.requests, document)
            for index, request in enumerate(requests):
                wanted.append(request_key := RequestKey(row, index, request.digest))
                if request_key in known:
                    journal.answers.setdefault(request_key, known[request_key])
                if request_key not in journal.answers:
                    yield request_key, request, request_seed(questions.seed, document.id, index)

    with AnswerJournal(directory, unit.name) as journal:
        for key, answer in questions.completions.answers(missing()):
            journal.append(key, answer)
        found = [journal.answers.get(key) for key in wanted]
    answered = [answer for answer in found if answer is not None]
    check_sum(unit.label, ("requests", len(wanted)), {"answered": len(answered)})
    return _write_answers(directory, unit, wanted, answered, documents)


def _documents(unit: Unit, questions: Questions) -> Iterator[tuple[int, Document]]:
    start, numbers = 0, unit.numbers()
    for batch in iter_documents(unit, ("id", "text", "hash")):
        ids, texts = batch.column("id"), batch.column("text")
        for row in np.flatnonzero(draw(batch, questions.share, questions.seed)).tolist():
            document = Document(id=ids[row].as_py(), text=texts[row].as_py())
            yield int(numbers[start + row]), document
        start += len(batch)


def _write_answers(
    directory: AnyPath, unit: Unit, wanted: list[RequestKey], answers: list[Answer], documents: int
) -> FileRecord:
    """Write a unit's answers under a name that depends on them: attempts may get different ones."""
    schema = _SCHEMA
    if any(answer.probabilities for answer in answers):
        schema = schema.append(_PROBABILITIES)
    columns: Mapping[str, list[Any]] = {
        **{name: [getattr(key, name) for key in wanted] for name in ("row", "index", "digest")},
        **{name: [getattr(answer, name) for answer in answers] for name in schema.names[3:]},
    }
    table = pa.table(columns, schema)
    content = hashlib.sha256()
    for key, answer in zip(wanted, answers):
        # Spelt out, so that names do not depend on the name of a class.
        key_text = f"Asked(row={key.row}, index={key.index}, digest={key.digest!r})"
        content.update(f"({key_text}, {answer!r})".encode())
        content.update(repr(answer.probabilities).encode() if answer.probabilities else b"")
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
