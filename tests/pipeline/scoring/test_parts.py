"""Slow work in parts of units: the same bytes, work for two workers, little lost by a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring import models as embedding
from penstock.pipeline.scoring import parts
from penstock.pipeline.scoring.models import Models, make_embeddings, read_vectors
from penstock.pipeline.units import iter_documents
from penstock.resources import Resources
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Documents, Fitting, Requirements
from tests.pools import documents, pool_of, recipe_of, write_jsonl

COUNT = 700


class Slow:
    """The length of each text; ids go to a log when they are scored, after a pause."""

    summary, paper, version = "slow", "none", 1

    def __init__(self, log: str, slow: bool = True, pause: float = 0.0) -> None:
        self.log, self.slow, self.pause = log, slow, pause

    @property
    def requirements(self) -> Requirements:
        return Requirements(resources=Resources(slow=self.slow))

    def identity(self) -> Mapping[str, Any]:
        return {"slow": self.slow}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        time.sleep(self.pause * len(documents))
        with open(self.log, "a") as file:
            file.write("".join(f"{name}\n" for name in documents["id"].to_pylist()))
        return np.array([len(text) for text in documents["text"].to_pylist()], np.float32)

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...


def scored_in(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def whole(root: Path, unit_bytes: int = 1 << 26) -> Pool:
    return pool_of(recipe_of(root, clean={"where": "words > 3"}), unit_bytes=unit_bytes)


def column(root: Path, pool: Pool, workers: int = 1, **options: Any) -> Artefact:
    selector = as_selector(Slow(str(root / "log"), **options))
    with closing(LocalRunner(workers)) as runner:
        models = Models(pool=pool, workspace=Workspace(root / "work"), runner=runner, seed=1)
        return make_columns([Column(name="slow", selector=selector)], models)["slow"]


def scores_of(found: Artefact) -> list[np.ndarray]:
    return [read_scores(found.path, record) for record in found.files]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(COUNT, seed=2))
    return tmp_path


@pytest.mark.parametrize("unit_bytes", [60_000, 1 << 26])
def test_scores_are_those_of_whole_units(root: Path, unit_bytes: int) -> None:
    pool = whole(root, unit_bytes)
    assert pool.kept < COUNT, "a part must count what is kept"
    expected = scores_of(column(root, pool, slow=False))
    found = column(root, pool)
    assert all(map(np.array_equal, scores_of(found), expected))
    assert len(found.files) == len(pool.units)
    left = {path.relative_to(found.path).parts[0] for path in found.path.rglob("*")}
    assert left == {"manifest.json", "records", *(record.path for record in found.files)}


class Recorded(LocalRunner):
    """A runner that keeps the items of its runs."""

    def __init__(self) -> None:
        super().__init__(1)
        self.items: list[Any] = []

    def run(self, function: Any, items: Any, *arguments: Any, **options: Any) -> Any:
        self.items += items
        return super().run(function, items, *arguments, **options)


def test_a_pool_of_one_unit_is_work_for_two_workers(root: Path) -> None:
    pool = whole(root)
    assert len(pool.units) == 1
    with closing(Recorded()) as runner:
        models = Models(pool=pool, workspace=Workspace(root / "work"), runner=runner, seed=1)
        slow = Column(name="slow", selector=as_selector(Slow(str(root / "log"))))
        make_columns([slow], models)
    sizes = [item.end - item.start for item in runner.items if isinstance(item, parts.UnitPart)]
    assert sum(sizes) == pool.kept
    # Two workers that take items in turn end within the largest of each other (Graham 1966).
    assert 2 * pool.kept / (pool.kept + max(sizes)) > 1.7


def test_a_kill_at_half_repeats_at_most_a_tenth(root: Path) -> None:
    write_jsonl(root / "pool" / "b.jsonl", documents(2000, seed=3)[COUNT:])
    pool = whole(root)
    code = (
        "import sys; from pathlib import Path; from tests.pipeline.scoring import test_parts as t;"
    )
    code += "r = Path(sys.argv[1]); t.column(r, t.whole(r), 2, pause=0.001)"
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        cwd=Path(__file__).parents[3],  # where `tests` is found
        start_new_session=True,
    )
    while len(scored_in(root / "log")) < pool.kept / 2:
        assert driver.poll() is None, "it must be killed before it ends"
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(0.5)  # workers end with their driver
    found = column(root, pool)
    names = scored_in(root / "log")
    assert len(set(names)) == pool.kept
    assert len(names) <= 1.1 * pool.kept
    expected = [
        len(t) for u in pool.units for b in iter_documents(u) for t in b["text"].to_pylist()
    ]
    np.testing.assert_array_equal(np.concatenate(scores_of(found)), np.float32(expected))


@pytest.mark.parametrize(
    ("documents", "size"),
    [(0, 32), (2_000, 32), (65_535, 32), (65_536, 64), (10**6, 512), (2**20, 1024), (10**9, 1024)],
)
def test_the_size_of_parts(documents: int, size: int) -> None:
    assert parts._part_size(documents) == size


class Letters:
    """An encoder of two dimensions."""

    name = "letters"

    def __init__(self, slow: bool) -> None:
        self.resources = Resources(slow=slow)

    def encode(self, texts: pa.Array) -> np.ndarray:
        angles = np.array([len(text) for text in texts.to_pylist()], np.float32)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def save(self, directory: Path) -> None: ...


@pytest.mark.parametrize("unit_bytes", [60_000, 1 << 26])
def test_vectors_are_those_of_whole_units(
    root: Path, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, found = whole(root, unit_bytes), []
    for slow in (False, True):
        encoder = Letters(slow)
        monkeypatch.setattr(embedding, "make_encoder", lambda *_, made=encoder, **__: made)
        monkeypatch.setattr(embedding, "load_encoder", lambda _, made=encoder: made)
        monkeypatch.setattr(embedding, "contents_of", lambda name: name)
        with closing(LocalRunner(1)) as runner:
            space = Workspace(root / f"work-{slow}")
            models = Models(pool=pool, workspace=space, runner=runner, seed=1)
            made = make_embeddings("letters", models)
        assert made.facts["documents"] == pool.kept
        found.append([read_vectors(made.path, record) for record in made.files])
    assert len(found[0]) == len(pool.units)
    assert all(map(np.array_equal, *found))
