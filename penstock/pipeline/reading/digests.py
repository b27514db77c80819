"""Content hashes of the input files, computed by all workers and cached in the work directory.

The hash of a file is the sha256 over the sha256 of each of its 256 MiB blocks. So one large file is
read by many workers, and the hash is the same on a disk and in a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.artefact import Workspace, canonical
from penstock.errors import InputError, UnmadeError
from penstock.pipeline.reading.hub import files_of, identity
from penstock.pipeline.reading.inputs import Input
from penstock.pipeline.runner import Runner
from penstock.storage import (
    AnyPath,
    atomic_file,
    read_file,
    store_of,
)

__all__ = ["hash_inputs"]

_CACHE_VERSION = 2
"""Version of ``inputs.json``; a file of another version is ignored."""

_BLOCK_BYTES = 256 << 20
"""Bytes of a block; the hash of a file depends on it."""

_TASK_BYTES = 32 << 20
"""Bytes of small files that one task hashes."""

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of an input file."""

    path: AnyPath
    start: int
    end: int

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"{self.path}, bytes {self.start:,}–{self.end:,}"


def hash_inputs(inputs: Sequence[Input], workspace: Workspace, runner: Runner) -> list[Input]:
    """Hash the content of input files, and sort the inputs by their hashes.

    Hashes are cached in ``work/inputs.json`` by path, size and version, so a second run reads no
    input.

    Raises:
        InputError: A file cannot be read.
        UnmadeError: A file has to be read, and the workspace is read-only.
    """
    cache = workspace.root / "inputs.json"
    known = _read_cache(cache)
    stamps = [store_of(item.path).version(item.path) for item in inputs]
    digests: dict[int, str] = {}
    fresh: dict[int, list[tuple[str, AnyPath]]] = {}
    for index, item in enumerate(inputs):
        *then, digest = known.get(str(item.path), [None])
        if stamps[index] and tuple(then) == stamps[index]:
            digests[index] = digest
        elif workspace.read_only and stamps[index]:
            raise UnmadeError(
                f"not read into {workspace.root} as it is now",
                file=item.path,
                fix="run `penstock curate RECIPE`",
            )
        else:
            fresh[index] = _parts(item)
    hashes = _hash_files([path for parts in fresh.values() for _, path in parts], runner)
    for index, parts in fresh.items():
        digests[index] = _combine(inputs[index], [(name, hashes[path]) for name, path in parts])
        if stamps[index]:
            known[str(inputs[index].path)] = [*stamps[index], digests[index]]
    if fresh and not workspace.read_only:
        with atomic_file(cache) as sink:
            sink.write(canonical({"version": _CACHE_VERSION, "files": known}))
    hashed = [
        replace(item, digest=digests[index], stamp=stamps[index])
        for index, item in enumerate(inputs)
    ]
    return sorted(hashed, key=lambda item: item.key)


def _read_cache(cache: AnyPath) -> dict[str, list[Any]]:
    """Read the cached hashes by path; none where the file cannot be used."""
    try:
        known = json.loads(read_file(cache))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict) or known.get("version") != _CACHE_VERSION:
        return {}
    return dict(known["files"])


def _parts(item: Input) -> list[tuple[str, AnyPath]]:
    """List the files of an input, by name within it; none where it is on the hub."""
    if not item.spec.path.startswith("hf:"):
        return [("", item.path)]
    path = Path(str(item.path))
    return [(file.relative_to(path).as_posix(), file) for file in files_of(path)]


def _combine(item: Input, hashes: list[tuple[str, str]]) -> str:
    if not hashes:
        return hashlib.sha256(identity(item.spec).encode()).hexdigest()
    if not hashes[0][0]:
        return hashes[0][1]
    return hashlib.sha256(canonical(hashes)).hexdigest()


def _hash_files(paths: list[AnyPath], runner: Runner) -> dict[AnyPath, str]:
    """Hash the bytes of each file."""
    found: dict[AnyPath, list[str]] = {}
    items: list[list[_Block]] = []
    room = 0
    for path in dict.fromkeys(paths):
        size = path.stat().st_size
        blocks = [
            _Block(path, start, min(start + _BLOCK_BYTES, size))
            for start in range(0, max(1, size), _BLOCK_BYTES)
        ]
        found[path] = [""] * len(blocks)
        for block in blocks:  # small files share a task: a task for each would mostly be overhead
            if not items or block.end - block.start > room:
                items.append([])
                room = _TASK_BYTES
            items[-1].append(block)
            room -= block.end - block.start
    for index, digests in runner.run(_digests, items):
        for block, digest in zip(items[index], digests):
            found[block.path][block.start // _BLOCK_BYTES] = digest
    return {
        path: hashlib.sha256("".join(digests).encode()).hexdigest()
        for path, digests in found.items()
    }


def _digests(blocks: list[_Block], _: object) -> list[str]:
    """Compute the sha256 of each block."""
    digests = []
    for block in blocks:
        digest = hashlib.sha256()
        try:
            with block.path.open("rb") as file:
                file.seek(block.start)
                left = block.end - block.start
                while left and (chunk := file.read(min(left, _CHUNK))):
                    digest.update(chunk)
                    left -= len(chunk)
        except FileNotFoundError:
            raise InputError("no such file", file=block.path) from None
        except PermissionError:
            raise InputError("permission denied", file=block.path, fix="make it readable") from None
        digests.append(digest.hexdigest())
    return digests
