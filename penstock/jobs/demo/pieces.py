"""Files of installed packages, their pieces (docstrings, comments, paragraphs), and documents.

Files are found in a fixed order and read as text; Python is parsed, never imported or executed.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from penstock.hashing import hash_ids, mix

__all__ = [
    "HASHES",
    "SLASHES",
    "TELLING",
    "Piece",
    "UnreadableError",
    "comments",
    "docstrings",
    "documents",
    "drawn",
    "paragraphs",
    "read",
    "telling",
    "walk",
    "without_copies",
]

TELLING = 32
"""Characters from which on a line identifies a copy."""


class Piece(NamedTuple):
    """A docstring with its signature, a comment, or a paragraph; or a document, joined of them."""

    name: str
    """Qualified name inside its file, or empty; of a document its id."""
    text: str


# --- files ------------------------------------------------------------------------------------

_TEST_DIRECTORIES = {"test", "tests", "_tests", "__pycache__", "node_modules"}
_TEST_MODULE = re.compile(r"test_.*\.py|.*_test\.py|conftest\.py", re.I)


class UnreadableError(ValueError):
    """A file is not UTF-8, or not Python though named so."""


def walk(root: Path, skip: Collection[str] = ()) -> Iterator[tuple[str, Path]]:
    """Find the files below ``root`` in a fixed order, without tests and directories in ``skip``.

    Yields:
        The name, relative to ``root`` and with forward slashes, and the path.
    """
    skip = _TEST_DIRECTORIES.union(skip)
    for where, directories, files in os.walk(root):
        directories[:] = sorted(name for name in directories if name not in skip)
        for file in sorted(files):
            path = Path(where, file)
            name = path.relative_to(root).as_posix()
            # A name that is not UTF-8 cannot be an id.
            if name.isprintable() and path.is_file() and not _TEST_MODULE.fullmatch(file):
                yield name, path


def read(path: Path) -> str:
    """Read a file's text, with lines that end in ``\\n``.

    Raises:
        UnreadableError: It is not UTF-8, or not readable.
    """
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path}: {error}") from error


def drawn(names: Sequence[str], seed: int, purpose: str) -> list[int]:
    """Return the positions of ``names`` in the order of the hashes of (seed, purpose, name)."""
    hashes = hash_ids(pa.array(names, pa.large_string()), mix(seed, "demo", purpose))
    order: list[int] = np.argsort(hashes, kind="stable").tolist()
    return order


# --- docstrings -------------------------------------------------------------------------------

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | _Function
_Block = ast.ClassDef | _Function | ast.If | ast.Try | ast.With | ast.ExceptHandler
_REMARK = re.compile(r"(?:^|\s)#[^'\"]*$")


def docstrings(text: str) -> list[Piece]:
    """Return the docstrings of a module, its classes and functions, each after its signature.

    Raises:
        UnreadableError: The text is not Python.
    """
    if '"""' not in text and "'''" not in text:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of syntax in files of other projects
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError(str(error)) from error
    lines = text.split("\n")
    found = []
    for name, node in _documented(tree):
        if docstring := (ast.get_docstring(node) or "").strip():
            docstring = docstring.encode(errors="replace").decode()  # may hold half a pair
            found.append(Piece(name, _entry(node, docstring, lines)))
    return found


def _documented(tree: ast.Module) -> Iterator[tuple[str, _Documented]]:
    """Yield the nodes that may have a docstring, in source order, with qualified names.

    Functions inside functions are left out.
    """
    found: list[tuple[str, ast.AST]] = [("", tree)]
    while found:
        name, node = found.pop()
        if isinstance(node, _Documented):
            if not isinstance(node, ast.Module):
                name = f"{name}.{node.name}" if name else node.name
            yield name, node
        if not isinstance(node, _Function):
            found.extend(
                (name, child)
                for block in ("finalbody", "orelse", "handlers", "body")
                for child in reversed(getattr(node, block, ()))
                if isinstance(child, _Block)
            )


