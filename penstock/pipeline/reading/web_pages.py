"""Records of a web archive to documents: digests, HTTP messages, text of pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.pipeline.reading.batches import Row
from penstock.pipeline.reading.html import Unparsable, extractor
from penstock.pipeline.reading.messages import (
    BadBody,
    agrees,
    decode_body,
    decode_text,
    encodings_of,
    is_utf8,
    media_type,
    without_chunks,
)
from penstock.pipeline.reading.records import Extent, as_id
from penstock.recipe import CorpusSource

__all__ = ["PageReader"]

_PAGES = (b"response", b"resource", b"conversion")
_OTHERS = (b"warcinfo", b"request", b"metadata", b"revisit", b"continuation")

_MARKUP = ("text/html", "application/xhtml+xml")
_TOP_LEVEL = ("application", "audio", "font", "image", "message", "multipart", "text", "video")

_FACTS = (
    ("url", b"warc-target-uri"),
    ("date", b"warc-date"),
    ("language", b"warc-identified-content-language"),
    ("truncated", b"warc-truncated"),
)
"""Fields of ``meta`` that are fields of a record's header."""


class PageReader:
    """Makes documents of records.

    Args:
        spec: The item of ``corpus``.
        cap: Most bytes of a decoded body, and of a text that is extracted.
        extent: Records that are not documents are counted in its ``others``.
    """

    def __init__(self, spec: CorpusSource, cap: int, extent: Extent) -> None:
        self._spec = spec
        self._cap = cap
        self._extent = extent
        self._extract: Callable[[str], str] | None = None

    def row(self, fields: dict[bytes, bytes], block: bytes, number: int) -> Row | str | None:
        """Make a row of a record.

        Args:
            fields: Of the record's header, names in lower case.
            block: Its content.
            number: Its number in the file, from 1.

        Returns:
            The row; None where the record is no document; the error of a bad one.
        """
        kind = fields.get(b"warc-type", b"").lower()
        if kind not in _PAGES:
            if not kind:
                return "expected a WARC-Type, got nothing"
            self._extent.others[kind.decode() if kind in _OTHERS else "of unknown type"] += 1
            return None
        try:
            return self._page(fields, block, number)
        except (BadBody, Unparsable) as error:
            return str(error)

    def id_of(self, fields: dict[bytes, bytes]) -> str | None:
        """Return the id of a record by its header: its WARC-Record-ID, else its URL, or None."""
        return as_id(_facts(fields).get(self._spec.id))

    def _page(self, fields: dict[bytes, bytes], block: bytes, number: int) -> Row | None:
        """Return the text of a page and what is known of it; None where it is no page."""
        kind, charset = media_type(fields.get(b"content-type", b""))
        http: dict[bytes, bytes] = {}
        status = 0
        body = block
        if kind == "application/http" or (not kind and block.startswith(b"HTTP/")):
            http, status, body = _message(block)
            kind, charset = media_type(http.get(b"content-type", b""))
        _check_digest(fields, block, body)
        identified, _ = media_type(fields.get(b"warc-identified-payload-type", b""))
        kind = identified or kind
        if http or status:
            body = decode_body(body, http, self._cap, fields.get(b"warc-payload-digest", b""))
        if kind in ("", "unk", "application/octet-stream"):
            kind = "text/html" if body[:512].lstrip().startswith(b"<") else "text/plain"
        if kind not in _MARKUP and kind != "text/plain":
            top = kind.partition("/")[0]
            self._extent.others[f"{top if top in _TOP_LEVEL else 'other'} content"] += 1
            return None
        text: str | bytes
        extracts = kind in _MARKUP and self._spec.extract != "none"
        if not extracts and is_utf8(body):
            text, charset, replaced = body, "utf-8", 0
        else:
            text, charset, replaced = decode_text(body, charset, kind in _MARKUP)
            text = self._text_of(text) if extracts else text
        facts = _facts(fields)
        facts["content_type"] = kind
        facts["charset"] = charset
        if status:
            facts["status"] = status
        if replaced:
            facts["replaced"] = replaced
        facts.pop(self._spec.text, None)
        return Row(text, facts, number)

    def _text_of(self, page: str) -> str:
        if self._extract is None:  # not where an archive has texts alone
            self._extract = extractor(self._spec.extract, self._cap)
        return self._extract(page)


def _facts(fields: dict[bytes, bytes]) -> dict[str, Any]:
    """Return the fields of a document that are in the header of its record."""
    facts: dict[str, Any] = {}
    for name, field in _FACTS:
        value = fields.get(field)
        if value is not None:
            facts[name] = value.decode("utf-8", "replace")
    name = fields.get(b"warc-record-id", b"").strip(b"<>").decode("utf-8", "replace")
    facts["id"] = name or facts.get("url")
    return facts


def _message(block: bytes) -> tuple[dict[bytes, bytes], int, bytes]:
    """Divide an HTTP response into the fields of its encodings, its status and its body."""
    line, _, _ = block[:256].partition(b"\n")
    words = line.split(None, 2)
    if not line.startswith(b"HTTP/") or len(words) < 2 or not words[1].isdigit():
        raise BadBody("expected an HTTP response, with HTTP/1.1 and a status in its first line")
    head, blank, body = block.partition(b"\r\n\r\n")
    if not blank or b"\n\n" in head:
        head, blank, body = block.partition(b"\n\n")
    if not blank:
        raise BadBody("the HTTP response ends inside its header")
    return encodings_of(head), int(words[1][:4]), body


def _check_digest(fields: dict[bytes, bytes], block: bytes, body: bytes) -> None:
    """Compare the digest of the block; where there is none, that of the payload.

    Archives take a payload with its chunks or without them: either will do.
    """
    given = fields.get(b"warc-block-digest")
    if given is not None:
        if not agrees(given, block):
            raise BadBody("the block has another digest than WARC-Block-Digest")
        return
    given = fields.get(b"warc-payload-digest")
    if given is not None and not agrees(given, body):
        try:
            joined = without_chunks(body, given)
        except BadBody:
            joined = body
        if joined is body or not agrees(given, joined):
            raise BadBody("the payload has another digest than WARC-Payload-Digest")
