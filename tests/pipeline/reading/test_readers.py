"""Files to records: every byte is a document, a bad record, or an error that names the file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import InputError
from penstock.pipeline.reading import tables
from penstock.pipeline.reading.readers import KINDS, Bad, Record, reader_of
from penstock.pipeline.reading.records import Span
from penstock.recipe import CorpusSource, LiteralSource
from tests.pipeline.reading.reference import read_records, records_of

ROWS = [
    {"id": "a", "text": "one\nline", "source": "web", "n": 1},
    {"id": 2, "text": "zwei: é 日本", "extra": [1, None]},
    {"text": "three"},
]
RECORDS = [
    Record("one\nline", "a", "web", '{"n":1}'),
    Record("zwei: é 日本", "2", None, '{"extra":[1,null]}'),
    Record("three", None, None, ""),
]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def read(path: Path, **spec: Any) -> list[Record | Bad]:
    return list(read_records(path, CorpusSource(path=str(path), **spec)))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


Write = Callable[[str, bytes], Path]

# -- JSON lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES),
        ("x.json", LINES),
        ("x.ndjson", LINES),
        ("X.JSONL", LINES),
        ("x.jsonl.gz", gzip.compress(LINES)),
        ("x.jsonl.zst", zstd(LINES)),
        ("frames.jsonl.zst", zstd(LINES[:30]) + zstd(LINES[30:])),
        ("members.jsonl.gz", gzip.compress(LINES[:30]) + gzip.compress(LINES[30:])),
        ("crlf.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("unended.jsonl", LINES.removesuffix(b"\n")),
        ("blank.jsonl", b"\n  \n" + LINES.replace(b"\n", b"\n\r\n\n")),
        ("marked.jsonl", b"\xef\xbb\xbf" + LINES),
        ("marked.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + LINES)),
    ],
)
def test_json_lines_in_every_dress(file: Write, name: str, content: bytes) -> None:
    assert read(file(name, content)) == RECORDS


def test_columns_have_the_names_that_the_recipe_gives(file: Write) -> None:
    path = file("x.jsonl", b'{"body": "t", "key": 7, "site": "s", "id": 1, "text": 5}\n')
    (record,) = read(path, text="body", id="key", source="site")
    assert record == Record("t", "7", "s", '{"id":1,"text":5}')
    (record,) = read(path, text="body", id="key", source=LiteralSource(name="web"))
    assert isinstance(record, Record)
    assert record.source == "web" and json.loads(record.meta)["site"] == "s"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"not json", "not JSON in UTF-8"),
        (b'{"text": "a"} {"text": "b"}', "not JSON in UTF-8"),
        (b'{"text": "cut', "not JSON in UTF-8"),
        (b"[1, 2]", "expected an object, got list"),
        (b'"text"', "expected an object, got str"),
        (b"null", "expected an object, got NoneType"),
        (b'{"text": "a\xff\xfeb"}', "not JSON in UTF-8"),
        (b'{"text": "\\ud800"}', "not JSON in UTF-8"),
        (b'{"text": null}', "expected text in 'text', got nothing"),
        (b'{"id": 3}', "expected text in 'text', got nothing"),
        (b'{"text": 17}', "expected text in 'text', got int"),
        (b'{"text": ["a"]}', "expected text in 'text', got list"),
        (b'{"text": "a", "n": NaN}', "not JSON in UTF-8"),
        (b'{"text": "a", "n": 1e999}', "not JSON in UTF-8"),
        (b'{"text": "a", "n": ' + b"[" * 50_000, "not JSON in UTF-8"),
        (b"\xef\xbb\xbf{}", "expected text in 'text', got nothing"),
        (b"\x00\x00", "not JSON in UTF-8"),
    ],
)
def test_a_bad_line_keeps_its_bytes_and_stops_nothing(file: Write, line: bytes, error: str) -> None:
    before, bad, after = read(file("x.jsonl", b'{"text": "b"}\n\n' + line + b'\n{"text": "c"}'))
    assert before == Record("b", None, None, "")
    assert after == Record("c", None, None, "")
    assert isinstance(bad, Bad)
    assert bad.place == "line 3"
    assert bad.error.startswith(error)
    assert bad.raw == line


def test_a_bad_first_line_keeps_its_mark(file: Write) -> None:
    (bad,) = read(file("x.jsonl", b"\xef\xbb\xbfnot json\n"))
    assert isinstance(bad, Bad) and bad.raw == b"\xef\xbb\xbfnot json"


def test_text_may_be_empty_and_is_never_changed(file: Write) -> None:
    texts = ["", " \n\t", "a\r\nb", "\ufeffmark", "\x00nul", "e\u0301", "🧵" * 3]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    found = read(file("x.jsonl", content))
    assert [record.text for record in found if isinstance(record, Record)] == texts


_json_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.one_of(
            st.fixed_dictionaries({"text": _json_texts, "id": _json_texts, "x": st.integers()}),
            st.binary(min_size=1, max_size=20).filter(lambda raw: b"\n" not in raw),
        ),
        max_size=8,
    ),
    dress=st.sampled_from([("", bytes), (".gz", gzip.compress), (".zst", zstd)]),
)
def test_nothing_is_lost_and_nothing_is_invented(
    tmp_path: Path, rows: list[Any], dress: tuple[str, Callable[[bytes], bytes]]
) -> None:
    """Lines of documents and of noise: each gives one record, in order, or its own bytes."""
    ending, compress = dress
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = tmp_path / f"x.jsonl{ending}"
    content = compress(b"\n".join(lines))
    path.write_bytes(content)
    if not content:
        assert read(path) == []
        return
    found = read(path)
    expected = [
        (row, line)
        for number, (row, line) in enumerate(zip(rows, lines))
        if (line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).strip()
    ]
    assert len(found) == len(expected)
    for record, (row, line) in zip(found, expected):
        if isinstance(row, dict):
            assert isinstance(record, Record)
            assert (record.text, record.id or "") == (row["text"], row["id"])
        elif isinstance(record, Bad):
            assert record.raw == line


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd], ids=["plain", "gz", "zst"])
def test_lines_longer_than_a_block_are_whole(
    file: Write, compress: Callable[[bytes], bytes]
) -> None:
    ending = {"compress": ".gz", "zstd": ".zst"}.get(compress.__name__, "")
    texts = ["a" * 5_000_000, "b", "c" * 9_000_001, ""]
    content = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    found = read(file(f"x.jsonl{ending}", compress(content)))
    assert [record.text for record in found if isinstance(record, Record)] == texts


# -- files that would lose documents silently -------------------------------------------------

NOISE = b"".join(
    json.dumps({"text": text.hex()}).encode() + b"\n"
    for text in (np.random.default_rng(0).bytes(100_000) for _ in range(3))
)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.9, -8, -4, -1])
def test_a_truncated_file_is_refused_by_name(file: Write, ending: str, keep: float) -> None:
    whole = gzip.compress(NOISE) if ending == ".gz" else zstd(NOISE)
    end = int(keep) if keep < 0 else int(len(whole) * keep)
    path = file(f"x.jsonl{ending}", whole[:end])
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.file == str(path)
    assert caught.value.fix
    assert "after 0 " not in caught.value.problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.jsonl.gz", LINES),
        ("plain.jsonl.zst", LINES),
        ("tail.jsonl.gz", gzip.compress(LINES) + b"garbage"),
        ("tail.jsonl.zst", zstd(LINES) + b"garbage"),
        ("flipped.jsonl.gz", gzip.compress(LINES)[:-8] + b"\0" * 4 + gzip.compress(LINES)[-4:]),
    ],
)
def test_a_damaged_file_is_refused_by_name(file: Write, name: str, content: bytes) -> None:
    path = file(name, content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.file == str(path)


def test_a_missing_file_and_an_unknown_kind_are_refused(file: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "none.jsonl")
    assert caught.value.file == str(tmp_path / "none.jsonl")
    for name in ("x.xml", "x", "x.jsonl.bz2", ".gz"):
        assert reader_of(Path(name)) is None
        with pytest.raises(InputError) as caught:
            read(file(name, b""))
        assert caught.value.expected == KINDS


@pytest.mark.parametrize("name", ["x.rst", "x.py", "x", "x.jsonl", "x.rst.gz"])
def test_a_format_of_the_item_is_that_of_its_files(file: Write, name: str) -> None:
    content = b"one\ntwo\n"
    path = file(name, gzip.compress(content) if name.endswith(".gz") else content)
    (whole,) = read(path, format="text")
    assert isinstance(whole, Record) and whole.text == "one\ntwo\n"
    lines = read(path, format="text", per="line")
    assert [one.text for one in lines if isinstance(one, Record)] == ["one", "two"]
    (latin,) = read(file("y.rst", b"caf\xe9"), format="text", encoding="latin-1")
    assert isinstance(latin, Record) and latin.text == "caf\xe9"
    (bad,) = read(file("z.png", b"\x89PNG\xff"), format="text")
    assert isinstance(bad, Bad)


def test_an_empty_file_has_no_records(file: Write) -> None:
    assert read(file("x.jsonl", b"")) == []
    assert read(file("x.jsonl.gz", gzip.compress(b""))) == []
    assert read(file("x.txt", b""), per="line") == []


# -- plain text -------------------------------------------------------------------------------


def test_a_plain_text_file_is_a_document(file: Write) -> None:
    path = file("book.txt", b"\xef\xbb\xbfone\r\ntwo\n")
    assert read(path) == [Record("one\r\ntwo\n", None, None, "")]
    assert read(path, source=LiteralSource(name="books"))[0] == Record(
        "one\r\ntwo\n", None, "books", ""
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_plain_text_line_is_a_document(file: Write, ending: str) -> None:
    content = "\ufeff" + ending.join(["one", "", "zwei é", "three"])
    found = read(file("x.txt.zst", zstd(content.encode())), per="line")
    assert [record.text for record in found if isinstance(record, Record)] == [
        "one",
        "",
        "zwei é",
        "three",
    ]


def test_plain_text_that_is_not_utf8_keeps_its_bytes(file: Write) -> None:
    path = file("x.txt", b"good\nb\xe9d\ngood\n")
    first, bad, last = read(path, per="line")
    assert isinstance(bad, Bad) and (bad.place, bad.raw) == ("line 2", b"b\xe9d")
    assert isinstance(first, Record) and isinstance(last, Record)
    (bad,) = read(path)
    assert isinstance(bad, Bad) and (bad.place, bad.raw) == ("file", path.read_bytes())


# -- columns ----------------------------------------------------------------------------------

TABLE = pa.table(
    {
        "id": ["a", "2", None],
        "text": [row["text"] for row in ROWS],
        "source": ["web", None, None],
    }
)


def write_parquet(table: pa.Table, path: Path) -> Path:
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=2)
    return path.with_suffix(".parquet")


def write_arrow_file(table: pa.Table, path: Path) -> Path:
    path = path.with_suffix(".arrow")
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def write_arrow_stream(table: pa.Table, path: Path) -> Path:
    path = path.with_suffix(".arrow")
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


COLUMNAR = [write_parquet, write_arrow_file, write_arrow_stream]


@pytest.mark.parametrize("write", COLUMNAR)
def test_columnar_files(tmp_path: Path, write: Callable[[pa.Table, Path], Path]) -> None:
    found = read(write(TABLE, tmp_path / "x"))
    assert [(r.text, r.id, r.source) for r in found if isinstance(r, Record)] == [
        (r.text, r.id, r.source) for r in RECORDS
    ]


@pytest.mark.parametrize("write", COLUMNAR)
def test_a_missing_text_column_is_named_with_what_there_is(
    tmp_path: Path, write: Callable[[pa.Table, Path], Path]
) -> None:
    path = write(TABLE, tmp_path / "x")
    with pytest.raises(InputError) as caught:
        read(path, text="body")
    assert caught.value.file == str(path)
    assert caught.value.expected is not None and "'body'" in caught.value.expected
    assert caught.value.got == "id, text, source"


@pytest.mark.parametrize("write", COLUMNAR)
@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.6, -9, -2])
def test_a_truncated_columnar_file_is_refused_by_name(
    tmp_path: Path, write: Callable[[pa.Table, Path], Path], keep: float
) -> None:
    rows = [np.random.default_rng(number).bytes(2000).hex() for number in range(20)]
    path = write(pa.table({"text": rows}), tmp_path / "x")
    whole = path.read_bytes()
    if write is write_arrow_stream and keep in (-9, -2):
        pytest.skip("the last eight bytes of a stream are a mark that it may lack")
    path.write_bytes(whole[: int(keep) if keep < 0 or keep > 1 else int(len(whole) * keep)])
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("damaged", [slice(5, 25), slice(200, 400)], ids=["header", "data"])
def test_a_damaged_parquet_page_is_refused_by_name(tmp_path: Path, damaged: slice) -> None:
    rows = [np.random.default_rng(number).bytes(2000).hex() for number in range(20)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": rows}), path, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    whole[damaged] = bytes(damaged.stop - damaged.start)
    path.write_bytes(whole)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.file == str(path)


def invalid(strings: list[bytes]) -> pa.Array:
    """Strings that claim to be UTF-8 and are not, as other writers leave them."""
    array = pa.array(strings, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers())


@pytest.mark.parametrize("write", COLUMNAR)
def test_columnar_text_that_is_not_utf8_keeps_the_whole_row(
    tmp_path: Path, write: Callable[[pa.Table, Path], Path]
) -> None:
    table = pa.table(
        {"id": ["x", "y", "z"], "text": invalid([b"ok", b"b\xe9d\xff", b"fine"]), "n": [1, 2, 3]}
    )
    first, bad, last = read(write(table, tmp_path / "x"))
    assert isinstance(first, Record) and (first.id, first.text) == ("x", "ok")
    assert isinstance(last, Record) and (last.id, last.text) == ("z", "fine")
    assert isinstance(bad, Bad) and bad.place == "row 2"
    assert "'text' is not UTF-8" in bad.error
    row = json.loads(bad.raw)
    assert (row["id"], row["n"]) == ("y", 2)
    assert base64.b64decode(row["text"]["base64"]) == b"b\xe9d\xff"


def test_columnar_values_of_other_kinds(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([None, "t"]), "id": [1, 2], "raw": [b"\xff", b"a"]})
    bad, good = read(write_parquet(table, tmp_path / "x"))
    assert isinstance(bad, Bad)
    assert (bad.place, bad.error) == ("row 1", "expected text in 'text', got nothing")
    assert json.loads(bad.raw) == {"id": 1, "raw": {"base64": "/w=="}, "text": None}
    assert isinstance(good, Record) and good.id == "2"
    numbers = read(write_parquet(pa.table({"text": [1, 2]}), tmp_path / "y"))
    assert [bad.error for bad in numbers if isinstance(bad, Bad)] == [
        "expected text in 'text', got int"
    ] * 2


def test_rows_are_counted_over_batches(tmp_path: Path) -> None:
    texts = [None if number in (0, 1500, 3000) else "t" for number in range(3001)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1100)
    found = read(path)
    assert len(found) == 3001
    places = [record.place for record in found if isinstance(record, Bad)]
    assert places == ["row 1", "row 1501", "row 3001"]


# -- Hugging Face datasets --------------------------------------------------------------------


@pytest.fixture(scope="module")
def datasets_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("hf")
    whole = datasets.Dataset.from_dict(
        {"text": [f"text {n}" for n in range(2500)], "id": [str(n) for n in range(2500)]}
    )
    whole.save_to_disk(str(root / "saved"))
    whole.shuffle(seed=1).select(range(1100)).save_to_disk(str(root / "shuffled"))
    parts = {"train": whole.select(range(3)), "test": whole.select([5, 4])}
    datasets.DatasetDict(parts).save_to_disk(str(root / "parts"))
    (root / "files").mkdir()
    whole.to_parquet(str(root / "files" / "train.parquet"))
    return root


def read_hf(path: Path, **spec: Any) -> list[Record]:
    found = list(read_records(path, CorpusSource(path=f"hf:{path}", **spec)))
    assert all(isinstance(record, Record) for record in found)
    return [record for record in found if isinstance(record, Record)]


@pytest.mark.parametrize("name", ["saved", "files"])
def test_a_dataset_s_directory(datasets_directory: Path, name: str) -> None:
    found = read_hf(datasets_directory / name)
    assert [(r.id, r.text) for r in found] == [(str(n), f"text {n}") for n in range(2500)]


def test_a_dataset_with_indices_keeps_their_order(datasets_directory: Path) -> None:
    import datasets

    before = sorted(datasets_directory.rglob("*"))
    found = read_hf(datasets_directory / "shuffled")
    order = datasets.load_from_disk(str(datasets_directory / "shuffled"))["id"]
    assert [record.id for record in found] == list(order)
    assert len(found) == 1100 and found[0].id != "0"
    assert sorted(datasets_directory.rglob("*")) == before, "reading must not write beside"


def test_a_split_of_a_dataset(datasets_directory: Path) -> None:
    assert [record.id for record in read_hf(datasets_directory / "parts")] == ["0", "1", "2"]
    found = read_hf(datasets_directory / "parts", split="test")
    assert [record.id for record in found] == ["5", "4"]
    with pytest.raises(InputError) as caught:
        read_hf(datasets_directory / "parts", split="dev")
    assert caught.value.got == "'dev'"
    assert caught.value.expected is not None and "test, train" in caught.value.expected


def test_a_dataset_without_the_text_column(datasets_directory: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_hf(datasets_directory / "saved", text="body")
    assert caught.value.file == f"hf:{datasets_directory / 'saved'}"
    assert caught.value.got == "text, id"


def test_a_directory_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_hf(tmp_path)
    assert caught.value.file == f"hf:{tmp_path}"
    assert caught.value.fix is not None and "save_to_disk" in caught.value.fix


def test_a_damaged_dataset_is_refused(datasets_directory: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(datasets_directory / "files", copy)
    path = copy / "train.parquet"
    whole = bytearray(path.read_bytes())
    whole[100:600] = bytes(500)
    path.write_bytes(whole)
    with pytest.raises(InputError) as caught:
        read_hf(copy)
    assert caught.value.file == f"hf:{copy}"


VALUES = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.just("x" * 50),
)
SCALARS = st.one_of(st.none(), st.integers(-9, 9), st.floats(allow_nan=True), st.booleans())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(VALUES, VALUES, VALUES, SCALARS), max_size=8),
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.binary()]),
    size=st.sampled_from([1, 3, 100]),
    cap=st.sampled_from([40, 10**6]),
    names=st.sampled_from([("text", "id", "source"), ("id", "text", "id"), ("text", "n", "n")]),
    invalid_at=st.sampled_from([None, None, 0, 1]),
)
def test_columns_equal_rows(
    rows: list[tuple[Any, ...]],
    kind: pa.DataType,
    size: int,
    cap: int,
    names: tuple[str, str, str],
    invalid_at: int | None,
) -> None:
    """Batches made of whole columns have what is made of each row."""
    texts = pa.array([row[0] and row[0].encode() for row in rows], pa.binary())
    if invalid_at is not None and invalid_at < len(rows) and kind == pa.string():
        raw = [row[0] and row[0].encode() for row in rows]
        raw[invalid_at] = b"\xff"
        texts = invalid(raw)
    table = pa.table(
        {
            "text": texts if texts.type == pa.string() else texts.cast(kind),
            "id": pa.array([row[1] for row in rows], pa.string()),
            "source": pa.array([row[2] for row in rows], pa.string()),
            "n": pa.array([row[3] for row in rows], pa.float64()),
        }
    )
    text, name, source = names
    spec = CorpusSource(path="x", text=text, id=name, source=source)
    found = []
    for whole in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not whole:
                patch.setattr(tables, "_whole_columns", lambda *_: None)
            batches = tables.from_batches(table.to_batches(size), spec, Span(rows=5), cap)
            found.append(records_of(batches))
    assert found[0] == found[1]
    numbers = [record.number for record in found[0]]
    assert numbers == [record.number for record in found[1]] == list(range(6, 6 + len(rows)))


def test_columns_without_nulls_make_no_objects_of_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_row_by_row", None)
    found = read(write_parquet(TABLE, tmp_path / "x"))
    assert len(found) == len(ROWS)
