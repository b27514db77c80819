"""Near copies through the engine: the share to keep is that of the whole pool, found exactly."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import ScoringError
from penstock.hashing import hash_documents, mix
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring import sets, thinning
from penstock.pipeline.scoring.models import Models, make_embeddings, read_vectors
from penstock.selectors.d4 import D4
from penstock.selectors.near_copies import farthest_first
from penstock.selectors.semdedup import SemDeDup
from tests.pools import pool_of, recipe_of, write_jsonl
from tests.selectors.test_properties import TOPICS, write_encoder
from tests.selectors.test_semdedup import by_every_pair

COUNT, SAMPLED, SEED = 1800, 600, 17


def texts() -> list[dict[str, str]]:
    """Subjects of five texts that share most of their words: a sample holds fewer pairs."""
    chance = random.Random(5)
    words = [word for topic in TOPICS.values() for word in topic.split()]
    rows = []
    for number in range(COUNT):
        if number % 5 == 0:
            subject = chance.choices(words, k=12)
        own = subject + chance.choices(words, k=chance.randint(1, 14))
        rows.append({"id": f"d{number}", "text": " ".join(own), "source": "s"})
    return rows


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("thinning")
    write_jsonl(directory / "pool" / "a.jsonl", texts())
    write_encoder(directory / "encoder")
    return directory


@pytest.fixture(scope="module")
def pool(at: Path) -> Pool:
    with closing(LocalRunner(1)) as runner:
        return pool_of(recipe_of(at), Workspace(at / "work"), runner, 20_000)


def make(pool: Pool, work: Path, selector: Any) -> tuple[np.ndarray, Artefact, Models]:
    """The scores of all documents, their column, and the models."""
    with closing(LocalRunner(1)) as runner:
        models = Models(pool=pool, workspace=Workspace(work), runner=runner, seed=SEED)
        column = make_columns([Column(name="s", selector=selector)], models)["s"]
    assert not list(work.rglob("scratch"))
    scores = [read_scores(column.path, record) for record in column.files]
    return np.concatenate(scores), column, models


def small(at: Path, **others: Any) -> dict[str, Any]:
    return {"encoder": str(at / "encoder"), "clusters": 4, "sample": SAMPLED, **others}


@pytest.mark.parametrize("how", [(D4, 0.75), (SemDeDup, 0.75), (SemDeDup, 0.5)])
def test_the_share_asked_for_is_kept_of_the_whole_pool(
    at: Path, pool: Pool, how: tuple[Any, float]
) -> None:
    algorithm, keep = how
    scores, column, _ = make(pool, at / "work", algorithm(keep=keep, **small(at)))
    kept, facts = int((~np.isnan(scores)).sum()), column.facts
    # Before, eps was that of the sample, a third of the pool: 0.545 for 0.75, 0.294 for 0.5.
    assert kept / COUNT == pytest.approx(keep, abs=0.001)
    assert facts["thinned_to"] == kept == COUNT - facts["excluded"]
    if algorithm is D4:
        assert facts["survivors"]["sample"] == pytest.approx(SAMPLED, abs=80)
        assert len(np.unique(scores)) > kept / 2


def test_what_stays_is_what_every_pair_of_a_cluster_says(at: Path, pool: Pool) -> None:
    """By brute force, at the eps that is told, under both rules; ``kept`` bisects."""
    for rule in ("chained", "kept"):
        selector = SemDeDup(keep=0.6, rule=rule, **small(at))
        scores, column, models = make(pool, at / "work", selector)
        assert (~np.isnan(scores)).mean() == pytest.approx(0.6, abs=0.002)
        vectors = made_vectors(selector, models)
        hashes = hash_documents(
            pa.concat_tables([unit.read_rows(["id", "hash"]) for unit in pool.units]),
            mix(SEED, "sets"),
        )
        numbers = selector.assign(vectors, hashes)
        assert len(np.unique(numbers)) == 4
        for number in range(4):
            rows = np.flatnonzero(numbers == number)
            rows = rows[np.argsort(hashes[rows])]
            order = farthest_first(vectors[rows], selector._clusters.centroids[number])  # type: ignore[union-attr]
            copies = by_every_pair(vectors[rows], order, column.facts["eps"], rule)
            wrong = np.array(copies) != np.isnan(scores[rows[order]])
            assert wrong.sum() <= 2  # eps is told to six digits


def made_vectors(selector: SemDeDup, models: Models) -> np.ndarray:
    embeddings = make_embeddings(selector.encoder, models)
    return np.concatenate([read_vectors(embeddings.path, record) for record in embeddings.files])


def test_a_stopped_run_goes_on_and_tells_the_same(
    at: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, column, _ = make(pool, at / "work", D4(keep=0.75, **small(at)))
    other = at / "other"
    for function in ("_draw", "_gather"):
        where = thinning if function == "_draw" else sets
        with monkeypatch.context() as patch, pytest.raises(ScoringError):
            patch.setattr(where, function, _stop)
            make(pool, other, D4(keep=0.75, **small(at)))
    with monkeypatch.context() as patch:
        patch.setattr(thinning, "_measure", _stop)  # is not called again
        scores, again, _ = make(pool, other, D4(keep=0.75, **small(at)))
    assert scores.tobytes() == expected.tobytes()
    assert again.manifest["facts"] == column.manifest["facts"]


def _stop(item: Any, shared: Any) -> None:
    raise ScoringError("stopped")
