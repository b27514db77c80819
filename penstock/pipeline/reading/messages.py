"""Bodies of HTTP messages (RFC 9112) to text: transfer and content encodings, charsets.

Archives store bodies as they came or decoded, and keep the header fields of the former: a body
without the first bytes of the encoding that its header names is taken as it is. Several members of
gzip, or frames of zstd, are one body. A body that is cut off is a bad one, and so is one with other
bytes than zeros behind its encoding.

A charset is believed where the bytes are not UTF-8, which text of another charset practically never
is by chance. The order is: a byte order mark, UTF-8, the charset of the header, of the page itself.
Charsets whose bytes are UTF-8, too (UTF-16, ISO-2022-JP), come before it where they are declared.
Where none decodes every byte, the first becomes U+FFFD for what it cannot decode, if that is a
hundredth of the characters or less. Otherwise the bytes have the charset that they look like
(resiliparse).
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import io
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
from zlib_ng import zlib_ng as zlib

from penstock import extras
from penstock.errors import InputError
from penstock.pipeline.reading.frames import MAGIC, MOST_WINDOW, SKIPPABLE, frames_in

__all__ = [
    "BadBody",
    "DecodedText",
    "agrees",
    "decode_body",
    "decode_text",
    "encodings_of",
    "fields_of",
    "is_utf8",
    "media_type",
    "without_chunks",
]

_MAX_CODINGS = 4

_FIELD = re.compile(rb"\n[ \t]*([^: \t\n\r\f\v]+)[ \t]*:([^\n]*)")
_ENCODINGS = re.compile(
    rb"\n(content-type|content-encoding|transfer-encoding)[ \t]*:([^\n]*)", re.IGNORECASE
)

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]{0,4096})?\r\n")
_ANY_CHUNK_SIZE = re.compile(_CHUNK_SIZE.pattern.replace(rb"\r\n", rb"\r?\n"))
_TRAILER = re.compile(rb"(?:(?:[^\s:]+:[^\r\n]*\r\n)*\r\n)?\Z")

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
          (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip

_FIRST_OF_MARKS = {mark[:1] for mark, _ in _MARKS}

_LIKE_UTF8 = ("utf-16-le", "utf-16-be", "iso2022_jp")

_META = re.compile(rb"<meta\s[^>]{0,1024}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.I)
_FEW = 100

_META_WITHIN = 16 << 10
"""First bytes of a page in which it may declare its charset; 1,024 by the HTML standard."""


class BadBody(ValueError):
    """A body that cannot be decoded."""


class DecodedText(NamedTuple):
    """A text and how it was decoded."""

    text: str
    charset: str
    replaced: int
    """U+FFFD in place of bytes that could not be decoded."""


def fields_of(head: bytes) -> dict[bytes, bytes]:
    """Parse header fields: the first of each name, in lower case. Lines may be folded."""
    if b"\n " in head or b"\n\t" in head:
        head = re.sub(rb"\r?\n[ \t]+", b" ", head)
    found = _FIELD.findall(head)
    found.reverse()
    return {name.lower(): value.strip() for name, value in found}


def encodings_of(head: bytes) -> dict[bytes, bytes]:
    """Parse the header fields of which a body's text depends, as :func:`fields_of` does."""
    if b"\n " in head or b"\n\t" in head:
        return fields_of(head)
    return {name.lower(): value.strip() for name, value in reversed(_ENCODINGS.findall(head))}


@functools.lru_cache(1024)
def media_type(value: bytes) -> tuple[str, str]:
    """Return the media type of a Content-Type, in lower case, and its charset; or empty."""
    kind, _, parameters = value.decode("latin-1").partition(";")
    charset = ""
    for parameter in parameters.split(";") if parameters else ():
        name, _, given = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = given.strip().strip("\"'")[:40]
    return kind.strip().lower()[:80], charset


def decode_body(body: bytes, fields: dict[bytes, bytes], cap: int, digest: bytes = b"") -> bytes:
    """Undo the transfer and content encodings of a body.

    Args:
        body: As it is stored.
        fields: Of the message, names in lower case.
        cap: Most bytes of the result.
        digest: Of the payload, where the archive has it.

    Raises:
        BadBody: The body is damaged, cut off, longer than ``cap``, or of an unknown encoding.
    """
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        body = without_chunks(body, digest)
    if b"content-encoding" not in fields:
        return body
    codings = fields[b"content-encoding"].lower().split(b",")
    if len(codings) > _MAX_CODINGS:
        raise BadBody(f"{len(codings)} content encodings")
    for coding in reversed(codings):
        body = _without(coding.strip().decode("latin-1"), body, cap)
    return body


