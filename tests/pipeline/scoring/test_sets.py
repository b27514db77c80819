"""Set selectors through the engine: a shuffle that loses nothing and depends on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import ScoringError, SelectorError
from penstock.hashing import hash_documents, mix
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, RayRunner
from penstock.pipeline.scoring import partitions, sets
from penstock.pipeline.scoring.models import Models, read_vectors
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Documents, Fitting, Partition
from penstock.selectors.encoders.static import StaticEncoder
from tests.pools import documents, pool_of, recipe_of, write_jsonl

SEED = 17


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved static encoder of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for item in documents(220, seed=2) for word in item["text"].split()})
    vocabulary = {word: number for number, word in enumerate(["?", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    table = np.random.default_rng(0).standard_normal((len(vocabulary), 16)).astype(np.float32)
    directory = tmp_path_factory.mktemp("encoder")
    StaticEncoder("words", tokenizer, table, np.zeros(16, np.float32)).save(directory)
    return str(directory)


class Length:
    """Quality: NaN for a seventh of the documents."""

    summary, paper, version = "length", "none", 1

    def identity(self) -> Mapping[str, Any]:
        return {}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        lengths = np.array([len(text) for text in documents.column("text").to_pylist()], np.float32)
        lengths[lengths % 7 == 0] = np.nan
        return lengths

    def save(self, directory: Path) -> None: ...

    def load(self, directory: Path) -> None: ...


class Constant(Length):
    """The same for all documents."""

    def score(self, documents: Documents) -> np.ndarray:
        return np.full(len(documents), 3.0, np.float32)


class Ranked:
    """Every document's rank by hash within its partition, or its first coordinate."""

    summary, paper, version = "ranks", "none", 1

    def __init__(self, encoder: str, count: int = 5, quality: str | None = None) -> None:
        self.encoder, self.count, self.quality = encoder, count, quality
        self.partitions = 0

    def identity(self) -> Mapping[str, Any]:
        return {"count": self.count, "quality": self.quality}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        assert len(fitting.encoder(self.encoder).encode(pa.array(["a"], pa.large_string()))) == 1
        self.partitions = self.count
        return {"pool": fitting.pool_size}

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        return (hashes % np.uint64(self.count)).astype(np.int64)

    def score(self, partition: Partition) -> np.ndarray:
        assert (np.diff(partition.hashes.astype(object)) >= 0).all()
        if partition.quality is not None:
            return partition.quality * 2
        return np.arange(len(partition), dtype=np.float32) / len(partition)

    def save(self, directory: Path) -> None:
        (directory / "count").write_text(str(self.partitions))

    def load(self, directory: Path) -> None:
        self.partitions = int((directory / "count").read_text())


class Merged(Ranked):
    """The best three of each partition compete: they get 100 and their number among all."""

    def candidates(self, partition: Partition, scores: np.ndarray) -> np.ndarray:
        return np.argsort(-scores, kind="stable")[:3]

    def merge(self, candidates: Partition, scores: np.ndarray) -> np.ndarray:
        return 100 + np.arange(len(candidates), dtype=np.float32)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sets")
    write_jsonl(directory / "pool" / "a.jsonl", documents(220, seed=2))
    return directory


@pytest.fixture(scope="module")
def corpus(pool: Path) -> Pool:
    with closing(LocalRunner(1)) as runner:
        return pool_of(recipe_of(pool), Workspace(pool / "work"), runner, 4000)


def made(corpus: Pool, work: Path, runner: Any, **selectors: Any) -> dict[str, np.ndarray]:
    columns = [
        Column(name=name, selector=as_selector(selector)) for name, selector in selectors.items()
    ]
    found = make_columns(
        columns, Models(pool=corpus, workspace=Workspace(work), runner=runner, seed=SEED)
    )
    assert not list(work.rglob("scratch"))
    return {
        name: np.concatenate([read_scores(column.path, record) for record in column.files])
        for name, column in found.items()
    }


