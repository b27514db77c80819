"""DEITA: expected grades from a real server's log-probabilities, requested once for all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.artefact import Artefact, Workspace
from penstock.errors import CompletionError, SelectorError
from penstock.jobs.build import build_columns
from penstock.pipeline.columns import make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Models
from penstock.selectors.deita import Deita, expectation, grade_of
from penstock.selectors.rewriting import Answer, Document, Request, Sampling
from penstock.selectors.rewriting import completions as completions_module
from tests.chat import Handler, Server, chat_server
from tests.pools import pool_of, recipe_of, write_jsonl
from tests.selectors.kernels.test_kmeans import fitting_of


@pytest.fixture
def server() -> Iterator[Server]:
    with chat_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions_module, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def deita(server: Server, **parameters: Any) -> Deita:
    return Deita(by={"url": server.url, "model": "small", "retries": 1}, **parameters)


def documents(*texts: str) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "id": [f"d{row}" for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["s"] * len(texts),
        }
    )


def test_the_expectation_by_hand() -> None:
    assert expectation([1 / 6] * 6) == pytest.approx(3.5)
    assert expectation([0, 0, 0, 0, 0.25, 0.75]) == pytest.approx(5.75)
    assert expectation([0.1, 0, 0, 0, 0, 0.1]) == pytest.approx(3.5)  # the rest is on other tokens


@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6))
def test_the_expectation_is_that_of_a_softmax_over_grades(logits: list[float]) -> None:
    """Over the whole vocabulary the grades' probabilities are the same up to a factor."""
    powers = np.exp(np.array(logits) - max(logits))
    expected = float(powers @ np.arange(1, 7) / powers.sum())
    assert expectation((0.3 * powers / powers.sum()).tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("count", "expected"), [(20, 3.75), (6, 3.75), (3, 4.0), (2, 11 / 3), (1, 4.0)]
)
def test_fewer_top_logprobs_draw_the_grade_to_the_likeliest(
    server: Server, count: int, expected: float
) -> None:
    grades = {"4": 0.4, "3": 0.2, "5": 0.2, "2": 0.1, "1": 0.05, "6": 0.05}

    def reply(handler: Handler, prompt: str) -> None:
        asked = server.seen[-1][2]["top_logprobs"]
        found = list(grades.items())[:asked]
        handler.grade("4", {token: math.log(own) for token, own in found})

    server.reply = reply
    selector = deita(server, top_logprobs=count)
    assert selector.score(documents("A text."))[0] == pytest.approx(expected)
    lines: list[str] = []
    selector.fit(fitting_of(["a"], progress=lines.append))
    assert len(lines) == (count < 6)


def test_top_logprobs_are_part_of_a_request() -> None:
    few, many = (
        Deita(by={"url": "http://localhost:1", "model": "m"}, top_logprobs=count)
        for count in (5, 20)
    )
    document = Document(id="d", text="A text.")
    (one,), (other,) = few.requests(document), many.requests(document)
    assert one.digest != other.digest
    assert few.identity() != many.identity()
    for wrong in (0, 21):
        with pytest.raises(SelectorError) as info:
            Deita(by={"url": "http://localhost:1", "model": "m"}, top_logprobs=wrong)
        assert info.value.key == "top_logprobs"


def test_probabilities_of_a_servers_answer(server: Server) -> None:
    """The first token that is a grade counts, and one with a space is the same."""
    log = math.log

    def reply(handler: Handler, prompt: str) -> None:
        handler.grade(
            "Grade: 4",
            {"Grade": -0.1, "The": -3.0},
            {":": 0.0},
            {" 4": log(0.4), "4": log(0.2), "5": log(0.2), " 2": log(0.1), "x": log(0.1)},
            {"6": 0.0},
        )

    server.reply = reply
    (score,) = deita(server).score(documents("a page")).tolist()
    assert score == pytest.approx((0.6 * 4 + 0.2 * 5 + 0.1 * 2) / 0.9, rel=1e-6)
    (_, _, body, _), *others = server.seen
    assert not others
    assert body["logprobs"] is True and body["top_logprobs"] == 20
    assert (body["temperature"], body["max_tokens"]) == (0.0, 8)
    assert body["messages"][0]["content"].count("a page") == 1


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("4", 4), (" 5.", 5), ("Grade: 3/6", 3), ("**2**", 2), ("I give 6 of 6", 6),
        ("seven", None), ("7", None), ("14", None), ("0", None), ("3.5", None), ("-3", None),
        ("", None),
    ],
)  # fmt: skip
def test_without_probabilities_the_grade_itself(text: str, grade: float | None) -> None:
    found = grade_of([Answer(text=text)])
    assert math.isnan(found) if grade is None else found == grade


