"""Ids that several documents have: counted, and told."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.artefact import Workspace
from penstock.pipeline import repeated_ids
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe


@pytest.fixture(scope="module")
def runner() -> Iterator[LocalRunner]:
    with closing(LocalRunner(1)) as runner:
        yield runner


def _count(directory: Path, ids: list[str], runner: LocalRunner) -> tuple[int, list[str]]:
    """Make a corpus of documents with these ids, in units of few documents."""
    lines = [json.dumps({"id": name, "text": f"text {n}"}) for n, name in enumerate(ids)]
    directory.joinpath("in.jsonl").write_text("\n".join(lines))
    keys = {"corpus": [{"path": "in.jsonl"}], "budget": {"tokens": 1, "rank": "random"}}
    settings = CorpusSettings.of(parse_recipe(keys, directory), unit_bytes=200)
    told: list[str] = []
    corpus = make_corpus(settings, Workspace(directory / "work"), runner, told.append)
    assert not [path for path in corpus.path.iterdir() if "ids-" in path.name]
    return int(corpus.facts["repeated_ids"]), told


@pytest.mark.parametrize("group", [1 << 20, 100, 7])
def test_counts_what_a_set_says(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: LocalRunner
) -> None:
    monkeypatch.setattr(repeated_ids, "_GROUP_DOCUMENTS", group)
    monkeypatch.setattr(repeated_ids, "_RANGE_DOCUMENTS", 16)
    draw = random.Random(group)
    ids = [str(draw.randrange(200)) for _ in range(300)]
    found, told = _count(tmp_path, ids, runner)
    assert found == len(ids) - len(set(ids)) > 0
    assert any(f"{found:,}" in line for line in told)


def _told(directory: Path, runner: LocalRunner) -> list[str]:
    keys = {"corpus": [{"path": "pool"}], "budget": {"tokens": 1, "rank": "random"}}
    settings = CorpusSettings.of(parse_recipe(keys, directory), unit_bytes=200)
    told: list[str] = []
    make_corpus(settings, Workspace(directory / "work"), runner, told.append)
    return [line for line in told if " id of " in line]


@pytest.mark.parametrize("given", [False, True])
def test_files_of_equal_text_are_named_and_told_from_ids_given_twice(
    given: bool, tmp_path: Path, runner: LocalRunner
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for name, text in {"a": "a wheel", "b": "a gate", "c": "a wheel"}.items():
        (pool / f"{name}.txt").write_text(text)
    if given:
        for path in pool.iterdir():
            path.unlink()
        for name in "ac":
            line = json.dumps({"id": "17", "text": f"a wheel of {name}"})
            (pool / f"{name}.jsonl").write_text(line)
    (line,) = _told(tmp_path, runner)
    ending = ".jsonl" if given else ".txt"
    assert f"pool/a{ending}" in line and f"pool/c{ending}" in line
    assert "pool/b" not in line
    assert ("equal texts" in line) == (not given)
    assert ("'17'" in line) == given


def test_no_word_where_all_differ(tmp_path: Path, runner: LocalRunner) -> None:
    found, told = _count(tmp_path, [str(n) for n in range(50)], runner)
    assert found == 0
    assert not [line for line in told if "id" in line.split()]
