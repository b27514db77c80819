"""Files of installed packages: found in a fixed order, read as text, drawn by hash."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.hashing import hash_ids, mix

__all__ = ["UnreadableError", "drawn", "read", "walk"]

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
