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

from tests.harness import ROOT, WHOLE
from tests.harness.project import digest, make_project
from tests.harness.small import shrink_groups

RUNNERS = [("local", 1), ("local", 2), ("ray", 1), ("ray", 2), ("ray", 4)]
CASES = list(itertools.product((1, 4), (False, True)))
"""Items in flight for each slot, and whether inputs are listed in reverse."""

DIAGONAL = {("ray", 4): [(1, True)]}
"""Of the ordinary suite. What it must equal is made by one worker, in the order of the files; the
censuses of test_kills.py compare two local workers with one."""


@pytest.mark.parametrize("kind, workers", RUNNERS if WHOLE else DIAGONAL)
def test_one_digest(tmp_path: Path, kind: str, workers: int) -> None:
    cases = CASES if WHOLE else DIAGONAL[kind, workers]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.test_matrix", kind, str(workers), json.dumps(cases)],
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
    assert json.loads(done.stdout.splitlines()[-1]) == [digest(cleaned=True)] * len(cases)


def main(kind: str, workers: int, cases: list[tuple[int, bool]]) -> None:
    """Print the digests of all cases, each from an empty work directory, on one runner."""
    from penstock.jobs.curate import curate
    from penstock.jobs.plan import Plan
    from penstock.pipeline.runner import LocalRunner, RayRunner
    from penstock.recipe_file import load_recipe

    shrink_groups()
    project = make_project(Path.cwd(), cleaned=True)
    digests = []
    for in_flight, backwards in cases:
        inputs = project.inputs[:: -1 if backwards else 1]
        case = replace(project, work=f"work-{in_flight}-{backwards}", inputs=inputs)
        runner = (RayRunner if kind == "ray" else LocalRunner)(workers, in_flight=in_flight)
        assert runner.slots == workers
        plan = Plan.of(load_recipe(case.recipe))
        corpus = replace(plan.corpus, unit_bytes=project.unit_bytes)
        curated = curate(replace(plan, corpus=corpus), runner)
        runner.close()
        digests.append(curated.shards.digest)
    print("\n" + json.dumps(digests))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
