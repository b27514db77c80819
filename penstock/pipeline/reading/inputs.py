"""Inputs of a corpus, and the hashes of their bytes, before any work starts.

Inputs are ordered by the hash of their bytes, not by path, so that a corpus is the same in any
directory and in any order of the list. The hash of a file is the sha256 over the sha256 of each of
its 256 MiB blocks. So one large file is read by many workers, and the hash is the same on a disk
and in a store. Hashes are cached in the work directory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.artefact import Workspace, canonical
from penstock.display import printable
from penstock.errors import InputError, UnmadeError
from penstock.pipeline.grouped import packed
from penstock.pipeline.reading.hugging_face import dataset_files, pinned
from penstock.pipeline.reading.streams import readable
from penstock.pipeline.reading.unchanged import BLOCK_BYTES, HashedFile, as_hashed, hash_blocks
from penstock.pipeline.runner import Runner
from penstock.recipe import CorpusSource
from penstock.storage import (
    AnyPath,
    atomic_file,
    read_file,
    store_of,
)

__all__ = ["Input", "hash_inputs", "stored_hashes", "unchanged", "with_hub_hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input file (or Hugging Face dataset) and how to read it."""

    path: AnyPath
    spec: CorpusSource
    digest: str = ""
    """The hash of its bytes: 64 hexadecimal digits."""
    name: str = ""
    """Its path from the recipe's directory on, in valid Unicode: distinguishes it from others."""
    files: tuple[HashedFile, ...] = ()
    """Its files as they were hashed; none of a dataset on the hub, which is read at a commit."""

    @property
    def reading(self) -> dict[str, Any]:
        """The keys for reading it, without its path: part of fingerprints."""
        return self.spec.model_dump(exclude={"path"})

    @property
    def key(self) -> tuple[str, bytes, str]:
        """Sort key among the inputs; the name distinguishes equal files."""
        return self.digest, canonical(self.reading), self.label

    @property
    def label(self) -> str:
        """Its name in messages and in the quarantine."""
        return self.name or printable(self.path.name)

    @property
    def is_dataset(self) -> bool:
        """True of ``hf:``."""
        return self.spec.path.startswith("hf:")

    @property
    def size(self) -> int:
        """Bytes of a plain file; 0 for a dataset."""
        return int(self.files[0].version[0]) if self.files and not self.is_dataset else 0


_CACHE_VERSION = 2
"""Version of ``inputs.json``; a file of another version is ignored."""

_TASK_BYTES = 32 << 20
"""Bytes of small files that one task hashes."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of an input file."""

    path: AnyPath
    start: int
    end: int

    @property
    def label(self) -> str:
        return f"{self.path}, bytes {self.start:,}–{self.end:,}"


def hash_inputs(inputs: Sequence[Input], workspace: Workspace, runner: Runner) -> list[Input]:
    """Hash the content of input files, and sort the inputs by their hashes.

    Hashes are cached in ``work/inputs.json`` by path, size and version, so a second run reads no
    input.

    Raises:
        InputError: A file cannot be read.
        UnmadeError: A file has to be read, and the workspace is read-only.
    """
    inputs = [
        replace(item, spec=pinned(item.spec)) if item.is_dataset and not _parts(item) else item
        for item in inputs
    ]
    cache = workspace.root / "inputs.json"
    known = _read_cache(cache)
    parts = [_parts(item) for item in inputs]
    # Before they are hashed: a change while they are is found when they are read.
    versions = [[store_of(path).version(path) for _, path in own] for own in parts]
    digests: dict[int, list[str]] = {}
    fresh: list[int] = []
    for index, item in enumerate(inputs):
        *then, digest = known.get(str(item.path), [None])
        if item.is_dataset:
            fresh.append(index)
        elif versions[index][0] and tuple(then) == versions[index][0]:
            digests[index] = [digest]
        elif workspace.read_only and versions[index][0]:
            raise UnmadeError(
                f"not read into {workspace.root} as it is now",
                file=item.path,
                fix="run `penstock curate RECIPE`",
            )
        else:
            fresh.append(index)
    hashes = _hash_files([path for index in fresh for _, path in parts[index]], runner)
    for index in fresh:
        digests[index] = [hashes[path] for _, path in parts[index]]
        if not inputs[index].is_dataset and versions[index][0]:
            known[str(inputs[index].path)] = [*versions[index][0], *digests[index]]
    if fresh and not workspace.read_only:
        with atomic_file(cache) as sink:
            # In ASCII, which keeps names that are not UTF-8.
            sink.write(json.dumps({"version": _CACHE_VERSION, "files": known}).encode())
    made = []
    for index, item in enumerate(inputs):
        files = tuple(
            HashedFile(name=name, path=path, version=version, digest=digest)
            for (name, path), version, digest in zip(parts[index], versions[index], digests[index])
        )
        digest = _combine(item, [(file.name, file.digest) for file in files])
        made.append(replace(item, digest=digest, files=files))
    return sorted(made, key=lambda item: item.key)