def test_answers_that_give_no_grade() -> None:
    ones = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    assert grade_of([Answer(text="?", probabilities=ones)]) == 3
    # Cut off after the grade is as good; refusals and errors are not.
    assert grade_of([Answer(text="3, since", finish="length")]) == 3
    assert math.isnan(grade_of([Answer(text="3", finish="content_filter", probabilities=ones)]))
    assert math.isnan(grade_of([Answer(text="3", error="HTTP 400")]))
    assert math.isnan(grade_of([]))


@pytest.mark.parametrize(
    "logprobs",
    [None, {"content": None}, {"content": []}, {"content": [{"token": "?", "logprob": -1.0}]}],
)
def test_a_server_without_usable_log_probabilities(server: Server, logprobs: Any) -> None:
    message = {"message": {"content": "5"}, "finish_reason": "stop", "logprobs": logprobs}
    server.reply = lambda handler, _: handler.send(200, {"choices": [message]})
    assert deita(server).score(documents("a")).tolist() == [5.0]


@pytest.mark.parametrize(
    "token",
    [
        {"logprob": -1.0},
        {"token": 4, "logprob": -1.0},
        {"token": "4"},
        {"token": "4", "logprob": "low"},
        {"token": "4", "logprob": None},
        {"token": "4", "logprob": float("nan")},
        {"token": "4", "logprob": -1.0, "top_logprobs": [7]},
    ],
)
def test_malformed_log_probabilities_are_no_answer(server: Server, token: Any) -> None:
    choice = {"message": {"content": "4"}, "logprobs": {"content": [token]}}
    server.reply = lambda handler, _: handler.send(200, {"choices": [choice]})
    with pytest.raises(CompletionError, match="no completion"):
        deita(server).score(documents("a"))


def test_log_probabilities_above_zero_and_below_all_bounds(server: Server) -> None:
    server.reply = lambda handler, _: handler.grade("6", {"6": 1e300, "5": -1e300})
    assert deita(server).score(documents("a")).tolist() == [6.0]


def test_only_requests_with_choices_ask_for_probabilities() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=20)
    plain = Request(user="a", system="b", sampling=sampling)
    # As before there were choices: answers of earlier runs are found again.
    assert plain.digest == "034fae2540ef5e3382a5dbdac08a8eb347bc72437b6dedf7985a1b096945352f"
    assert Request(user="a", system="b", sampling=sampling, choices=("1",)).digest != plain.digest


def test_texts_are_cut_and_blank_ones_are_not_asked_about(server: Server) -> None:
    selector = deita(server, prompt="What of {text}?", max_characters=5)
    (request,) = selector.requests(Document(id="a", text="{text} and more"))
    assert request.user == "What of {text?"
    server.answer_with = "2"
    scores = selector.score(documents("page", " \n", ""))
    assert scores[0] == 2 and np.isnan(scores[1:]).all()
    assert server.prompts() == ["What of page?"]


def test_identity_has_the_model_and_no_address(server: Server) -> None:
    one, other = deita(server), Deita(by={"url": "http://elsewhere/v1", "model": "small"})
    assert one.identity() == other.identity()
    assert one.identity()["by"] == {"model": "small"}
    assert one.identity() != Deita(by={"url": server.url, "model": "large"}).identity()
    assert one.identity() != deita(server, prompt="{text}").identity()


# Through the engine


def marked(handler: Handler, prompt: str) -> None:
    """Grade the page of number n by n: the odd ones without log-probabilities."""
    number = int(re.findall(r"page (\d+)", prompt)[0])
    grade = 1 + number % 6
    if number % 2:
        handler.answer(str(grade) if number != 7 else "no idea")
    else:
        handler.grade(str(grade), {str(grade): math.log(0.7), str(grade % 6 + 1): math.log(0.3)})


