"""Rewriting by a real server: documents added, replaced and rejected; no request is sent twice."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from penstock.artefact import Workspace
from penstock.errors import CompletionError, InputError, ScoringError, SelectorError
from penstock.jobs.curate import Curated, curate, inspect
from penstock.jobs.report.page import write_report
from penstock.jobs.why import fates_of
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.rewriting import answers as answers_module
from penstock.pipeline.rewriting.answers import AnswerJournal, RequestKey, Rewrite
from penstock.pipeline.rewriting.documents import rewrite_corpus
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.units import generations, iter_documents
from penstock.recipe import Recipe
from penstock.recipe_file import load_recipe, parse_recipe
from penstock.rules import Expression
from penstock.selectors.registry import build_rewriter
from penstock.selectors.rewriting import Answer, Document, Endpoint, Request, Rewritten, Sampling
from penstock.selectors.rewriting import completions as completions_module
from penstock.storage import AnyPath, as_path
from tests.chat import Handler, Server, chat_server
from tests.pools import UNIT_BYTES, documents, recipe_of, write_jsonl

ONE = LocalRunner(1)
SAMPLING = Sampling(temperature=0.5, top_p=0.9, max_tokens=20)


class Echo:
    """Asks for each document's first words, twice; an answer with a 7 in it is not used."""

    summary = "echoes"
    paper = "none"
    version = 1
    replaces = False

    def identity(self) -> Mapping[str, Any]:
        return {"name": type(self).__name__}

    def requests(self, document: Document) -> Sequence[Request]:
        if "wheel" not in document.text:
            return ()
        words = " ".join(document.text.split()[:4])
        return [Request(user=f"{kind} {words}", sampling=SAMPLING) for kind in ("one", "two")]

    def assemble(self, document: Document, answers: Sequence[Answer]) -> Rewritten:
        if not answers:
            return Rewritten(rejected=("no wheel",))
        good = [answer.text for answer in answers if "7" not in answer.text]
        return Rewritten(texts=tuple(good), rejected=("seven",) * (len(answers) - len(good)))


class Clean(Echo):
    """Replaces a document by its answer, drops it for a 7, and leaves it without a wheel."""

    replaces = True

    def assemble(self, document: Document, answers: Sequence[Answer]) -> Rewritten:
        if not answers:
            return Rewritten(texts=(document.text,), rejected=("no wheel",))
        if "7" in answers[0].text:
            return Rewritten(rejected=("seven",))
        return Rewritten(texts=(answers[0].text,))


@pytest.fixture
def server() -> Iterator[Server]:
    with chat_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions_module, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def corpus(tmp_path: Path, space: Workspace) -> Pool:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(120, seed=4))
    made = make_corpus(CorpusSettings.of(recipe_of(tmp_path, 1000), UNIT_BYTES), space, ONE)
    return make_pool(ALL, made, space, ONE)


def rewritten(
    rewrite: Rewrite, pool: Pool, space: Workspace, runner: Runner, *progress: Any
) -> Pool:
    """Return the pool of all documents of the corpus that a rewriter makes."""
    return make_pool(ALL, rewrite_corpus(rewrite, pool, space, runner, *progress), space, runner)


ALL = CleanSettings(exact=False)
"""Copies stay: the rewriters of these tests make some."""


def rewrite(rewriter: Any, server: Server, name: str = "echo", **given: Any) -> Rewrite:
    share, seed = given.pop("share", 1.0), given.pop("seed", 3)
    by = Endpoint(url=server.url, model="small", **{"retries": 1, **given})
    return Rewrite(name=name, rewriter=rewriter, completions=by, share=share, seed=seed)


def all_of(corpus: Pool) -> list[dict[str, Any]]:
    columns = ("id", "text", "source", "parent")
    return [
        row
        for unit in corpus.units
        for batch in iter_documents(unit, columns)
        for row in batch.to_pylist()
    ]


