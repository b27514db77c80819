"""Inputs of a corpus, and the hashes of their bytes, before any work starts.

Inputs are ordered by the hash of their bytes, not by path, so that a corpus is the same in any
directory and in any order of the list. The hash of a file is the sha256 over the sha256 of each of
its 256 MiB blocks. So one large file is read by many workers, and the hash is the same on a disk
and in a store. Hashes are cached in the work directory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.artefact import Workspace, canonical
from penstock.display import printable
from penstock.errors import InputError, StorageError, UnmadeError
from penstock.pipeline.grouped import packed
from penstock.pipeline.reading.hugging_face import dataset_files, pinned
from penstock.pipeline.reading.streams import readable
from penstock.pipeline.reading.unchanged import (
    BLOCK_BYTES,
    HashedFile,
    as_hashed,
    hash_block,
    joined,
)
from penstock.pipeline.runner import Runner
from penstock.recipe import CorpusSource
from penstock.storage import (
    AnyPath,
    FileVersion,
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
        return keys_for_reading(self.spec)

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


_CACHE_VERSION = 3
"""Version of ``inputs.json``; a file of another version is ignored."""

_SETTLED = 3_000_000_000
"""Nanoseconds without a change before it was hashed, after which a hash is used by later runs.

A change in the same tick of the file system's clock as the one before shows in no time: 4 ms on
ext4 and XFS, 1 to 2 s on some shares.
"""

_TASK_BYTES = 32 << 20
"""Bytes of small files that one task hashes."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of an input file."""

    path: AnyPath
    version: FileVersion
    start: int
    end: int

    @property
    def label(self) -> str:
        return f"{self.path}, bytes {self.start:,}–{self.end:,}"


def keys_for_reading(spec: CorpusSource) -> dict[str, Any]:
    """Return the keys of an item that say how its files are read: all but ``path``.

    ``format`` is left out where it is not given: it is younger than corpora that stay valid.
    """
    return spec.model_dump(exclude={"path"} if spec.format else {"path", "format"})


