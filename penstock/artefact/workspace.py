"""Work directories."""

from __future__ import annotations

import contextlib
import graphlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.activity import step
from penstock.artefact.draft import Draft, sweep_finished
from penstock.artefact.finished import FORMAT, Artefact, fingerprint
from penstock.artefact.journal import write_journal
from penstock.errors import ArtefactError, LeaseError, StorageError, UnmadeError
from penstock.lease import Lease
from penstock.redaction import mask_values
from penstock.storage import (
    AnyPath,
    check_no_links,
    check_own_place,
    delete,
    files_under,
    kind_of,
    make_own_directory,
    sizes_under,
    store_of,
    translate_os_errors,
)

__all__ = ["Entry", "Workspace", "is_of_work"]


def _texts_in(tree: Any) -> set[str]:
    """Return all texts in plain data."""
    if isinstance(tree, str):
        return {tree}
    values = tree.values() if isinstance(tree, Mapping) else tree
    return set().union(*map(_texts_in, values)) if isinstance(tree, (Mapping, list)) else set()


_STAGE = re.compile("(?!(lease|report|journal)(/|$))[a-z][A-Za-z0-9_]*")
_ARTEFACT = re.compile(f"{_STAGE.pattern}/[0-9a-f]{{16}}")
"""The directory of an artefact within a work directory."""


def _may_hold_artefacts(name: str) -> bool:
    """Return whether to list a directory of a work directory, which may hold anything else too."""
    depth = name.count("/")
    return depth > 1 or (_ARTEFACT if depth else _STAGE).fullmatch(name) is not None