def test_added_documents_stand_beside_their_parents(
    corpus: Pool, space: Workspace, server: Server
) -> None:
    notes: list[str] = []
    made = rewritten(rewrite(Echo(), server), corpus, space, ONE, notes.append)
    before = all_of(corpus)
    whole = all_of(made)
    assert whole[: len(before)] == before, "the corpus stays as it is"
    assert {unit.corpus for unit in made.units} == {corpus.corpus.path, made.corpus.path}
    assert [unit.number for unit in made.units] == [*range(len(made.units))]
    assert len({unit.name for unit in made.units}) == len(made.units)

    expected = []
    rejected: collections.Counter[str] = collections.Counter()
    for row in before:
        if "wheel" not in row["text"]:
            rejected["no wheel"] += 1
            continue
        words = " ".join(row["text"].split()[:4])
        texts = [f"{kind} {words}".upper() for kind in ("one", "two")]
        good = [text for text in texts if "7" not in text]
        rejected["seven"] += len(texts) - len(good)
        expected += [
            {"id": f"{row['id']}+echo.{n}", "text": text, "source": "echo", "parent": row["id"]}
            for n, text in enumerate(good)
        ]
    assert whole[len(before) :] == expected
    assert 0 < len(expected) < 2 * len(before)
    assert min(rejected.values()) > 0

    facts = made.corpus.facts
    assert (
        facts["documents"]
        == made.documents
        == {
            **corpus.documents,
            "added": len(expected),
            "kept": len(whole),
        }
    )
    assert facts["by_source"]["echo"]["documents"] == len(expected)
    asked = sum("wheel" in row["text"] for row in before)
    assert facts["rewrites"]["echo"] == {
        "rewriter": "Echo",
        "documents": len(before),
        "accepted": len(expected),
        "requests": 2 * asked,
        "prompt_tokens": 14 * asked,
        "completion_tokens": 6 * asked,
        "rejected": dict(rejected),
    }
    reasons = [
        row
        for record in made.corpus.named("rejected-")
        for row in pq.read_table(made.corpus.verified(record)).to_pylist()
    ]
    assert collections.Counter(row["reason"] for row in reasons) == rejected
    assert len(server.prompts()) == 2 * asked
    assert (
        rewritten(rewrite(Echo(), server), corpus, space, ONE).corpus.digest == made.corpus.digest
    )
    assert len(server.prompts()) == 2 * asked, "what is made is not made again"


def test_a_replacing_rewriter_keeps_rows_and_accounts_for_dropped_documents(
    corpus: Pool, space: Workspace, server: Server
) -> None:
    made = rewritten(rewrite(Clean(), server, "clean"), corpus, space, ONE)
    expected, changed, gone = [], 0, []
    for row in all_of(corpus):
        answer = f"one {' '.join(row['text'].split()[:4])}".upper()
        if "wheel" not in row["text"]:
            expected.append(row)
        elif "7" in answer:
            gone.append(row["id"])
        else:
            changed += 1
            expected.append({**row, "text": answer, "parent": row["id"]})
    assert all_of(made) == expected
    assert gone and changed
    assert made.documents == {
        **corpus.documents,
        "kept": len(expected),
        "dropped": len(gone),
        "dropped_by": {"clean: seven": len(gone)},
    }
    assert made.corpus.facts["rewrites"]["clean"]["changed"] == changed
    assert {unit.corpus for unit in made.units} == {made.corpus.path}
    names = [
        row["id"]
        for record in made.corpus.named("dropped-")
        for row in pq.read_table(made.corpus.verified(record)).to_pylist()
    ]
    assert sorted(names) == sorted(gone)


def test_one_after_another(corpus: Pool, space: Workspace, server: Server) -> None:
    """An adding rewriter gets cleaned documents, not added ones; a replacing one gets all."""
    cleaned = rewritten(rewrite(Clean(), server, "clean"), corpus, space, ONE)
    first = rewritten(rewrite(Echo(), server, "first"), cleaned, space, ONE)
    second = rewritten(rewrite(Echo(), server, "second"), first, space, ONE)
    assert generations(second.corpus) == [p.corpus for p in (second, first, cleaned, corpus)]
    texts = [row for row in all_of(second) if row["source"] in ("first", "second")]
    half = len(texts) // 2
    assert [row["text"] for row in texts[:half]] == [row["text"] for row in texts[half:]]
    assert second.corpus.facts["rewrites"].keys() == {"clean", "first", "second"}

    last = rewritten(rewrite(Clean(), server, "last"), second, space, ONE)
    assert last.corpus.facts["rewrites"]["last"]["documents"] == second.kept
    assert {unit.corpus for unit in last.units} == {last.corpus.path}
    third = rewritten(rewrite(Echo(), server, "third"), last, space, ONE)
    own = cleaned.kept - third.corpus.facts["rewrites"]["third"]["documents"]
    assert 0 <= own < 20, "what `last` dropped, and what others had added is still left out"


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_share_is_drawn_by_hash(
    corpus: Pool, space: Workspace, server: Server, share: float
) -> None:
    made = rewritten(rewrite(Echo(), server, share=share), corpus, space, ONE)
    drawn = made.corpus.facts["rewrites"]["echo"]["documents"]
    assert abs(drawn - 120 * share) < 15
    parents = {row["parent"] for row in all_of(made) if row["parent"]}
    whole = rewritten(rewrite(Echo(), server, share=0.9), corpus, space, ONE)
    assert parents < {row["parent"] for row in all_of(whole)}, "a larger share adds to a smaller"


