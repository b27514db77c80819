"""Any runner, any number of workers and items in flight, any order of inputs: one digest."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.pipeline.cleaning import verdicts
from tests.harness import ROOT
from tests.harness.project import digest, make_project
from tests.harness.small import GROUP_DOCUMENTS, shrink_groups

RUNNERS = [("local", 1), ("local", 2), ("ray", 1), ("ray", 2), ("ray", 4)]
CASES = list(itertools.product((1, 4), (False, True)))
"""Items in flight for each slot, and whether inputs are listed in reverse."""


def test_inputs_in_reverse_on_ray_give_the_digest_of_one_worker(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case of the ordinary suite, on the Ray of all tests; the others are in ``make faults``.

    The censuses of test_kills.py compare two local workers with one.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", GROUP_DOCUMENTS)
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", GROUP_DOCUMENTS)
    assert digests("ray", 2, [(1, True)]) == [digest(cleaned=True)]


@pytest.mark.whole
@pytest.mark.parametrize("kind, workers", RUNNERS)
def test_one_digest(tmp_path: Path, kind: str, workers: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.test_matrix", kind, str(workers)],
        cwd=tmp_path,
        env={
            **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "disabled",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [digest(cleaned=True)] * len(CASES)


def digests(kind: str, workers: int, cases: list[tuple[int, bool]]) -> list[str]:
    """Return the digest of each case, from an empty work directory, on one runner."""
    from penstock.jobs.curate import curate
    from penstock.jobs.plan import Plan
    from penstock.pipeline.runner import LocalRunner, RayRunner
    from penstock.recipe_file import load_recipe

    project = make_project(Path.cwd(), cleaned=True)
    found = []
    for in_flight, backwards in cases:
        inputs = project.inputs[:: -1 if backwards else 1]
        case = replace(project, work=f"work-{in_flight}-{backwards}", inputs=inputs)
        runner = (RayRunner if kind == "ray" else LocalRunner)(workers, in_flight=in_flight)
        assert runner.slots == workers
        plan = Plan.of(load_recipe(case.recipe))
        corpus = replace(plan.corpus, unit_bytes=project.unit_bytes)
        curated = curate(replace(plan, corpus=corpus), runner)
        runner.close()
        found.append(curated.shards.digest)
    return found


if __name__ == "__main__":
    shrink_groups()
    print("\n" + json.dumps(digests(sys.argv[1], int(sys.argv[2]), CASES)))
