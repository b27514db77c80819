"""SIGSTOP at any call until the lease is over, another driver's run to the end, then SIGCONT.

The suspended driver goes on as if nothing had happened. Nothing that the other one recorded or
published may be lost or replaced. A few pauses are part of the ordinary suite;
``PENSTOCK_FAULTS=all`` makes all of them.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Workspace
from tests.harness import WHOLE
from tests.harness.campaign import Inside
from tests.harness.committed import check_committed, digests, redone, strays, tokens_of
from tests.harness.pauses import Driver
from tests.harness.project import make_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PLACES = {
    ("record", "link"),
    ("record", "fsync"),
    ("manifest", "link"),
    ("manifest", "fsync"),
    ("manifest", "replace"),
    ("data", "replace"),
    ("scratch", "unlink"),
}
"""Kinds of files and calls at which a driver is suspended: record, publish and sweep."""

FEW, MANY = 4, 52
"""Pauses of the ordinary suite, and of the whole campaign."""

SMALL, LARGE = "budget.tokens=2000", "budget.tokens=5000"
"""The second budget makes the token store grow, whose manifest is then replaced."""


@dataclass
class Pauses:
    """Two drivers, and the results of undisturbed runs."""

    stale: Driver
    later: Driver
    recipe: Path
    base: Path
    """A work directory in which the small budget is finished."""
    expected: dict[bool, tuple[dict[str, str], dict[str, int]]] = field(default_factory=dict)
    plan: list[tuple[bool, Inside]] = field(default_factory=list)
    """Whether the work directory begins with the small budget, and where to suspend."""
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def work(self) -> Path:
        return self.recipe.parent / "work"

    def begin(self, grown: bool) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        if grown:
            shutil.copytree(self.base, self.work)

    def state(self) -> tuple[dict[str, str], dict[str, int]]:
        return digests(self.work), tokens_of(self.work)

    def prepare(self) -> None:
        self.begin(False)
        self.stale.start(self.recipe, [SMALL])
        self.stale.wait().summary  # noqa: B018
        shutil.copytree(self.work, self.base)
        for grown in (False, True):
            self.begin(grown)
            self.stale.start(self.recipe, [LARGE], census=True)
            self.stale.wait().summary  # noqa: B018
            self.expected[grown] = self.state()
            census = self.stale.census()
            calls = [
                call
                for call in sorted(census)
                if (call.what, call.kind) in PLACES and call.when != "half"
            ]
            chance = random.Random(7)
            self.plan += [
                (grown, Inside(call=call, nth=chance.randint(1, census[call]))) for call in calls
            ]


@pytest.fixture(scope="module")
def pauses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pauses]:
    directory = tmp_path_factory.mktemp("pauses")
    project = make_project(directory / "project", 150, tokens=5_000, length=True, cleaned=True)
    made = Pauses(
        Driver(directory / "one"), Driver(directory / "two"), project.recipe, directory / "base"
    )
    made.prepare()
    yield made
    made.stale.close()
    made.later.close()


@pytest.mark.timeout(3600 if WHOLE else 300)
def test_a_driver_that_goes_on_replaces_nothing(
    pauses: Pauses, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack: a driver sleeps past its lease, at any call of record, publish and sweep."""
    chosen = many(pauses.plan) if WHOLE else few(pauses.plan)
    for grown, pause in chosen:
        print(f"{'grown' if grown else 'anew'}: {pause}")
        check(pauses, grown, pause)
    with capsys.disabled():
        print(f"\n{len(chosen)} pauses: {dict(pauses.outcomes)}")
    met = {(pause.call.what, pause.call.kind) for _, pause in chosen}
    assert met >= {("manifest", "link"), ("record", "link"), ("manifest", "replace")}
    assert any(pause.call.stage == "tokens" for _, pause in chosen)
    if WHOLE:
        assert len(chosen) >= 50
        assert met == {(pause.call.what, pause.call.kind) for _, pause in pauses.plan}


def many(plan: list[tuple[bool, Inside]]) -> list[tuple[bool, Inside]]:
    """Return about ``MANY`` pauses, of all places alike."""

    def place(item: tuple[bool, Inside]) -> tuple[Any, ...]:
        call = item[1].call
        return call.what, call.kind, call.when, item[0], call.stage

    ordered = sorted(plan, key=place)
    return [ordered[at * len(plan) // MANY] for at in range(min(MANY, len(plan)))]


def few(plan: list[tuple[bool, Inside]]) -> list[tuple[bool, Inside]]:
    """Return one pause for each of the most important places."""
    found: dict[Any, tuple[bool, Inside]] = {}
    for grown, pause in plan:
        call = pause.call
        if call.when == "before" and (call.stage == "tokens") == (grown or call.kind == "link"):
            found.setdefault((call.what, call.kind), (grown, pause))
    wanted = [("manifest", "link"), ("record", "link"), ("manifest", "replace")]
    unlink = [item for item in plan if item[1].call.kind == "unlink"][:1]
    return [*(found[key] for key in wanted), *unlink][:FEW]


def check(pauses: Pauses, grown: bool, pause: Inside) -> None:
    """Suspend a driver once, let the other one run, and let the first one go on."""
    place = f"{'grown' if grown else 'anew'}: {pause}"
    pauses.begin(grown)
    pauses.stale.start(pauses.recipe, [LARGE], pause)
    assert pauses.stale.suspended(), f"{place}: not struck: {pauses.stale.wait().stderr}"
    pauses.later.start(pauses.recipe, [LARGE])
    done = pauses.later.wait()
    locked = done.status == 1 and "it may be suspended" in done.stderr
    kept: Any = {}
    if not locked:
        assert done.status == 0, f"{place}: {done.stderr}"
        assert pauses.state() == pauses.expected[grown], place
        kept = check_committed(pauses.work)
    pauses.stale.proceed()
    ended = pauses.stale.wait()
    assert ended.status in (0, 1) and "Traceback" not in ended.stderr, f"{place}: {ended.stderr}"
    # The later driver deleted its half-written file, or its next check finds the lease lost.
    told = "driver" in ended.stderr or (pause.call.what == "data" and ".tmp'" in ended.stderr)
    assert ended.status == 0 or told, f"{place}: {ended.stderr}"
    if locked:
        pauses.later.start(pauses.recipe, [LARGE])
        assert pauses.later.wait().status == 0, place
    check_committed(pauses.work)
    assert pauses.state() == pauses.expected[grown], place
    assert not [path for path in kept if not path.exists()], f"{place}: lost"
    again = redone(kept)
    # A worker puts the files of one unit in place again, with the same bytes, as was checked.
    assert pause.call.what in ("data", "record") or not again, f"{place}: replaced {again}"
    assert len({path.name for path in again}) <= 1, f"{place}: replaced {again}"
    assert not any(path.parent.name == "records" for path in again), f"{place}: replaced {again}"
    with Workspace.driving(pauses.work) as workspace:
        workspace.hold()
    assert not strays(pauses.work), place
    outcome = "the suspended driver " + ("ended well" if ended.status == 0 else "gave up")
    pauses.outcomes["waited for a lock" if locked else outcome] += 1