def is_of_work(name: str) -> bool:
    """Return whether Penstock made what has this name in a work directory, or is in that."""
    first, *below = name.split("/")
    two = "/".join([first, *below[:1]])
    return (
        first in ("inputs.json", "lease", "report", "journal")
        or _ARTEFACT.fullmatch(two) is not None
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """The directory of an artefact, finished or not."""

    stage: str
    path: AnyPath
    sizes: Mapping[str, int]
    """Sizes in bytes of the files, by name."""

    @property
    def finished(self) -> bool:
        """True if the manifest, which is written last, exists."""
        return "manifest.json" in self.sizes


_driven: dict[str, Lease] = {}
"""The leases of this process, by work directory."""

_used: dict[str, set[str]] = {}
"""The artefacts that the drivers of this process looked for, by work directory."""


class Workspace:
    """A work directory, in which artefacts are found, or made if they do not exist.

    Args:
        root: The recipe's ``work``.
        lease: The lease of the driver; its workers have none.
        read_only: True to refuse to make or write anything.
        used: Gets ``stage/`` and the first 16 digits of the name of each artefact that is looked
            for, whether it is found or not; by default a new set.
    """

    def __init__(
        self,
        root: AnyPath,
        lease: Lease | None = None,
        read_only: bool = False,
        used: set[str] | None = None,
    ) -> None:
        self.root = root
        self.read_only = read_only
        self._lease = lease
        self.used: set[str] = set() if used is None else used

    @classmethod
    @contextlib.contextmanager
    def driving(cls, root: AnyPath) -> Iterator[Workspace]:
        """Give the work directory to the one driver that makes artefacts in it.

        The lease is taken when the first artefact has to be made, so that many processes can
        read finished artefacts, and is given back at the end.
        """
        outer = _driven.get(str(root))
        if outer is not None:
            yield cls(root, outer, used=_used[str(root)])
            return
        lease = _driven[str(root)] = Lease(root)
        used = _used[str(root)] = set()
        try:
            yield cls(root, lease, used=used)
        finally:
            del _driven[str(root)], _used[str(root)]
            write_journal(root, used)
            lease.release()

    def directory(self, stage: str, name: str) -> AnyPath:
        """Return the directory of the artefact of ``stage`` with fingerprint ``name``."""
        self.used.add(f"{stage}/{name[:16]}")
        return self.root / stage / name[:16]

    def find(self, stage: str, name: str) -> Artefact | None:
        """Return the finished artefact with fingerprint ``name``, or None."""
        path = self.directory(stage, name)
        with translate_os_errors(self.root):
            if kind_of(path / "manifest.json") is None:
                return None
            found = Artefact.open(path)
        if found.fingerprint != name:
            raise ArtefactError(
                file=path,
                expected=f"the artefact {name}",
                got=found.fingerprint,
                fix="delete the directory",
            )
        return found

    def make(
        self,
        stage: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        work: Callable[[Draft], Artefact],
    ) -> Artefact:
        """Return the artefact of (stage, version, config, inputs): found, or made by ``work``.

        Raises:
            LeaseError: It has to be made, and another driver holds the work directory.
            UnmadeError: It has to be made, and this workspace is read-only.
        """
        name = fingerprint(stage, version, config, inputs)
        if found := self.find(stage, name):
            return found
        draft = self.draft(stage, version, config, inputs)
        try:
            with step(stage):
                return work(draft)
        except LeaseError:
            raise
        except Exception:
            # A driver that was suspended may have finished it and deleted its scratch.
            if found := self.find(stage, name):
                return found
            raise

    def draft(
        self, stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Draft:
        """Begin or resume the artefact of (stage, version, config, inputs).

        Raises:
            LeaseError: Another driver holds the work directory.
            UnmadeError: This workspace is read-only.
            StorageError: Another user put a link or a directory there, or a link of this user
                leads to files that are not of an artefact.
        """
        if self.read_only:
            raise UnmadeError(
                f"{stage} of this recipe: not made yet",
                file=self.root,
                fix="run `penstock curate RECIPE`",
            )
        self.hold()
        name = fingerprint(stage, version, config, inputs)
        header = {
            "format": FORMAT,
            "stage": stage,
            "stage_version": version,
            "fingerprint": name,
            "config": mask_values(config),
            "inputs": dict(inputs),
        }
        path = self.directory(stage, name)
        make_own_directory(self.root, path)
        check_no_links(path)
        self._check_ours(path)
        return Draft(path, header, self._lease)

    @property
    def generation(self) -> int:
        """Number of the driver's lease, which is higher for a later driver; 0 without one."""
        return 0 if self._lease is None else self._lease.number

    def hold(self) -> None:
        """Take the lease, unless it is held, and delete what drivers that were killed left.

        Raises:
            LeaseError: Another driver holds the work directory.
        """
        if self._lease is None or not self._lease.hold():
            return
        unswept = [entry for entry in self.entries() if entry.finished]
        for entry in unswept:
            if isinstance(self.root, Path):
                check_own_place(self.root, self.root / entry.stage / entry.path.name)
        self._lease.check()
        for entry in unswept:
            sweep_finished(Artefact.open(entry.path), entry.sizes)

    def _check_ours(self, path: AnyPath) -> None:
        """Refuse a link of this user to a directory with files but without a record of ours.

        What no manifest names is deleted when the artefact is published.

        Raises:
            StorageError: That is so.
        """
        if not isinstance(path, Path) or not path.is_symlink():
            return
        there = {child.name for child in path.iterdir()}
        if there and not there & {"manifest.json", "records"}:
            raise StorageError(
                "leads to files that Penstock did not make, and would delete",
                file=path,
                expected="a link to an empty directory, or to one of an artefact",
                got=min(there),
                fix=f"run `rm {path}`",
            )

    def finished(self, stage: str) -> list[Artefact]:
        """Open every finished artefact of a stage, by name."""
        with translate_os_errors(self.root):
            names = files_under(self.root / stage)
        ending = "/manifest.json"
        return [
            Artefact.open(self.root / stage / name.removesuffix(ending))
            for name in sorted(names)
            if name.endswith(ending) and name.count("/") == 1
        ]

    def artefacts(self) -> Iterator[Artefact]:
        """Yield every finished artefact of the work directory, by stage and name."""
        for entry in self.entries():
            if entry.finished:
                yield Artefact.open(entry.path)

    def entries(self) -> list[Entry]:
        """Return every artefact of the work directory, finished or not, by stage and name."""
        sizes: dict[str, dict[str, int]] = {}
        if here := store_of(self.root).local(self.root):
            # A stage or an artefact may be a link to another disk, which a listing does not enter.
            for found in here.glob("*/*"):
                name = found.relative_to(here).as_posix()
                # A run that failed before its first file leaves an empty directory.
                if _ARTEFACT.fullmatch(name) and found.is_dir():
                    sizes[name] = sizes_under(found)
        else:
            for path, size in sizes_under(self.root, _may_hold_artefacts).items():
                stage, _, rest = path.partition("/")
                name, _, file = rest.partition("/")
                if file:
                    sizes.setdefault(f"{stage}/{name}", {})[file] = size
        return [
            Entry(both.partition("/")[0], self.root / both, files)
            for both, files in sorted(sizes.items())
        ]

    def made_of(self, names: Collection[str]) -> list[Artefact]:
        """Return the artefacts of these fingerprints and, by their inputs, all made of them.

        Returns:
            Each before those that it is made of: while they are deleted in this order, none is
            there without what it is made of.
        """
        known = {one.fingerprint: one for one in self.artefacts()}
        inputs = {name: _texts_in(one.manifest["inputs"]) for name, one in known.items()}
        found = {*names}
        while more := {name for name in known if inputs[name] & found} - found:
            found |= more
        order = graphlib.TopologicalSorter(
            {name: inputs[name] & found for name in sorted(known) if name in found}
        )
        return [known[name] for name in reversed([*order.static_order()]) if name in known]

    def remove_unfinished(
        self, stage: str, goes: Callable[[str], bool] = lambda name: True
    ) -> list[AnyPath]:
        """Delete drafts of a stage, of which the inputs are not stored.

        Args:
            stage: The stage.
            goes: Called with the name of a directory, 16 hexadecimal digits; returns whether it is
                deleted.

        Returns:
            The directories.
        """
        gone = [
            entry.path
            for entry in self.entries()
            if entry.stage == stage and not entry.finished and goes(entry.path.name)
        ]
        for path in gone:
            delete(path / "records")
            delete(path)
        return gone

    def remove(self, artefact: Artefact) -> None:
        """Delete an artefact: its manifest, then its records, then its data files.

        In this order a half-deleted one is invisible and is not resumed either.
        """
        delete(artefact.path / "manifest.json")
        delete(artefact.path / "records")
        delete(artefact.path)
