"""Batches of JSON lines equal what msgspec makes of each line, for every kind of odd line."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from penstock.pipeline.reading import json_lines as module
from penstock.pipeline.reading import streams
from penstock.pipeline.reading.batches import DOCUMENTS, ParsedBatch
from penstock.pipeline.reading.readers import read_batches
from penstock.pipeline.reading.records import Bad, Extent, Record, Span
from penstock.recipe import CorpusSource
from tests.pipeline.reading import reference

NO_CAP = 2**62


def batches(path: Path, content: bytes, cap: int = NO_CAP, **spec: Any) -> list[ParsedBatch]:
    path.write_bytes(content)
    return list(read_batches(path, CorpusSource(path=str(path), **spec), Span(), cap))


def records(found: list[ParsedBatch]) -> list[Record | Bad]:
    for batch in found:
        batch.documents.validate(full=True)
        assert batch.documents.schema == DOCUMENTS
        assert batch.documents["text"].null_count == 0
    return reference.records_of(found)


def check(path: Path, content: bytes, cap: int = NO_CAP, **spec: Any) -> list[Record | Bad]:
    """Read and compare with the reference; returns the records."""
    found = records(batches(path, content, cap, **spec))
    expected = reference.json_lines(content, cap, CorpusSource(path=str(path), **spec))
    assert found == expected
    assert [record.number for record in found] == [record.number for record in expected]
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.jsonl"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the lines that are decoded whole."""
    numbers: list[int] = []
    before = module._LineParser._record

    def record(self: Any, lines: Any, begin: int, stop: int, number: int) -> Record | Bad | None:
        numbers.append(number)
        return before(self, lines, begin, stop, number)

    monkeypatch.setattr(module._LineParser, "_record", record)
    return numbers


# -- what the loop understands ----------------------------------------------------------------


def test_usual_lines_are_not_decoded_whole(path: Path, decoded: list[int]) -> None:
    lines = [
        '{"text": "plain"}',
        '{"id": 7, "text": "\\"quotes\\" and \\\\ \\/ \\b\\f\\n\\r\\t", "source": "s"}',
        '{"meta": {"text": ["not this", {"text": 1}]}, "text": "this", "id": null}',
        '{"a": "}\\"{,", "b": -1.5e3, "c": [true, null, "]"], "text": "\u00e9\u6f22\U0001f600"}',
        ' \t{ "text"\t: "\\u00e9\\ud83d\\ude00\\u0000" , "z" : {} } \r',
        "",
        "  \t\r",
        '{"text": "", "source": "", "id": ""}',
        '{"text": "' + 100 * "x" + '"}',
        '{"text": "\u007f\u0080\ud7ff\ue000\uffff\U00010000\U0010ffff"}',
    ]
    found = check(path, "\n".join(lines).encode())
    assert [record.text for record in found if isinstance(record, Record)] == [
        "plain",
        '"quotes" and \\ / \b\f\n\r\t',
        "this",
        "é漢😀",
        "é😀\0",
        "",
        100 * "x",
        "\x7f\x80\ud7ff\ue000\uffff\U00010000\U0010ffff",
    ]
    assert not decoded


ODD = [
    b'{"text": "a", "text": "b"}',
    b'{"text": "a", "te\\u0078t": "b"}',
    b'{"te\\u0078t": "a", "text": "b"}',
    b'{"te\\u0078t": "a"}',
    b'{"text": 1, "text": "b"}',
    b'{"text": "b", "text": 1}',
    b'{"text": "b", "text": null}',
    b'{"id": {"text": "a"}}',
    b'{"id": {"text": "a"}, "text": "b"}',
    b'{"id": "a", "id": "b", "text": "t"}',
    b'{"text": "a"} x',
    b'{"text": "a"},',
    b'{"text": "a"',
    b'{"text": "a',
    b'{"text": "a\\',
    b'{"text": "a\\u00',
    b'{"text": "a\\"',
    b'{"text',
    b'{"text"',
    b'{"text":',
    b"{",
    b"{}",
    b"{,}",
    b'{"a": 1,}',
    b'{"a": [1, "text": "x"}',
    b'{"a": "\\", "text": "x"}',
    b'{"a"; 1, "text": "x"}',
    b"{'text': 'x'}",
    b'[{"text": "x"}]',
    b'"text"',
    b"null",
    b"\xef\xbb\xbf",
    b'\xef\xbb\xbf{"text": "marked"}',
    b'\x0b{"text": "x"}',
    b"\x0b\x0c ",
    b"\x00",
    b'{"text": "a\x00b"}',
    b'{"text": "a\tb"}',
    b'{"text": "a\x1fb"}',
    b'{"text": "\\ud800"}',
    b'{"text": "\\udc00\\ud800"}',
    b'{"text": "\\ud83d\\n"}',
    b'{"text": "\\ud83d\\u0041"}',
    b'{"text": "\\U0041"}',
    b'{"text": "\\u004G"}',
    b'{"text": "\\x41"}',
    b'{"text": "x", "n": 1e999}',
    b'{"text": "x", "n": NaN}',
    b'{"text": "x", "n": 01}',
    b'{"text": "x", "n": 123456789012345678901234567890}',
    b'{"text": "x", "s": "\\ud800"}',
    b'{"text": "x", "s": "\xff"}',
    b'{"text": "x", "id": "\xff"}',
    b'{"\xff": 1, "text": "x"}',
    b'{"text": "x", "deep": ' + b"[" * 50_000,
    b'{"text": "x", "deep": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"deep": ' + b"[" * 500 + b"]" * 500 + b', "text": "x"}',
    b'{"text": "x", "id": 1.0, "source": ["a"]}',
    b'{"text": "x", "id": false, "source": 0}',
]