def without_chunks(body: bytes, digest: bytes = b"") -> bytes:
    """Join the chunks of a body; one that has none, as archives store it, is returned as it is.

    Chunks are exact hexadecimal sizes, with CRLF behind each size and each chunk, and the body ends
    behind the last one and its trailer. Where they are not exact, the digest decides.

    Args:
        body: As it is stored.
        digest: Of the payload, where the archive has it.

    Raises:
        BadBody: A later chunk is damaged, the last one is missing, or bytes follow it.
    """
    if _ANY_CHUNK_SIZE.match(body) is None:
        return body
    joined, rest = _joined(body, _CHUNK_SIZE)
    if rest is not None and _TRAILER.match(body, rest):
        return joined
    if digest:
        lenient, _ = _joined(body, _ANY_CHUNK_SIZE)
        if agrees(digest, lenient) and not agrees(digest, body):
            return lenient
    first = _CHUNK_SIZE.match(body)
    whole = first is not None and first.end() + int(first[1], 16) + 2 <= len(body)
    if not joined and (first is None or rest is not None or whole):  # a text begins with a number
        return body
    raise BadBody("bytes follow the last chunk" if rest is not None else "damaged chunked body")


def _joined(body: bytes, size_line: re.Pattern[bytes]) -> tuple[bytes, int | None]:
    """Return the chunks up to a damaged one, and the end of the last one, of size 0; or None."""
    parts: list[bytes] = []
    at = 0
    while found := size_line.match(body, at):
        size, at = int(found[1], 16), found.end()
        if not size:
            return b"".join(parts), at
        if at + size > len(body):
            break
        end = at + size
        ends = 2 if body.startswith(b"\r\n", end) else int(body.startswith(b"\n", end))
        if ends < 2 and size_line is _CHUNK_SIZE:
            break
        parts.append(body[at:end])
        at = end + ends
    return b"".join(parts), None


def _without(coding: str, body: bytes, cap: int) -> bytes:
    if coding in ("", "identity", "none", "utf-8") or not body:
        return body
    if coding in ("gzip", "x-gzip"):
        parts = _inflated(body, _GZIP) if body[:2] == b"\x1f\x8b" else iter([body])
    elif coding == "deflate":
        wrapped = body[0] & 15 == 8 and (body[0] << 8 | body[1] if body[1:] else 1) % 31 == 0
        parts = _inflated(body, 15 if wrapped else -15)
    elif coding == "br":
        parts = _brotli(body)
    elif coding == "zstd":
        parts = _zstd(body) if body.startswith(_ZSTD) else iter([body])
    else:
        raise BadBody(f"unknown content encoding {coding[:40]!r}")
    kept, size = [], 0
    for part in parts:
        size += len(part)
        if size > cap:
            raise BadBody(f"more than {cap:,} bytes when decoded ({coding})")
        kept.append(part)
    return b"".join(kept)


_GZIP = 16 + zlib.MAX_WBITS
_FIRST_STEP, _STEP = 1 << 10, 1 << 20
_ZSTD = tuple(magic.to_bytes(4, "little") for magic in (MAGIC, *SKIPPABLE))

_MAX_MEMBERS = 1 << 16
"""Members or frames of a body: empty ones of 9 bytes would cost more time than any text."""


def _inflated(body: bytes, window: int) -> Iterator[bytes]:
    """Yield the content of a zlib or deflate stream, or of all members of a gzip one."""
    view = memoryview(body)
    at = members = 0
    while not members or (window == _GZIP and body.startswith(b"\x1f\x8b", at)):
        inflater = zlib.decompressobj(window)
        members += 1
        if members > _MAX_MEMBERS:
            raise BadBody(f"more than {_MAX_MEMBERS:,} gzip members")
        step = _FIRST_STEP  # zlib copies what follows a member
        while not inflater.eof:
            taken = view[at : at + step]
            try:
                part = inflater.decompress(taken, _STEP)
            except zlib.error:
                raise BadBody("damaged gzip or deflate encoding") from None
            if not part and not taken and not inflater.eof:
                raise BadBody("the gzip or deflate encoding is cut off")
            at += len(taken) - len(inflater.unused_data or inflater.unconsumed_tail)
            step = min(2 * step, _STEP)
            if part:
                yield part
    if view[at:].tobytes().strip(b"\0"):
        raise BadBody(f"{len(body) - at:,} bytes follow the gzip or deflate encoding")


def _brotli(body: bytes) -> Iterator[bytes]:
    with extras.named("web"):
        import brotli

    decoder = brotli.Decompressor()
    rest = body
    try:
        while not decoder.is_finished():
            part = decoder.process(rest, output_buffer_limit=_STEP)
            if not part and decoder.can_accept_more_data():
                raise BadBody("the br encoding is cut off")
            rest = b""
            yield part
    except brotli.error:
        raise BadBody("damaged br encoding") from None


