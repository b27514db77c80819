"""The demo's pool: the documentation of the installed packages, by kind."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock.jobs.demo.pieces import (
    HASHES,
    SLASHES,
    Piece,
    UnreadableError,
    comments,
    docstrings,
    documents,
    drawn,
    paragraphs,
    read,
    walk,
    without_copies,
)

__all__ = ["KINDS", "PackageFile", "fair_share", "package_files", "read_pool"]

KINDS = ("docstrings", "comments", "native", "readmes", "licences", "documents")
"""The sources of the pool: Python docstrings, Python comments, comments of C, C++ and CUDA,
package descriptions, licences and credits, other prose (changelogs, data descriptions, guides)."""

_PATTERNS = (
    ("docstrings", r".*\.(?i:py)"),
    ("native", r".*\.(?i:c|cc|cpp|cu|cuh|h|hh|hpp)"),
    ("readmes", r".*\.dist-info/(?:.*/)?(?i:metadata)"),
    ("licences", r".*\.dist-info/(?:.*/)?licenses/.*"),
    (
        "licences",
        r"(?:.*/)?(?=[^/]*(?i:licen[cs]e|copying|notice|authors|contributors|credits|patents))"
        r"(?:\.?[^/.]+|[^/]+\.(?i:md|rst|txt))",
    ),
    (None, r".*\.dist-info/.*"),
    ("readmes", r"(?:.*/)?(?i:readme)[^/]*\.(?i:md|rst|txt)"),
    ("documents", r".*\.(?i:md|rst|txt)"),
)
"""The kind that a file is read as, by the first pattern that its name matches."""

_WORD = re.compile(r"[A-Za-z][a-z'-]*[.,:;!?)]*\Z")


class PackageFile(NamedTuple):
    """A file that may hold documentation."""

    name: str
    """Path relative to the directory of packages, with forward slashes."""
    path: Path
    package: str
    kind: str
    """One of :data:`KINDS`; a file of ``docstrings`` also gives ``comments``."""
    size: int


def package_files(roots: Sequence[Path]) -> list[PackageFile]:
    """Find the files of the packages in ``roots`` that may hold documentation, sorted by name."""
    found: dict[str, PackageFile] = {}
    for root in roots:
        for name, path in walk(root):
            kind = next((kind for kind, form in _PATTERNS if re.fullmatch(form, name)), None)
            if kind and name not in found:
                package = re.split(r"[-/]", name.lower())[0]
                found[name] = PackageFile(name, path, package, kind, path.stat().st_size)
    return sorted(found.values())


def fair_share(files: Sequence[PackageFile], size: int, seed: int) -> list[PackageFile]:
    """Take files of at most ``size`` bytes; of a package over its share a random part."""
    totals: Counter[str] = Counter()
    for file in files:
        totals[file.package] += file.size
    share = _share(totals.values(), size)
    taken: Counter[str] = Counter()
    chosen: list[PackageFile] = []
    for index in drawn([file.name for file in files], seed, "files"):
        file = files[index]
        if taken[file.package] + file.size <= share:
            taken[file.package] += file.size
            chosen.append(file)
    return sorted(chosen)


def _share(totals: Collection[int], size: float) -> float:
    """Return the most that each may take, such that none is cut while a larger one is not."""
    for rank, total in enumerate(sorted(totals)):
        share = size / (len(totals) - rank)
        if total > share:
            return share
        size -= total
    return math.inf


def read_pool(
    files: Sequence[PackageFile],
    unseen: frozenset[str],
    longest: int,
    shortest: int,
    counts: Counter[str],
) -> dict[str, list[Piece]]:
    """Read documents of ``shortest`` to ``longest`` characters, without lines in ``unseen``.

    Args:
        counts: Gets ``packages`` that gave at least one document; ``copies``, pieces left out
            because they repeat ``unseen``; and ``unread`` files, which are not UTF-8, or not Python
            though named so.

    Returns:
        Documents by kind, in the order of :data:`KINDS`.
    """
    found: dict[str, list[Piece]] = {kind: [] for kind in KINDS}
    packages: set[str] = set()
    for file in files:
        try:
            for kind, name, pieces in _pieces(file):
                own = without_copies(pieces, unseen)
                counts["copies"] += len(pieces) - len(own)
                made = list(documents(name, own, longest, shortest))
                found[kind].extend(made)
                if made:
                    packages.add(file.package)
        except UnreadableError:
            counts["unread"] += 1
    counts["packages"] = len(packages)
    return found


def _pieces(file: PackageFile) -> Iterator[tuple[str, str, list[Piece]]]:
    """Yield the kind, the name for ids and the pieces of a file."""
    text = read(file.path)
    if file.kind == "docstrings":  # the comments first: they need no syntax tree
        yield "comments", f"{file.name}#comments", comments(text, HASHES)
        yield "docstrings", file.name, docstrings(text)
    elif file.kind == "native":
        yield "native", file.name, comments(text, SLASHES)
    else:
        if file.name.endswith("/METADATA"):
            text = text.partition("\n\n")[2]
        if file.kind != "documents" or _is_prose(text):
            yield file.kind, file.name, paragraphs(text)


def _is_prose(text: str) -> bool:
    """Return whether a text file is prose: mostly words, and several on a line.

    It keeps word lists, tables of numbers and lists of files out of the pool.
    """
    sample = text[:20_000]
    words = sample.split()
    rows = [row for row in sample.split("\n") if row.strip()]
    if not words or len(words) < 4 * len(rows):
        return False
    return sum(_WORD.match(word) is not None for word in words) >= 0.6 * len(words)
