"""A run's losses as a score column: by hand on written losses; the whole way is in test_run."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Artefact, FileRecord, Workspace
from penstock.errors import ArtefactError, SelectorError
from penstock.selectors import document_loss
from penstock.selectors.base import Fitting
from penstock.selectors.document_loss import DocumentLoss
from penstock.trainers.evaluation.artefacts import losses_of
from penstock.trainers.evaluation.documents import SCHEMA
from tests.pools import sampler

NATS = {"a": (2.0, 4), "b": (30.0, 10), "c": (0.0, 0), "long é": (1.0, 1), "e": (40.0, 8)}
"""Losses 0.5, 3, none, 1 and 5."""


def write_run(root: Path, rows: list[tuple[str, float, int]]) -> Artefact:
    """Write a run, and the losses of its documents."""
    ids, nats, tokens = zip(*rows) if rows else ((), (), ())
    costs = np.array(nats, np.float64), np.array(tokens, np.int64)
    with np.errstate(invalid="ignore"):
        losses = (costs[0] / costs[1]).astype(np.float32)
    table = pa.table([pa.array(ids, pa.string()), *costs, losses], schema=SCHEMA)
    run = write_model(root, repr(rows))
    losses_of(run).make(
        Workspace(root), lambda path: pq.write_table(table, path, row_group_size=2), {}
    )
    return run


def write_model(root: Path, weights: str) -> Artefact:
    """Write a run without losses."""
    draft = Workspace(root).draft("run", 1, {"weights": weights}, {"shards": "0" * 64})
    (draft.path / "model").mkdir(exist_ok=True)
    (draft.path / "model/weights").write_text(weights)
    draft.record("run", [FileRecord.found(draft.path, "model/weights")])
    return draft.publish(["run"], {})


def losses_file(run: Path) -> Path:
    """Return the file with the losses of a run's documents."""
    losses = losses_of(Artefact.open(run)).find(Workspace(run.parent.parent))
    assert losses is not None
    return Path(losses.path / losses.files[0].path)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return str(write_run(tmp_path, [(name, *cost) for name, cost in NATS.items()]).path)


def batch(*ids: str) -> pa.RecordBatch:
    texts = pa.array(["text"] * len(ids), pa.large_string())
    return pa.record_batch({"id": list(ids), "text": texts, "source": ["s"] * len(ids)})


def fitted(run: str, **parameters: Any) -> DocumentLoss:
    scorer = DocumentLoss(run=run, **parameters)
    sample = pa.Table.from_batches([batch("a", "z", "e")])
    facts = scorer.fit(Fitting(sample=lambda count: sample, pool_size=5))
    assert facts["documents"] == 4 and facts["of_sample"] == 2
    return scorer


def test_losses_are_found_by_id_whatever_their_order(run: str) -> None:
    scorer = fitted(run, take="high")
    assert scorer.kind == "scorer"
    found = scorer.score(batch("e", "nobody", "c", "long é", "a", "b"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([5, np.nan, np.nan, 1, 0.5, 3]))
    np.testing.assert_array_equal(fitted(run, take="low").score(batch("b", "x")), [-3, np.nan])


def test_the_middle_is_equally_far_from_both_ends(run: str) -> None:
    """Losses 0.5, 1, 3, 5 have quantiles 0, 1/3, 2/3 and 1."""
    found = fitted(run, take="middle").score(batch("a", "long é", "b", "e"))
    assert found == pytest.approx([-1 / 2, -1 / 6, -1 / 6, -1 / 2], abs=2e-3)


@pytest.mark.parametrize("take", ["low", "middle", "high"])
def test_documents_that_the_run_did_not_see(run: str, take: str) -> None:
    ids = batch(*NATS, "nobody")
    known = fitted(run, take=take).score(ids)
    missing = np.isnan(known)
    assert missing.tolist() == [False, False, True, False, False, True]
    first = fitted(run, take=take, missing="first").score(ids)
    last = fitted(run, take=take, missing="last").score(ids)
    assert np.isfinite([first, last]).all()
    assert first[missing].min() > np.nanmax(known) and last[missing].max() < np.nanmin(known)
    np.testing.assert_array_equal(first[~missing], known[~missing])


def test_two_documents_of_one_hash_share_the_mean_of_both(tmp_path: Path) -> None:
    run = write_run(tmp_path, [("a", 2.0, 1), ("b", 9.0, 1), ("a", 9.0, 3)])
    scorer = DocumentLoss(run=str(run.path), take="high")
    scorer.fit(Fitting(sample=lambda count: pa.Table.from_batches([batch("a")]), pool_size=1))
    assert scorer.score(batch("a", "b")).tolist() == [2.5, 9]


@pytest.mark.parametrize("size", [2**30, 200, 7])
def test_losses_are_sorted_in_parts(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_loss, "_SAMPLE", size)
    random = np.random.default_rng(5)
    names = [f"d{number}" for number in random.integers(0, 1500, 2000)]
    nats = random.integers(1, 1000, 2000) / 8
    run = write_run(tmp_path, [(name, float(cost), 1) for name, cost in zip(names, nats)])
    scorer = DocumentLoss(run=str(run.path), take="high")
    facts = scorer.fit(
        Fitting(sample=lambda count: pa.Table.from_batches([batch("a")]), pool_size=1)
    )
    means = {name: np.mean([c for n, c in zip(names, nats) if n == name]) for name in set(names)}
    assert facts["documents"] == len(means)
    found = scorer.score(batch(*means))
    np.testing.assert_array_equal(found, np.array([*means.values()]).astype(np.float32))


def test_memory_does_not_grow_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_loss, "_SAMPLE", 2**14)
    peaks = []
    for count in (2**16, 2**19):
        rows = [np.arange(count).astype(str), np.ones(count), np.ones(count, np.int64)]
        losses = np.random.default_rng(1).random(count).astype(np.float32)
        run = write_model(tmp_path, str(count))
        table = pa.table([*rows, losses], schema=SCHEMA)

        def write(path: Path, table: pa.Table = table) -> None:
            pq.write_table(table, path, row_group_size=2**16)

        losses_of(run).make(Workspace(tmp_path), write, {})
        scorer = DocumentLoss(run=str(run.path), missing="last")
        table = pa.Table.from_batches([batch("1", "2")])
        (state := tmp_path / f"{count}").mkdir()
        tracemalloc.start()
        facts = scorer.fit(Fitting(sample=sampler(table), pool_size=1))
        scorer.save(state)
        again = DocumentLoss(run=scorer.run, missing="last")
        again.load(state)
        assert np.isfinite(again.score(batch("1", "none"))).all()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert facts["documents"] == count and facts["of_sample"] == 2
    assert peaks[1] < 1.5 * peaks[0], "eight times the documents"