def _zstd(body: bytes) -> Iterator[bytes]:
    import zstandard

    end = 0
    try:
        for number, frame in enumerate(frames_in(io.BytesIO(body), "")):
            end = frame.end
            if number == _MAX_MEMBERS:
                raise BadBody(f"more than {_MAX_MEMBERS:,} zstd frames")
    except InputError as error:  # the reader below takes a part of a frame for the whole
        if not end or body[end:].strip(b"\0"):
            raise BadBody(f"the zstd encoding: {error.problem}") from None
        body = body[:end]
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW)
        with decompressor.stream_reader(body, read_across_frames=True) as stream:
            while part := stream.read(_STEP):
                yield part
    except zstandard.ZstdError:
        raise BadBody("damaged zstd encoding") from None


def decode_text(body: bytes, declared: str, markup: bool) -> DecodedText:
    """Decode a body.

    Args:
        body: Without encodings.
        declared: Charset of the header; empty where there is none.
        markup: True for HTML, which may declare its charset itself.
    """
    for mark, charset in _MARKS:
        if body.startswith(mark):
            return _replaced(body[len(mark) :], charset)
    decoded = None if _is_odd(body) else _whole(body, ["utf-8"])
    if decoded is not None:
        return decoded
    candidates = _declared(body, declared, markup)
    first = ["utf-8"] if not set(_LIKE_UTF8) & set(candidates) else []
    decoded = _whole(body, [*first, *candidates, "utf-8"])
    if decoded is None:
        decoded = _replaced(body, candidates[0] if candidates else "utf-8")
        if _FEW * decoded.replaced > len(decoded.text):
            decoded = _whole(body, [_looks_like(body)]) or decoded
    return decoded


def is_utf8(body: bytes) -> bool:
    """Return whether :func:`decode_text` takes a body for UTF-8 and leaves no byte of it out."""
    return body[:1] not in _FIRST_OF_MARKS and not _is_odd(body) and _is_valid(body)


def _is_odd(body: bytes) -> bool:
    """Return whether a body of ASCII may be of another charset."""
    return b"\0" in body or b"\x1b" in body


def _is_valid(body: bytes) -> bool:
    """Return whether bytes are UTF-8; Arrow finds it out ten times as fast as Python."""
    if body.isascii():
        return True
    ends = pa.py_buffer(struct.pack("=qq", 0, len(body)))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(body)])
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _whole(body: bytes, charsets: list[str]) -> DecodedText | None:
    """Decode a body by the first charset that has every byte of it."""
    for charset in charsets:
        with contextlib.suppress(UnicodeDecodeError):
            return DecodedText(body.decode(charset), charset, 0)
    return None


def _replaced(body: bytes, charset: str) -> DecodedText:
    text = body.decode(charset, "replace")
    return DecodedText(text, charset, text.count("\ufffd"))


def _declared(body: bytes, declared: str, markup: bool) -> list[str]:
    """Return Python's names of the charsets that header and page declare."""
    found = _META.search(body, 0, _META_WITHIN) if markup else None
    labels = [label for label in (declared, found and found[1].decode("latin-1")) if label]
    if not labels:
        return []
    with extras.named("web"):
        from resiliparse.parse.encoding import map_encoding_to_html5

    names = [map_encoding_to_html5(label, fallback_utf8=False) for label in labels]
    return [_WIDER.get(name, name) for name in names if name]


_WIDER = {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "iso8859-11": "cp874"}
"""Python's codecs that have all characters of the charset as browsers know it."""


def _looks_like(body: bytes) -> str:
    with extras.named("web"):
        from resiliparse.parse.encoding import detect_encoding

    name = detect_encoding(body) or "utf-8"
    return _WIDER.get(name, name)


_DIGESTS = {b"sha1": hashlib.sha1, b"md5": hashlib.md5, b"sha256": hashlib.sha256}


def agrees(given: bytes, data: bytes) -> bool:
    """Return whether a digest is that of the data; digests of other kinds are not compared."""
    name, _, value = given.partition(b":")
    make = _DIGESTS.get(name.strip().lower().replace(b"-", b""))
    if make is None:
        return True
    own = make(data, usedforsecurity=False)
    value = value.strip()
    if len(value) == 2 * own.digest_size:
        return value.lower() == own.hexdigest().encode()
    bits = 8 * own.digest_size
    letters = value.rstrip(b"=").upper()
    if len(letters) != -(-bits // 5) or letters.strip(_BASE32):
        return False
    # As a number of base 32: base64.b32decode takes longer than the digest.
    number = int(letters.translate(_AS_DIGITS), 32) >> (5 * len(letters) - bits)
    return number == int.from_bytes(own.digest(), "big")


_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_AS_DIGITS = bytes.maketrans(_BASE32, b"0123456789abcdefghijklmnopqrstuv")
