"""Gather the demo's text: documentation of the installed packages and of the standard library.

Synthetic text would prove little, and a download does not run everywhere, so the demo reads files
of every Python installation. The *pool* is the documentation of the installed packages: docstrings,
comments of Python and C sources, READMEs, licences and other prose. The *target* is the docstrings
of the standard library, split by module: one half as examples for selection, the other held out for
evaluation. Three guarantees:

* the same installation and seed give the same bytes;
* no line of :data:`~penstock.jobs.demo.pieces.TELLING` or more characters of the held-out half
  occurs in the other half or in the pool (packages contain copies of the standard library:
  setuptools has distutils, multiprocess is multiprocessing), and no shorter docstring of it occurs
  as a whole;
* the files read are capped, not the time, so that a slow machine gathers the same text: 160 MB of
  files take 20 s on one core and give 46 MB of text, about 11 million tokens.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from penstock.errors import InputError
from penstock.jobs.demo.library import limited, split_library
from penstock.jobs.demo.packages import fair_share, package_files, read_pool
from penstock.jobs.demo.pieces import Passage
from penstock.storage import atomic_file

__all__ = ["Count", "Gathered", "Limits", "gather"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of what is read and written."""

    read_bytes: int = 160_000_000
    """Bytes to read of package files; a package is cut only if all larger ones are cut, too."""
    document_chars: int = 4096
    """Characters above which a file is divided, between docstrings or paragraphs if possible."""
    min_chars: int = 200
    """Characters below which a document is left out of the pool."""
    example_chars: int = 2048
    """The limit ``document_chars`` for an example of the target."""
    aim_bytes: int = 1_000_000
    """UTF-8 bytes of the examples for selection."""
    held_out_bytes: int = 400_000
    """UTF-8 bytes of the half for evaluation: every run of the comparison reads all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Documents and the UTF-8 bytes of their texts."""

    documents: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The files of the gathered text, and their sizes."""

    pool: tuple[Path, ...]
    """JSON lines ``id, source, text``, zstd, one file for each kind."""
    aim: Path
    """JSON lines ``id, benchmark, text``: the examples for selection."""
    held_out: Path
    """JSON lines ``id, benchmark, text``: the half for evaluation."""
    by_kind: dict[str, Count]
    """The pool by kind."""
    aim_count: Count
    held_out_count: Count
    packages: int
    """Packages that gave at least one document to the pool."""
    copies: dict[str, int]
    """Pieces left out of ``pool`` and of ``aim`` because they repeat the held-out half."""
    unread: int
    """Files that are not UTF-8, or not Python though named so."""

    @property
    def pool_count(self) -> Count:
        """The whole pool."""
        counts = self.by_kind.values()
        return Count(
            documents=sum(count.documents for count in counts),
            bytes=sum(count.bytes for count in counts),
        )


def gather(
    directory: Path,
    *,
    seed: int = 0,
    packages: Sequence[Path] | None = None,
    library: Path | None = None,
    limits: Limits | None = None,
) -> Gathered:
    """Write the pool and both halves of the target into ``directory``.

    Args:
        directory: Gets ``pool/KIND.jsonl.zst``, ``stdlib.aim.jsonl``, ``stdlib.held_out.jsonl``.
        seed: Seed of the split by module, and of the draw where there is too much.
        packages: Directories of installed packages; those of this Python if not given.
        library: The standard library's directory; this Python's if not given.
        limits: Limits of what is read and written.

    Raises:
        InputError: There is no text there.
    """
    limits = limits or Limits()
    here = {name: Path(path) for name, path in sysconfig.get_paths().items()}
    if library is None:
        library = here["stdlib"]
    if packages is None:
        packages = list(dict.fromkeys((here["purelib"], here["platlib"])))

    with _uncollected():
        target = split_library(library, seed, limits.example_chars)
        files = fair_share(package_files(packages), limits.read_bytes, seed)
        pool = read_pool(files, target.unseen, limits.document_chars, limits.min_chars)
    if not pool.packages:
        raise InputError(
            file=", ".join(map(str, packages)),
            expected="installed packages with documentation",
            got="none",
            fix="run the demo in the environment in which Penstock is installed",
        )

    paths = {kind: directory / "pool" / f"{kind}.jsonl.zst" for kind in pool.documents}
    by_kind: dict[str, Count] = {}
    for kind, documents in pool.documents.items():
        if documents:
            by_kind[kind] = _write(paths[kind], documents, source=kind)
        else:  # the file of an earlier gathering would be read with this one
            paths[kind].unlink(missing_ok=True)
    aim, held_out = directory / "stdlib.aim.jsonl", directory / "stdlib.held_out.jsonl"
    to_aim_at = limited(target.aim, limits.aim_bytes, seed)
    to_judge_by = limited(target.held_out, limits.held_out_bytes, seed)
    return Gathered(
        pool=tuple(paths[kind] for kind in by_kind),
        aim=aim,
        held_out=held_out,
        by_kind=by_kind,
        aim_count=_write(aim, to_aim_at, benchmark="stdlib"),
        held_out_count=_write(held_out, to_judge_by, benchmark="stdlib"),
        packages=pool.packages,
        copies={"pool": pool.copies, "aim": target.copies},
        unread=target.unread + pool.unread,
    )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Switch garbage collection off: syntax trees are large and have no cycles."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _write(path: Path, documents: Sequence[Passage], **label: str) -> Count:
    """Write JSON lines ``id``, the label, ``text``; with zstd where the path ends in ``.zst``."""
    size = 0
    with contextlib.ExitStack() as stack:
        sink: Any = stack.enter_context(atomic_file(path))
        if path.suffix == ".zst":
            compressor = zstandard.ZstdCompressor(level=3)
            sink = stack.enter_context(compressor.stream_writer(sink, closefd=False))
        for document in documents:
            record = {"id": document.id, **label, "text": document.text}
            sink.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            size += len(document.text.encode())
    return Count(documents=len(documents), bytes=size)
