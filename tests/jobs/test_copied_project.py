"""A project that was copied: what its inputs differ in, and what `penstock ls` lists of reports."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from penstock.errors import UnmadeError
from penstock.jobs.curate import Curated, curate, inspect
from penstock.jobs.listing import list_artefacts
from penstock.jobs.report.page import write_report
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.pools import documents, write_jsonl

TREE = {
    "corpus": [{"path": "pool.jsonl"}],
    "budget": {"tokens": 600, "rank": "random"},
    "tokenizer": {"train": {"vocab_size": 384}},
    "shards": {"sequence_length": 16},
}


def made(directory: Path) -> Curated:
    return curate(parse_recipe(TREE, directory), LocalRunner(1))


def difference(directory: Path) -> str:
    with pytest.raises(UnmadeError) as raised:
        inspect(parse_recipe(TREE, directory), LocalRunner(1))
    return str(raised.value.got)


def test_an_input_that_is_not_known_says_what_differs(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    pool = write_jsonl(here / "pool.jsonl", documents(60))
    first = made(here)
    shutil.copytree(here, there)
    assert f"read as {pool}" in difference(there)
    assert made(there).shards.digest == first.shards.digest

    os.utime(there / "pool.jsonl")
    assert "another time" in difference(there)
    size = pool.stat().st_size
    with (there / "pool.jsonl").open("a") as sink:
        sink.write("\n")
    assert f"{size + 1:,} bytes, where it had {size:,}" in difference(there)


def test_reports_are_listed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(60))
    of = made(tmp_path)
    before = list_artefacts(str(tmp_path / "work"))
    path = write_report(of)
    *rows, report = list_artefacts(str(tmp_path / "work"))
    assert rows == before
    assert (report["stage"], report["fingerprint"]) == ("report", of.cut.fingerprint[:16])
    assert (report["state"], report["files"], report["path"]) == (
        "finished",
        1,
        str(Path(str(path)).parent),
    )
    assert report["bytes"] == Path(str(path)).stat().st_size
    assert report.keys() == before[0].keys()
