"""CSV and TSV: equal to Python's ``csv`` on sound rows, and no row lost on others."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InputError
from penstock.pipeline.reading.records import Bad, Extent, Record, Span, undecodable
from penstock.recipe import CorpusSource
from tests.pipeline.reading.reference import read_records

CAP = 1 << 30


def read(where: Path, cap: int = CAP, **spec: Any) -> list[Record | Bad]:
    return read_records(where, CorpusSource(path="x", **spec), Span(), cap, Extent())


def of(content: bytes, tmp_path: Path, cap: int = CAP, name: str = "x.csv", **spec: Any) -> Any:
    (tmp_path / name).write_bytes(content)
    return read(tmp_path / name, cap, **spec)


TABLE = (
    "\ufeffid,text,source,n\r\n"
    '1,"one\nline, and ""two""",web,5\r\n'
    "\r\n"
    "2,plain é,,\n"
    "3,,web,x\r"
    'four,a"b c,web, 7 '
)
RECORDS = [
    Record('one\nline, and "two"', "1", "web", '{"n":"5"}', 2),
    Record("plain é", "2", None, '{"n":""}', 5),
    Record("", "3", "web", '{"n":"x"}', 6),
    Record('a"b c', "four", "web", '{"n":" 7 "}', 7),
]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.csv.zst", "x.tsv", "x.tsv.gz"])
def test_rows(name: str, tmp_path: Path) -> None:
    content = TABLE
    if ".tsv" in name:
        content = TABLE.replace(",", "\t").replace("line\t", "line,")
    packed = content.encode()
    packed = gzip.compress(packed) if name.endswith(".gz") else packed
    packed = zstandard.ZstdCompressor().compress(packed) if name.endswith(".zst") else packed
    found = of(packed, tmp_path, name=name)
    assert found == RECORDS
    assert [one.number for one in found] == [2, 5, 6, 7]


def test_columns_that_the_recipe_names(tmp_path: Path) -> None:
    found = of(b"a,b,c\n1,2,3\n", tmp_path, text="b", id="c", source={"name": "s"})
    assert found == [Record("2", "3", "s", '{"a":"1"}')]


@pytest.mark.parametrize(
    ("content", "expected", "got"),
    [
        (b"id,text,id\n1,2,3\n", "different names", "2 named 'id'"),
        (b"id,body\n1,2\n", "a column 'text'", "id, body"),
        ("id,text\n1,2\n".encode("utf-16"), "UTF-8", None),
        (b"id;text\n1;2\n", "a column 'text'", "id;text"),
    ],
)
def test_headers_that_cannot_be_used(
    content: bytes, expected: str, got: str | None, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        of(content, tmp_path)
    assert expected in str(caught.value.expected) and caught.value.got == got
    assert str(tmp_path) in str(caught.value.file)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
@pytest.mark.parametrize("header", [b"text,gr\xf6sse", b"\xff,text", b"te\xc3,text"])
def test_a_header_that_is_not_utf8(name: str, header: bytes, tmp_path: Path) -> None:
    content = (header + b"\nhello there,3\n").replace(b",", b"\t" if "tsv" in name else b",")
    with pytest.raises(InputError) as caught:
        of(content, tmp_path, name=name)
    assert "not UTF-8" in caught.value.problem and caught.value.fix
    assert caught.value.file == str(tmp_path / name)
    assert str(caught.value).encode()


def test_many_or_long_names_of_columns_are_shortened(tmp_path: Path) -> None:
    contents = [b",".join(b"c%d" % k for k in range(50_000)), b"a" * 90_000, b"a" * 90_000]
    contents[2] += b"," + contents[2]
    for content in contents:
        with pytest.raises(InputError) as caught:
            of(content + b"\n1\n", tmp_path)
        assert len(str(caught.value)) < 500 + len(str(tmp_path))
    with pytest.raises(InputError) as caught:
        of(contents[0] + b"\n", tmp_path)
    assert caught.value.got == "c0, c1, c2, c3, c4, c5, c6, c7 and 49,992 more"


@pytest.mark.parametrize(
    "content", [b'id,"text\n1,2\n', b'\nid,"text', b"t" * 200 + b"\ntext\na\n"]
)
def test_a_damaged_header_is_not_replaced_by_the_next_line(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        of(content, tmp_path, cap=100)
    line = 2 if content.startswith(b"\n") else 1
    assert caught.value.file == f"{tmp_path / 'x.csv'}:{line}"
    assert ("quote" if b'"' in content else "in this line") in caught.value.problem


@pytest.mark.parametrize("content", [b"", b"\n\n", b"text\n", b"\xef\xbb\xbftext"])
def test_no_rows(content: bytes, tmp_path: Path) -> None:
    assert of(content, tmp_path) == []


NOT_UTF8 = undecodable("utf-8", b"")


def test_bad_rows(tmp_path: Path) -> None:
    content = b'id,text\n1,a\n2\n3,b,c\n4,\xff\n5,"x\xfe\ny"\n6,ok\0\n7,"never\n8,b\n9,c\n'
    found = of(content, tmp_path)
    bad = [(one.number, one.place, one.error, one.raw) for one in found if isinstance(one, Bad)]
    assert bad == [
        (3, "line 3", "expected 2 fields, as in the first line, got 1", b"2\n"),
        (4, "line 4", "expected 2 fields, as in the first line, got 3", b"3,b,c\n"),
        (5, "line 5", NOT_UTF8, b"4,\xff\n"),
        (6, "line 6", NOT_UTF8, b'5,"x\xfe\ny"\n'),
        (9, "line 9", "a quote begins in this line and is not closed", b'7,"never\n'),
    ]
    good = [(one.number, one.id, one.text) for one in found if isinstance(one, Record)]
    assert good == [(2, "1", "a"), (8, "6", "ok\0"), (10, "8", "b"), (11, "9", "c")]


def test_rows_over_the_cap(tmp_path: Path) -> None:
    content = b"id,text\n1," + b"x" * 500 + b'\n2,b\n3,"' + b"y\n" * 300 + b"4,c\n5,d"
    found = of(content, tmp_path, cap=200)
    assert [one.number for one in found if isinstance(one, Bad)][:2] == [2, 4]
    assert "503 bytes" in found[0].error and "not closed" in found[2].error
    assert [one.id for one in found if isinstance(one, Record)] == ["2", "4", "5"]


def test_quotes_that_never_close_cost_linear_time(tmp_path: Path) -> None:
    """Each of these lines opens a quote, whether it is read in one or not."""
    times = []
    for count in (20_000, 80_000):
        began = time.process_time()
        found = of(b"id,text\n" + b'a"b,"cdefgh\n' * count, tmp_path)
        times.append(time.process_time() - began)
        assert found and all(isinstance(one, Bad) for one in found)
    assert times[1] < 4 + 16 * times[0]


FIELD = st.text(st.sampled_from('ab,"\n\r\t é\u2028\x0b\x1c'), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=6),
       st.sampled_from(["excel", "unix", "excel-tab"]))  # fmt: skip
def test_written_rows_are_read(rows: list[list[str]], dialect: str) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, dialect)
    writer.writerow(["id", "text"])
    writer.writerows(rows)
    check(sink.getvalue(), "\t" if dialect == "excel-tab" else ",")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab,,""\n\r é'), max_size=40))
