"""Which files a recipe's corpus is, and what is in them: found before any work starts.

Inputs are ordered by the hash of their bytes, not by name or place, so that a corpus is the same
wherever its files lie and in whatever order they are listed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.artefact import atomic_file, canonical, sha256_file
from penstock.errors import InputError
from penstock.pipeline.hub import files_of, identity
from penstock.pipeline.readers import is_plain_text, supported
from penstock.pipeline.runner import Runner
from penstock.recipe import CorpusSource, LiteralSource, Recipe

__all__ = ["Input", "find_inputs", "hash_inputs", "stamp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input file (or Hugging Face dataset) and how to read it."""

    path: Path
    spec: CorpusSource
    sha256: str = ""
    stamp: tuple[int, ...] = ()
    """Size and times of a plain file when it was hashed; empty for what has no single ones."""

    @property
    def reading(self) -> dict[str, Any]:
        """How it is read, without where it is: what a fingerprint may contain."""
        return self.spec.model_dump(exclude={"path"})

    @property
    def key(self) -> tuple[str, bytes, str]:
        """Its place among the inputs; the name tells equal files apart in the quarantine."""
        return self.sha256, canonical(self.reading), self.path.name


def find_inputs(recipe: Recipe) -> list[Input]:
    """The files that ``corpus`` names, each once.

    Raises:
        InputError: A file is missing, a glob or directory holds nothing, or a kind is unknown.
    """
    found: dict[tuple[str, bytes], Input] = {}
    for number, spec in enumerate(recipe.corpus):
        for path in _files(recipe, spec, f"corpus.{number}.path"):
            item = Input(path=path, spec=_with_source(spec, path))
            found.setdefault((str(path), canonical(item.reading)), item)
    return list(found.values())


def _with_source(spec: CorpusSource, path: Path) -> CorpusSource:
    """The name of a plain-text file is its source, and so part of how it is read."""
    if not isinstance(spec.source, str) or not is_plain_text(path) or spec.path.startswith("hf:"):
        return spec
    return spec.model_copy(update={"source": LiteralSource(name=path.name.partition(".")[0])})


def _files(recipe: Recipe, spec: CorpusSource, key: str) -> Iterator[Path]:
    if spec.path.startswith("hf:"):
        yield recipe.resolve(spec.path.removeprefix("hf:"))
        return
    path = recipe.resolve(spec.path)
    if path.is_file():
        if not supported(path):
            raise InputError(
                f"{key}: {path}: unknown kind of file; expected .jsonl, .json, .txt (each also "
                ".gz or .zst), .parquet or .arrow"
            )
        yield path
        return
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and supported(file))
        if not inside:
            raise InputError(f"{key}: {path}: no file in this directory can be read as documents")
        yield from inside
        return
    if not glob.has_magic(spec.path):
        raise InputError(f"{key}: {path}: no such file; paths are relative to the recipe")
    # The recipe's own directory may hold characters that mean something in a pattern.
    pattern = str(Path(spec.path).expanduser())
    matches = glob.glob(pattern, root_dir=recipe.directory, recursive=True)
    files = sorted(file for match in matches if (file := recipe.resolve(match)).is_file())
    unknown = [file for file in files if not supported(file)]
    if unknown or not files:
        found = f"matches {unknown[0].name}, of unknown kind" if unknown else "matches no file"
        raise InputError(
            f"{key}: {path}: the pattern {found}; expected only .jsonl, .json, .txt (each also .gz "
            "or .zst), .parquet and .arrow; paths are relative to the recipe"
        )
    yield from files


def hash_inputs(inputs: list[Input], work: Path, runner: Runner) -> list[Input]:
    """The inputs with their content hashes, in the order of those hashes.

    Hashes are remembered in ``work/inputs.json`` by path, size and times, so a second run reads no
    input.

    Raises:
        InputError: A file cannot be read.
    """
    memory = work / "inputs.json"
    known = _remembered(memory)
    stamps = [stamp(item.path) for item in inputs]
    hashes: dict[int, str] = {}
    for index, item in enumerate(inputs):
        *then, digest = known.get(str(item.path), [None])
        if stamps[index] and tuple(then) == stamps[index]:
            hashes[index] = digest
    fresh = [index for index in range(len(inputs)) if index not in hashes]
    for position, digest in runner.run(_content, [inputs[index] for index in fresh]):
        index = fresh[position]
        hashes[index] = digest
        if stamps[index]:
            known[str(inputs[index].path)] = [*stamps[index], digest]
    if fresh:
        with atomic_file(memory) as sink:
            sink.write(canonical(known))
    hashed = [
        replace(item, sha256=hashes[index], stamp=stamps[index])
        for index, item in enumerate(inputs)
    ]
    return sorted(hashed, key=lambda item: item.key)


def stamp(path: Path) -> tuple[int, ...]:
    """Size and times of a plain file, which change when it does; empty for what has none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    if not stat.S_ISREG(status.st_mode):
        return ()
    # The time of change too: a copy may carry over the time of modification.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remembered(memory: Path) -> dict[str, list[Any]]:
    """Hashes by path; none where the file cannot be used, as they can be found again."""
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _content(item: Input, _: object) -> str:
    try:
        if item.path.is_dir():
            parts = [
                [file.relative_to(item.path).as_posix(), sha256_file(file)]
                for file in files_of(item.path)
            ]
            return hashlib.sha256(canonical(parts)).hexdigest()
        if item.spec.path.startswith("hf:"):
            return hashlib.sha256(identity(item.spec).encode()).hexdigest()
        return sha256_file(item.path)
    except PermissionError:
        raise InputError(f"{item.path}: permission denied; make it readable") from None
