"""Scores beside the corpus: one pass, errors of plug-ins, data of a fit, exact resume."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, ScoringError, SelectorError, WorkerError
from penstock.pipeline import columns as documents_module
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring import models as fitting_module
from penstock.pipeline.scoring.models import Models
from penstock.resources import Resources
from penstock.selectors.adapter import as_selector
from penstock.selectors.base import Documents, Fitting, Scorer, Target, Targets
from tests.pools import UNIT_BYTES, documents, pool_of, recipe_of, write_jsonl

ONE = LocalRunner(1)


@dataclass
class Length:
    """A score of its own kind: text length over the mean that was seen in fit."""

    wanted: int = 10**9
    summary = "length"
    paper = "none"
    version = 1
    mean: float = float("nan")
    fitting: Fitting | None = None
    seen: ClassVar[list[Fitting]] = []

    def identity(self) -> Mapping[str, Any]:
        return {"wanted": self.wanted}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        self.seen.append(fitting)
        self.fitting = fitting  # cannot be pickled, and need not be
        texts = fitting.sample(self.wanted).column("text").to_pylist()
        squares = list(fitting.spread(_square, [3, 1, 2], 2))
        fitting.progress("fitted")
        return {"documents": len(texts), "mean": float(np.mean([*map(len, texts)])), "s": squares}

    def score(self, documents: Documents) -> np.ndarray:
        return np.array([len(t) / self.mean for t in documents.column("text").to_pylist()])

    def save(self, directory: Path) -> None:
        mean = np.mean([len(t) for t in self.fitting.sample(self.wanted)["text"].to_pylist()])
        (directory / "deep").mkdir(exist_ok=True)
        np.save(directory / "deep" / "mean.npy", mean)

    def load(self, directory: Path) -> None:
        self.mean = float(np.load(directory / "deep" / "mean.npy"))


def _square(item: int, power: int) -> int:
    return item**power


@dataclass
class Calls(Length):
    """Faults of a user's function."""

    function: Callable[[Documents], Any] = len
    name: str = ""

    def identity(self) -> Mapping[str, Any]:
        return {"calls": self.name}

    def score(self, documents: Documents) -> Any:
        return self.function(documents)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(70, seed=2))
    write_jsonl(tmp_path / "pool" / "b.jsonl", documents(150, seed=3)[70:])
    return tmp_path


@pytest.fixture
def corpus(pool: Path) -> Pool:
    return pool_of(recipe_of(pool), Workspace(pool / "work"), ONE, UNIT_BYTES)


@pytest.fixture
def space(pool: Path) -> Workspace:
    return Workspace(pool / "work")


def columns_of(
    corpus: Pool, space: Workspace, runner: LocalRunner = ONE, **scorers: Scorer
) -> dict[str, Artefact]:
    wanted = [Column(name=name, selector=as_selector(scorer)) for name, scorer in scorers.items()]
    return make_columns(wanted, Models(pool=corpus, workspace=space, runner=runner, seed=17))


def all_scores(column: Artefact) -> np.ndarray:
    return np.concatenate([read_scores(column.path, record) for record in column.files])


def texts_of(corpus: Pool) -> list[str]:
    return [text for u in corpus.units for text in pq.read_table(u.path())["text"].to_pylist()]


