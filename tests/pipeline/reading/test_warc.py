"""Web archives: every record is a document, a bad record with its reason, or counted."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from benchmarks.web_archives import HOSTILE, OTHERS, members, page, record, response
from penstock.pipeline.reading.messages import BadBody, decode_body, without_chunks
from penstock.pipeline.reading.records import HEAD, Bad, Extent, Record, Span
from penstock.pipeline.reading.warc import raw_records
from penstock.recipe import CorpusSource
from tests.pipeline.reading.reference import read_records

CAP = 300 << 20
SOUND = [response(number, page(number, 2).encode()) for number in range(5)]
IDS = [f"urn:uuid:00000000-0000-0000-0000-{number:012x}" for number in range(5)]


def read(where: Path, cap: int = CAP, **spec: Any) -> tuple[list[Record | Bad], Extent]:
    extent = Extent()
    return read_records(where, CorpusSource(path="x", **spec), Span(), cap, extent), extent


def pack(records: list[bytes], form: str, where: Path) -> Path:
    """Write records as one file; a form is plain, gz (a member each), one, zst."""
    plain = b"".join(records)
    where = where / f"x.warc{'' if form == 'plain' else '.zst' if form == 'zst' else '.gz'}"
    where.write_bytes(
        {
            "plain": lambda: plain,
            "gz": lambda: b"".join(gzip.compress(one, mtime=0) for one in records),
            "one": lambda: gzip.compress(plain, mtime=0),
            "zst": lambda: b"".join(zstandard.ZstdCompressor().compress(one) for one in records),
        }[form]()
    )
    return where


def names(records: list[Record | Bad]) -> list[str]:
    return [one.error if isinstance(one, Bad) else str(one.id) for one in records]


def test_an_archive_with_hostile_records(tmp_path: Path) -> None:
    made = list(members(460, 2 * len(HOSTILE), 2))
    where = tmp_path / "CC-MAIN-1.warc.gz"
    where.write_bytes(b"".join(member for member, _ in made))
    found, extent = read(where)
    bad = [one for one in found if isinstance(one, Bad)]
    kinds = [kind for _, kind in made if kind]
    assert (len(found) - len(bad), len(bad)) == (460 - len(kinds), len(kinds) == 46 and 46)
    for kind, one in zip(kinds, bad):
        assert HOSTILE[kind][0] in one.error, (kind, one.error)
        assert 0 < len(one.raw) <= HEAD
    assert extent.others == Counter(request=46, revisit=46, warcinfo=1)
    assert [one.number for one in found] == sorted({one.number for one in found})
    position = 0
    for number, (member, kind) in enumerate(made, 1):  # a place is where a member begins
        if kind:
            assert f"record {number}, member at byte {position:,}" == bad.pop(0).place
        position += len(member)


@pytest.mark.parametrize("form", ["plain", "gz", "one", "zst"])
def test_pages_are_those_of_warcio(form: str, tmp_path: Path) -> None:
    where = pack([OTHERS["warcinfo"], *SOUND, OTHERS["request"]], form, tmp_path)
    data = b"".join(SOUND)
    found, extent = read(where, extract="none")
    theirs = [
        (
            one.rec_headers["WARC-Record-ID"].strip("<>"),
            one.rec_headers["WARC-Target-URI"],
            one.content_stream().read().decode(),
        )
        for one in ArchiveIterator(io.BytesIO(data))
    ]
    ours = [(one.id, json.loads(one.meta)["url"], one.text) for one in found]  # type: ignore[union-attr]
    assert ours == theirs
    assert extent.others == Counter(warcinfo=1, request=1)
    assert extent.bytes == sum(map(len, [OTHERS["warcinfo"], *SOUND, OTHERS["request"]]))


WAYS = [
    kind
    for kind in HOSTILE
    if "member" not in kind and kind not in ("tags", "nested", "attributes")
]


@pytest.mark.parametrize("form", ["plain", "gz", "one", "zst"])
@pytest.mark.parametrize("kind", WAYS)
def test_one_bad_record_costs_itself(kind: str, form: str, tmp_path: Path) -> None:
    reason, spoil = HOSTILE[kind]
    found, _ = read(pack([SOUND[0], spoil(SOUND[1]), *SOUND[2:]], form, tmp_path))
    assert reason in names(found)[1]
    assert [*names(found)[:1], *names(found)[2:]] == [IDS[0], *IDS[2:]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_lose_no_other_record(data: st.DataObject) -> None:
    """Whatever happens to the bytes of one member, all others are read."""
    packed = [gzip.compress(one, mtime=0) for one in SOUND]
    at = data.draw(st.integers(1, len(packed[2]) - 1))
    if data.draw(st.booleans()):
        packed[2] = packed[2][:at] + data.draw(st.binary(max_size=40))
    else:
        packed[2] = packed[2][:at] + bytes([packed[2][at] ^ data.draw(st.integers(1, 255))]) + (
            packed[2][at + 1 :]
        )  # fmt: skip
    where = Path("/dev/shm" if Path("/dev/shm").exists() else ".") / "penstock-test.warc.gz"
    where.write_bytes(b"".join(packed))
    try:
        found, _ = read(where, extract="none")
    finally:
        where.unlink()
    sound = [name for name in names(found) if name in IDS]
    assert [name for name in sound if name != IDS[2]] == [*IDS[:2], *IDS[3:]]
    assert len(found) - len(sound) == (IDS[2] not in sound)


def test_searches_after_damage_are_bounded(tmp_path: Path) -> None:
    """Each of these members is damaged at its end, and holds the beginnings of all that follow."""
    inner = b""
    for _ in range(400):
        stored = b"WARC/" + inner[:60_000]
        block = (
            b"\x00"
            + len(stored).to_bytes(2, "little")
            + (65535 - len(stored)).to_bytes(2, "little")
        )
        inner = b"\x1f\x8b\x08\x00\0\0\0\0\0\xff" + block + stored
    where = tmp_path / "x.warc.gz"
    where.write_bytes(inner + b"\xff" * 100)
    found, _ = read(where)
    assert all(isinstance(one, Bad) for one in found)
    assert 1 <= len(found) <= 400


def test_boundaries_of_parts_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = [HOSTILE[kind][1](SOUND[1]) for kind in WAYS]
    mixed = [one for bad in spoilt for one in (SOUND[0], bad)]
    for form in ("plain", "one"):
        where = pack(mixed, form, tmp_path)
        whole = list(raw_records(where, 10_000, Extent()))
        for size in (1, 7, 64, 1000):
            monkeypatch.setattr("penstock.pipeline.reading.members._HELD", size)
            assert list(raw_records(where, 10_000, Extent())) == whole
            monkeypatch.undo()


ENCODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
    "gzip, br": lambda body: brotli.compress(gzip.compress(body)),
}


@pytest.mark.parametrize("coding", ENCODINGS)
def test_content_encodings(coding: str, tmp_path: Path) -> None:
    text = page(7, 2)
    body = ENCODINGS[coding](text.encode())
    chunks = b"".join(
        b"%x;a=b\r\n%s\r\n" % (len(part), part)
        for part in (body[k : k + 100] for k in range(0, len(body), 100))
    )
    fields = f"Content-Encoding: {coding}\r\n"
    stored = response(0, body, fields)
    chunked = response(1, chunks + b"0\r\n\r\n", fields + "Transfer-Encoding: chunked\r\n")
    joined = response(2, body, fields + "Transfer-Encoding: chunked\r\n")  # as some crawlers store
    found, _ = read(pack([stored, chunked, joined], "gz", tmp_path), extract="none")
    assert [one.text for one in found if isinstance(one, Record)] == [text] * 3


@pytest.mark.parametrize("coding", [name for name in ENCODINGS if name != "identity"])
def test_a_body_that_is_cut_off_or_followed_by_others(coding: str) -> None:
    text = random.Random(7).randbytes(200_000)
    body = ENCODINGS[coding](text)
    fields = {b"content-encoding": coding.encode()}
    assert decode_body(body, fields, CAP) == text
    for wrong in (body[: len(body) // 2], body[:-1], body + b"garbage"):
        with pytest.raises(BadBody):
            decode_body(wrong, fields, CAP)
    if "br" not in coding:
        assert decode_body(body + bytes(9), fields, CAP) == text
    if coding in ("gzip", "x-gzip", "zstd"):
        assert decode_body(body + ENCODINGS[coding](b"") + body, fields, CAP) == text + text
        with pytest.raises(BadBody):
            decode_body(ENCODINGS[coding](b"") * 70_000, fields, CAP)


def test_content_that_ends_with_the_last_byte_of_a_stream() -> None:
    """A step of output may end where the input does, with more to come."""
    for size in range((1 << 20) - 3, (1 << 20) + 300, 7):
        packed = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packed.compress(b"x" * size) + packed.flush()
        assert len(decode_body(body, {b"content-encoding": b"deflate"}, CAP)) == size


def sha1(data: bytes) -> bytes:
    return b"sha1:" + hashlib.sha1(data).hexdigest().encode()


@pytest.mark.parametrize(
    ("body", "digest", "expected"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", b"", b"hello"),
        (b"005;a=b\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"", b"hello"),
        (b"5\r\nhello\r\n0\r\n", b"", b"hello"),
        (b"0\r\n\r\n", b"", b""),
        (b"0\nhello my page", b"", b"0\nhello my page"),
        (b"0\r\nhello my page", b"", b"0\r\nhello my page"),
        (b"0\r\n\r\nhello my page", b"", b"0\r\n\r\nhello my page"),
        (b"3\r\nsteps to a page", b"", b"3\r\nsteps to a page"),
        (b"5\nhello\n0\n\n", b"", b"5\nhello\n0\n\n"),
        (b"5\nhello\n0\n\n", sha1(b"hello"), b"hello"),
        (b"5\nhello\n0\n\n", sha1(b"5\nhello\n0\n\n"), b"5\nhello\n0\n\n"),
        (b"5\nhello\n0\n\n", b"blake3:00", b"5\nhello\n0\n\n"),
        (b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1", sha1(b"hello"), b"hello"),
        (b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1", b"", None),
        (b"5\r\nhello\r\nzz\r\n0\r\n\r\n", b"", None),
        (b"5\r\nhello\r\n5\r\nhel", b"", None),
        (b"ffff\r\nhello", b"", None),
    ],
)
def test_chunks(body: bytes, digest: bytes, expected: bytes | None) -> None:
    if expected is None:
        with pytest.raises(BadBody):
            without_chunks(body, digest)
    else:
        assert without_chunks(body, digest) == expected


def test_a_header_that_is_cut_off_anywhere_costs_itself(tmp_path: Path) -> None:
    end = SOUND[1].index(b"\r\n\r\n") + 3
    for form in ("plain", "one"):
        for at in range(1, end, 5):
            found, _ = read(pack([SOUND[0], SOUND[1][:at], *SOUND[2:]], form, tmp_path))
            assert [isinstance(one, Bad) for one in found] == [False, True, False, False, False]
            assert [*names(found)[:1], *names(found)[2:]] == [IDS[0], *IDS[2:]], at


def test_a_url_may_end_like_the_first_line_of_a_record(tmp_path: Path) -> None:
    made = record(
        "resource",
        b"<p>a</p>",
        Content_Type="text/html",
        WARC_Record_ID="<a>",
        WARC_Target_URI="http://a.b/WARC/1.0",
        WARC_Date="2026-01-01T00:00:00Z",
    )
    assert names(read(pack([made, SOUND[0]], "plain", tmp_path))[0]) == ["a", IDS[0]]


@pytest.mark.parametrize("content", [bytes(300_000), bytes(10)])
def test_zeros_alone_are_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.warc.gz").write_bytes(content)
    (found,), _ = read(tmp_path / "x.warc.gz")
    assert isinstance(found, Bad) and found.raw == content[:HEAD]
    packed = [gzip.compress(one) + content for one in SOUND[:2]]
    assert names(read(pack([], "plain", tmp_path))[0]) == []
    (tmp_path / "x.warc.gz").write_bytes(b"".join(packed))
    assert names(read(tmp_path / "x.warc.gz")[0]) == IDS[:2]


LETTERS = bytes.maketrans(b"0123456789", b"abcdefghij")
NESTED = b"".join(b"WARC/1.0\r\n%b:" % (b"%05d" % k).translate(LETTERS) for k in range(20_000))
DIGESTED = b"".join(
    b"WARC/1.0\r\nWARC-Block-Digest: sha1:%040d\r\nContent-Length: 003000000\r\n\r\n" % k
    for k in range(2000)
)

COSTLY = {
    "line ends": ("x.warc.gz", gzip.compress(b"\r\n" * (20 << 20), 1)),
    "candidates": ("x.warc.gz", b"\x1f\x8b\x08\x08" * (1 << 21)),
    "better candidates": ("x.warc.gz", b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" * 50_000),
    "headers in headers": ("x.warc", NESTED),
    "headers with an end": ("x.warc", (NESTED[:60_000] + b"\r\n\r\n") * 4),
    "headers in lines": ("x.warc", NESTED.replace(b":", b":\r\n")),
    "digests": ("x.warc", DIGESTED + b"\r\n\r\nx" * 800_000),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_hostile_archives_take_linear_time(kind: str, tmp_path: Path) -> None:
    name, content = COSTLY[kind]
    (tmp_path / name).write_bytes(content)
    begin = time.process_time()
    found = list(raw_records(tmp_path / name, CAP, Extent()))
    assert all(one.error for one in found)
    assert time.process_time() - begin < 2


def test_an_encoding_that_was_undone(tmp_path: Path) -> None:
    made = [response(k, page(k).encode(), f"Content-Encoding: {name}\r\n") for k, name in
            enumerate(["gzip", "zstd", "utf-8"])]  # fmt: skip
    found, _ = read(pack(made, "gz", tmp_path), extract="none")
    assert [one.text for one in found if isinstance(one, Record)] == [page(k) for k in range(3)]


def test_a_body_that_grows_over_the_cap(tmp_path: Path) -> None:
    bomb = gzip.compress(b"x" * 5_000_000)
    made = [response(0, bomb, "Content-Encoding: gzip\r\n"), SOUND[1]]
    found, _ = read(pack(made, "gz", tmp_path), cap=1_000_000)
    assert "more than 1,000,000 bytes when decoded" in names(found)[0]
    assert names(found)[1:] == [IDS[1]]


CHARSETS = [
    # text, encoded with, declared by HTTP, by the page; the result's charset
    ("Grüße aus Köln", "utf-8", "", "", "utf-8"),
    ("Grüße aus Köln", "utf-8", "iso-8859-1", "", "utf-8"),
    ("Grüße aus Köln", "cp1252", "iso-8859-1", "", "cp1252"),
    ("Grüße aus Köln", "cp1252", "", "windows-1252", "cp1252"),
    ("Привет мир, это проверка кодировки", "koi8-r", "koi8-r", "", "koi8-r"),
    ("Привет мир, это проверка кодировки", "cp1251", "", "windows-1251", "cp1251"),
    ("日本語のテキスト", "shift_jis", "utf-8", "shift_jis", "cp932"),
    ("日本語のテキスト", "iso2022_jp", "iso-2022-jp", "", "iso2022_jp"),
    ("简体中文①", "gb18030", "gb2312", "", "gb18030"),
    ("Grüße", "utf-16-le", "utf-16le", "", "utf-16-le"),
    ("Grüße", "utf-16", "", "", "utf-16-le"),
    ("Grüße", "utf-8-sig", "latin1", "", "utf-8"),
    ("plain", "ascii", "zip", "", "utf-8"),
]


@pytest.mark.parametrize(("text", "codec", "http", "meta", "expected"), CHARSETS)
def test_charsets(
    text: str, codec: str, http: str, meta: str, expected: str, tmp_path: Path
) -> None:
    own = f"<html><meta charset={meta}><p>{text}</p>" if meta else f"<html><p>{text}</p>"
    given = f"; charset={http}" if http else ""
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html{given}\r\n\r\n".encode()
    made = record("response", block + own.encode(codec), Content_Type="application/http")
    (found,), _ = read(pack([made], "plain", tmp_path), extract="none")
    assert isinstance(found, Record)
    assert (found.text, json.loads(found.meta)["charset"]) == (own, expected)


@pytest.mark.parametrize(("codec", "declared"), [("shift_jis", "shift_jis"), ("utf-8", "")])
def test_few_bytes_of_no_charset_are_replaced_and_counted(
    codec: str, declared: str, tmp_path: Path
) -> None:
    text = "日本語のテキスト" * 20
    given = f"; charset={declared}" if declared else ""
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain{given}\r\n\r\n".encode()
    block += text.encode(codec) + b"\x81"
    made = record("response", block, Content_Type="application/http")
    (found,), _ = read(pack([made], "plain", tmp_path))
    assert isinstance(found, Record)
    assert found.text == text + "\ufffd"
    assert json.loads(found.meta)["replaced"] == 1


def test_a_wrong_charset_of_many_bytes(tmp_path: Path) -> None:
    text = "Привет мир, это проверка кодировки. " * 5
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    made = record("response", block + text.encode("cp1251"), Content_Type="application/http")
    (found,), _ = read(pack([made], "plain", tmp_path))
    assert isinstance(found, Record) and found.text == text


def test_texts_of_a_wet_file(tmp_path: Path) -> None:
    text = "Erste Zeile\nzweite – Zeile\n"
    fields = {"WARC_Target_URI": "http://a.b/ü", "WARC_Date": "2026-01-01T00:00:00Z",
              "WARC_Identified_Content_Language": "deu", "Content_Type": "text/plain"}  # fmt: skip
    made = [
        OTHERS["warcinfo"],
        record("conversion", text.encode(), WARC_Record_ID="<urn:uuid:1>", **fields),
        record("conversion", text.encode(), **fields),
    ]
    where = tmp_path / "CC-MAIN-0.warc.wet.gz"
    where.write_bytes(b"".join(map(gzip.compress, made)))
    found, _ = read(where, source={"name": "cc"})
    meta = {"charset": "utf-8", "content_type": "text/plain", "date": "2026-01-01T00:00:00Z",
            "language": "deu", "url": "http://a.b/ü"}  # fmt: skip
    assert found == [
        Record(
            text, "urn:uuid:1", "cc", json.dumps(meta, ensure_ascii=False, separators=(",", ":"))
        ),
        Record(
            text, "http://a.b/ü", "cc", json.dumps(meta, ensure_ascii=False, separators=(",", ":"))
        ),
    ]
    found, _ = read(where, id="url", source="language")
    assert [(one.id, one.source) for one in found] == [("http://a.b/ü", "deu")] * 2  # type: ignore[union-attr]


def test_content_that_is_no_page_is_counted(tmp_path: Path) -> None:
    def of(kind: str) -> bytes:
        block = f"HTTP/1.1 404 No\r\nContent-Type: {kind}\r\n\r\n".encode() + b"\x89PNG<p>"
        return record("response", block, Content_Type="application/http")

    kinds = ["image/png", "application/pdf", "text/css", "x/y", "text/html", "", "TEXT/Plain; a=b"]
    dns = record("response", b"20260101\r\n", Content_Type="text/dns", WARC_Target_URI="dns:a.b")
    resource = record("resource", b"<p>made</p>", Content_Type="text/html")
    found, extent = read(pack([*map(of, kinds), dns, resource], "gz", tmp_path), extract="none")
    assert extent.others == Counter(
        {"image content": 1, "application content": 1, "text content": 2, "other content": 1}
    )
    kept = [json.loads(one.meta) for one in found if isinstance(one, Record)]
    assert [(one["content_type"], one.get("status")) for one in kept] == [
        ("text/html", 404), ("text/plain", 404), ("text/plain", 404), ("text/html", None)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["sha1", "sha-256", "md5"])
@pytest.mark.parametrize("form", ["hex", "base32"])
@pytest.mark.parametrize("of", ["block", "payload", "chunks"])
def test_digests(name: str, form: str, of: str, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"5\r\nhello\r\n0\r\n\r\n"
    data = {"block": head + body, "chunks": body, "payload": b"hello"}[of]
    digest = hashlib.new(name.replace("-", ""), data).digest()
    wrong = bytes([digest[0] ^ 1]) + digest[1:]
    made = []
    for value in (digest, wrong):
        text = value.hex() if form == "hex" else base64.b32encode(value).decode().rstrip("=")
        field = "WARC_Block_Digest" if of == "block" else "WARC_Payload_Digest"
        given = {field: f"{name}:{text}"}
        made.append(record("response", head + body, Content_Type="application/http", **given))
    found, _ = read(pack(made, "gz", tmp_path))
    assert [isinstance(one, Record) for one in found] == [True, False]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(
    st.sampled_from([b"WARC/1.0\r\n", b"WARC/1.1\r\nContent-Length: 3\r\n", b"\r\n\r\n", b"abc",
                     b"WARC-Type: response\r\n", b"HTTP/1.1 200 OK\r\n\r\n", SOUND[0]]),
    st.binary(max_size=30),
), max_size=12), st.sampled_from([1, 50, 10**6]))  # fmt: skip
def test_every_byte_is_in_a_record_or_between(pieces: list[bytes], cap: int) -> None:
    """The blocks, headers and bad records of a plain file are its bytes, in order."""
    data = b"".join(pieces)
    where = Path("/dev/shm" if Path("/dev/shm").exists() else ".") / "penstock-bytes.warc"
    where.write_bytes(data)
    try:
        found = list(raw_records(where, cap, Extent()))
    finally:
        where.unlink()
    at = 0
    for one in found:
        assert not data[at : one.offset].strip(b"\r\n")
        if one.error:
            assert data.startswith(one.data, one.offset)
            at = one.offset + len(one.data)
        else:
            at = data.index(b"\n\r\n" if one.data else b"\n", one.offset)
            at = data.index(one.data, at) + len(one.data)
    assert not data[at:].strip(b"\r\n")