def hashes_of(corpus: Pool) -> np.ndarray:
    rows = pa.concat_tables([unit.read_rows(["id", "hash"]) for unit in corpus.units])
    return hash_documents(rows, mix(SEED, "sets"))


@pytest.mark.parametrize("count", [1, 5, 200])
def test_each_document_is_scored_in_its_partition(
    corpus: Pool, encoder: str, count: int, tmp_path: Path
) -> None:
    with closing(LocalRunner(1)) as runner:
        got = made(corpus, tmp_path, runner, s=Ranked(encoder, count))["s"]
    hashes = hashes_of(corpus)
    expected = np.empty(len(hashes), np.float32)
    for number in range(count):
        rows = np.flatnonzero(hashes % np.uint64(count) == number)
        order = rows[np.argsort(hashes[rows])]
        expected[order] = np.arange(len(rows), dtype=np.float32) / max(1, len(rows))
    np.testing.assert_array_equal(got, expected)


def test_the_quality_is_another_column(corpus: Pool, encoder: str, tmp_path: Path) -> None:
    with closing(LocalRunner(1)) as runner:
        found = made(corpus, tmp_path, runner, s=Ranked(encoder, quality="q"), q=Length())
    assert np.isnan(found["q"]).sum() > 5
    np.testing.assert_array_equal(found["s"], found["q"] * 2)


def test_candidates_of_all_partitions_are_merged(
    corpus: Pool, encoder: str, tmp_path: Path
) -> None:
    with closing(LocalRunner(1)) as runner:
        got = made(corpus, tmp_path / "a", runner, s=Merged(encoder, 5))["s"]
        alone = made(corpus, tmp_path / "b", runner, s=Merged(encoder, 1))["s"]
    hashes = hashes_of(corpus)
    winners = np.flatnonzero(got >= 100)
    assert len(winners) == 15
    assert (np.diff(got[winners[np.argsort(hashes[winners])]]) == 1).all()
    assert alone.max() < 1  # the document of a partition of one has no rival