def test_what_is_counted_of_other_documents_is_not_counted_again(
    corpus: Pool, space: Workspace, server: Server
) -> None:
    """The texts that a rewriter added have a column beside that of the texts it was given."""
    words = CleanSettings(where=Expression.of("words > 3"), exact=False)
    given = make_pool(words, corpus.corpus, space, ONE)
    [first] = space.finished("statistics")
    assert first.facts["documents"] == corpus.kept
    added = rewrite_corpus(rewrite(Echo(), server), given, space, ONE)
    judged = make_pool(words, added, space, ONE)
    [second] = [made for made in space.finished("statistics") if made.path != first.path]
    assert second.facts["documents"] == added.facts["documents"]["added"] > 0
    assert {unit.name for unit in judged.units} > {unit.name for unit in given.units}


def test_other_rules_and_another_share_pay_no_answer_again(
    corpus: Pool, space: Workspace, server: Server, tmp_path: Path
) -> None:
    few, many = (
        make_pool(CleanSettings(where=Expression.of(where), exact=False), corpus.corpus, space, ONE)
        for where in ("words > 40", "words > 5")
    )
    assert 10 < few.kept < many.kept < corpus.kept
    rewritten(rewrite(Echo(), server), few, space, ONE)
    first = server.prompts()
    made = rewritten(rewrite(Echo(), server), many, space, ONE)
    second = server.prompts()[len(first) :]
    assert second and not set(first) & set(second)
    fresh = Workspace(tmp_path / "fresh")
    alone = rewritten(
        rewrite(Echo(), server),
        make_pool(
            CleanSettings(where=Expression.of("words > 5"), exact=False),
            make_corpus(CorpusSettings.of(recipe_of(tmp_path, 1000), UNIT_BYTES), fresh, ONE),
            fresh,
            ONE,
        ),
        fresh,
        ONE,
    )
    assert all_of(alone) == all_of(made), "what was answered before is the same"
    asked = len(server.prompts())
    rewritten(rewrite(Echo(), server, share=0.5), many, space, ONE)
    assert len(server.prompts()) == asked
    rewritten(rewrite(Echo(), server, seed=4), few, space, ONE)
    assert len(server.prompts()) == asked + len(first), "another seed asks for other answers"


@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_bytes_in_whatever_order_answers_come(
    corpus: Pool, space: Workspace, server: Server, tmp_path: Path, workers: int
) -> None:
    alone = rewritten(rewrite(Echo(), server), corpus, space, ONE)
    server.slowness, server.most = 0.003, 0  # the run above may have 64 at once
    other = Workspace(tmp_path / "other")
    again = make_corpus(CorpusSettings.of(recipe_of(tmp_path, 1000), UNIT_BYTES), other, ONE)
    pool = make_pool(ALL, again, other, ONE)
    with closing(LocalRunner(workers)) as runner:
        made = rewritten(rewrite(Echo(), server, concurrency=9), pool, other, runner)
    assert made.corpus.digest == alone.corpus.digest
    assert server.most < 20, "the limit is shared out; an answered request counts a little longer"


def test_an_outage_is_an_error_and_no_answer_is_lost(
    corpus: Pool, space: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handler: Handler) -> None:
        handler.send(503, {"error": "down"})

    asked = sum(2 for row in all_of(corpus) if "wheel" in row["text"])
    seen = asked // 2

    class Down(list[Any]):
        """Faults that begin after a number of requests."""

        def __bool__(self) -> bool:
            return len(server.seen) > seen

        def pop(self, place: int = 0) -> Any:
            return fail

    server.always = Down()
    notes: list[str] = []
    monkeypatch.setattr(answers_module, "REPORT_SECONDS", 0.01)
    with pytest.raises(CompletionError, match="expected an answer, got HTTP 503"):
        rewritten(rewrite(Echo(), server, concurrency=1, retries=0), corpus, space, ONE)
    answered = server.prompts()[:seen]
    server.always = []
    server.seen.clear()
    again = rewrite(Echo(), server, concurrency=1)
    made = rewritten(again, corpus, space, ONE, notes.append)
    assert "MiB of answers are there already" in notes[0]
    assert any("so far" in line for line in notes)
    assert made.corpus.facts["rewrites"]["echo"]["requests"] == asked
    assert len(server.seen) == asked - seen
    assert not set(server.prompts()) & set(answered)