def expected(number: int) -> float:
    grade = 1 + number % 6
    if number % 2:
        return grade if number != 7 else math.nan
    return 0.7 * grade + 0.3 * (grade % 6 + 1)


class Project:
    """A pool of 40 pages and one blank document, and its column of grades."""

    def __init__(self, at: Path, server: Server) -> None:
        self.at, self.server = at, server
        self.lines: list[str] = []
        rows = [{"id": f"d{n}", "text": f"page {n} {'x' * (n + 1)}"} for n in range(40)]
        rows += [{"id": f"copy-{n}", "text": rows[n]["text"]} for n in (2, 3)]
        rows.append({"id": "blank", "text": "\u2003"})
        write_jsonl(at / "pool" / "a.jsonl", rows)
        server.reply = marked

    def column(self, **clean: Any) -> dict[str, float]:
        by = {"url": self.server.url, "model": "small", "retries": 0}
        select = {"grades": {"use": "deita", "by": by}}
        recipe = recipe_of(
            self.at, rank="grades", select=select, **({"clean": clean} if clean else {})
        )
        workspace, runner = Workspace(recipe.work_directory), LocalRunner(1)
        pool = pool_of(recipe, workspace, runner, unit_bytes=400)
        models = Models(
            pool=pool, workspace=workspace, runner=runner, seed=1, progress=self.lines.append
        )
        column: Artefact = make_columns(build_columns(recipe), models)["grades"]
        found: dict[str, float] = {}
        for unit in pool.units:
            ids = unit.read_rows(["id"])["id"].to_pylist()
            found |= dict(zip(ids, read_scores(column.path, column.files[unit.number]).tolist()))
        assert column.manifest["inputs"]["answers"]
        return found


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Project:
    return Project(tmp_path, server)


def check(found: dict[str, float]) -> None:
    for name, score in found.items():
        want = math.nan if name == "blank" else expected(int(name.split("-")[-1].lstrip("d")))
        np.testing.assert_allclose(score, want, rtol=1e-6)


def test_a_column_of_grades(project: Project) -> None:
    found = project.column()
    assert len(found) >= 40
    check(found)
    assert len(project.server.seen) == 40
    said = "\n".join(project.lines)
    assert "20 of 40 answers without probabilities" in said and "1 of 40 answers that give" in said
    # The answers are an artefact, with the probabilities where there are some.
    (answers,) = (project.at / "work" / "answers").iterdir()
    rows = [row for file in answers.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert sum(bool(row.get("probabilities")) for row in rows) == 20


def test_no_request_is_sent_twice(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.column()
    before = len(project.server.seen)
    for folder in ("columns", "model"):
        for artefact in (project.at / "work" / folder).iterdir():
            (artefact / "manifest.json").unlink()
    check(project.column())
    # Another pool: only the copies are new.
    larger = project.column(dedup={"exact": False})
    assert len(larger) > 40
    check(larger)
    assert len(project.server.seen) == before + 2


def test_a_stop_keeps_the_answers_so_far(project: Project) -> None:
    answered: list[str] = []

    def stopping(handler: Handler, prompt: str) -> None:
        with project.server.lock:
            goes_on = len(answered) < 15
            answered.extend([prompt] * goes_on)
        if goes_on:
            marked(handler, prompt)
        else:
            handler.send(401, {"error": "stopped"})

    project.server.reply = stopping
    with pytest.raises(CompletionError):
        project.column()
    project.server.reply = marked
    project.server.seen.clear()
    check(project.column())
    assert not set(answered) & set(project.server.prompts())
    assert len(answered) == 15 and len(project.server.seen) == 25


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"prompt": "no place"}, "prompt"),
        ({"prompt": "{text}{text}"}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_characters": 0}, "max_characters"),
        ({"by": {"url": "ftp://x", "model": "m"}}, "by.url"),
        ({"by": {"url": "http://x", "modle": "m"}}, "by.modle"),
        ({"by": {"url": "http://x"}}, "by.model"),
        ({"by": "x"}, "by"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Deita(**{"by": {"url": "http://x/v1", "model": "m"}, **parameters})
    assert info.value.key == key
    assert json.dumps(str(info.value))
