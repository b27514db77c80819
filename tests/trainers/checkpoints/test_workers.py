"""Whole runs of one, two and four workers: the same tokens, to the last one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.training import Run, Trainings

WHOLE_ONLY = functools.partial(pytest.param, marks=pytest.mark.whole)

AWKWARD = [(1, 1), WHOLE_ONLY(33, 3), (257, 16), WHOLE_ONLY(1000, 2), (37 * 32 + 7, 5)]
"""Tokens, and sequences of a micro-batch: nothing to predict, a token over, into a second epoch."""


@pytest.mark.parametrize(("tokens", "micro_batch"), AWKWARD)
def test_workers_and_accumulation_change_no_token(
    trainings: Trainings, shards: Path, tmp_path: Path, tokens: int, micro_batch: int
) -> None:
    train: dict[str, Any] = {"tokens": tokens, "checkpoint": False}
    found: list[list[dict[str, Any]]] = []
    for workers, micro in ((1, 8), (1, micro_batch), (2, micro_batch), (4, micro_batch)):
        work = tmp_path / f"{workers}-{micro}"
        run = Run(shards=shards, work=work, train={**train, "micro_batch": micro})
        trainings.run(run, workers).well()
        found.append(run.lines())
        assert found[-1][-1]["tokens"] == tokens
    for lines in found[1:]:
        assert [line["data"] for line in lines] == [line["data"] for line in found[0]]
        losses = [line["loss"] for line in lines]
        np.testing.assert_allclose(losses, [line["loss"] for line in found[0]], rtol=1e-6)