@contextmanager
def unchanged(item: Input) -> Iterator[None]:
    """Check that the files of an input are those that were hashed, before and after the block.

    Raises:
        InputError: One was changed, or a dataset has a file more or less.
    """
    with as_hashed(item.files):
        _check_names(item)
        yield
    _check_names(item)


def _check_names(item: Input) -> None:
    if item.is_dataset and item.files:
        there = {name: path for name, path in dataset_files(Path(str(item.path)))}
        if others := there.keys() ^ {file.name for file in item.files}:
            first = min(others)
            raise InputError(
                "added" if first in there else "gone",
                file=item.path / first,
                expected="the files of the dataset as they were hashed",
                fix="run again",
            )


def _read_cache(cache: AnyPath) -> dict[str, list[Any]]:
    """Read the cached hashes by path; none where the file cannot be used."""
    try:
        known = json.loads(read_file(cache))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict) or known.get("version") != _CACHE_VERSION:
        return {}
    return dict(known["files"])


def stored_hashes(root: AnyPath) -> dict[str, str]:
    """Return the hash of each file that a work directory has read, by path."""
    return {path: entry[-1] for path, entry in _read_cache(root / "inputs.json").items()}


def with_hub_hash(item: Input, revision: str | None) -> Input:
    """Return a dataset of the hub at a commit, with its hash: the network is not asked."""
    spec = item.spec.model_copy(update={"revision": revision})
    item = replace(item, spec=spec)
    return replace(item, digest=_combine(item, []))


def _parts(item: Input) -> list[tuple[str, AnyPath]]:
    """List the files of an input, by name within it; none where it is on the hub."""
    if not item.is_dataset:
        return [("", item.path)]
    return [*dataset_files(Path(str(item.path)))]


def _combine(item: Input, hashes: list[tuple[str, str]]) -> str:
    if not hashes:
        name, spec = item.spec.path.removeprefix("hf:"), item.spec
        identity = f"hub:{name}:{spec.subset}:{spec.split}:{spec.revision}"
        return hashlib.sha256(identity.encode()).hexdigest()
    return hashlib.sha256(canonical(hashes)).hexdigest() if hashes[0][0] else hashes[0][1]


def _hash_files(paths: list[AnyPath], runner: Runner) -> dict[AnyPath, str]:
    sizes = {path: path.stat().st_size for path in paths}
    blocks = [
        _Block(path, start, min(start + BLOCK_BYTES, size))
        for path, size in sizes.items()
        for start in range(0, max(1, size), BLOCK_BYTES)
    ]
    # Small files share a task: a task for each would mostly be overhead.
    items = list(packed(blocks, lambda block: block.end - block.start, _TASK_BYTES))
    found = dict(runner.run(_digests, items))
    texts: dict[AnyPath, str] = dict.fromkeys(sizes, "")
    for index, blocks in enumerate(items):
        for block, digest in zip(blocks, found[index]):
            texts[block.path] += digest
    return {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}


def _digests(blocks: list[_Block], _: object) -> list[str]:
    digests = []
    for block in blocks:
        with readable(block.path, "file"):
            digests.append(hash_blocks(block.path, block.start, block.end))
    return digests
