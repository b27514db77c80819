"""Weights and losses on 1, 2 and 4 workers: real processes, gloo, DeepSpeed at every stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.harness.training import Trainings

from .ranks import CASES

WORKERS = (1, 2, 4)


@pytest.fixture(scope="module")
def runs(
    trainings: Trainings, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Run all cases with each number of workers; return their directories."""
    found = {}
    for workers in WORKERS:
        found[workers] = tmp_path_factory.mktemp(f"workers-{workers}")
        arguments = [str(shards), str(found[workers])]
        trainings.call("tests.trainers.reweighting.ranks:main", arguments, workers).well()
    return found


def lines(directory: Path, case: str, rank: int = 0) -> list[dict[str, Any]]:
    return json.loads((directory / case / str(rank) / "steps.json").read_text())


def journal(directory: Path, case: str) -> pa.Table:
    return pq.read_table(directory / case / "0" / "weights")


@pytest.mark.parametrize("workers", WORKERS[1:])
@pytest.mark.parametrize("case", CASES)
def test_several_workers_train_like_one(runs: dict[int, Path], workers: int, case: str) -> None:
    one, many = runs[1], runs[workers]
    expected, found = journal(one, case), journal(many, case)
    for name in ("step", "position", "sequence", "start"):
        assert found[name].equals(expected[name])
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["weight"], expected["weight"], rtol=1e-4, atol=1e-9)
    # Before gradients are summed only the shapes of batches differ, so only rounding does.
    first = np.array(expected["step"]) <= (1 if "warmup" in CASES[case][0] else 0)
    np.testing.assert_allclose(
        np.array(found["weight"])[first], np.array(expected["weight"])[first], rtol=1e-5
    )
    assert np.ptp(np.array(expected["weight"])[~first]) > 0.01, "all weights are equal"
    for mine, theirs in zip(lines(many, case), lines(one, case), strict=True):
        assert mine.pop("data") == theirs.pop("data")
        assert mine == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("workers", WORKERS[1:])
def test_every_rank_holds_the_same(runs: dict[int, Path], workers: int) -> None:
    """To the bit: each rank computes the weights itself from the same losses."""
    for case in CASES:
        facts = [
            [(line["weighted_loss"], line["effective_samples"]) for line in lines(own, case, rank)]
            for own in [runs[workers]]
            for rank in range(workers)
        ]
        assert all(other == facts[0] for other in facts[1:])
    states = [np.load(runs[workers] / "uds" / str(rank) / "state.npz") for rank in range(workers)]
    assert states[0]["memory"].shape == (8, 1024)
    assert all(np.array_equal(states[0]["memory"], other["memory"]) for other in states[1:])


def test_samples_without_a_weight_are_not_trained_on(runs: dict[int, Path]) -> None:
    for workers in WORKERS:
        table = journal(runs[workers], "selecting").to_pandas()
        assert (table["weight"] > 0).groupby(table["step"]).sum().tolist() == [3, 3, 3, 3]
