"""The robust scale of a column: exact order statistics, however documents are in units."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from penstock.pipeline.grouped import write_scores
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.scales import find_scale


def scale_of(scores: np.ndarray, directory: Path, units: int = 3) -> float:
    parts = np.array_split(scores.astype(np.float32), units)
    files = [write_scores(directory, f"unit-{at}", part) for at, part in enumerate(parts)]
    column = SimpleNamespace(files=files, path=directory)
    numbered = [SimpleNamespace(number=at) for at in range(units)]
    return find_scale(column, numbered, LocalRunner(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [0.0, 1000.0, -3e-6])
def test_it_is_the_distance_of_the_quartiles(offset: float, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    scores = (random.normal(size=1001) + offset).astype(np.float32)
    scores[::7] = np.nan
    ranked = np.sort(scores[~np.isnan(scores)]).astype(float)
    low = int(0.25 * len(ranked))
    expected = (ranked[len(ranked) - 1 - low] - ranked[low]) / 1.349
    assert scale_of(scores, tmp_path) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1, abs=0.1)
    mixed = random.permutation(scores)
    assert scale_of(mixed, tmp_path / "other", 5) == scale_of(scores, tmp_path / "again")


def test_an_outlier_hardly_counts_and_most_may_be_equal(tmp_path: Path) -> None:
    scores = np.random.default_rng(2).normal(size=400)
    before = scale_of(scores, tmp_path / "a")
    scores[17] = 1e30
    assert scale_of(scores, tmp_path / "b") == pytest.approx(before, rel=0.02)
    few = np.zeros(400)
    few[:30] = 2.0  # 7.5 %
    assert scale_of(few, tmp_path / "c") == pytest.approx(2 / 3.290)
    assert scale_of(np.full(9, 4.0), tmp_path / "d") == 0
    assert scale_of(np.full(9, np.nan), tmp_path / "e") == 0
