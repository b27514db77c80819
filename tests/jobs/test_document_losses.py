"""Losses of a run, back to its documents, and into the next cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from penstock.artefact import Artefact, Workspace
from penstock.jobs import training_losses
from penstock.jobs.cli import main
from penstock.jobs.curate import Curated, curate
from penstock.jobs.plan import Plan
from penstock.jobs.report.curves import curve_figures, read_curves
from penstock.jobs.report.page import write_report
from penstock.jobs.train import read_evaluations, run_spec
from penstock.jobs.training_losses import add_training_losses
from penstock.jobs.why import fates_of
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import iter_documents
from penstock.recipe import Recipe
from penstock.recipe_file import override, parse_recipe
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation.scores import METRICS
from penstock.trainers.metrics import FILE as LINES
from penstock.trainers.spec import RunResult
from tests.harness.sessions import sessions_here
from tests.pools import documents, write_jsonl
from tests.trainers.conftest import train

ONE = LocalRunner(1)

QUIZ = [
    {"question": "water flows through the", "answer": "gate", "choices": ["gate", "night"]},
    {"question": "What is 水?", "answer": 1, "choices": ["stone", "water", "a house"]},
    {"text": "river and wheel"},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("losses")
    write_jsonl(at / "pool" / "a.jsonl", documents(300, longest=60))
    write_jsonl(at / "quiz.eval.jsonl", QUIZ)
    write_jsonl(at / "plain.jsonl", [{"text": "energy house"}])
    return at


def recipe_of(project: Path, **changes: Any) -> Recipe:
    tree = {
        "seed": 3,
        "corpus": [{"path": "pool"}],
        "budget": {"tokens": 12_000, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"sequence_length": 32, "tokens_per_shard": 4000},
        "train": {
            "model": {"layers": 1, "width": 32, "heads": 2},
            "batch_tokens": 1024,
            "micro_batch": 4,
            "document_losses": True,
            "evaluate_every": 4000,
        },
        "evaluate": ["quiz.eval.jsonl", "plain.jsonl"],
    }
    return parse_recipe(override(tree, changes), project)


def run_of(recipe: Recipe) -> tuple[Curated, RunResult]:
    plan = Plan.of(recipe)
    curated = curate(plan, ONE)
    with Workspace.driving(plan.work) as workspace:
        return curated, train(
            run_spec(plan.train, curated.shards.path, read_evaluations(plan.evaluate)), workspace
        )


@pytest.fixture(scope="module")
def trained(project: Path, _one_rank: None) -> tuple[Curated, RunResult]:
    with sessions_here():
        return run_of(recipe_of(project))


@pytest.fixture(scope="module")
def trained_by_two(project: Path) -> RunResult:
    """With weights, gradients and optimiser in parts on two workers."""
    zero = {"workers": 2, "deepspeed": {"zero_optimization": {"stage": 3}}}
    return run_of(recipe_of(project, train=zero, work="by-two"))[1]  # a run of the same name


def losses(result: RunResult) -> dict[str, list[Any]]:
    assert result.document_losses is not None
    artefact = Artefact.open(result.document_losses)
    (record,) = artefact.files
    return pq.read_table(artefact.verified(record)).to_pydict()  # type: ignore[no-any-return]


def evaluations(result: RunResult) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (result.path / LINES).read_text().splitlines()]
    return [line for line in lines if "evaluation" in line]


def test_every_document_of_the_cut_has_a_loss(trained: tuple[Curated, RunResult]) -> None:
    curated, result = trained
    found = losses(result)
    shards = ShardSet.open(curated.shards.path)
    spans = shards.documents(0, len(shards))
    assert found["doc_id"] == list(dict.fromkeys(spans.ids.to_pylist()))
    assert sum(found["tokens"]) == shards.tokens - len(spans.ids)
    # The last step's loss was taken before its update, on a part of the documents.
    mean = sum(found["nats"]) / sum(found["tokens"])
    assert mean == pytest.approx(result.loss, rel=0.05)


def test_why_tells_the_training_loss_of_a_document(
    project: Path, trained: tuple[Curated, RunResult]
) -> None:
    curated, result = trained
    known = losses(result)
    for row in (0, 7, len(known["doc_id"]) - 1):
        name = known["doc_id"][row]
        fates = fates_of(curated, name)
        add_training_losses(curated, fates)
        assert known["doc_id"].count(name) == len(fates) == 1
        found = {own["run"]: own for own in fates[0]["training_losses"]}
        assert found[f"run/{result.path.name}"] == {
            "run": f"run/{result.path.name}",
            "loss": pytest.approx(known["nats"][row] / known["tokens"][row], rel=1e-6),
            "tokens": known["tokens"][row],
        }
    (project / "losses.json").write_text(json.dumps(curated.recipe.model_dump(mode="json")))
    done = CliRunner().invoke(main, ["why", str(project / "losses.json"), name])
    assert done.exit_code == 0, done.output
    assert f"training loss: {known['loss'][row]:.4f} nats a token" in done.output
    assert result.path.name in done.output


def test_a_document_that_was_not_trained_on_has_no_training_loss(project: Path) -> None:
    curated = curate(recipe_of(project, budget={"tokens": 1_000}), ONE)
    names = [f"d{number:04d}" for number in range(60)]
    fates = [fate for name in names for fate in fates_of(curated, name)]
    add_training_losses(curated, fates)
    assert {fate["fate"] for fate in fates} == {"taken", "left"}
    assert not [fate for fate in fates if "training_losses" in fate]


def test_documents_of_one_id_each_have_their_own_loss(
    trained: tuple[Curated, RunResult],
) -> None:
    """Told apart by their sequences; if not all of them are there, none has a loss."""
    curated, result = trained
    known = losses(result)
    first, last = known["doc_id"][0], known["doc_id"][-1]
    fates = [fates_of(curated, name)[0] for name in (last, first)]
    assert result.document_losses is not None
    artefact = Artefact.open(result.document_losses)
    table = pq.read_table(artefact.verified(artefact.files[0]))
    same = table.set_column(0, table.schema.field(0), pa.array(["twin"] * len(table)))
    chosen = same.take([0, len(table) - 1])
    taken = [{**fate, "id": "twin"} for fate in fates]

    def read(path: Any, columns: list[str] | None = None) -> pa.Table:
        return chosen.select(columns or chosen.schema.names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_losses, "read_parquet", read)
        add_training_losses(curated, taken)
        add_training_losses(curated, [alone := {**fates[0], "id": "twin"}])
    assert [fate["training_losses"][0]["tokens"] for fate in taken] == [
        known["tokens"][-1],
        known["tokens"][0],
    ]
    assert "training_losses" not in alone


def test_evaluation_during_training_ends_with_the_last_step(
    trained: tuple[Curated, RunResult],
) -> None:
    _, result = trained
    curve = evaluations(result)
    assert [line["tokens"] for line in curve] == [4096, 8192, 375 * 32]
    # The saved model, in float32 as this one, has the same scores but for last bits.
    for metric in METRICS:
        for name, values in curve[-1]["evaluation"][metric].items():
            assert values == pytest.approx(getattr(result, metric)[name], rel=1e-4)
    bits = [line["evaluation"]["bits_per_byte"]["quiz.eval"]["mean"] for line in curve]
    assert bits[0] > bits[1] > bits[2]
    assert set(result.bits_per_byte) == {"quiz.eval", "plain"}
    assert set(result.accuracy) == {"quiz.eval"}
    assert result.accuracy["quiz.eval"]["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.accuracy["quiz.eval"]["examples"] == 2
    examples = result.examples("quiz.eval")
    assert examples.summary() == {
        metric: getattr(result, metric)["quiz.eval"] for metric in METRICS
    }
    answers, texts = ["gate", "water", "river and wheel"], ["water flows through the gate"]
    texts += ["What is 水?\nwater", "river and wheel"]
    assert examples.table["bytes"].to_pylist() == [len(one) for one in answers]
    assert examples.table["text_bytes"].to_pylist() == [len(one.encode()) for one in texts]
    assert examples.table["choices"].to_pylist() == [2, 3, 1]


def test_two_workers_on_zero_3_tell_the_same(
    trained: tuple[Curated, RunResult], trained_by_two: RunResult
) -> None:
    _, one = trained
    ours, theirs = losses(one), losses(trained_by_two)
    assert ours["doc_id"] == theirs["doc_id"] and ours["tokens"] == theirs["tokens"]
    np.testing.assert_allclose(ours["nats"], theirs["nats"], rtol=1e-3)
    curves = evaluations(one), evaluations(trained_by_two)
    assert len(curves[0]) == len(curves[1]) == 3
    for mine, other in zip(*curves):
        assert mine["step"] == other["step"]
        for name, score in mine["evaluation"]["bits_per_byte"].items():
            mean = other["evaluation"]["bits_per_byte"][name]["mean"]
            assert mean == pytest.approx(score["mean"], rel=1e-3)


def test_a_report_shows_how_a_run_learnt(project: Path, trained: tuple[Curated, RunResult]) -> None:
    curated, result = trained
    curves = read_curves(curated, None)  # two, if the run by two workers was made before
    (curve,) = (one for one in curves if one.arm.startswith(result.path.name[:8]))
    assert len(curve.loss) == len(curve.tokens) and np.isfinite(curve.loss).all()
    assert curve.evaluations
    titles, figures = zip(*curve_figures(curves))
    assert titles[0] == "loss in training" and any("bits per byte" in one for one in titles)
    page = write_report(curated).read_text()
    assert "How it learnt" in page and all(figure in page for figure in figures)
    other = curate(recipe_of(project, budget={"tokens": 1000}), ONE)
    assert read_curves(other, None) == []
    assert "How it learnt" not in write_report(other).read_text()


def test_the_command_tells_both_measures(project: Path, trained: tuple[Curated, RunResult]) -> None:
    _, result = trained
    (project / "recipe.yaml").write_text(recipe_of(project).to_yaml())
    done = CliRunner().invoke(main, ["train", str(project / "recipe.yaml"), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "run": str(result.path),
        "tokens": result.tokens,
        "loss": result.loss,
        "epochs": {"all": 1.0},
        "repeated_tokens": 0,
        "bits_per_byte": {name: bits["mean"] for name, bits in result.bits_per_byte.items()},
        "text_bits_per_byte": result.means("text_bits_per_byte"),
        "choice_probability": {"quiz.eval": result.choice_probability["quiz.eval"]["mean"]},
        "margin": {"quiz.eval": result.margin["quiz.eval"]["mean"]},
        "accuracy": result.accuracy,
    }
    assert "right by likelihood per byte" in done.stderr


def test_losses_rank_the_next_cut(project: Path, trained: tuple[Curated, RunResult]) -> None:
    before, result = trained
    cost = dict(zip(losses(result)["doc_id"], losses(result)["loss"]))
    select = {"hard": {"use": "document-loss", "run": str(result.path), "take": "high"}}
    again = curate(recipe_of(project, select=select, budget={"tokens": 4000, "rank": "hard"}), ONE)
    column = again.columns["hard"]
    scores: dict[str, float] = {}
    for unit, record in zip(again.pool.units, column.files):
        ids = [name for batch in iter_documents(unit, ["id"]) for name in batch["id"].to_pylist()]
        scores.update(zip(ids, read_scores(column.path, record).tolist()))
    assert len(scores) > len(cost) > 100, "some documents were left out of the first cut"
    for name, score in scores.items():
        assert np.float32(score) == np.float32(cost[name]) if name in cost else np.isnan(score)

    spans = ShardSet.open(again.shards.path)
    taken = set(spans.documents(0, len(spans)).ids.to_pylist())
    hardest = sorted(cost, key=lambda name: -cost[name])[: len(taken)]
    assert taken == set(hardest) and 10 < len(taken) < len(cost)
    assert again.pool.fingerprint == before.pool.fingerprint
