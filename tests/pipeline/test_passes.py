"""The distributed passes of a curation, counted: each is a barrier at which all workers wait."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.jobs.curate import curate
from penstock.jobs.plan import Plan
from penstock.pipeline.reading import inputs
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.pools import documents
from tests.zstd import frame

PASSES = [
    "_digests",  # sha256 of the input files
    "_inspect",  # where compressed files can be divided
    "_write_split",  # units
    "judge",  # what every rule says of each document, and hashes of texts
    "_find_repeats",  # duplicates among the hashes
    "_settle",  # the first reason of each document
    "_score_unit",  # the column
    "_draw_units",  # texts to train the tokenizer on
    "_draw_units",  # ... and to measure it on; before, the driver read the whole pool for both
    "_write_unit",  # score, tie and group of each document
    "_sum_units",  # bytes by the upper 16 bits of the score
    "_sum_units",  # ... and by the lower ones: which documents to tokenise
    "_write_table",  # tokens of the candidates
    "_sum_units",  # tokens, likewise: the cutoff
    "_sum_units",
    "_write_unit",  # the cut
    "_write_shard",  # the shards
]

# Scores of a narrow range, as a model's are: their upper 16 bits leave many documents in one bin.
SCORER = """
import zlib

def score(texts):
    return [0.5 + zlib.crc32(text.encode()) / 2**38 for text in texts]
"""


class RecordingRunner(LocalRunner):
    """A runner that lists the functions it runs, where there is an item to run them for."""

    def __init__(self) -> None:
        super().__init__(1)
        self.passes: list[str] = []

    def run(self, function: Any, items: Sequence[Any], *args: Any, **options: Any) -> Iterator[Any]:
        if items:
            self.passes.append(function.__name__)
        return super().run(function, items, *args, **options)


def test_a_curation_with_one_scorer_takes_seventeen_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks of documents, which are computed on demand, took four more; cleaning takes three."""
    monkeypatch.setattr(inputs, "_SETTLED", -(10**15))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crc.py").write_text(SCORER)
    lines = [json.dumps(row) + "\n" for row in documents(400)]
    (tmp_path / "pool").mkdir()
    with open(tmp_path / "pool" / "a.jsonl.zst", "wb") as file:
        for start in range(0, len(lines), 20):
            file.write(frame("".join(lines[start : start + 20]).encode()))
    recipe = parse_recipe(
        {
            "corpus": [{"path": "pool"}],
            "select": {"s": {"use": "crc:score"}},
            "budget": {"tokens": 8_000, "rank": "s"},
            "tokenizer": {"train": {"vocab_size": 384}},
            "shards": {"sequence_length": 32},
        },
        tmp_path,
    )
    plan = Plan.of(recipe)
    plan = replace(plan, corpus=replace(plan.corpus, unit_bytes=6_000))
    runner = RecordingRunner()
    made = curate(plan, runner)
    assert len(made.corpus.named("unit-")) > 5
    assert runner.passes == PASSES
    assert len(PASSES) <= 17
    runner.passes.clear()
    assert curate(plan, runner).shards.digest == made.shards.digest
    assert runner.passes == []
