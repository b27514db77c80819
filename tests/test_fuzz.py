"""The fuzzing room: its cases depend on the seed alone, and it finds what it should find."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from penstock.artefact import Artefact
from penstock.artefact.draft import _recorded_files
from penstock.errors import ArtefactError, InputError
from penstock.lease import _decoded
from tests.fuzz import child, models, readers, values
from tests.fuzz.child import Target, case, run_slice
from tests.fuzz.mutation import MOST, mutated

SEEDS = [b"a sound input of words 123", b"another one, longer: " * 9]


def test_cases_are_a_function_of_the_seed_and_stay_small() -> None:
    target = Target("t", lambda content, files: None, lambda: SEEDS)
    found = [case(target, SEEDS, 1, number) for number in range(200)]
    assert found == [case(target, SEEDS, 1, number) for number in range(200)]
    assert found != [case(target, SEEDS, 2, number) for number in range(200)]
    assert len(set(found)) > 150
    assert max(len(mutated([b"x" * MOST], random.Random(n))) for n in range(50)) <= MOST


def sleep(content: bytes, files: Path) -> None:
    time.sleep(60)


def crash(content: bytes, files: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def spin(content: bytes, files: Path) -> None:
    while True:
        pass


def other(content: bytes, files: Path) -> None:
    raise KeyError("a")


def grow(content: bytes, files: Path) -> None:
    bytearray(b"x") * (2**28 + 2**25)


def own(content: bytes, files: Path) -> None:
    raise InputError("refused")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (sleep, "hang"),
        (spin, "hang"),
        (crash, "signal 11"),
        (other, "KeyError"),
        (grow, "more memory"),
        (own, ""),
    ],
)
def test_crashes_hangs_and_foreign_errors_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: object, reason: str
) -> None:
    monkeypatch.setattr(child, "LIMIT_SECONDS", 0.2 if fault in (sleep, spin) else 20)
    monkeypatch.setattr(child, "LIMIT_BYTES", 2**28)

    def run(content: bytes, files: Path) -> None:
        if content not in SEEDS:  # a sound input is one
            fault(content, files)  # type: ignore[operator]

    done = run_slice(Target("t", run, lambda: SEEDS), 1, 0, 0.3, tmp_path / "saved")
    assert done["cases"] > 0 and bool(done["found"]) == bool(reason)
    saved = [path.read_text() for path in sorted((tmp_path / "saved").glob("*.txt"))]
    assert bool(saved) == bool(reason) and all(reason in one for one in saved)


def test_targets_have_names_of_their_own_and_seeds_that_pass(tmp_path: Path) -> None:
    targets = [*readers.TARGETS, *values.TARGETS, *models.TARGETS]
    names = [target.name for target in targets]
    assert len(set(names)) == len(names) >= 38
    slow = ("read-", "text-", "fasttext", "saved")  # compiled loops
    for target in targets:
        if not target.name.startswith(slow):
            for content in target.seeds():
                target.run(content, tmp_path)


def test_deep_manifests_records_and_leases_are_errors(tmp_path: Path) -> None:
    """Found by fuzzing: RecursionError, and messages of 128,241 characters."""
    deep, long = b"[" * 100_000, b'[{"path": "../%s"}]' % (b"x" * 9_000)
    (tmp_path / "manifest.json").write_bytes(deep)
    with pytest.raises(ArtefactError):
        Artefact.open(tmp_path)
    for content in (deep, long):
        with pytest.raises(ArtefactError) as caught:
            _recorded_files(content, tmp_path / "records" / "a.json")
        assert len(str(caught.value)) < 2_000
    assert _decoded(deep) is None