def test_odd_lines_each_alone_and_all_together(path: Path) -> None:
    for line in ODD:
        if not reference.is_array(line):
            check(path, line)
    good = b'{"text": "good", "id": 3}'
    found = check(path, b"\n".join(part for line in ODD for part in (line, good, b"")))
    assert found.count(Record("good", "3", None, "")) == len(ODD)


def test_every_escape_of_four_digits(path: Path, decoded: list[int]) -> None:
    lines = [b'{"text": "%s"}' % (b"\\u%04x" % code) for code in range(0x10000)]
    found = check(path, b"\n".join(lines))
    halves = range(0xD800, 0xE000)
    assert decoded == [code + 1 for code in halves]
    assert [record.number - 1 for record in found if isinstance(record, Bad)] == list(halves)


def test_every_beginning_of_a_character(path: Path, decoded: list[int]) -> None:
    """Two bytes, all there are, then one to three more: what Python refuses is refused."""
    strings = [
        bytes([first, second, *rest])
        for first, second in product(range(0x7E, 256), range(0x7E, 256))
        for rest in (b"", b"\x80", b"\xbf\x80", b"\x80\xbfz", b"\x80z", b"\xc0\xbf")
    ]
    found = check(path, b"\n".join(b'{"text": "%s"}' % string for string in strings))
    good = {record.number - 1 for record in found if isinstance(record, Record)}
    assert good == {at for at, string in enumerate(strings) if _is_utf8(string)}
    assert set(decoded) == {at + 1 for at in range(len(strings)) if at not in good}


def _is_utf8(string: bytes) -> bool:
    try:
        string.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- generated lines --------------------------------------------------------------------------

