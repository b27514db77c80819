"""A driver suspended at any request of record, publish and sweep, while another takes over.

The stale driver stops before and after each of its requests in turn. Meanwhile a later driver takes
the work directory over, and finishes the artefact, or is half done with it when the stale one goes
on. Whatever the later driver wrote stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock import lease as lease_module
from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import LeaseError
from penstock.lease import Lease
from penstock.storage import (
    AnyPath,
    atomic_file,
    files_under,
    kind_of,
    sha256_file,
    store_of,
)
from penstock.storage.local import LocalStore
from tests.harness import WHOLE

REQUESTS = ("read", "put", "create", "replace", "list", "kind", "delete")
"""Methods of a store at which a driver is suspended."""


@dataclass
class Suspension:
    """Call ``meanwhile`` once: before or after the ``nth`` request of a driver."""

    nth: int
    meanwhile: Callable[[], None]
    met: int = 0
    struck: str = ""
    at_work: bool = False
    places: list[str] = field(default_factory=list)

    def meet(self, place: str) -> None:
        if self.at_work or self.struck:
            return
        self.places.append(place)
        self.met += 1
        if self.met == self.nth:
            self.struck, self.at_work = place, True
            self.meanwhile()
            self.at_work = False

    def watch(self, store: type, patch: pytest.MonkeyPatch) -> None:
        for name in REQUESTS:
            patch.setattr(store, name, self._around(name, getattr(store, name)))

    def _around(self, name: str, real: Any) -> Any:
        def call(own: Any, path: AnyPath, *args: Any, **named: Any) -> Any:
            place = f"{name} {path.name}"
            self.meet(f"before {place}")
            result = real(own, path, *args, **named)
            self.meet(f"after {place}")
            return result

        return call


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every lease look like one of another machine."""
    machines = (f"machine {number}" for number in itertools.count())
    monkeypatch.setattr(lease_module, "_machine", lambda: next(machines))


@dataclass
class Driver:
    """A driver of one artefact."""

    name: str
    root: AnyPath
    growing: bool
    lease: Lease = field(init=False)
    draft: Draft = field(init=False)
    made: dict[str, str] = field(default_factory=dict)
    """The sha256 of each file that it recorded."""

    def begin(self) -> None:
        self.lease = Lease(self.root, renewal=1000, expiry=0)
        workspace = Workspace(self.root, self.lease)
        self.draft = workspace.draft("stage", 1, {}, {})
        self.draft._requests = 1  # commits run in this thread, which is suspended

    def write(self, name: str, content: bytes, part: str | None) -> None:
        with atomic_file(self.draft.path / name) as sink:
            sink.write(content)
        if part is not None and self.draft.done(part) is None:
            self.draft.record(part, [FileRecord.of(name, sink)])
            self.made[name] = sink.sha256

    def fill(self) -> None:
        if self.growing:
            number = next(n for n in itertools.count() if self.draft.done(f"u-{n}") is None)
            self.write(f"u-{number}-{self.draft.generation}", self.name.encode(), f"u-{number}")
            return
        for part in ("a", "b"):
            if self.draft.done(part) is None:
                self.write(part, part.encode(), part)
        self.write("scratch/s", self.name.encode(), "s")
        self.write(f"scratch/{self.name}", b"not recorded", None)

    def parts(self) -> list[str]:
        if not self.growing:
            return ["a", "b"]
        return [
            f"u-{n}"
            for n in itertools.takewhile(
                lambda n: self.draft.done(f"u-{n}") is not None, itertools.count()
            )
        ]

    def publish(self) -> Artefact:
        return self.draft.publish(self.parts(), {"by": self.name}, growing=self.growing)


@dataclass
class Story:
    """A stale driver that is suspended once, and the later driver."""

    root: AnyPath
    growing: bool
    finishes: bool
    """True if the later driver has published when the stale one goes on."""

    def run(self, nth: int) -> Suspension:
        """Tell the story with a suspension at the ``nth`` place; check its end."""
        here = self.root / f"{nth}"
        first = Driver("first", here, self.growing)
        first.begin()
        first.fill()
        if self.growing:
            first.publish()
        first.draft.settle()
        first.lease.release()
        stale, later = (Driver(name, here, self.growing) for name in ("stale", "later"))
        stale.begin()
        if self.growing:  # of an attempt that was killed
            stale.write(f"u-1-{first.draft.generation}-left", b"left", None)
        before: dict[str, Any] = {}

        def meanwhile() -> None:
            later.begin()
            later.fill()
            if self.finishes:
                before["made"] = later.publish()

        suspension = Suspension(nth, meanwhile)
        with pytest.MonkeyPatch.context() as patch:
            suspension.watch(type(store_of(here)), patch)
            published = None
            with suppress(LeaseError):
                stale.fill()
                published = stale.publish()
        if not suspension.struck:
            return suspension
        place = f"{nth}: {suspension.struck}"
        found = before.get("made")
        if found is None:
            if not self.growing:
                assert kind_of(later.draft.path / "scratch/later") == "file", f"{place}: deleted"
            found = later.publish()
        assert Artefact.open(found.path) == found, f"{place}: the manifest was replaced"
        found.verify()
        there = set(files_under(found.path))
        for record in later.made.keys() & {item.path for item in found.files}:
            assert sha256_file(found.path / record) == later.made[record], place
        if self.growing:
            named = {item.path for item in found.files}
            assert named >= later.made.keys() | first.made.keys(), f"{place}: a file was lost"
            # A file of the stale driver counts if its record came first.
            recorded = {
                item.path
                for part in later.parts()
                for item in Workspace(here).draft("stage", 1, {}, {}).done(part) or ()
            }
            assert recorded == named, place
        else:
            assert found.facts["by"] in ("stale", "later")
            assert published is None or published == found, place
            assert {"a", "b", "records/a.json", "records/b.json"} <= there
        later.lease.release()
        return suspension


@pytest.mark.parametrize("finishes", [True, False], ids=["finished", "half done"])
@pytest.mark.parametrize("growing", [False, True], ids=["finished-once", "growing"])
def test_a_suspended_driver_replaces_and_deletes_nothing_of_its_successor(
    root: AnyPath, growing: bool, finishes: bool
) -> None:
    """Attack: suspended between its check and its request, a driver goes on as if it had the
    lease: it deletes its successor's files and puts its older manifest in place."""
    story = Story(root, growing, finishes)
    places = story.run(10**6).places
    assert {"before create manifest.json", "after replace manifest.json"} & {*places}
    assert any(place.startswith("before delete") for place in places)
    step = 1 if WHOLE or isinstance(store_of(root), LocalStore) else 9
    chosen = range(1, len(places) + 1, step)
    struck = [story.run(nth).struck for nth in chosen]
    assert all(struck) and {*struck} <= {*places}
    assert len(places) >= 22