def _entry(node: _Documented, docstring: str, lines: list[str]) -> str:
    """Format a docstring: the signature on a line, the text indented."""
    if isinstance(node, ast.Module):
        return docstring
    first, last = node.lineno - 1, node.body[0].lineno - 1
    header = lines[first:last] or [lines[first].encode()[: node.body[0].col_offset].decode()]
    bare = " ".join(" ".join(_REMARK.sub("", line) for line in header).split())
    signature = bare.replace("( ", "(").replace(", )", ")")
    indented = "\n".join(f"    {line}".rstrip() for line in docstring.split("\n"))
    return f"{signature}\n{indented}"


# --- comments and paragraphs ------------------------------------------------------------------

HASHES = (
    re.compile(r"(?:^[ \t]*#(?!!)[^\n]*\n){3,}", re.M),
    re.compile(r"^[ \t]*#+:? ?", re.M),
)
"""Comments of Python: a whole comment of several lines, and the mark of each line."""

SLASHES = (
    re.compile(r"/\*.*?\*/|(?:^[ \t]*//[^\n]*\n){3,}", re.M | re.S),
    re.compile(r"^[ \t]*(?:/\*[*!]*|//[/!]*|\*(?!\*)(?!/))? ?|[ \t]*\*+/\s*\Z", re.M),
)
"""Comments of C, C++ and CUDA, likewise; the second also matches the mark at the end."""

_NOT_PROSE = re.compile(r"copyright|licen[cs]e|\(c\)|SPDX|<{8}", re.I)
"""Comments on rights, which licence files have too, and the sources that Cython copies."""


def comments(text: str, marks: tuple[re.Pattern[str], re.Pattern[str]]) -> list[Piece]:
    """Return comments of at least 100 characters, without their marks and those on rights."""
    block, mark = marks
    found = [match.group() for match in block.finditer(text)]
    return [
        Piece("", "\n".join(map(str.rstrip, mark.sub("", comment).split("\n"))).strip("\n"))
        for comment in found
        if len(comment) >= 100 and not _NOT_PROSE.search(comment)
    ]


def paragraphs(text: str) -> list[Piece]:
    """Return the paragraphs between empty lines."""
    found = re.split(r"\n\s*\n", text)
    return [Piece("", paragraph.rstrip()) for paragraph in found if paragraph.strip()]


# --- copies -----------------------------------------------------------------------------------


def telling(text: str) -> list[str]:
    """Return the lines that identify a copy of a piece: its long lines, or else all of it."""
    lines = [line for line in map(str.strip, text.split("\n")) if len(line) >= TELLING]
    return lines or [" ".join(text.split())]


def without_copies(pieces: Iterable[Piece], unseen: frozenset[str]) -> list[Piece]:
    """Return the pieces that share no identifying line with ``unseen``."""
    return [piece for piece in pieces if unseen.isdisjoint(telling(piece.text))]


# --- documents --------------------------------------------------------------------------------


def documents(
    name: str, pieces: Iterable[Piece], longest: int, shortest: int = 1
) -> Iterator[Piece]:
    """Join pieces in order into documents of at most ``longest`` characters.

    A longer piece is cut between lines, and a longer line stays whole; documents of less than
    ``shortest`` characters are left out. The first document has the name of its file, a later one
    also that of its first piece.
    """
    parts = (part for piece in pieces for part in _parts(piece, longest))
    called: Counter[str] = Counter()
    for title, text in _joined(parts, "\n\n", longest):
        if len(text) >= shortest:
            wanted = f"{name}:{title}" if title and called else name
            called[wanted] += 1
            number = called[wanted]
            yield Piece(wanted if number == 1 else f"{wanted}#{number}", text)


def _parts(piece: Piece, longest: int) -> Iterable[Piece]:
    if len(piece.text) <= longest:
        return [piece]
    lines = (Piece(piece.name, line) for line in piece.text.split("\n"))
    return _joined(lines, "\n", longest)


def _joined(pieces: Iterable[Piece], joint: str, longest: int) -> Iterator[Piece]:
    """Join as many pieces as fit into ``longest`` characters, named after the first."""
    held: list[Piece] = []
    size = 0
    for piece in pieces:
        if held and size + len(piece.text) > longest:
            yield Piece(held[0].name, joint.join(text for _, text in held))
            held, size = [], 0
        held.append(piece)
        size += len(piece.text) + len(joint)
    if held:
        yield Piece(held[0].name, joint.join(text for _, text in held))
