"""Warn of files in UTF-8, UTF-16 or UTF-32 in an item of ``corpus`` that names another encoding.

Nearly all bytes are characters of windows-1252 and its like, so that such files would become other
text without an error.
"""

from __future__ import annotations

import codecs
import contextlib

from penstock.errors import PenstockError
from penstock.jobs.checking.findings import Finding
from penstock.jobs.checking.sampling import InputSample
from penstock.pipeline.reading.streams import blocks
from penstock.recipe import Recipe
from penstock.storage import AnyPath

__all__ = ["check_encodings", "unicode_of"]

_HEAD = 2**20
"""Bytes of a file that are looked at."""

_MARKS = (  # those of UTF-32 first, of which UTF-16's are the beginning
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def check_encodings(recipe: Recipe, sample: InputSample) -> list[Finding]:
    """Return a warning for each item of another encoding with sampled files in Unicode."""
    findings = []
    for number, spec in enumerate(recipe.corpus):
        if spec.encoding == "utf-8":
            continue
        own = [one.input for one in sample.files if one.item == number]
        found = [(one.name, name) for one in own if (name := unicode_of(_head(one.path)))]
        if found:
            key = f"corpus.{number}.encoding"
            findings.append(
                Finding(
                    level="warning",
                    kind="encoding",
                    key=key,
                    text=f"{key}: {len(found):,} of {len(own):,} files of the sample would become "
                    f"other characters, since they are not {spec.encoding.upper()}; the first: "
                    f"{found[0][0]}, {found[0][1]}; name files of one encoding in an item of "
                    "their own",
                )
            )
    return findings


def unicode_of(head: bytes) -> str | None:
    """Return the encoding of Unicode that the first bytes of a file are of.

    Args:
        head: The bytes; a character may be cut off at their end.

    Returns:
        ``UTF-8``, ``UTF-16`` or ``UTF-32``; None for ASCII alone and for all else.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if head.isascii():
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return "UTF-8"


def _head(path: AnyPath) -> bytes:
    with contextlib.suppress(PenstockError, OSError):  # another finding reports it
        return next(iter(blocks(path)), b"")[:_HEAD]
    return b""
