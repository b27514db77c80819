"""Fields of records that are not in their files: of directories and of items."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource
from tests.pipeline.reading.found import find, only, write

SCHEMA = pa.schema(
    [("id", "string"), ("text", "string"), ("source", "string"), ("lang", "string"), ("n", "int64")]
)


def test_partition_keys_are_fields(tmp_path: Path) -> None:
    write(
        tmp_path / "d",
        *("source=wiki/year=2020/month=01/a.jsonl", "source=wiki/year=1999/month=12/b.txt"),
        *("source=we%20b/year=2021/month=x/id=7/text=t/c.jsonl", "not=a=dir.jsonl"),
        *("=x/source=__HIVE_DEFAULT_PARTITION__/d.jsonl", b"source=\xe9/k\xc3\xa9y=1=2/e.txt"),
    )
    found = {item.name: item.spec for item in find(tmp_path, "d").inputs}
    a, b, c = (
        {"source": "wiki", "year": 2020, "month": "01"},
        {"source": "wiki", "year": 1999, "month": "12"},
        {"source": "we b", "year": 2021, "month": "x"},
    )
    assert {name: spec.fields for name, spec in found.items()} == {
        "d/source=wiki/year=2020/month=01/a.jsonl": a,
        "d/source=wiki/year=1999/month=12/b.txt": b,
        "d/source=we%20b/year=2021/month=x/id=7/text=t/c.jsonl": c,
        "d/not=a=dir.jsonl": {},
        "d/=x/source=__HIVE_DEFAULT_PARTITION__/d.jsonl": {},
        "d/source=\\xe9/kéy=1=2/e.txt": {"source": "\\xe9", "kéy": "1=2"},
    }
    # Without the directory `month=x` all months are numbers; the item's own fields have priority.
    item = only(tmp_path, {"path": "d/*/year=2020/**", "fields": {"year": 1, "lang": "de"}})
    assert item.spec.fields == {"source": "wiki", "year": 1, "month": 1, "lang": "de"}
    assert only(tmp_path, {"path": "d/source=wiki/year=2020", "source": "year"}).spec.fields == {
        **{"source": "wiki", "year": "2020", "month": 1},
    }


def test_fields_are_those_of_records_that_have_none(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "text": "a"},
        {"id": "2", "text": "b", "source": "own", "lang": None, "n": 5},
        {"id": "3", "text": "c", "lang": "fr", "n": None},
    ]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "x.parquet")
    fields = {"source": "wiki", "lang": "de", "n": 7}
    for name in ("x.jsonl", "x.parquet"):
        batches = read_batches(tmp_path / name, CorpusSource(path=name, fields=fields))
        found = [batch.document(row) for batch in batches for row in range(len(batch.documents))]
        assert [(one.source, json.loads(one.meta)) for one in found] == [
            ("wiki", {"lang": "de", "n": 7}),
            ("own", {"lang": "de", "n": 5}),
            ("wiki", {"lang": "fr", "n": 7}),
        ]
    write(tmp_path, "lang=de/t.txt", "source=s/lang=de/u.txt")
    for per in ("file", "line"):
        entry = {"path": "**/*.txt", "per": per}
        for item, source in zip(find(tmp_path, entry).inputs, ("files", "s"), strict=True):
            (batch,) = read_batches(item.path, item.spec)
            assert (batch.document(0).source, batch.document(0).meta) == (source, '{"lang":"de"}')