def test_saved_loaded_and_pickled_selectors_score_the_same(run: str, tmp_path: Path) -> None:
    scorer = fitted(run, missing="last")
    (tmp_path / "state").mkdir()
    scorer.save(tmp_path / "state")
    again = DocumentLoss(run=run, missing="last")
    with pytest.raises(SelectorError) as info:
        again.score(batch("a"))
    assert info.value.expected == "a fitted selector"
    again.load(tmp_path / "state")
    sent = pickle.loads(pickle.dumps(again))
    assert np.array_equal(sent.score(batch(*NATS, "z")), scorer.score(batch(*NATS, "z")))
    size = sum(path.stat().st_size for path in (tmp_path / "state").iterdir())
    assert size <= 2 * 128 + 12 * 4, "12 bytes a document"
    (tmp_path / "state" / "hashes.npy").write_bytes(b"no")
    with pytest.raises(ArtefactError) as info:
        again.load(tmp_path / "state")
    assert info.value.file


def test_identity_is_the_losses_and_no_path(run: str, tmp_path: Path) -> None:
    moved = write_run(tmp_path / "moved", [(name, *cost) for name, cost in NATS.items()])
    other = write_run(tmp_path, [("a", 1.0, 1)])
    identity = DocumentLoss(run=run).identity()
    assert identity == DocumentLoss(run=str(moved.path)).identity()
    others = [
        DocumentLoss(run=str(other.path)),
        DocumentLoss(run=run, take="low"),
        DocumentLoss(run=run, missing="last"),
    ]
    assert all(one.identity() != identity for one in others)


@pytest.mark.parametrize("key", ["take", "missing"])
def test_unknown_words_are_refused(run: str, key: str) -> None:
    with pytest.raises(SelectorError, match=f"{key}: expected .* or .*, got 'some'"):
        DocumentLoss(run=run, **{key: "some"})


def test_a_directory_that_is_no_run_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(SelectorError) as info:
        DocumentLoss(run=str(tmp_path / "none"))
    assert info.value.key == "run"
    write_run(tmp_path, [("a", 1.0, 1)])
    without = write_model(tmp_path, "other")
    with pytest.raises(SelectorError) as info:
        DocumentLoss(run=str(without.path))
    assert info.value.key == "run" and info.value.got == str(without.path)


def test_the_directory_of_the_losses_will_do(run: str) -> None:
    alone = DocumentLoss(run=str(losses_file(Path(run)).parent))
    assert alone.identity() == DocumentLoss(run=run).identity()


def test_losses_that_changed_or_say_nothing_are_refused(run: str, tmp_path: Path) -> None:
    nothing = Fitting(sample=lambda count: pa.Table.from_batches([batch("a")]), pool_size=1)
    empty = write_run(tmp_path, [("a", 0.0, 0)])
    with pytest.raises(SelectorError, match="expected documents with a loss, got none"):
        DocumentLoss(run=str(empty.path)).fit(nothing)
    with pytest.raises(SelectorError, match="expected documents with a loss, got none"):
        DocumentLoss(run=str(write_run(tmp_path, []).path)).fit(nothing)
    changed = DocumentLoss(run=run)
    file = losses_file(Path(run))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match="changed since it was written"):
        changed.fit(nothing)