PIECES = st.one_of(
    st.sampled_from(
        [
            *(b"\\" + bytes([letter]) for letter in b'"\\/bfnrtux0'),
            *(b"\\u0000", b"\\u00e9", b"\\uD83D\\uDE00", b"\\ud83d", b"\\ude00", b"\\u12G4"),
            *(b"\xc3\xa9", b"\xe6\xbc\xa2", b"\xf0\x9f\x98\x80", b"\xff", b"\xe6\xbc", b"\xc0\x80"),
            *(b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x80\x80\x80", b"\xe0\x80\x80"),
            *(b"\x00", b"\t", b"\r", b"\x7f", b"{", b"}", b"[", b"]", b":", b",", b" ", b"'"),
        ]
    ),
    st.integers(0, 40).map(lambda count: b"x" * count),
)
STRINGS = st.lists(PIECES, max_size=6).map(b"".join)
SOUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(
    lambda text: json.dumps(text).encode()[1:-1]
)
QUOTED = st.one_of(SOUND, STRINGS).map(lambda string: b'"' + string + b'"')
SPACES = st.sampled_from([b"", b"", b" ", b"\t", b"\r", b" \r ", b"\x0b"])
VALUES = st.recursive(
    st.one_of(
        QUOTED,
        st.sampled_from([b"1", b"-0.5e3", b"true", b"null", b"NaN", b"1e999", b"", b"01", b"{}"]),
    ),
    lambda values: st.one_of(
        st.lists(values, max_size=3).map(lambda items: b"[" + b", ".join(items) + b"]"),
        st.lists(st.tuples(QUOTED, values), max_size=3).map(
            lambda items: b"{" + b",".join(key + b":" + value for key, value in items) + b"}"
        ),
    ),
    max_leaves=4,
)
KEYS = st.one_of(
    st.sampled_from([b'"text"', b'"id"', b'"source"', b'"a"', b'"te\\u0078t"', b'"Text"', b'""']),
    QUOTED,
)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    def space() -> bytes:
        return draw(SPACES)

    members = draw(st.lists(st.tuples(KEYS, VALUES), max_size=4))
    if draw(st.integers(0, 3)):
        members.insert(draw(st.integers(0, len(members))), (b'"text"', draw(QUOTED)))
    inner = b",".join(
        b"".join([space(), key, space(), b":", space(), value, space()]) for key, value in members
    )
    return b"".join([space(), b"{", inner, b"}", space()])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An object with some bytes cut out, put in or changed."""
    line = bytearray(draw(objects()))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(line)))
        new = draw(st.sampled_from([b"", b'"', b"\\", b"{", b"}", b"\xff", b"\x00", b",", b"\xe6"]))
        line[at : at + draw(st.integers(0, 2))] = new
    return bytes(line)


SURE = objects().map(lambda line: line.replace(b"\x0b", b""))
LINES = st.one_of(
    SURE,
    SURE,
    objects(),
    damaged(),
    VALUES,
    SPACES,
    st.sampled_from(ODD[:-4]),
    st.binary(max_size=12),
).map(lambda line: line.replace(b"\n", b""))


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(LINES, max_size=12),
    mark=st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf"]),
    end=st.sampled_from([b"", b"\n", b"\n\n"]),
    block=st.sampled_from([1, 2, 3, 17, 64, 500, 4 << 20]),
    rows=st.sampled_from([1, 2, 5, 4096]),
    cap=st.sampled_from([NO_CAP, NO_CAP, 60, 25, 3]),
    names=st.sampled_from([("text", "id", "source"), ("a", "text", "id"), ("text", "text", "a")]),
)
@example([], b"\xef\xbb\xbf", b"", 1, 1, NO_CAP, ("text", "id", "source"))
def test_batches_equal_records(
    path: Path,
    lines: list[bytes],
    mark: bytes,
    end: bytes,
    block: int,
    rows: int,
    cap: int,
    names: tuple[str, str, str],
) -> None:
    content = mark + b"\n".join(lines) + end
    assume(not reference.is_array(content))
    text, name, source = names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_BLOCK", block)
        patch.setattr(module, "BATCH_ROWS", rows)
        patch.setattr(module, "_ENOUGH_WITHOUT_TEXT", 100)
        found = check(path, content, cap, text=text, id=name, source=source)
    # Python's json agrees on what both take.
    for record, line in zip(found, (line for line in content.split(b"\n") if line.strip())):
        if isinstance(record, Record) and len(found) == len(content.split()):
            assert json.loads(line.removeprefix(b"\xef\xbb\xbf"))[text] == record.text


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lines=st.lists(LINES, min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    block=st.sampled_from([1, 7, 4 << 20]),
    cap=st.sampled_from([NO_CAP, 40]),
)
def test_spans_at_any_bytes_have_each_line_once(
    path: Path, lines: list[bytes], cuts: list[int], block: int, cap: int
) -> None:
    content = b"\n".join(lines)
    assume(not reference.is_array(content))
    path.write_bytes(content)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(content)}), len(content)]
    found: list[Record | Bad] = []
    read = Extent()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_BLOCK", block)
        patch.setattr(module, "_ENOUGH_WITHOUT_TEXT", 100)
        for start, end in pairwise(edges):
            span = Span(start=start, end=end, rows=read.lines, bytes=read.bytes)
            extent = Extent()
            spec = CorpusSource(path=str(path))
            found += records(list(read_batches(path, spec, span, cap, extent)))
            read = Extent(read.lines + extent.lines, read.bytes + extent.bytes)
    assert found == reference.json_lines(content, cap, CorpusSource(path=str(path)))
    assert read == Extent(content.count(b"\n") + (content[-1:] not in (b"", b"\n")), len(content))


# -- sizes ------------------------------------------------------------------------------------


def test_batches_are_bounded(path: Path) -> None:
    small = batches(path, b'{"text": "x"}\n' * 10_000)
    assert [len(batch.documents) for batch in small] == [4096, 4096, 1808]
    line = b'{"text": "' + b"y" * 1_000_000 + b'"}\n'
    large = batches(path, line * 12)
    assert sum(len(batch.documents) for batch in large) == 12
    assert max(batch.documents["text"].nbytes for batch in large) < 4 << 20


@pytest.mark.parametrize("body", [b"x", b"\\u00e9", b"\\\\", b"\xc3\xa9", b"\\n", b"\x7f"])
def test_a_text_of_many_blocks(path: Path, body: bytes, decoded: list[int]) -> None:
    content = b'{"text": "' + body * (9_000_000 // len(body)) + b'", "n": [1]}'
    (record,) = check(path, content)
    assert isinstance(record, Record) and record.meta == '{"n":[1]}'
    assert not decoded


def test_ids_and_meta_are_null_where_there_are_none(path: Path) -> None:
    (batch,) = batches(path, b'{"text": "x"}\n{"text": "y", "id": "i", "n": 1}\n')
    assert batch.documents.to_pylist() == [
        {"text": "x", "id": None, "source": None, "meta": None, "number": 1},
        {"text": "y", "id": "i", "source": None, "meta": '{"n":1}', "number": 2},
    ]
    assert batch.documents["text"].type == pa.large_string()
