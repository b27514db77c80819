"""Requests of a set selector's passes to a store, for each unit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3fs import S3FileSystem

from penstock.artefact import Artefact, Workspace
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Models, make_embeddings
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Fitting, Partition, Requirements
from penstock.storage import as_path
from tests.pools import pool_of, recipe_of, write_jsonl
from tests.s3 import BUCKET, Trouble, environment, troubled
from tests.selectors.test_properties import texts, write_encoder

UNITS = int(os.environ.get("PENSTOCK_TEST_SET_UNITS", "60"))
"""Units of the pool; the figure in docs/lab.md is of 2,000."""


class ByHash:
    """Ranks by hash in 20 partitions."""

    summary, paper, version, partitions = "by hash", "none", 1, 20

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder

    @property
    def requirements(self) -> Requirements:
        return Requirements(encoder=self.encoder)

    def identity(self) -> Mapping[str, Any]:
        return {}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        return {}

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        return (hashes % np.uint64(20)).astype(np.int64)

    def score(self, partition: Partition) -> np.ndarray:
        return np.arange(len(partition), dtype=np.float32)

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...


def _moved(pool: Pool, space: Workspace) -> Pool:
    """Open a pool again in another work directory."""
    corpus, verdicts = (
        Artefact.open(space.root / own.path.parent.name / own.path.name)
        for own in (pool.corpus, pool.verdicts)
    )
    return Pool.of(corpus, verdicts)


@pytest.mark.slow
def test_a_unit_costs_at_most_four_requests(s3: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", texts(UNITS))
    write_encoder(tmp_path / "encoder")
    encoder = str(tmp_path / "encoder")
    selector = as_selector(ByHash(encoder))
    here = Workspace(tmp_path / "work")
    with closing(LocalRunner(1)) as runner:
        pool = pool_of(recipe_of(tmp_path), here, runner, unit_bytes=20)
        assert len(pool.units) == UNITS
        models = Models(pool=pool, workspace=here, runner=runner, seed=3)
        embeddings = make_embeddings(encoder, models)
        models.fitted(Column(name="s", selector=selector))
    for records in here.root.glob("*/*/records"):  # of finished artefacts, not read
        shutil.rmtree(records)
    space = Workspace(as_path(f"s3://{BUCKET}/{tmp_path.name}/work"))
    S3FileSystem().put(str(here.root), f"{BUCKET}/{tmp_path.name}/", recursive=True)
    trouble = Trouble()
    with (
        environment(PENSTOCK_CACHE=str(tmp_path / "cache")),
        troubled(s3, trouble),
        closing(LocalRunner(1)) as runner,
    ):
        models = Models(pool=_moved(pool, space), workspace=space, runner=runner, seed=3)
        column = make_columns([Column(name="s", selector=selector)], models)["s"]
        counts = dict(trouble.kinds)
        scores = [read_scores(column.path, record) for record in column.files]
    print(f"{len(pool.units)} units: {counts}")
    assert len(embeddings.files) == len(scores) == len(pool.units)
    assert counts["PUT"] >= len(pool.units), "scores are a file for each unit"
    assert sum(counts.values()) <= 4 * len(pool.units)