class _Once(Length):
    """Fails at the second unit, until a file is there."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.calls = file, 0

    def score(self, documents: Any) -> Any:
        self.calls += 1
        if self.calls == 2 and not self.file.exists():
            self.file.touch()
            raise ValueError
        return super().score(documents)


def test_scoring_that_goes_on_says_how_much_is_there(
    corpus: Pool, space: Workspace, tmp_path: Path
) -> None:
    lines: list[str] = []
    models = Models(pool=corpus, workspace=space, runner=ONE, seed=17, progress=lines.append)
    column = Column(name="x", selector=as_selector(_Once(tmp_path / "again")))
    with pytest.raises(ScoringError):
        make_columns([column], models)
    assert not [line for line in lines if "already" in line]
    left = sum(unit.documents for unit in corpus.units)
    make_columns([column], models)
    (line,) = [line for line in lines if "already" in line]
    done = int(line.split()[1])
    assert 0 < done < left and f"of {left:,} documents" in line


class _Killing:
    def score(self, documents: Any) -> list[float]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def test_a_scorer_that_kills_its_process_is_named_and_not_taken_for_a_lack_of_memory(
    corpus: Pool, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.pipeline.runners.local.killed_for_memory", lambda: 7)
    with closing(LocalRunner(2)) as runner, pytest.raises(WorkerError) as caught:
        columns_of(corpus, space, runner, x=_Killing(), y=Length())
    assert caught.value.key == "select.x"
    assert "SIGKILL" in caught.value.problem and "memory" not in str(caught.value)


def test_every_scorer_scores_every_document_in_one_reading(
    corpus: Pool, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    iterate = documents_module.iter_documents

    def counted(unit: Any, **options: Any) -> Any:
        read.append(unit.name)
        return iterate(unit, **options)

    monkeypatch.setattr(documents_module, "iter_documents", counted)
    minus = Calls(function=lambda batch: [-len(t) for t in batch["text"].to_pylist()], name="-")
    found = columns_of(corpus, space, length=Length(), minus=minus)
    lengths = np.array([len(text) for text in texts_of(corpus)])
    np.testing.assert_array_equal(all_scores(found["minus"]), -lengths)
    np.testing.assert_array_equal(all_scores(found["length"]), np.float32(lengths / lengths.mean()))
    assert list(found) == ["length", "minus"]
    assert read == [unit.name for unit in corpus.units]
    assert len(read) > 3
    again = columns_of(corpus, space, minus=minus, length=Length())
    assert len(read) == len(corpus.units), "columns that exist were made again"
    assert {n: c.digest for n, c in again.items()} == {n: c.digest for n, c in found.items()}
    read.clear()
    columns_of(corpus, space, minus=minus, other=Calls(function=_zeros, name="0"))
    assert len(read) == len(corpus.units)


def _zeros(batch: Documents) -> list[float]:
    return [0.0] * len(batch)


def test_batches_are_fixed_by_the_format(tmp_path: Path) -> None:
    rows = [{"id": f"d{number}", "text": f"text {number}"} for number in range(2_500)]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    space = Workspace(tmp_path / "work")
    corpus = pool_of(recipe_of(tmp_path), space)
    sizes: list[int] = []

    def progress(batch: Documents) -> list[float]:
        assert batch.schema.names == ["id", "text", "source", "hash"]
        assert batch.schema.field("text").type == pa.large_string()
        sizes.append(len(batch))
        return _zeros(batch)

    columns_of(corpus, space, s=Calls(function=progress, name="n"))
    assert sizes == [128] * 19 + [2500 - 19 * 128]


# -- what a fit may see -----------------------------------------------------------------------


def test_fit_is_given_the_pool_the_target_and_the_seed(corpus: Pool, space: Workspace) -> None:
    notes: list[str] = []
    target = [Target(benchmark="arc", text="What turns? A wheel.")]
    scorer = Length()
    aimed = Targets(examples=target, hashes=["abc"])
    column = Column(name="mine", selector=as_selector(scorer), target=aimed)
    make_columns(
        [column], Models(pool=corpus, workspace=space, runner=ONE, seed=17, progress=notes.append)
    )
    fitting = scorer.seen[-1]
    assert fitting.pool_size == 150
    assert (fitting.target, fitting.seed) == (target, 17)
    whole = fitting.sample(10**9)
    assert whole.schema.names == ["id", "text", "source", "hash"]
    assert sorted(whole["text"].to_pylist()) == sorted(texts_of(corpus))
    part = fitting.sample(50)
    assert 25 < len(part) < 80
    assert part.equals(fitting.sample(50))
    assert set(part["id"].to_pylist()) < set(whole["id"].to_pylist())
    assert "mine: fitted" in notes
    (model,) = space.root.glob("model/*")
    facts = Artefact.open(model).facts
    assert facts["documents"] == 150
    assert facts["s"] == [9, 1, 4], "spread keeps the order of its items"


def test_a_fit_depends_on_target_seed_and_identity_but_not_on_the_columns_name(
    corpus: Pool, space: Workspace, tmp_path: Path
) -> None:
    """Equal columns share a model, so nothing in it may depend on a name."""

    def model(place: Workspace, name: str, **given: Any) -> list[bytes]:
        seed = given.pop("seed", 17)
        column = Column(name=name, selector=as_selector(Length(given.pop("wanted", 40))), **given)
        make_columns([column], Models(pool=corpus, workspace=place, runner=ONE, seed=seed))
        return sorted(path.read_bytes() for path in place.root.glob("model/*/manifest.json"))

    fresh = Workspace(tmp_path / "fresh")
    assert model(fresh, "one") == model(Workspace(tmp_path / "other"), "two")
    assert len(model(fresh, "two")) == 1
    assert len(model(fresh, "two", target=Targets(hashes=["x"]))) == 2
    assert len(model(fresh, "two", seed=18)) == 3
    assert len(model(fresh, "two", wanted=41)) == 4


def test_two_workers_fit_and_score_the_same_bytes(
    corpus: Pool, space: Workspace, tmp_path: Path, two_workers: LocalRunner
) -> None:
    alone = columns_of(corpus, space, s=Length(30))
    both = columns_of(corpus, Workspace(tmp_path / "two"), two_workers, s=Length(30))
    assert alone["s"].digest == both["s"].digest
    models = [
        [Artefact.open(path).digest for path in root.glob("model/*")]
        for root in (space.root, tmp_path / "two")
    ]
    assert models[0] == models[1]


def test_every_scoring_uses_the_model_on_disk_and_verifies_it(
    corpus: Pool, space: Workspace
) -> None:
    columns_of(corpus, space, s=Length())
    (saved,) = space.root.glob("model/*/state/deep/mean.npy")
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ArtefactError, match="mean.npy: changed since it was written"):
        columns_of(corpus, space, other=Length())


def test_files_of_a_killed_fit_are_not_part_of_the_model(
    corpus: Pool, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Length, directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Length, "save", stop)
        columns_of(corpus, space, s=Length())
    assert list(space.root.glob("model/*/state/half"))
    columns_of(corpus, space, s=Length())
    (model,) = space.root.glob("model/*")
    files = ["facts.json", "state/deep/mean.npy"]
    assert [record.path for record in Artefact.open(model).files] == files


# -- strangers' mistakes ----------------------------------------------------------------------


def raises(error: Exception) -> Callable[[Documents], Any]:
    def score(batch: Documents) -> Any:
        raise error

    return score


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (raises(KeyError("oops")), "KeyError: 'oops'"),
        (lambda batch: [1.0], " of shape (1,)"),
        (lambda batch: [[1.0]] * len(batch), ", 1)"),
        (lambda batch: 1.0, " of shape ()"),
        (lambda batch: ["high"] * len(batch), "'high'"),
        (lambda batch: [{}] * len(batch), "{}, a dict"),
        (lambda batch: (1.0 for _ in range(len(batch))), "'generator'"),
        (lambda batch: [[1.0], [1.0, 2.0]], "[1.0], a list"),
    ],
)
def test_a_scorer_that_goes_wrong_is_named_with_its_documents(
    corpus: Pool, space: Workspace, function: Callable[[Documents], Any], named: str
) -> None:
    ids = pq.read_table(corpus.units[0].path())["id"].to_pylist()
    with pytest.raises(ScoringError) as caught:
        columns_of(corpus, space, bad=Calls(function=function, name="bad"))
    error = caught.value
    assert error.key == "select.bad"
    whole = f"documents {ids[0]} to {ids[-1]} of unit-00000-000"
    single = any(own in named for own in ("oops", "high", "a dict", "a list"))
    assert error.file == (f"document {ids[0]}" if single else whole)
    assert named in f"{error.problem} {error.got}"


def test_an_error_that_was_raised_on_purpose_keeps_its_kind(corpus: Pool, space: Workspace) -> None:
    broken = Calls(function=raises(SelectorError("no such language")), name="bad")
    with pytest.raises(SelectorError) as caught:
        columns_of(corpus, space, bad=broken)
    error = caught.value
    assert (error.key, error.problem) == ("select.bad", "no such language")
    assert error.file is not None and error.file.endswith(" of unit-00000-000")


@pytest.mark.parametrize("method", ["fit", "save"])
def test_a_fit_that_goes_wrong_is_named(
    corpus: Pool, space: Workspace, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Length, given: object) -> Any:
        raise ZeroDivisionError("no positives")

    monkeypatch.setattr(Length, method, broken)
    with pytest.raises(ScoringError) as caught:
        columns_of(corpus, space, bad=Length())
    assert caught.value.key == "select.bad"
    assert "ZeroDivisionError: no positives" in caught.value.problem
    assert not list(space.root.glob("model/*/manifest.json"))


def test_a_worker_process_reports_the_same_error(
    corpus: Pool, space: Workspace, two_workers: LocalRunner
) -> None:
    with pytest.raises(ScoringError) as caught:
        columns_of(corpus, space, two_workers, bad=Calls(function=_typo, name="typo"))
    assert caught.value.key == "select.bad"
    assert "TypeError" in caught.value.problem


def _typo(batch: Documents) -> Any:
    return len(None)  # type: ignore[arg-type]


def test_scores_that_are_not_finite_exclude_the_document(corpus: Pool, space: Workspace) -> None:
    odd = [np.nan, np.inf, -np.inf, None, 0.0, -0.0, 1e-45, -3.4e38]

    def score(batch: Documents) -> list[Any]:
        return [*odd, *[2.0] * len(batch)][: len(batch)]

    column = columns_of(corpus, space, odd=Calls(function=score, name="odd"))["odd"]
    scores = all_scores(column)
    assert scores.dtype == np.float32
    first = scores[: corpus.units[0].documents]
    assert np.isnan(first[:4]).all()
    np.testing.assert_array_equal(first[4:8], np.float32(odd[4:]))
    facts = dict(column.facts)
    assert facts.pop("code").startswith("tests.pipeline.test_columns, ")
    infinite = sum(min(2, max(0, unit.documents - 1)) for unit in corpus.units)
    excluded = int(np.isnan(scores).sum())
    assert facts == {"documents": 150, "excluded": excluded, "infinite": infinite}
    assert column.facts["excluded"] >= 4 * len(corpus.units) - 4


# -- resume -----------------------------------------------------------------------------------


def test_a_crash_midway_keeps_finished_units(
    corpus: Pool, space: Workspace, tmp_path: Path
) -> None:
    scored: list[str] = []
    broken = True

    def score(batch: Documents) -> list[float]:
        if broken and len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(str(batch["id"][0]))
        return [float(len(text)) for text in batch["text"].to_pylist()]

    def made(place: Workspace) -> Artefact:
        return columns_of(corpus, place, s=Calls(function=score, name="c"))["s"]

    with pytest.raises(KeyboardInterrupt):
        made(space)
    assert not list(space.root.glob("columns/*/manifest.json"))
    broken = False
    resumed = made(space)
    assert len(scored) == len(set(scored)) == len(corpus.units)
    assert resumed.digest == made(Workspace(tmp_path / "clean")).digest
    np.testing.assert_array_equal(all_scores(resumed), [len(t) for t in texts_of(corpus)])


def test_a_column_that_changed_on_disk_is_refused(corpus: Pool, space: Workspace) -> None:
    column = columns_of(corpus, space, s=Length())["s"]
    path = column.path / column.files[1].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    read_scores(column.path, column.files[0])
    with pytest.raises(ArtefactError, match="changed since it was written"):
        read_scores(column.path, column.files[1])


# -- what a scorer asks of the machine --------------------------------------------------------


class Asking(LocalRunner):
    """A runner that records the resources of each pass."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[Any] = []

    def run(self, *arguments: Any, **named: Any) -> Any:
        self.asked.append(named.get("needs") or (arguments[4] if len(arguments) > 4 else None))
        return super().run(*arguments, **named)


