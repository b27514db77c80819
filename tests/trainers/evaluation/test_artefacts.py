"""Evaluations and losses of documents are made for a finished run, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError
from penstock.jobs.listing import list_artefacts
from penstock.recipe import ModelShape, Train
from penstock.trainers import worker
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.evaluation import run_evaluator
from penstock.trainers.evaluation.artefacts import evaluation_of
from penstock.trainers.evaluation.examples import Evaluation, Example
from penstock.trainers.group import Group
from penstock.trainers.spec import RunResult, RunSpec

pytestmark = pytest.mark.usefixtures("process_group")

QUIZ = Evaluation(name="quiz", examples=(Example(context="flows ", choices=("water", "é")),))
PLAIN = Evaluation.of_texts("plain", "water flows", "to the turbine")

SETTINGS: dict[str, Any] = {
    "model": ModelShape(layers=1, width=32, heads=2),
    "batch_tokens": 512,
    "micro_batch": 4,
    "checkpoint": False,
}


class Watched:
    """Counts what is trained and what is evaluated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained = 0
        self.evaluated: list[str] = []
        self.read = 0
        for owner, name in (
            (worker, "_make"),
            (run_evaluator, "evaluate"),
            (run_evaluator, "write_document_losses"),
        ):
            monkeypatch.setattr(owner, name, self._around(name, getattr(owner, name)))

    def _around(self, name: str, real: Any) -> Any:
        def watched(*given: Any, **named: Any) -> Any:
            if name == "_make":
                self.trained += 1
            elif name == "evaluate":
                self.evaluated += [item.name for item in given[0]]
            else:
                self.read += 1
            return real(*given, **named)

        return watched


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def spec_of(shards: Path, evaluations: Sequence[Evaluation], **train: Any) -> RunSpec:
    settings = Train(**{**SETTINGS, **train})
    return RunSpec(train=settings, shards=shards, seed=1, evaluations=tuple(evaluations))


def made(spec: RunSpec, root: Path) -> RunResult:
    worker.run_one(spec, Workspace(root), Group(), Signer(b"1" * 32))
    found = spec.find(Workspace(root))
    assert found is not None
    return found


@pytest.mark.parametrize("backend", ["torch", "deepspeed"])
def test_a_finished_run_gets_what_it_lacks_without_training(
    shards: Path, tmp_path: Path, watched: Watched, backend: str
) -> None:
    first = spec_of(shards, [QUIZ], backend=backend)
    before = made(first, tmp_path)
    assert (watched.trained, watched.evaluated, watched.read) == (1, ["quiz"], 0)
    assert before.document_losses is None

    more = spec_of(shards, [QUIZ, PLAIN], backend=backend)
    assert more.find(Workspace(tmp_path)) is None and more.fingerprint == first.fingerprint
    after = made(more, tmp_path)
    assert (watched.trained, watched.evaluated, watched.read) == (1, ["quiz", "plain"], 0)
    assert after.path == before.path
    assert after.bits_per_byte["quiz"] == before.bits_per_byte["quiz"]
    assert set(after.bits_per_byte) == {"quiz", "plain"} and set(after.margin) == {"quiz"}

    read = made(spec_of(shards, [PLAIN], backend=backend, document_losses=True), tmp_path)
    assert (watched.trained, watched.evaluated, watched.read) == (1, ["quiz", "plain"], 1)
    assert read.document_losses is not None and set(read.bits_per_byte) == {"plain"}

    # Nothing is missing: neither the model nor an evaluation is read again.
    made(spec_of(shards, [QUIZ, PLAIN], backend=backend, document_losses=True), tmp_path)
    assert (watched.trained, watched.evaluated, watched.read) == (1, ["quiz", "plain"], 1)
    assert {row["stage"]: row["state"] for row in list_artefacts(str(tmp_path))} == {
        "run": "finished",
        "evaluation": "finished",
        "document_losses": "finished",
    }


def test_an_evaluation_is_named_by_model_and_examples(
    shards: Path, tmp_path: Path, watched: Watched
) -> None:
    renamed = replace(QUIZ, name="other name")
    changed = Evaluation(name="quiz", examples=(replace(QUIZ.examples[0], answer=1),))
    first = made(spec_of(shards, [QUIZ], backend="torch"), tmp_path)
    again = made(spec_of(shards, [renamed, QUIZ], backend="torch"), tmp_path)
    assert watched.evaluated == ["quiz"]
    assert again.bits_per_byte["other name"] == again.bits_per_byte["quiz"]
    other = made(spec_of(shards, [changed], backend="torch"), tmp_path)
    assert watched.evaluated == ["quiz", "quiz"]
    assert other.margin["quiz"]["mean"] == pytest.approx(-first.margin["quiz"]["mean"])
    assert other.examples("quiz").summary()["margin"] == other.margin["quiz"]
    # Another model on the same examples.
    made(spec_of(shards, [QUIZ], backend="torch", lr=1e-4), tmp_path)
    assert watched.evaluated == ["quiz"] * 3 and watched.trained == 2

    # The directory of a run alone has all of its evaluations.
    run = Artefact.open(first.path)
    assert len(list(tmp_path.glob("evaluation/*"))) == 3
    opened = RunResult.of(run)
    digests = {item.digest[:8] for item in (QUIZ, changed)}
    names = [{"quiz", f"quiz {digest}"} for digest in digests]
    assert set(opened.bits_per_byte) in names
    assert {opened.margin[name]["mean"] for name in opened.margin} == {
        first.margin["quiz"]["mean"],
        other.margin["quiz"]["mean"],
    }


def test_a_failing_evaluation_costs_no_training(
    shards: Path, tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, workspace = spec_of(shards, [QUIZ, PLAIN], backend="torch"), Workspace(tmp_path)
    real = run_evaluator.evaluate

    def failing(evaluations: Sequence[Evaluation], *given: Any, **named: Any) -> Any:
        if evaluations[0].name == "plain":
            raise RuntimeError("killed")
        return real(evaluations, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(run_evaluator, "evaluate", failing)
        with pytest.raises(RuntimeError):
            made(spec, tmp_path)
    run = spec.run(workspace)
    assert run is not None and spec.find(workspace) is None
    assert evaluation_of(run, QUIZ).find(workspace) is not None
    made(spec, tmp_path)
    assert watched.trained == 1 and watched.evaluated == ["quiz", "plain"]


def test_a_model_that_changed_is_not_evaluated(shards: Path, tmp_path: Path) -> None:
    found = made(spec_of(shards, [], backend="torch"), tmp_path)
    file = Path(found.model / "model.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError) as info:
        made(spec_of(shards, [QUIZ], backend="torch"), tmp_path)
    assert info.value.file == str(file)
    assert not list(tmp_path.glob("evaluation/*"))


def test_files_of_an_earlier_driver_are_never_overwritten(shards: Path, tmp_path: Path) -> None:
    """A worker of a driver that lost its lease may still write; it has another file name."""
    found = made(spec_of(shards, [QUIZ], backend="torch"), tmp_path)
    run = Artefact.open(found.path)
    measurement = evaluation_of(run, QUIZ)
    kept = measurement.find(Workspace(tmp_path))
    assert kept is not None
    late = measurement.make(
        Workspace(tmp_path), lambda path: path.write_bytes(b"late"), {"name": "late"}, 7
    )
    assert late.manifest == kept.manifest
    late.verify()
    assert found.examples("quiz").summary()["margin"] == found.margin["quiz"]
