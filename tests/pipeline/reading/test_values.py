"""Columns of every type: texts are read, side columns become JSON, and no document is lost."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import InputError
from penstock.pipeline.reading import tables
from penstock.pipeline.reading.readers import Bad, Record
from penstock.recipe import CorpusSource
from tests.pipeline.reading.reference import read_records

TEXTS = ["one", "zwei é", "三\nlines"]


def written(directory: Path, table: pa.Table, kind: str = "arrow", **options: Any) -> Path:
    path = directory / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, **options)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    return path


def read(path: Path, **spec: Any) -> list[Record | Bad]:
    return list(read_records(path, CorpusSource(path=str(path), **spec)))


def metas(directory: Path, kind: str = "arrow", **columns: Any) -> list[dict[str, Any]]:
    """Write side columns and read them; every row is a document."""
    count = len(next(iter(columns.values())))
    table = pa.table({"text": [f"t{n}" for n in range(count)], **columns})
    found = read(written(directory, table, kind))
    assert [one.text for one in found if isinstance(one, Record)] == table["text"].to_pylist()
    return [json.loads(one.meta) for one in found if isinstance(one, Record)]


def invalid(strings: list[bytes]) -> pa.Array:
    """Strings that claim to be UTF-8 and are not."""
    return pa.Array.from_buffers(pa.string(), len(strings), pa.array(strings).buffers())


# -- texts and ids ----------------------------------------------------------------------------

_BYTES = [text.encode() for text in TEXTS]
STRINGS: dict[str, Callable[[list[bytes]], pa.Array]] = {
    "string": lambda own: pa.array([one.decode() for one in own]),
    "large_string": lambda own: pa.array([one.decode() for one in own], pa.large_string()),
    "string_view": lambda own: pa.array([one.decode() for one in own], pa.string_view()),
    "binary": lambda own: pa.array(own, pa.binary()),
    "large_binary": lambda own: pa.array(own, pa.large_binary()),
    "binary_view": lambda own: pa.array(own, pa.binary_view()),
    "dictionary": lambda own: pa.array([one.decode() for one in own]).dictionary_encode(),
    "dictionary of binary": lambda own: pa.array(own).dictionary_encode(),
    "runs": lambda own: pa.RunEndEncodedArray.from_arrays(
        pa.array(range(1, len(own) + 1), pa.int32()), pa.array([one.decode() for one in own])
    ),
    "json": lambda own: pa.ExtensionArray.from_storage(
        pa.json_(), pa.array([one.decode() for one in own])
    ),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_strings_of_every_type_are_texts_ids_and_sources(tmp_path: Path, kind: str) -> None:
    make = STRINGS[kind]
    ids = [b"a", "é".encode(), b"c"]
    table = pa.table({"text": make(_BYTES), "id": make(ids), "source": make(ids[::-1])})
    found = read(written(tmp_path, table))
    assert [(one.text, one.id, one.source) for one in found if isinstance(one, Record)] == list(
        zip(TEXTS, ["a", "é", "c"], ["c", "é", "a"])
    )
    if kind not in ("runs", "dictionary", "dictionary of binary"):
        nulls = table.slice(0, 1).append_column("n", pa.array([1]))
        nulls = pa.concat_tables(
            [nulls, nulls.set_column(0, "text", pa.nulls(1, table["text"].type))]
        )
        good, bad = read(written(tmp_path, nulls))
        assert isinstance(good, Record) and isinstance(bad, Bad)
        assert (bad.error, bad.id) == ("expected text in 'text', got nothing", "a")


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_bytes_that_are_not_utf8(tmp_path: Path, kind: str) -> None:
    """A text is quarantined; an id becomes hexadecimal; a side column base64."""
    table = pa.table(
        {
            "text": [b"good", b"\xff", b"caf\xc3\xa9"],
            "id": [b"a", b"b", b"\xff\x00"],
            "source": [None, None, b"web"],
            "blob": [b"\xff\x00"] * 3,
        }
    )
    first, bad, last = read(written(tmp_path, table, kind))
    assert (first, last) == (
        Record("good", "a", None, '{"blob":"/wA="}'),
        Record("café", "ff00", "web", '{"blob":"/wA="}'),
    )
    assert isinstance(bad, Bad) and (bad.place, bad.id) == ("row 2", "b")


def test_a_repeated_long_text_is_not_held_for_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BATCH", 100_000)
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0] * 500 + [1], pa.int32()), ["x" * 50_000, ""]
    )
    sizes = []
    before = tables.bytes_of

    def measured(column: pa.Array) -> Any:
        sizes.append(len(column))
        return before(column)

    monkeypatch.setattr(tables, "bytes_of", measured)
    found = read(written(tmp_path, pa.table({"text": texts})))
    assert [len(one.text) for one in found if isinstance(one, Record)] == [50_000] * 500 + [0]
    assert max(sizes) <= 2


@pytest.mark.parametrize("value", [float("nan"), None, ""])
def test_an_id_that_is_missing_is_none(tmp_path: Path, value: Any) -> None:
    kind = pa.string() if value == "" else pa.float64()
    own = pa.array([value] * 2, kind)
    found = read(written(tmp_path, pa.table({"text": ["a", "b"], "id": own, "source": own})))
    assert [(one.id, one.source) for one in found if isinstance(one, Record)] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (
            pa.array([2**64 - 1, 2**53 + 1], pa.uint64()),
            ["18446744073709551615", "9007199254740993"],
        ),
        (pa.array([decimal.Decimal("1.50"), decimal.Decimal("2")]), ["1.50", "2.00"]),
        (pa.array([1.0, 2.5]), ["1.0", "2.5"]),
        (pa.array([True, False]), ["True", "False"]),
        (
            pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes], pa.binary(16)).cast(
                pa.uuid()
            ),
            [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))],
        ),
    ],
    ids=["uint64", "decimal", "float", "bool", "uuid"],
)
def test_ids_of_other_types_are_their_texts(tmp_path: Path, values: Any, ids: list[str]) -> None:
    found = read(written(tmp_path, pa.table({"text": ["a", "b"], "id": values})))
    assert [one.id for one in found if isinstance(one, Record)] == ids


# -- side columns -----------------------------------------------------------------------------


def test_dates_that_python_cannot_hold_become_text(tmp_path: Path) -> None:
    far = [253402300800 + 10**9, 0, -(10**12)]
    items = pa.list_(pa.struct([("at", pa.timestamp("s"))]))
    assert metas(
        tmp_path,
        s=pa.array(far, pa.timestamp("s")),
        tz=pa.array(far, pa.timestamp("s", "Europe/Paris")),
        nested=pa.array([[{"at": one}] for one in far], items),
        day=pa.array([2**31 - 1, 0, -(10**6)], pa.date32()),
        took=pa.array([2**62, 0, 1], pa.duration("s")),
        zone=pa.array([0, 1, 2], pa.timestamp("s", "No/Where")),
    ) == [
        {
            "s": "10031-09-09T01:46:40",
            "tz": "10031-09-09T01:46:40Z",
            "nested": [{"at": "10031-09-09T01:46:40"}],
            "day": "2147483647",
            "took": "4611686018427387904 s",
            "zone": "1970-01-01T00:00:00Z",
        },
        {
            "s": "1970-01-01T00:00:00",
            "tz": "1970-01-01T01:00:00+01:00",
            "nested": [{"at": "1970-01-01T00:00:00"}],
            "day": "1970-01-01",
            "took": "P0D",
            "zone": "1970-01-01T00:00:01Z",
        },
        {
            "s": "-29719-04-05T22:13:20",
            "tz": "-29719-04-05T22:13:20Z",
            "nested": [{"at": "-29719-04-05T22:13:20"}],
            "day": "-0768-02-04",
            "took": "PT1S",
            "zone": "1970-01-01T00:00:02Z",
        },
    ]  # fmt: skip


def test_nanoseconds_keep_their_digits(tmp_path: Path) -> None:
    found = metas(
        tmp_path,
        at=pa.array([1234567891234567891, 1000, None], pa.timestamp("ns")),
        within=pa.array([[1], [1000], []], pa.list_(pa.timestamp("ns"))),
        clock=pa.array([1, 2000, None], pa.time64("ns")),
        took=pa.array([1, 1000, None], pa.duration("ns")),
        codes=pa.array([1, 1, 1000], pa.timestamp("ns")).dictionary_encode(),
    )
    epoch = "1970-01-01T00:00:00"
    assert found == [
        {
            "at": "2009-02-13T23:31:31.234567891",
            "within": [f"{epoch}.000000001"],
            "clock": "00:00:00.000000001",
            "took": "1 ns",
            "codes": f"{epoch}.000000001",
        },
        {
            "at": f"{epoch}.000001",
            "within": [f"{epoch}.000001"],
            "clock": "00:00:00.000002",
            "took": "PT0.000001S",
            "codes": f"{epoch}.000000001",
        },
        {"at": None, "within": [], "clock": None, "took": None, "codes": f"{epoch}.000001"},
    ]


def test_deprecated_timestamps_keep_their_dates(tmp_path: Path) -> None:
    dates = [
        dt.datetime(9999, 12, 31),
        dt.datetime(1, 1, 1),
        dt.datetime(2020, 5, 17, 1, 2, 3, 456),
    ]
    table = pa.table({"text": TEXTS, "at": pa.array(dates, pa.timestamp("us"))})
    path = written(tmp_path, table, "parquet", use_deprecated_int96_timestamps=True)
    found = read(path)
    assert [json.loads(one.meta)["at"] for one in found if isinstance(one, Record)] == [
        date.isoformat() for date in dates
    ]


def test_infinities_become_text_and_nan_null(tmp_path: Path) -> None:
    inf = float("inf")
    assert metas(
        tmp_path,
        f=[inf, float("nan"), 1.5],
        half=np.array([1, -inf, np.nan], np.float16),
        within=[[{"x": -inf}], [{"x": 2.0}], []],
        pairs=pa.array([[("k", inf)], [], None], pa.map_(pa.string(), pa.float64())),
    ) == [
        {
            "f": "Infinity",
            "half": 1.0,
            "within": [{"x": "-Infinity"}],
            "pairs": [["k", "Infinity"]],
        },
        {"f": None, "half": "-Infinity", "within": [{"x": 2.0}], "pairs": []},
        {"f": 1.5, "half": None, "within": [], "pairs": None},
    ]


def test_side_columns_that_are_not_utf8_keep_the_document(tmp_path: Path) -> None:
    own = invalid([b"a\xffb", b"fine"])
    inner = pa.StructArray.from_arrays([own], ["s"])
    table = pa.table({"text": ["a", "b"], "id": own, "x": own, "y": inner})
    first, last = read(written(tmp_path, table))
    assert first == Record("a", "a\\xffb", None, '{"x":"a\\\\xffb","y":{"s":"a\\\\xffb"}}')
    assert last == Record("b", "fine", None, '{"x":"fine","y":{"s":"fine"}}')


def test_what_a_value_becomes_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    """80 generated tables, whole and row by row."""
    for seed in range(80):
        chance = random.Random(seed)
        columns = {f"c{k}": _column(chance, 9) for k in range(4)}
        table = pa.table({"text": [str(n) for n in range(9)], **columns})
        whole = read(written(tmp_path, table))
        alone = [one for n in range(9) for one in read(written(tmp_path, table.slice(n, 1)))]
        assert all(isinstance(one, Record) for one in whole)
        assert whole == alone, table.schema
        for column in table.column_names[1:]:
            if pa.types.is_integer(table[column].type) or pa.types.is_string(table[column].type):
                known = [json.loads(one.meta)[column] for one in whole if isinstance(one, Record)]
                assert known == table[column].to_pylist()


def _column(chance: random.Random, count: int) -> pa.Array:
    unit = chance.choice(["s", "ms", "us", "ns"])
    days = chance.choice([9, 30_000, 10_000_000])
    numbers = [chance.choice([None, chance.randint(-days, days)]) for _ in range(count)]
    per_day = {"s": 86400, "ms": 86400 * 10**3, "us": 86400 * 10**6, "ns": 86400 * 10**9}[unit]
    times = [
        one and max(-(2**62), min(2**62, one * per_day + chance.randint(0, 3))) for one in numbers
    ]
    kind = chance.randrange(9)
    if kind == 0:
        return pa.array(times, pa.timestamp(unit, chance.choice([None, "UTC", "Asia/Tokyo"])))
    if kind == 1:
        return pa.array(times, pa.duration(unit))
    if kind == 2:
        return pa.array(numbers, pa.date32())
    if kind == 3:
        return pa.array(numbers, pa.int64())
    if kind == 4:
        strings = [None if one is None else str(one) for one in numbers]
        return chance.choice([pa.array(strings), pa.array(strings).dictionary_encode()])
    if kind == 5:
        return pa.array([one and float(one) / 3 for one in numbers])
    if kind == 6:
        return pa.array(
            [None if one is None else [one, one] for one in times], pa.list_(pa.timestamp(unit))
        )
    if kind == 7:
        fields = pa.struct([("at", pa.timestamp(unit)), ("n", pa.int64())])
        return pa.array([{"at": one, "n": one} for one in times], fields)
    return pa.array([one and decimal.Decimal(one) for one in numbers], pa.decimal128(20, 2))


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("name", ["text", "n"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    own = [pa.array(["a"]), pa.array([1]), pa.array(["b"])]
    path = written(tmp_path, pa.Table.from_arrays(own, ["text", "n", name]), kind)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.file == str(path) and repr(name) in caught.value.problem


def test_two_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    inner = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["n", "n"])
    path = written(tmp_path, pa.table({"text": ["a"], "s": pa.array([[1]]), "t": inner}))
    with pytest.raises(InputError) as caught:
        read(path)
    assert "'t.n'" in caught.value.problem
