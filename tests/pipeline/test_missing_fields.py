"""Documents without the field that ``corpus.id`` or ``corpus.source`` names: counted, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Workspace
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import iter_documents, units_of
from penstock.recipe_file import parse_recipe

ROWS = [
    {"text": "One.", "id": "a", "source": "unknown"},
    {"text": "Two.", "id": "b", "source": "wiki"},
    {"text": "Three.", "id": "c", "source": "wiki"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        feather.write_feather(pa.Table.from_pylist(rows), path)


def made(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], **keys: str
) -> tuple[dict[str, dict[str, int]], list[str], set[str]]:
    """Return the fact, the lines of the log, and the sources of the documents."""
    write(tmp_path / name, rows)
    recipe = parse_recipe(
        {
            "work": "work",
            "corpus": [{"path": name, **keys}],
            "budget": {"tokens": 1, "rank": "random"},
        },
        tmp_path,
    )
    lines: list[str] = []
    with Workspace.driving(tmp_path / "work") as space:
        corpus = make_corpus(CorpusSettings.of(recipe), space, LocalRunner(1), lines.append)
    sources = {
        row["source"]
        for unit in units_of(corpus)
        for batch in iter_documents(unit, ["source"])
        for row in batch.to_pylist()
    }
    return corpus.facts["without_field"], lines, sources


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.arrow"])
def test_a_misspelt_field_is_counted_and_told(tmp_path: Path, name: str) -> None:
    found, lines, sources = made(tmp_path, name, ROWS, id="idd", source="sorce")
    assert found == {"id": {"idd": 3}, "source": {"sorce": 3}}
    assert sources == {"unknown"}
    for key, field in (("id", "idd"), ("source", "sorce")):
        (line,) = [line for line in lines if f"corpus.{key}" in line]
        assert repr(field) in line and ": 3" in line


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.arrow"])
def test_fields_that_are_there_are_not_told(tmp_path: Path, name: str) -> None:
    """Also where a record itself says that its source is `unknown`."""
    rows = [{"text": row["text"], "key": row["id"], "site": row["source"]} for row in ROWS]
    found, lines, sources = made(tmp_path, name, rows, id="key", source="site")
    assert found == {"id": {}, "source": {}}
    assert not any("corpus." in line for line in lines)
    assert sources == {"unknown", "wiki"}


def test_defaults_that_are_not_there_are_counted_alone(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "Four."}, {"text": "Five.", "id": "", "source": None}]
    found, lines, _ = made(tmp_path, "a.jsonl", rows)
    assert found == {"id": {"id": 2}, "source": {"source": 2}}
    assert not any("corpus." in line for line in lines)
