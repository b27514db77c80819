"""The table of documents, compared with the artefacts row by row."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from penstock.errors import ArtefactError, InputError, UnmadeError
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.documents import DocumentTable
from tests.pools import documents, make, recipe_of, write_jsonl

RECIPE = """\
work: out
corpus: [{path: pool.jsonl}]
select: {length: {use: "lengths:score"}}
budget: {tokens: 2_000, rank: length}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
"""

SCORES = {f"d{number:04d}": float(number % 23) for number in range(150)} | {"d0009": math.nan}
OTHERS = {f"d{number:04d}": -float(number) for number in range(150)}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """A pool of several units, of which a rule drops some documents and the cut takes some."""
    directory = tmp_path_factory.mktemp("documents")
    rows: list[dict[str, Any]] = [{**row, "stars": len(row["text"])} for row in documents(150)]
    rows[20]["text"] = rows[30]["text"] = " "
    rows.insert(70, {**rows[3], "id": "copy"})
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    recipe = recipe_of(directory, 3_000, {"s": 0.6, "other": 0.4})
    return make(recipe, {"s": SCORES, "other": OTHERS}).curated()


def expected(curated: Curated) -> list[dict[str, Any]]:
    """The rows of the table, read without it."""
    taken = {
        (row["unit"], row["row"]): row["tokens"]
        for record in curated.cut.files
        for row in pq.read_table(curated.cut.verified(record)).to_pylist()
    }
    rows = []
    for unit in curated.pool.units:
        texts = pq.read_table(unit.path()).to_pylist()
        for row in unit.numbers().tolist():
            own = texts[row]
            tokens = taken.get((unit.number, row), 0)
            rows.append(
                {
                    "id": own["id"],
                    "source": own["source"],
                    "bytes": len(own["text"].encode()),
                    "s": SCORES[own["id"]],
                    "other": OTHERS[own["id"]],
                    "tokens": tokens,
                    "taken": tokens > 0,
                    "text": own["text"],
                    "meta": own["meta"],
                    "parent": own["parent"],
                }
            )
    return rows


def same(rows: list[dict[str, Any]]) -> list[str]:
    return [repr(row) for row in rows]


@pytest.mark.parametrize("text", [False, True])
def test_each_row_is_that_of_the_artefacts(curated: Curated, text: bool) -> None:
    wanted = expected(curated)
    if not text:
        wanted = [{key: row[key] for key in list(row)[:7]} for row in wanted]
    table = curated.documents(text=text)
    assert (
        len(curated.pool.units) > 3 and 0 < len(wanted) < curated.corpus.facts["documents"]["read"]
    )
    assert len(table) == len(wanted) == curated.pool.kept
    assert same(table.arrow().to_pylist()) == same(wanted)
    assert same(table.reader().read_all().to_pylist()) == same(wanted)
    assert same(pa.table(table).to_pylist()) == same(wanted)
    of_cut = pa.Table.from_batches(table.batches(taken=True), table.schema)
    assert same(of_cut.to_pylist()) == same([row for row in wanted if row["taken"]])
    assert 0 < len(of_cut) == curated.cut.facts["documents"] < len(wanted)
    assert of_cut["tokens"].combine_chunks().sum().as_py() == curated.cut.facts["delivered"]


def test_one_unit_is_read_at_a_time(curated: Curated, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    before = type(curated.documents().units[0]).rows

    def rows(self: Any) -> pa.Table:
        read.append(self.unit.name)
        return before(self)

    monkeypatch.setattr(type(curated.documents().units[0]), "rows", rows)
    table = curated.documents(text=True)
    assert len(table) and repr(table) and not read
    batches = table.reader()
    for number in range(len(table.units)):
        batches.read_next_batch()
        assert read == [unit.unit.name for unit in table.units[: number + 1]]


def test_pandas_and_duckdb_read_the_same(curated: Curated) -> None:
    table = curated.documents()
    frame = table.pandas()
    assert list(frame.columns) == table.schema.names
    assert frame["taken"].sum() == curated.cut.facts["documents"]
    assert frame["id"].tolist() == table.arrow()["id"].to_pylist()
    relation = table.duckdb()
    by_source = "select source, count(*), sum(tokens)::bigint from documents where taken group by 1"
    found = {name: (count, tokens) for name, count, tokens in
             relation.query("documents", by_source).fetchall()}  # fmt: skip
    assert found == {
        name: (facts["documents"], facts["tokens"])
        for name, facts in curated.cut.facts["by_source"].items()
    }
    assert relation.aggregate("count(*)").fetchall() == [(len(table),)]
    assert relation.aggregate("count(*)").fetchall() == [(len(table),)], "read only once"


def test_ray_data_reads_the_same(curated: Curated, ray_session: None) -> None:
    table = curated.documents(text=True)
    dataset = table.ray()
    assert dataset.count() == len(table)
    assert dataset.schema().names == table.schema.names
    rows = {row["id"]: row for row in dataset.take_all() if row["taken"]}
    wanted = {row["id"]: row for row in expected(curated) if row["taken"]}
    assert rows.keys() == wanted.keys()
    for name, row in wanted.items():
        assert {**rows[name], "s": np.float32(rows[name]["s"])} == row


def test_a_name_of_the_table_itself_is_refused(curated: Curated) -> None:
    columns = {"taken": next(iter(curated.columns.values()))}
    with pytest.raises(InputError) as info:
        DocumentTable(curated.pool, columns, curated.cut)
    assert info.value.key == "select.taken"


def test_a_changed_column_is_refused(curated: Curated, tmp_path: Path) -> None:
    column = curated.columns["s"]
    record = column.files[1]
    damaged = dataclasses.replace(record, sha256="0" * 64)
    files = (column.files[0], damaged, *column.files[2:])
    columns = {**curated.columns, "s": dataclasses.replace(column, files=files)}
    table = DocumentTable(curated.pool, columns, curated.cut)
    with pytest.raises(ArtefactError) as info:
        table.arrow()
    assert info.value.file == str(column.path / record.path)


def test_what_is_not_made_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(150))
    (tmp_path / "lengths.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(UnmadeError) as info:
        penstock.open(tmp_path / "recipe.yaml", settings=["seed=0"])
    assert info.value.fix is not None
    assert info.value.fix.startswith(f"run `penstock curate {tmp_path}/recipe.yaml --set seed=0`")
    with pytest.raises(UnmadeError) as info:
        penstock.open(penstock.load_recipe(tmp_path / "recipe.yaml"))
    assert info.value.fix is not None
    assert info.value.fix.startswith("run `penstock.curate(recipe)`")
    penstock.clean(tmp_path / "recipe.yaml", workers=1)
    partial = penstock.open(tmp_path / "recipe.yaml")
    assert isinstance(partial, PartiallyCurated)
    with pytest.raises(UnmadeError) as info:
        partial.documents()
    assert info.value.fix == f"run `penstock curate {tmp_path}/recipe.yaml`"
    with pytest.raises(UnmadeError) as info:
        penstock.export(penstock.load_recipe(tmp_path / "recipe.yaml"), "jsonl", workers=1)
    assert info.value.fix == "run `penstock.curate(recipe)`"
    penstock.curate(tmp_path / "recipe.yaml", workers=1)
    whole = penstock.open(tmp_path / "recipe.yaml")
    assert isinstance(whole, Curated)
    lengths = whole.documents(text=True).arrow()
    assert lengths["length"].to_pylist() == [
        float(len(text)) for text in lengths["text"].to_pylist()
    ]


def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"
    cells = json.loads(path.read_text())["cells"]
    known: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), known)
    cut = known["curated"].cut.facts
    assert known["smaller"].cut.facts["delivered"] == 992
    assert "web" in known["curated"]._repr_html_()
    rows = known["by_source"].to_arrow_table().to_pylist()
    assert [row["source"] for row in rows] == ["web", "wiki"]
    assert (
        sum(row["documents"] for row in rows) == len(known["frame"]) == len(known["table"]) == 300
    )
    assert sum(row["taken"] for row in rows) == cut["documents"]
    assert sum(known["tokens_by_source"].values()) == cut["delivered"] == len(known["ids"])
    taken = known["table"].filter(known["table"]["taken"])
    assert known["exported"]["id"].to_pylist() == taken["id"].to_pylist()
    ends = np.flatnonzero(known["ids"] == known["facts"]["eos_token_id"])
    assert len(ends) in (2 * cut["documents"], 2 * cut["documents"] - 1), (
        "the last may be shortened"
    )
