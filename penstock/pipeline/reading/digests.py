"""What is in the inputs: a hash of their bytes, found by all workers and remembered.

The hash is that of the sha256 of each 256 MiB of a file, so that one large file is read by many
workers, and it is the same on a disk and in a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.artefact import Workspace, canonical
from penstock.errors import InputError, UnmadeError
from penstock.pipeline.reading.hub import files_of, identity
from penstock.pipeline.reading.inputs import Input
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath, atomic_file, is_remote, read_file

__all__ = ["hash_inputs", "stamp"]

_MEMORY = 2
"""Version of ``inputs.json``; another one is forgotten."""

_HASHED = 256 << 20
"""Bytes of a file that are hashed together; part of what its hash is."""

_TOGETHER = 32 << 20
"""Bytes of small files that one task hashes."""

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class _Block:
    """Some bytes of a file of an input."""

    path: AnyPath
    start: int
    end: int

    @property
    def label(self) -> str:
        """What an error calls it."""
        return f"{self.path}, bytes {self.start:,}–{self.end:,}"


def hash_inputs(inputs: Sequence[Input], workspace: Workspace, runner: Runner) -> list[Input]:
    """The inputs with their content hashes, in the order of those hashes.

    Hashes are remembered in ``work/inputs.json`` by path, size and version, so a second run reads
    no input.

    Raises:
        InputError: A file cannot be read.
        UnmadeError: A file has to be read, and the workspace is for looking only.
    """
    memory = workspace.root / "inputs.json"
    known = _remembered(memory)
    stamps = [stamp(item.path) for item in inputs]
    digests: dict[int, str] = {}
    fresh: dict[int, list[tuple[str, AnyPath]]] = {}
    for index, item in enumerate(inputs):
        *then, digest = known.get(str(item.path), [None])
        if stamps[index] and tuple(then) == stamps[index]:
            digests[index] = digest
        elif workspace.looking and stamps[index]:
            raise UnmadeError(
                f"{item.path}: not read into {workspace.root} as it is now; run `penstock curate "
                "RECIPE`"
            )
        else:
            fresh[index] = _parts(item)
    hashes = _hashes([path for parts in fresh.values() for _, path in parts], runner)
    for index, parts in fresh.items():
        digests[index] = _combined(inputs[index], [(name, hashes[path]) for name, path in parts])
        if stamps[index]:
            known[str(inputs[index].path)] = [*stamps[index], digests[index]]
    if fresh and not workspace.looking:
        with atomic_file(memory) as sink:
            sink.write(canonical({"version": _MEMORY, "files": known}))
    hashed = [
        replace(item, digest=digests[index], stamp=stamps[index])
        for index, item in enumerate(inputs)
    ]
    return sorted(hashed, key=lambda item: item.key)


def stamp(path: AnyPath) -> tuple[int | str, ...]:
    """Size and version of a plain file, which change when it does; empty for what has none.

    The version is the times of modification and change of a local file, as a copy may carry over
    the first, and the entity tag of a remote one.
    """
    try:
        if is_remote(path):
            path.fs.invalidate_cache(path.path)
            info = path.fs.info(path.path)
            named = (info.get(name) for name in ("ETag", "etag", "LastModified", "mtime"))
            version = next((str(value) for value in named if value), "")
            return (int(info["size"]), version) if info["type"] == "file" else ()
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _remembered(memory: AnyPath) -> dict[str, list[Any]]:
    """Hashes by path; none where the file cannot be used, as they can be found again."""
    try:
        known = json.loads(read_file(memory))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict) or known.get("version") != _MEMORY:
        return {}
    return dict(known["files"])


def _parts(item: Input) -> list[tuple[str, AnyPath]]:
    """The files of an input, by name within it; none where it is on the hub."""
    if not item.spec.path.startswith("hf:"):
        return [("", item.path)]
    if is_remote(item.path) or not item.path.is_dir():
        return []
    return [(file.relative_to(item.path).as_posix(), file) for file in files_of(item.path)]


def _combined(item: Input, hashes: list[tuple[str, str]]) -> str:
    if not hashes:
        return hashlib.sha256(identity(item.spec).encode()).hexdigest()
    if not hashes[0][0]:
        return hashes[0][1]
    return hashlib.sha256(canonical(hashes)).hexdigest()


def _hashes(paths: list[AnyPath], runner: Runner) -> dict[AnyPath, str]:
    """The hash of each file's bytes."""
    found: dict[AnyPath, list[str]] = {}
    items: list[list[_Block]] = []
    room = 0
    for path in dict.fromkeys(paths):
        size = path.stat().st_size
        blocks = [
            _Block(path, start, min(start + _HASHED, size))
            for start in range(0, max(1, size), _HASHED)
        ]
        found[path] = [""] * len(blocks)
        for block in blocks:  # small files together: a task for each would be all hand-over
            if not items or block.end - block.start > room:
                items.append([])
                room = _TOGETHER
            items[-1].append(block)
            room -= block.end - block.start
    for index, digests in runner.run(_digests, items):
        for block, digest in zip(items[index], digests):
            found[block.path][block.start // _HASHED] = digest
    return {
        path: hashlib.sha256("".join(digests).encode()).hexdigest()
        for path, digests in found.items()
    }


def _digests(blocks: list[_Block], _: object) -> list[str]:
    """The sha256 of each block."""
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
            raise InputError(f"{block.path}: no such file") from None
        except PermissionError:
            raise InputError(f"{block.path}: permission denied; make it readable") from None
        digests.append(digest.hexdigest())
    return digests
