"""Read a Markdown file as a document, with its front matter in ``meta``."""

from __future__ import annotations

import re

from penstock.pipeline.reading.batches import Batches, gather
from penstock.pipeline.reading.lines import content_of_file, decoded
from penstock.pipeline.reading.records import Bad, Extent, Records, Span, record_of, undecodable
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["markdown"]

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.S | re.M)
_WITHIN = 64 << 10
"""First characters of a file in which front matter ends."""


def markdown(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read a file; what is between ``---`` and ``---`` at its beginning is ``meta.front_matter``.

    Front matter is kept as it is, since it may be of any format.
    """
    return gather(_document(where, spec, span, cap, extent))


def _document(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Records:
    raw = content_of_file(where, cap, extent)
    if isinstance(raw, Bad):
        yield raw
        return
    try:
        text = decoded(raw, spec)
    except UnicodeDecodeError as error:
        yield Bad("file", f"{undecodable(spec.encoding, raw)} ({error})", raw, 1)
        return
    fields = {}
    if found := _FRONT_MATTER.match(text, 0, _WITHIN):
        fields["front_matter"] = found[1]
        text = text[found.end() :]
    fields[spec.text] = text
    yield record_of(fields, spec, span, "line", 1, None)
