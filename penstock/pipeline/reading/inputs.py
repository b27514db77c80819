"""Find the input files that a recipe's ``corpus`` names, before any work starts.

Inputs are ordered by the hash of their bytes, not by path, so that a corpus is the same in any
directory and in any order of the list; see :mod:`penstock.pipeline.reading.digests`.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.artefact import canonical
from penstock.errors import InputError, StorageError
from penstock.pipeline.reading.readers import KINDS, is_plain_text, reader_of
from penstock.recipe import CorpusSource, LiteralSource, Recipe
from penstock.storage import (
    AnyPath,
    files_under,
    find_files,
    is_uri,
    kind_of,
    translate_os_errors,
)

__all__ = ["Input", "find_inputs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input file (or Hugging Face dataset) and how to read it."""

    path: AnyPath
    spec: CorpusSource
    digest: str = ""
    """The hash of its bytes: 64 hexadecimal digits."""
    stamp: tuple[int | str, ...] = ()
    """Size and version of a plain file when it was hashed; empty for a dataset."""

    @property
    def reading(self) -> dict[str, Any]:
        """The keys for reading it, without its path: part of fingerprints."""
        return self.spec.model_dump(exclude={"path"})

    @property
    def key(self) -> tuple[str, bytes, str]:
        """Sort key among the inputs; the name distinguishes equal files in the quarantine."""
        return self.digest, canonical(self.reading), self.path.name

    @property
    def size(self) -> int:
        """Bytes of a plain file; 0 for a dataset."""
        return int(self.stamp[0]) if self.stamp else 0


def find_inputs(recipe: Recipe) -> list[Input]:
    """Find the files that ``corpus`` names, each once.

    Raises:
        InputError: A file is missing, a glob or directory holds nothing, or a kind is unknown.
    """
    found: dict[tuple[str, bytes], Input] = {}
    for number, spec in enumerate(recipe.corpus):
        for path in _files(recipe, spec, f"corpus.{number}.path"):
            item = Input(path=path, spec=_with_source(spec, path))
            found.setdefault((str(path), canonical(item.reading)), item)
    return list(found.values())


def _with_source(spec: CorpusSource, path: AnyPath) -> CorpusSource:
    """Make the name of a plain-text file its source, which is part of how it is read."""
    if not isinstance(spec.source, str) or not is_plain_text(path) or spec.path.startswith("hf:"):
        return spec
    return spec.model_copy(update={"source": LiteralSource(name=path.name.partition(".")[0])})


def _files(recipe: Recipe, spec: CorpusSource, key: str) -> Iterator[AnyPath]:
    if spec.path.startswith("hf:"):
        name = spec.path.removeprefix("hf:")
        if is_uri(name):
            raise InputError(
                key=key,
                expected="a local directory or a name on the hub after hf:",
                got=name,
                fix="give a store's Parquet or Arrow files by a path without hf:",
            )
        yield recipe.resolve(name)
        return
    path = recipe.resolve(spec.path)
    with _reachable(path, key):
        kind = kind_of(path)
        if kind == "file":
            files, unknown = [path], [path] if reader_of(path) is None else []
            if unknown:
                raise InputError("unknown kind of file", key=key, file=path, expected=KINDS)
        elif kind == "directory":
            files = [path / name for name in files_under(path) if reader_of(path / name)]
            if not files:
                raise InputError(
                    "no file in this directory can be read as documents",
                    key=key,
                    file=path,
                    expected=KINDS,
                )
        elif not glob.has_magic(spec.path):
            raise InputError("no such file", key=key, file=path, fix=_FIX)
        else:
            files = _matching(recipe, spec)
            unknown = [file for file in files if reader_of(file) is None]
            if unknown or not files:
                found = (
                    f"matches {unknown[0].name}, of unknown kind" if unknown else "matches no file"
                )
                raise InputError(
                    f"the pattern {found}",
                    key=key,
                    file=path,
                    expected=f"only {KINDS}",
                    fix=_FIX,
                )
    yield from sorted(files, key=str)


_FIX = "check the name (and the bucket); paths are relative to the recipe"


def _matching(recipe: Recipe, spec: CorpusSource) -> list[AnyPath]:
    if is_uri(spec.path):
        return find_files(recipe.resolve(spec.path))
    # The recipe's own directory may hold characters that mean something in a pattern.
    pattern = Path(glob.escape(str(recipe.directory)), Path(spec.path).expanduser())
    return [recipe.resolve(str(match)) for match in find_files(pattern)]


@contextlib.contextmanager
def _reachable(path: AnyPath, key: str) -> Iterator[None]:
    """Turn errors of a file system or store into InputError with the key and the path."""
    try:
        with translate_os_errors(path):
            yield
    except FileNotFoundError:
        raise InputError("no such file or bucket", key=key, file=path, fix=_FIX) from None
    except StorageError as error:
        raise InputError(error.problem, key=key, file=error.file, fix=error.fix) from error
