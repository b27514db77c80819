"""A curated recipe with what a preview may change: conditions, thresholds, weights, shares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import penstock
from penstock.jobs.browse.changes import as_settings
from penstock.jobs.browse.preview import BrowsedRecipe
from penstock.jobs.curate import Curated
from penstock.jobs.plan import Plan
from tests.pools import documents, write_jsonl

SCORERS = """\
import hashlib

def length(texts):
    return [float(len(text) % 97) for text in texts]

def drawn(texts):
    return [
        float("nan") if "99 " in text[:6] else hashlib.sha256(text.encode()).digest()[0] / 7
        for text in texts
    ]

def drop(texts):
    return ["bridge3 " in text for text in texts]
"""

RECIPE: dict[str, Any] = {
    "work": "out",
    "seed": 5,
    "unit_bytes": 2**16,
    "corpus": [{"path": "pool.jsonl"}],
    "clean": {
        "where": "meta.stars >= 3 and words > 4",
        "rules": {
            "gopher_quality": {"min_words": 8, "min_stop_words": 0, "max_word_length": 30},
            "own": {"use": "scorers_of_browse:drop"},
        },
    },
    "select": {
        "length": {"use": "scorers_of_browse:length"},
        "drawn": {"use": "scorers_of_browse:drawn"},
    },
    "budget": {"tokens": 30_000, "rank": {"length": 0.5, "drawn": 0.5}},
    "tokenizer": "tokenizer.json",
    "shards": {"sequence_length": 32},
}


class BrowsedProject:
    """A recipe in a directory, curated with and without changes."""

    def __init__(self, directory: Path, tree: Mapping[str, Any]) -> None:
        self.path = directory / "recipe.yaml"
        self.path.write_text(yaml.safe_dump(dict(tree)))

    def curate(self, change: Mapping[str, Any]) -> Curated:
        """Run the command's own way: options ``--set`` over the file."""
        return penstock.curate(self.path, settings=as_settings(change), runner="local", workers=1)

    def browsed(self) -> BrowsedRecipe:
        """Curate the recipe as it is, and browse it."""
        curated = self.curate({})
        return BrowsedRecipe(Plan.of(curated.recipe), curated)


def taken_by(curated: Curated) -> dict[tuple[int, int], int]:
    """The tokens that a cut takes, by (unit, row), read from its files."""
    return {
        (row["unit"], row["row"]): row["tokens"]
        for record in curated.cut.files
        for row in pq.read_table(curated.cut.verified(record)).to_pylist()
    }


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a pool of several units with copies, fields, and a tokenizer of its own."""
    directory = tmp_path_factory.mktemp("browse")
    rows: list[dict[str, Any]] = [
        {**row, "stars": number * 7 % 11} for number, row in enumerate(documents(900))
    ]
    # Copies with other fields: which of them stays depends on the condition.
    rows += [
        {**row, "id": f"copy-{row['id']}", "stars": 10 - row["stars"]} for row in rows[100:160]
    ]
    rows[20]["text"] = " "
    write_jsonl(directory / "pool.jsonl", rows)
    (directory / "scorers_of_browse.py").write_text(SCORERS)
    first = BrowsedProject(directory, {**RECIPE, "tokenizer": {"train": {"vocab_size": 384}}})
    made = first.curate({}).tokenizer
    (directory / "tokenizer.json").write_bytes((made.path / "tokenizer.json").read_bytes())
    return directory


@pytest.fixture(scope="session")
def project(pool: Path) -> BrowsedProject:
    return BrowsedProject(pool, RECIPE)


@pytest.fixture(scope="session")
def browsed(project: BrowsedProject) -> BrowsedRecipe:
    return project.browsed()