def test_a_worker_has_the_resources_of_all_scorers_of_its_pass(
    corpus: Pool, space: Workspace
) -> None:
    plain, large, seeing = Length(), Length(), Length()
    large.needs = Resources(cpus=2, memory=1000)  # type: ignore[attr-defined]
    seeing.needs = Resources(gpus=0.5, memory=500)  # type: ignore[attr-defined]
    columns = [
        Column(name=name, selector=as_selector(scorer))
        for name, scorer in (("a", plain), ("b", large), ("c", seeing))
    ]
    runner = Asking()
    make_columns(columns, Models(pool=corpus, workspace=space, runner=runner, seed=0))
    (asked,) = [needs for needs in runner.asked if needs is not None]
    assert asked == Resources(cpus=2, gpus=0.5, memory=1500, by="select.b, select.c")


def test_a_column_that_lacks_a_unit_is_not_published(corpus: Pool, space: Workspace) -> None:
    lacking = replace(corpus, units=corpus.units[:-1])
    with pytest.raises(ArtefactError) as caught:
        columns_of(lacking, space, s=Length())
    kept = corpus.kept
    assert caught.value.expected == f"{kept} documents of the pool"
    assert not list(space.root.glob("columns/*/manifest.json"))


def test_a_sample_is_drawn_once_for_selectors_that_ask_for_the_same(
    corpus: Pool, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = fitting_module.sample_documents

    def counted(pool: Pool, count: int, *arguments: Any) -> pa.Table:
        drawn.append(count)
        return draw(pool, count, *arguments)

    monkeypatch.setattr(fitting_module, "sample_documents", counted)
    columns_of(corpus, space, a=Length(40), b=Calls(40, function=_zeros), c=Length(30))
    assert drawn == [40, 30]


@dataclass
class SlowCalls(Calls):
    """A function that is called on parts of units."""

    needs: ClassVar[Resources] = Resources(slow=True)


@pytest.mark.parametrize("kind", [Calls, SlowCalls])
def test_infinite_scores_are_counted_and_said(
    corpus: Pool, space: Workspace, kind: type[Calls]
) -> None:
    lines: list[str] = []

    def score(batch: Documents) -> list[float]:
        return [np.inf if len(text) % 3 else 2.0 for text in batch.column("text").to_pylist()]

    models = Models(pool=corpus, workspace=space, runner=ONE, seed=17, progress=lines.append)
    wanted = Column(name="own", selector=as_selector(kind(function=score, name=kind.__name__)))
    found = make_columns([wanted], models)["own"]
    expected = int(np.isnan(all_scores(found)).sum())
    assert 0 < expected == found.facts["infinite"] == found.facts["excluded"]
    assert [line for line in lines if "infinite" in line and f" {expected} " in line]
