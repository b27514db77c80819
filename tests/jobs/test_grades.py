"""What ``why`` says of a document that a language model graded, behind a server on loopback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from penstock.jobs.cli import main
from penstock.jobs.curate import Curated, curate
from penstock.jobs.reasons import add_reasons, describe_reasons
from penstock.jobs.report.page import render
from penstock.jobs.why import fates_of
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import load_recipe
from tests.chat import Handler, Server, chat_server
from tests.pools import write_jsonl

RECIPE = """\
corpus: [{path: pool}]
select:
  graded:
    use: deita
    by: {url: "URL", model: small, retries: 1}
    prompt: "Grade it: {text} From 1 to 6!"
    max_characters: 30
budget: {tokens: 160, rank: graded, allow_short: true}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 16}
"""


def reply(handler: Handler, prompt: str) -> None:
    if "turbine" in prompt:
        handler.grade("5", {"5": math.log(0.75), "4": math.log(0.25)})
    elif "silent" in prompt:
        handler.grade("seven", {"seven": 0.0})
    else:
        handler.grade("2", {"2": 0.0})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Curated, Server]]:
    directory = tmp_path_factory.mktemp("grades")
    rows = [{"id": f"d{n}", "text": f"water {n} flows over the wheels and on"} for n in range(30)]
    rows[4]["text"] = "a turbine turns and turns and turns and turns"
    rows[5]["text"] = "silent water"
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    with chat_server() as server:
        server.reply = reply
        (directory / "recipe.yaml").write_text(RECIPE.replace("URL", server.url))
        yield curate(load_recipe(directory / "recipe.yaml"), LocalRunner(1)), server


def reasons_of(made: Curated, name: str) -> dict[str, Any]:
    fates = fates_of(made, name)
    add_reasons(made, fates)
    json.dumps(fates, allow_nan=False)
    return fates[0]["reasons"]["graded"]  # type: ignore[no-any-return]


def test_the_grade_is_given_with_what_was_asked(made: tuple[Curated, Server]) -> None:
    curated, server = made
    sent = len(server.seen)
    own = reasons_of(curated, "d4")
    assert own["selector"] == "deita" and own["model"] == "small"
    (asked,) = own["asked"]
    assert asked["question"] == "Grade it: {text} From 1 to 6!"
    assert (asked["answer"], asked["finish"], asked["error"]) == ("5", "stop", "")
    assert asked["probabilities"] == pytest.approx(
        {"1": 0, "2": 0, "3": 0, "4": 0.25, "5": 0.75, "6": 0}
    )
    (fate,) = fates_of(curated, "d4")
    assert fate["scores"]["graded"]["score"] == pytest.approx(4.75)
    assert len(server.seen) == sent, "answers are read, not requested again"
    said = list(describe_reasons(own))
    assert "asked of small: Grade it: {text} From 1 to 6!" in said
    assert any(line.startswith("answered: 5; probabilities ") for line in said)


def test_an_answer_without_a_grade_is_the_reason_for_no_score(
    made: tuple[Curated, Server],
) -> None:
    own = reasons_of(made[0], "d5")
    (asked,) = own["asked"]
    assert asked["answer"] == "seven"
    (fate,) = fates_of(made[0], "d5")
    assert fate["scores"]["graded"]["score"] is None


def test_the_command_and_the_report_say_it(made: tuple[Curated, Server]) -> None:
    curated, _ = made
    recipe = str(curated.recipe.directory / "recipe.yaml")
    done = CliRunner().invoke(main, ["why", recipe, "d4", "--json"])
    assert done.exit_code == 0, done.output
    (fate,) = json.loads(done.stdout.splitlines()[-1])["fates"]
    assert fate["reasons"]["graded"]["asked"][0]["answer"] == "5"
    assert "asked of small: " in render(curated)


def test_answers_that_are_gone_are_named(made: tuple[Curated, Server], tmp_path: Path) -> None:
    curated, _ = made
    (answers,) = (curated.recipe.work_directory / "answers").iterdir()
    answers.rename(tmp_path / "moved")
    try:
        own = reasons_of(curated, "d4")
    finally:
        (tmp_path / "moved").rename(answers)
    assert "asked" not in own and answers.name in own["problem"] and own["meaning"]
