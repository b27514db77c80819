"""HTML to text, and HTML files as documents.

``extract: resiliparse`` (as DCLM) keeps what its rules take for the main content of a page;
``trafilatura`` (as FineWeb) searches longer, at a fifteenth of the speed; ``none`` gives the
source. docs/lab.md compares them. A page that costs a parser more than linear time is not parsed
(:mod:`penstock.pipeline.reading.parse_cost`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock import extras
from penstock.pipeline.reading.batches import Batches, gather
from penstock.pipeline.reading.lines import content_of_file
from penstock.pipeline.reading.messages import decode_text
from penstock.pipeline.reading.parse_cost import bounded
from penstock.pipeline.reading.records import HEAD, Bad, Extent, Records, Span, record_of
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["Unparsable", "extractor", "html"]

_LONGEST = 64 << 20
"""Most bytes of a page that is parsed: as much as a document by default."""


class Unparsable(ValueError):
    """A page that is not parsed, with the reason."""


def extractor(name: str, cap: int) -> Callable[[str], str]:
    """Return the function from the source of a page to its text.

    Args:
        name: ``resiliparse``, ``trafilatura`` or ``none``.
        cap: Most bytes of a text that is extracted: nested lists are indented.

    Returns:
        It raises :class:`Unparsable` for a page that costs too much, that the library refuses, or
        of which the text is over the cap.

    Raises:
        BadInput: The library is not installed.
    """
    if name == "none":
        return str
    try:
        extract = _resiliparse() if name == "resiliparse" else _trafilatura()
    except ModuleNotFoundError as error:
        raise extras.missing_extra(error, name, "corpus.extract") or error from error

    def text_of(page: str) -> str:
        if len(page) > _LONGEST:
            raise Unparsable(
                f"{len(page):,} characters, more than the {_LONGEST:,} that are parsed"
            )
        try:
            page = bounded(page)
        except ValueError as error:
            raise Unparsable(str(error)) from None
        try:
            text = extract(page)
        except Exception as error:  # whatever a parser raises for this page
            raise Unparsable(f"no text can be extracted: {error}") from None
        size = len(text) if 4 * len(text) <= cap else len(text.encode("utf-8", "surrogatepass"))
        if size > cap:
            raise Unparsable(
                f"{size:,} bytes of extracted text, more than the {cap:,} that "
                "clean.max_document_bytes leaves room for"
            )
        return text

    return text_of


def _resiliparse() -> Callable[[str], str]:
    from resiliparse.extract.html2text import extract_plain_text

    def extract(page: str) -> str:
        text: str = extract_plain_text(page, main_content=True)
        return text

    return extract


def _trafilatura() -> Callable[[str], str]:
    import trafilatura

    def extract(page: str) -> str:
        # These settings are those of FineWeb, without its deduplication, which has a memory.
        return trafilatura.extract(page, favor_precision=True, include_comments=False) or ""

    return extract


def html(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read a file as a document; ``meta`` has its ``charset``."""
    return gather(_page(where, spec, span, cap, extent))


def _page(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Records:
    raw = content_of_file(where, cap, extent)
    if isinstance(raw, Bad):
        yield raw
        return
    decoded = decode_text(raw, "", True)
    facts: dict[str, Any] = {"charset": decoded.charset}
    if decoded.replaced:
        facts["replaced"] = decoded.replaced
    try:
        facts[spec.text] = extractor(spec.extract, cap)(decoded.text)
    except Unparsable as error:
        yield Bad("file", str(error), raw[:HEAD], 1)
        return
    yield record_of(facts, spec, span, "line", 1, None)