def hash_inputs(inputs: Sequence[Input], workspace: Workspace, runner: Runner) -> list[Input]:
    """Hash the content of input files, and sort the inputs by their hashes.

    Hashes are cached in ``work/inputs.json`` by path, size and version, so a second run reads no
    input, but those that had changed within 3 s before they were hashed.

    Raises:
        InputError: A file cannot be read, or is another when it is hashed than when it was found.
        UnmadeError: A file has to be read, and the workspace is read-only.
    """
    inputs = [
        replace(item, spec=pinned(item.spec)) if item.is_dataset and not _parts(item) else item
        for item in inputs
    ]
    cache = workspace.root / "inputs.json"
    known = _read_cache(cache)
    parts = [_parts(item) for item in inputs]
    hashes: dict[AnyPath, tuple[str, FileVersion]] = {}
    fresh: dict[AnyPath, FileVersion] = {}
    for item, own in zip(inputs, parts):
        for _, path in own:
            version = store_of(path).version(path)
            entry = None if item.is_dataset else known.get(str(path))
            if entry is not None and _is_known(entry, version, workspace.read_only):
                hashes[path] = entry["sha256"], version
            elif workspace.read_only and version and not item.is_dataset:
                raise UnmadeError(
                    f"not read into {workspace.root} as it is now",
                    file=item.path,
                    got=_difference(entry, version, path, known),
                    fix="run `penstock curate RECIPE`, which compares the bytes, and makes nothing "
                    "anew that was made of the same ones",
                )
            else:
                fresh[path] = version
    since = time.time_ns() - _SETTLED
    hashes.update(_hash_files(fresh, runner))
    for item in inputs:
        if item.path in fresh and not item.is_dataset:
            digest, version = hashes[item.path]
            known.pop(str(item.path), None)
            if version:
                local = isinstance(item.path, Path)
                # A store may give neither tag nor time.
                settled = int(version[2]) < since if local else version[-1] != ""
                entry = {"version": version, "sha256": digest, "settled": settled}
                known[str(item.path)] = entry
    if fresh and not workspace.read_only:
        try:
            with atomic_file(cache) as sink:
                # In ASCII, which keeps names that are not UTF-8.
                sink.write(json.dumps({"version": _CACHE_VERSION, "files": known}).encode())
        except StorageError as error:
            # What is finished is found without this cache, where nothing can be written.
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EROFS):
                raise
    made = []
    for item, own in zip(inputs, parts):
        files = tuple(
            HashedFile(name=name, path=path, version=hashes[path][1], digest=hashes[path][0])
            for name, path in own
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


def _read_cache(cache: AnyPath) -> dict[str, dict[str, Any]]:
    """Read the cached hashes by path; none where the file cannot be used."""
    try:
        known = json.loads(read_file(cache))
    except (OSError, ValueError, RecursionError):
        return {}
    match known:
        case {"version": int(version), "files": dict(files)} if version == _CACHE_VERSION:
            return {path: entry for path, entry in files.items() if _is_sound(entry)}
    return {}


def _is_sound(entry: Any) -> bool:
    match entry:
        case {"version": [*_], "sha256": str(digest), "settled": bool()}:
            return re.fullmatch("[0-9a-f]{64}", digest) is not None
    return False


def _is_known(entry: dict[str, Any], version: FileVersion, read_only: bool) -> bool:
    """Return whether a cached hash is that of a version; where nothing is read, it may be unsettled
    or of a file that machines number differently."""
    then = tuple(entry["version"])
    if read_only:
        return then in (version, (*version[:-1], -1))
    return bool(then == version and entry["settled"])


def _difference(
    entry: dict[str, Any] | None,
    version: FileVersion,
    path: AnyPath,
    known: Mapping[str, dict[str, Any]],
) -> str:
    """Describe how a file differs from the one of its path, or of its name, that was read."""
    if entry is None:
        same = [
            other
            for other, one in sorted(known.items())
            if other.rpartition("/")[2] == path.name and one["version"][:1] == [version[0]]
        ]
        if same:
            return f"another path: a file of this name and size was read as {same[0]}"
        return "a file that no command has read"
    then = entry["version"]
    if then[:1] != [version[0]]:
        return f"{version[0]:,} bytes, where it had {then[0]:,}"
    return "the same size at another time: it was written, copied or moved since"


def stored_hashes(root: AnyPath) -> dict[str, str]:
    """Return the hash of each file that a work directory has read, by path."""
    known = _read_cache(root / "inputs.json")
    return {path: entry["sha256"] for path, entry in known.items()}


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


def _hash_files(
    versions: dict[AnyPath, FileVersion], runner: Runner
) -> dict[AnyPath, tuple[str, FileVersion]]:
    """Hash files that have the given versions; return hash and version of each as it was hashed."""
    blocks = [
        _Block(path, version, start, min(start + BLOCK_BYTES, size))
        for path, version in versions.items()
        for size in [int(version[0]) if version else 0]
        for start in range(0, max(1, size), BLOCK_BYTES)
    ]
    # Small files share a task: a task for each would mostly be overhead.
    items = list(packed(blocks, lambda block: block.end - block.start, _TASK_BYTES))
    found = dict(runner.run(_digests, items))
    parts: dict[AnyPath, list[tuple[str, FileVersion]]] = {path: [] for path in versions}
    for index, blocks in enumerate(items):
        for block, digest in zip(blocks, found[index]):
            parts[block.path].append(digest)
    return {path: joined(own) for path, own in parts.items()}


def _digests(blocks: list[_Block], _: object) -> list[tuple[str, FileVersion]]:
    digests = []
    for block in blocks:
        with readable(block.path, "file"):
            digests.append(hash_block(block.path, block.version, block.start, block.end))
    return digests
