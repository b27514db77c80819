"""SIGKILL at any call, then run again: the same bytes, nothing lost, nothing done twice.

Every seed is a work directory whose runs are killed one to three times and then run to the end. A
few seeds are part of the ordinary suite; ``PENSTOCK_FAULTS=all`` runs all of them, and
``PENSTOCK_FAULT_SEED=137`` repeats one.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Workspace
from tests.harness import WHOLE
from tests.harness.campaign import (
    ALONE,
    STAGES,
    Call,
    Inside,
    Outside,
    Way,
    attempts_of,
    table,
    way_of,
)
from tests.harness.committed import check_committed, digests, redone, strays, tokens_of
from tests.harness.curation import Curations, Ended
from tests.harness.project import make_project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ALL = 200
"""Seeds of the whole campaign, with one to three kills each."""

FEW = (0, 1, 5, 9, 10, 12, 15, 19, 22, 23, 70)
"""Seeds of the ordinary suite."""


def _seeds() -> list[int]:
    if os.environ.get("PENSTOCK_FAULT_SEED"):
        return [int(seed) for seed in os.environ["PENSTOCK_FAULT_SEED"].split(",")]
    return list(range(ALL)) if WHOLE else list(FEW)


@dataclass
class Campaign:
    """The project, the results of an undisturbed run, and the kills so far."""

    curations: Curations
    recipe: Path
    censuses: dict[Way, Counter[Call]] = field(default_factory=dict)
    usual: dict[Way, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    struck: list[dict[str, Any]] = field(default_factory=list)
    planned: int = 0
    seeds: int = 0

    @property
    def work(self) -> Path:
        return self.recipe.parent / "work"

    def begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def run(self, way: Way, kills: Sequence[Inside] | Outside = (), **more: Any) -> Ended:
        return self.curations.run(self.recipe, way, kills, usual=self.usual.get(way, 10.0), **more)

    def census(self, way: Way) -> Counter[Call]:
        """Return every call at which a run can be killed, and how often it is made."""
        if way not in self.censuses:
            for again in range(2):  # the first one loads what the second one finds loaded
                self.begin()
                start = time.perf_counter()
                ended = self.run(way, census=True)
                self.usual[way] = time.perf_counter() - start
                summary = {**ended.summary, "seconds": None}
                assert not strays(self.work)
                if not self.digests:
                    self.summary, self.digests = summary, digests(self.work)
                    self.tokens = tokens_of(self.work)
                assert (summary, digests(self.work)) == (self.summary, self.digests)
                assert tokens_of(self.work) == self.tokens, again
            self.censuses[way] = self.curations.census()
        return self.censuses[way]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    directory = tmp_path_factory.mktemp("kills")
    made = Campaign(
        Curations(directory),
        make_project(directory, 150, tokens=5_000, length=True, cleaned=True).recipe,
    )
    yield made
    made.curations.close()


@pytest.mark.parametrize("seed", _seeds(), ids=lambda seed: f"seed-{seed}")
def test_after_kills_a_run_goes_on_to_the_same_end(campaign: Campaign, seed: int) -> None:
    way = way_of(seed)
    attempts = attempts_of(seed, campaign.census(way))
    campaign.begin()
    for kills in attempts:
        planned = [kills] if isinstance(kills, Outside) else kills
        print(f"seed {seed}, {way.runner} {way.workers}: {', '.join(map(str, planned))}")
        before = check_committed(campaign.work)
        ended = campaign.run(way, kills)
        print(f"  -> status {ended.status}, {len(ended.struck)} struck\n{ended.stderr}")
        campaign.planned += len(planned)
        campaign.struck += ended.struck
        assert "Traceback" not in ended.stderr
        assert ended.lingering == 0, "workers outlive their driver"
        if any(item["role"] == "driver" for item in ended.struck):
            assert ended.status == -9
        elif ended.status:  # all three kills hit the same item, so the run gives up on it alone
            assert ended.status == 1 and len(ended.struck) == 3
            assert "its worker was killed by SIGKILL, 3 times" in ended.stderr
        check_committed(campaign.work)
        assert not redone(before)
        if ended.status == 0:
            break
    kept = check_committed(campaign.work)
    summary = campaign.run(ALONE).summary
    campaign.seeds += 1
    assert not redone(kept)
    assert {**summary, "seconds": None} == campaign.summary
    documents = summary["documents"]
    assert documents["read"] == sum(documents[key] for key in ("kept", "dropped", "quarantined"))
    assert digests(campaign.work) == campaign.digests
    assert tokens_of(campaign.work) == campaign.tokens
    # A kill between link and unlink leaves a temporary name, and one behind a manifest leaves
    # scratch: the next driver removes both.
    with Workspace.driving(campaign.work) as workspace:
        workspace.hold()
    assert not strays(campaign.work)


EVERYWHERE = {
    ("data", "write", "half"),
    ("data", "replace", "after"),  # between the file and its record
    ("record", "link", "before"),
    ("record", "link", "after"),  # between the record and the manifest
    ("manifest", "write", "half"),
    ("manifest", "link", "before"),
    ("manifest", "link", "after"),
    ("scratch", "write", "half"),
    ("scratch", "unlink", "before"),
}

"""Where the whole campaign must kill: kind of file, call, moment."""

AT_LEAST = {
    ("data", "write", "half"),
    ("data", "replace", "before"),
    ("data", "replace", "after"),
    ("record", "link", "before"),
    ("record", "link", "after"),
    ("manifest", "write", "half"),
    ("manifest", "link", "before"),
}
"""Where the seeds of the ordinary suite must kill."""


def test_the_kills_struck_everywhere(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tests above are not vacuous: most kills were carried out, in every stage."""
    with capsys.disabled() if WHOLE else nullcontext():
        count = f"{len(campaign.struck)} of {campaign.planned} kills struck"
        print(f"\n{campaign.seeds} seeds, {count}\n{table(campaign.struck)}")
    if os.environ.get("PENSTOCK_FAULT_SEED"):
        pytest.skip("only chosen seeds were run")
    assert len(campaign.struck) >= 0.6 * campaign.planned
    met = Counter((item["role"], item["stage"]) for item in campaign.struck)
    assert {role for role, _ in met} == {"driver", "worker"}
    places = {(item["what"], item["kind"], item.get("when")) for item in campaign.struck}
    assert places >= (EVERYWHERE if WHOLE else AT_LEAST)
    if WHOLE:
        assert len(campaign.struck) >= 200
        assert {stage for _, stage in met} >= set(STAGES)
        for stage in ("corpus", "verdicts", "columns", "tokens", "cut", "shards"):
            assert met["worker", stage]