RECIPE = """
seed: 4
corpus: {path: pool/*.jsonl}
rewrite:
  wrap: {use: wrap, max_chunk: 50, by: {url: URL, model: small, concurrency: 4}}
budget: {tokens: 4000, rank: random, shares: {wrap: 0.5}}
shards: {sequence_length: 32}
tokenizer: {train: {vocab_size: 400}}
"""


def project(directory: Path, server: Server, **more: str) -> Path:
    write_jsonl(directory / "pool" / "a.jsonl", documents(150, seed=9))
    path = directory / "recipe.yaml"
    path.write_text(RECIPE.replace("URL", server.url))
    return path


def test_killed_halfway_and_resumed_without_repeating_a_request(
    tmp_path: Path, server: Server
) -> None:
    path = project(tmp_path, server)
    server.slowness = 0.02
    command = [sys.executable, "-m", "penstock", "curate", str(path), "--json", "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    while len(server.seen) < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.1)
    before = server.prompts()
    server.seen.clear()
    server.slowness = 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    summary = json.loads(done.stdout.splitlines()[-1])
    after = server.prompts()
    repeated = collections.Counter(before) & collections.Counter(after)
    assert repeated.total() <= 4, "only those that were under way may be asked again"
    made = summary["rewrites"]["wrap"]
    assert made["requests"] == len(set(before) | set(after))
    assert len(before) + len(after) - repeated.total() == made["requests"]
    assert summary["by_source"]["wrap"]["tokens"] == 1984, "half of 125 sequences, in whole ones"

    unhurt = tmp_path / "unhurt"
    fresh = load_recipe(project(unhurt, server))
    assert curate(fresh, ONE).shards.digest == summary["digest"]


def test_why_a_document_is_there_and_where_it_went(tmp_path: Path, server: Server) -> None:
    recipe = load_recipe(project(tmp_path, server))
    made = curate(recipe, ONE)
    found = inspect(recipe, ONE)
    assert isinstance(found, Curated)
    (fate,) = fates_of(found, "d0001+wrap.0")
    assert fate["parent"] == "d0001"
    assert fate["source"] == "wrap"
    assert fate["file"] is None
    (own,) = fates_of(found, "d0001")
    assert own["file"] == str(tmp_path / "pool" / "a.jsonl")
    assert "parent" not in own
    taken = [fate for name in range(150) for fate in fates_of(found, f"d{name:04d}+wrap.0")]
    assert {fate["fate"] for fate in taken} == {"taken", "left"}
    assert made.summary()["documents"]["added"] == 150
    page = write_report(made).read_text()
    assert "Rewritten: <bdi>wrap</bdi>" in page and ">150<" in page


def test_a_journal_reads_whole_lines(tmp_path: Path) -> None:
    asked = [RequestKey(row, 0, f"digest {row}") for row in range(5)]
    with AnswerJournal(tmp_path, "unit-1") as journal:
        for one in asked[:3]:
            journal.append(one, Answer(text=f"täxt\n{one.row}"))
    (path,) = (tmp_path / "journal" / "unit-1").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with AnswerJournal(tmp_path, "unit-1") as journal:
        assert journal.answers == {one: Answer(text=f"täxt\n{one.row}") for one in asked[:2]}
        journal.append(asked[4], Answer(text="x", error="too long"))
    with AnswerJournal(tmp_path, "unit-1") as journal:
        assert set(journal.answers) == {*asked[:2], asked[4]}
    with AnswerJournal(tmp_path, "unit-10") as journal:
        assert not journal.answers


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("prompt_tokens", "1" + 30 * "0", Answer(text="a")),
        ("prompt_tokens", "-5", Answer(text="a")),
        ("completion_tokens", "Infinity", Answer(text="a")),
        ("completion_tokens", "9" * 5000, None),
        ("finish", '"\\ud800"', Answer(text="a", finish="\ufffd")),
        ("text", "7", None),
        ("other", "7", None),
        ("other", "[" * 100_000, None),
    ],
)
def test_a_journal_with_an_answer_that_no_file_can_hold(
    tmp_path: Path, field: str, value: str, expected: Answer | None
) -> None:
    """An earlier version wrote a server's numbers as they came."""
    key = RequestKey(1, 0, "digest")
    content = f'[{json.dumps(asdict(key))}, {{"text": "a", "{field}": {value}}}]'.encode()
    with AnswerJournal(tmp_path, "unit-1") as journal:
        journal.add(b"%08x %s\n" % (zlib.crc32(content), content))
        journal.append(RequestKey(2, 0, "next"), Answer(text="b"))
    with AnswerJournal(tmp_path, "unit-1") as journal:
        assert journal.answers.get(key) == expected
        assert journal.answers[RequestKey(2, 0, "next")] == Answer(text="b")