def test_odd_text_is_read_as_by_csv(text: str) -> None:
    check("id,text\n" + text, ",")


def check(text: str, delimiter: str) -> None:
    """Compare with ``csv`` on every row before a quote that is not closed."""
    where = Path("/dev/shm" if Path("/dev/shm").exists() else ".")
    where /= f"penstock-test.{'tsv' if delimiter == chr(9) else 'csv'}"
    where.write_bytes(text.encode())
    found = read(where)
    where.unlink()
    expected = []
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
    next(rows)
    line = rows.line_num
    unclosed = None
    for row in rows:
        if row:
            expected.append((line + 1, row))
        line = rows.line_num
    lines = io.StringIO(text, newline="").readlines()
    if expected:  # is the last row closed? csv says so with strict, or a quote more closes it
        number = expected[-1][0]
        last = "".join(lines[number - 1 :])
        closed = list(csv.reader(io.StringIO(last + "\n,", newline=""), delimiter=delimiter))
        if len([row for row in closed if row]) == 1:
            unclosed = number
    for number, row in expected:
        if unclosed is not None and number >= unclosed:
            break
        one = found.pop(0)
        assert one.number == number
        if len(row) == 2 and isinstance(one, Record):
            assert [one.id or "", one.text] == row
        else:
            assert isinstance(one, Bad) and f"got {len(row)}" in one.error
            assert "".join(lines[number - 1 :]).encode().startswith(one.raw)
    assert not found if unclosed is None else found


def test_meta_is_the_other_columns(tmp_path: Path) -> None:
    (one,) = of(b'text,"a ""b""",\n1,2,3\n', tmp_path)
    assert json.loads(one.meta) == {'a "b"': "2", "": "3"}


def test_markdown(tmp_path: Path) -> None:
    cases = {
        "# Title\n\ntext\n": ("# Title\n\ntext\n", ""),
        "---\ntitle: x\n---\n# T\n": ("# T\n", '{"front_matter":"title: x\\n"}'),
        "\ufeff---\r\ntitle: x\r\n...\r\nT": ("T", '{"front_matter":"title: x\\r\\n"}'),
        "---\n---\nT": ("T", '{"front_matter":""}'),
        "---\nno end\n": ("---\nno end\n", ""),
        "text\n---\na\n---\n": ("text\n---\na\n---\n", ""),
        "----\na\n---\n": ("----\na\n---\n", ""),
    }
    for content, (text, meta) in cases.items():
        found = of(content.encode(), tmp_path, name="x.md")
        assert found == [Record(text, None, None, meta)]
    assert isinstance(of(b"\xff", tmp_path, name="y.md")[0], Bad)
    assert isinstance(of(b"long", tmp_path, 2, "z.md")[0], Bad)
    (one,) = of(gzip.compress(b"a"), tmp_path, name="z.md.gz", source={"name": "docs"})
    assert one == Record("a", None, "docs", "")