@pytest.mark.parametrize("together", [sets.TASK_BYTES, 2000])
def test_the_same_from_workers_and_ray_and_in_parts(
    corpus: Pool,
    encoder: str,
    ray_session: None,
    two_workers: LocalRunner,
    tmp_path: Path,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = LocalRunner(1)
    expected = made(corpus, tmp_path / "one", one, s=Merged(encoder))["s"]
    monkeypatch.setattr(sets, "TASK_BYTES", together)
    monkeypatch.setattr(sets, "_LEAST_BYTES", together)
    monkeypatch.setattr(sets, "_MOST_UNITS", 3)
    for number, runner in enumerate((one, two_workers, RayRunner())):
        got = made(corpus, tmp_path / str(number), runner, s=Merged(encoder))["s"]
        np.testing.assert_array_equal(got, expected)


def test_it_goes_on_where_it_was_stopped(
    corpus: Pool, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(LocalRunner(1)) as runner:
        expected = made(corpus, tmp_path / "whole", runner, s=Merged(encoder))["s"]
        for name in ("_place", "_score_some", "_merge", "_gather"):
            with monkeypatch.context() as patch:
                patch.setattr(sets, name, _refuse_to_run)
                with pytest.raises(RuntimeError, match="stopped"):
                    made(corpus, tmp_path / "broken", runner, s=Merged(encoder))
        # Placing was stopped first; what each stop had behind it is not done again.
        placed: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(sets, "_place", lambda *_: placed.append(1))
            got = made(corpus, tmp_path / "broken", runner, s=Merged(encoder))["s"]
    assert not placed
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("quality", [Length, Constant])
def test_a_quality_of_one_score_warns(
    corpus: Pool, encoder: str, tmp_path: Path, quality: type[Length]
) -> None:
    lines: list[str] = []
    columns = [
        Column(name="q", selector=as_selector(quality())),
        Column(name="s", selector=as_selector(Ranked(encoder, quality="q"))),
    ]
    with closing(LocalRunner(1)) as runner:
        make_columns(
            columns,
            Models(
                pool=corpus,
                workspace=Workspace(tmp_path),
                runner=runner,
                seed=SEED,
                progress=lines.append,
            ),
        )
    warned = [line for line in lines if "warning" in line]
    assert len(warned) == (quality is Constant) and all("one score in q" in line for line in warned)


def _refuse_to_run(*_: Any) -> Any:
    raise RuntimeError("stopped")


def test_vectors_are_made_once_for_all_selectors(
    corpus: Pool, encoder: str, tmp_path: Path
) -> None:
    with closing(LocalRunner(1)) as runner:
        made(corpus, tmp_path, runner, a=Ranked(encoder), b=Ranked(encoder, 3))
    (path,) = (tmp_path / "embeddings").iterdir()
    embeddings = Artefact.open(path)
    assert embeddings.facts["documents"] == corpus.kept
    vectors = read_vectors(embeddings.path, embeddings.files[0])
    assert vectors.dtype == np.int16 and vectors.shape[1] == 16
    assert len(list((tmp_path / "model").iterdir())) == 3  # two selectors, one encoder


@pytest.mark.parametrize(
    "quality, got",
    [("unknown", "'unknown'"), ("s", "s -> s")],
)
def test_a_quality_that_cannot_be_is_refused(
    corpus: Pool, encoder: str, tmp_path: Path, quality: str, got: str
) -> None:
    with closing(LocalRunner(1)) as runner, pytest.raises(SelectorError) as caught:
        made(corpus, tmp_path, runner, s=Ranked(encoder, quality=quality))
    assert (caught.value.key, caught.value.got) == ("select.s.quality", got)


def test_a_partition_that_no_task_holds_is_refused(
    corpus: Pool, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = partitions.document_type(16).itemsize
    with closing(LocalRunner(1)) as runner:
        monkeypatch.setattr(partitions, "_PARTITION_BYTES", 100 * size)
        with pytest.raises(ScoringError) as caught:
            made(corpus, tmp_path, runner, s=Ranked(encoder, 1))
        monkeypatch.setattr(partitions, "_PARTITION_BYTES", 220 * size)
        assert len(made(corpus, tmp_path, runner, s=Ranked(encoder, 1))["s"]) == 220
    assert (caught.value.key, str(caught.value.file)) == ("select.s", "partitions 0 to 0")
    assert "100 documents" in str(caught.value.expected)


@pytest.mark.parametrize(
    "method, function, named",
    [
        ("assign", lambda v, h: np.full(len(h), 7), "assign()"),
        ("assign", lambda v, h: 1 / 0, "ZeroDivisionError"),
        ("score", lambda p: np.zeros(len(p) + 1), "an array of shape"),
    ],
)
def test_an_error_of_a_selector_is_named(
    corpus: Pool, encoder: str, tmp_path: Path, method: str, function: Any, named: str
) -> None:
    selector = Ranked(encoder)
    setattr(selector, method, function)
    with closing(LocalRunner(1)) as runner, pytest.raises(ScoringError) as caught:
        made(corpus, tmp_path, runner, s=selector)
    assert (caught.value.key, named in str(caught.value)) == ("select.s", True)


def test_other_labels_and_rules_embed_nothing_anew_that_is_kept(
    pool: Path, encoder: str, tmp_path: Path
) -> None:
    space = Workspace(tmp_path / "work")
    made_of = []
    for source in ("source", {"name": "other"}):
        corpus = [{"path": "pool", "source": source}]
        labelled = pool_of(recipe_of(pool, corpus=corpus), space, unit_bytes=4000)
        with closing(LocalRunner(1)) as runner:
            made(labelled, tmp_path / "work", runner, s=Ranked(encoder))
        made_of.append(labelled)
    first, second = made_of
    assert first.fingerprint != second.fingerprint
    assert (first.texts, first.sampled) == (second.texts, second.sampled)
    assert len(space.finished("embeddings")) == 1
    assert len(space.finished("columns")) == 2
    fewer = pool_of(recipe_of(pool, clean={"where": "words > 20"}), space, unit_bytes=4000)
    assert fewer.kept < first.kept and fewer.sampled != first.sampled
