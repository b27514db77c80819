"""Inputs of a corpus, and the hashes of their bytes, before any work starts.

Inputs are ordered by the hash of their bytes, not by path, so that a corpus is the same in any
directory and in any order of the list. The hash of a file is the sha256 over the sha256 of each of
its 256 MiB blocks. So one large file is read by many workers, and the hash is the same on a disk
and in a store. Hashes are cached in the work directory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.artefact import Workspace, canonical
from penstock.display import printable
from penstock.errors import UnmadeError
from penstock.pipeline.grouped import packed
from penstock.pipeline.reading.hugging_face import dataset_files, pinned
from penstock.pipeline.reading.streams import readable
from penstock.pipeline.runner import Runner
from penstock.recipe import CorpusSource
from penstock.storage import (
    AnyPath,
    atomic_file,
    read_file,
    store_of,
)

__all__ = ["Input", "hash_inputs", "stored_hashes", "with_hub_hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input file (or Hugging Face dataset) and how to read it."""

    path: AnyPath
    spec: CorpusSource
    digest: str = ""
    """The hash of its bytes: 64 hexadecimal digits."""
    name: str = ""
    """Its path from the recipe's directory on, in valid Unicode: distinguishes it from others."""
    stamp: tuple[int | str, ...] = ()
    """Size and version of a plain file when it was hashed; empty for a dataset."""

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
        return int(self.stamp[0]) if self.stamp else 0


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
            # In ASCII, which keeps names that are not UTF-8.
            sink.write(json.dumps({"version": _CACHE_VERSION, "files": known}).encode())
    return sorted(
        [
            replace(item, digest=digests[index], stamp=stamps[index])
            for index, item in enumerate(inputs)
        ],
        key=lambda item: item.key,
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
        _Block(path, start, min(start + _BLOCK_BYTES, size))
        for path, size in sizes.items()
        for start in range(0, max(1, size), _BLOCK_BYTES)
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
        digest = hashlib.sha256()
        with readable(block.path, "file"), block.path.open("rb") as file:
            file.seek(block.start)
            left = block.end - block.start
            while left and (chunk := file.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
        digests.append(digest.hexdigest())
    return digests