def test_a_journal_in_a_store(s3: str) -> None:
    directory: AnyPath = as_path(f"s3://pool/{time.time_ns()}/answers")
    asked = [RequestKey(row, 1, f"digest {row}") for row in range(70)]
    with AnswerJournal(directory, "unit-1") as journal:
        for one in asked:
            journal.append(one, Answer(text=str(one.row)))
        assert len(list((directory / "journal" / "unit-1").iterdir())) == 2, (
            "a few answers an object"
        )
    with AnswerJournal(directory, "unit-1") as journal:
        assert set(journal.answers) == set(asked)


class Rude(Echo):
    """Faults of a user's rewriter."""

    def __init__(self, texts: Any) -> None:
        self.texts = texts

    def assemble(self, document: Document, answers: Sequence[Answer]) -> Any:
        return self.texts(document) if callable(self.texts) else self.texts


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (lambda document: 1 / 0, "ZeroDivisionError"),
        (["x"], "list"),
        (Rewritten(texts=("  ",)), "'  '"),
        (Rewritten(texts=(7,)), "7"),  # type: ignore[arg-type]
        (Rewritten(texts=("\ud800",)), r"'\ud800'"),
    ],
)
def test_errors_of_a_users_rewriter_are_named(
    corpus: Pool, space: Workspace, server: Server, texts: Any, named: str
) -> None:
    with pytest.raises(ScoringError) as caught:
        rewritten(rewrite(Rude(texts), server), corpus, space, ONE)
    error = caught.value
    assert error.key == "rewrite.echo"
    assert error.file is not None and re.match(r"document d\d+ of unit-", error.file)
    assert named in f"{error.problem} {error.got}"


def test_two_texts_cannot_stand_in_one_place(
    corpus: Pool, space: Workspace, server: Server
) -> None:
    class Two(Rude):
        replaces = True

    wrong = rewrite(Two(Rewritten(texts=("a", "b"))), server)
    with pytest.raises(ScoringError) as caught:
        rewritten(wrong, corpus, space, ONE)
    assert (caught.value.key, caught.value.got) == ("rewrite.echo", "2")


def test_a_source_cannot_have_a_rewriters_name(
    corpus: Pool, space: Workspace, server: Server
) -> None:
    with pytest.raises(InputError) as caught:
        rewritten(rewrite(Echo(), server, "wiki"), corpus, space, ONE)
    assert caught.value.key == "rewrite.wiki"


def test_nothing_may_be_left(corpus: Pool, space: Workspace, server: Server) -> None:
    class Drop(Rude):
        replaces = True

    with pytest.raises(InputError) as caught:
        rewritten(rewrite(Drop(Rewritten(rejected=("no",))), server), corpus, space, ONE)
    assert caught.value.key == "rewrite.echo"


def spec_of(**spec: Any) -> Recipe:
    pool = {"corpus": [{"path": "a.jsonl"}], "budget": {"tokens": 9, "rank": "random"}}
    return parse_recipe({**pool, "rewrite": {"r": spec}}, Path())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"use": "rewird"}, r"rewrite\.r\.use: expected a rewriter.*did you mean 'rewire'"),
        ({"use": "betr"}, r"rewrite\.r\.use: 'betr' is a selector; it goes under `select`"),
        ({"use": "rewire", "max_tokns": 7}, r"rewrite\.r\.max_tokns: unknown.*'max_tokens'"),
        ({"use": "tests.pools:documents"}, r"use: expected a class that is a Rewriter"),
        ({"use": "rewire", "by": {}}, r"rewrite\.r\.by\.url: expected url and model"),
        ({"use": "rewire", "by": {"url": "x", "model": "m"}}, r"by\.url: expected http"),
        ({"use": "rewire", "by": {"url": "http://a/v1"}}, r"by\.model: missing"),
        ({"use": "rewire", "by": {"local": "/nowhere"}}, r"by\.local: expected the directory"),
    ],
)
def test_mistakes_of_a_recipe(spec: dict[str, Any], message: str) -> None:
    given = {"by": {"url": "http://a/v1", "model": "m"}, **spec}
    with pytest.raises(SelectorError, match=message):
        build_rewriter("r", spec_of(**given).rewrite["r"])


def test_a_share_of_a_rewriter_whose_texts_are_all_rejected_is_refused(
    tmp_path: Path, server: Server
) -> None:
    server.answer_with = "\n"
    recipe = load_recipe(project(tmp_path, server))
    with pytest.raises(InputError, match=r"^rewrite\.wrap: .*budget\.shares\.wrap"):
        curate(recipe, ONE)
