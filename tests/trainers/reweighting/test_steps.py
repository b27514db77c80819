"""Reweighted steps with DeepSpeed in this process, on one worker, against the definition."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import TrainingError
from penstock.recipe import ModelShape, ReweightSpec, Train
from penstock.selectors.reweighting import LossReweighter, ScoredBatch, TrainingProgress
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group
from penstock.trainers.metrics import StepMetrics
from penstock.trainers.modelling.build import build_model
from penstock.trainers.reweighting.samples import Samples
from tests.trainers.conftest import recorded

pytestmark = pytest.mark.usefixtures("process_group")

TRAIN = Train(
    model=ModelShape(layers=1, width=32, heads=2),
    batch_tokens=10 * 32,
    micro_batch=4,
    tokens=35 * 32 + 9,
    lr=1e-2,
    warmup=0.0,
)
LINUPPER = {"use": "loss", "temperature": 0.4, "warmup": 0}


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module; returns ``use`` for its ``reweight``."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body: str) -> str:
        (tmp_path / "weigh_here.py").write_text(f"import numpy as np\n{body}")
        return "weigh_here:reweight"

    yield write
    sys.modules.pop("weigh_here", None)


def engine(
    shards: Path,
    reweight: dict[str, Any] | None = None,
    directory: Path | None = None,
    **changes: Any,
) -> Engine:
    spec = ReweightSpec.model_validate(reweight) if reweight else None
    planned = PlannedReweighter(spec, [directory] if directory else []) if spec else None
    return Engine(
        TRAIN.model_copy(update={"reweight": spec, **changes}),
        ShardSet.open(shards),
        1,
        Group(),
        reweighter=planned() if planned else None,
        journal=directory,
    )


def run(made: Engine, start: int = 0) -> list[StepMetrics]:
    try:
        steps = list(made.run(start))
        if made.reweighting:
            made.reweighting.finish()
        return steps
    finally:
        made.close()


def journal(directory: Path) -> pa.Table:
    return pq.read_table(directory / "weights")


def naive_losses(made: Engine, step: int, sample: str) -> tuple[Any, list[torch.Tensor], Samples]:
    """A new model and its mean loss of each sample, with gradient, one by one."""
    model = build_model(TRAIN.model, made.shards, seed=1)
    batch = made.plan.global_batch(step)
    samples = Samples.of(made.shards, batch, sample)
    tensors = made.loader.collate(batch, np.arange(len(batch)))
    logits = model.logits(tensors)
    nats = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tensors.labels[:, 1:], reduction="none"
    )
    nats = torch.nn.functional.pad(nats, (1, 0))
    ends = np.append(samples.starts[1:], 32)
    ends[ends == 0] = 32
    found = [
        nats[place, first:end].sum() / max(1, predicted)
        for place, first, end, predicted in zip(
            samples.sequences, samples.starts, ends, samples.predicted
        )
    ]
    return model, found, samples


SELECTING = (
    "def reweight(losses):\n"
    "    'Only the three greatest, by their loss.'\n"
    "    return np.where(losses >= np.sort(losses)[-3], losses, 0)\n"
)


@pytest.mark.parametrize("sample", ["sequence", "document"])
@pytest.mark.parametrize("micro_batch", [4, 16])
@pytest.mark.parametrize("kind", ["linupper", "uniform", "selecting"])
def test_the_gradient_is_that_of_the_weighted_sum(
    shards: Path, tmp_path: Path, functions: Callable[[str], str], sample: str, micro_batch: int,
    kind: str,
) -> None:  # fmt: skip
    """With several micro-batches and with one; step 3 ends in a sequence that counts in part."""
    specs = {
        "linupper": LINUPPER,
        "uniform": {"use": "loss", "strategy": "uniform"},
        "selecting": {"use": functions(SELECTING)},
    }
    made = engine(shards, {**specs[kind], "sample": sample}, tmp_path, micro_batch=micro_batch)
    steps = made.loader.steps(3)
    loaded = next(steps)
    model, losses, samples = naive_losses(made, 3, sample)
    values = np.array([loss.item() for loss in losses])
    real = samples.real
    assert real.all() or sample == "document"
    scored = ScoredBatch(
        losses=values[real], moment=TrainingProgress(step=3, tokens=960, budget=1129)
    )
    weights = np.zeros(len(values))
    if kind == "selecting":
        kept = values >= np.sort(values[real])[-3]
        weights[kept] = values[kept] / values[kept].sum()
    else:
        maker = LossReweighter(strategy=kind, temperature=0.4, warmup=0)
        weights[real] = maker.weights(scored)
    expected = sum(weight * loss for weight, loss in zip(weights.tolist(), losses))
    expected.backward()

    found = made.reweighting.step(loaded)
    for (name, mine), theirs in zip(made._model.named_parameters(), model.parameters()):
        # A softmax at 0.4 over losses that differ by 0.1 makes rounding 25 times larger.
        error = (mine.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-5, name
    made.reweighting.finish()
    made.close()
    assert found.facts["weighted_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found.loss == pytest.approx(
        (values * samples.predicted).sum() / samples.predicted.sum(), rel=1e-5
    )
    assert found.facts["effective_samples"] == pytest.approx(
        1 / (weights**2).sum() / real.sum(), rel=1e-4
    )
    assert found.facts["trained_tokens"] == samples.predicted[weights > 0].sum()
    table = journal(tmp_path)
    np.testing.assert_allclose(table["weight"], weights, rtol=1e-4)
    np.testing.assert_allclose(np.array(table["loss"])[real], values[real], rtol=1e-5)
    np.testing.assert_array_equal(table["start"], samples.starts)
    sequences = loaded.batch.sequences[samples.sequences]
    np.testing.assert_array_equal(table["sequence"], sequences)
    np.testing.assert_array_equal(table["position"], 30 + samples.sequences)


def test_a_whole_run_is_in_the_journal_and_learns(shards: Path, tmp_path: Path) -> None:
    steps = run(engine(shards, {**LINUPPER, "warmup": {"steps": 1}}, tmp_path))
    assert [step.tokens for step in steps] == [320, 640, 960, 35 * 32 + 9], "the budget"
    assert steps[-1].loss < steps[0].loss - 0.05
    table = journal(tmp_path).to_pandas()
    assert table["position"].tolist() == list(range(36))
    sums = table.groupby("step")["weight"].agg(["sum", "std"])
    np.testing.assert_allclose(sums["sum"], 1, rtol=1e-6)
    assert sums["std"][0] == 0 and (sums["std"][1:] > 0.01).all()
    first, *later = [step.reweighting for step in steps]
    assert "temperature" not in first and all(facts["temperature"] == 0.4 for facts in later)
    assert first["effective_samples"] == pytest.approx(1)
    assert all(facts["effective_samples"] < 0.99 for facts in later)


def test_carried_weights_are_of_the_documents_and_cost_no_pass(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is that of the sum of w times the nats of each document's tokens."""
    made = engine(shards, {"use": "carried", "sample": "document"}, tmp_path)
    monkeypatch.setattr(made.reweighting, "_score", None)  # nothing is scored first
    steps = made.loader.steps(3)
    loaded = next(steps)
    model, losses, samples = naive_losses(made, 3, "document")
    carried = np.concatenate(
        [made.shards.carried(index) for index in loaded.batch.sequences.tolist()]
    )
    assert len(np.unique(carried)) > 1
    weights = carried.astype(float) * samples.predicted
    weights /= weights.sum()
    expected = sum(weight * loss for weight, loss in zip(weights.tolist(), losses))
    expected.backward()
    found = made.reweighting.step(loaded)
    for (name, mine), theirs in zip(made._model.named_parameters(), model.parameters()):
        error = (mine.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error < 1e-5, name
    made.reweighting.finish()
    made.close()
    assert found.facts["weighted_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found.facts["missing_share"] == 0
    np.testing.assert_allclose(journal(tmp_path)["weight"], weights, rtol=1e-4)


@pytest.mark.parametrize("sample", ["sequence", "document"])
def test_weights_by_length_train_like_a_plain_step(
    shards: Path, tmp_path: Path, functions: Callable[[str], str], sample: str
) -> None:
    """A sample's weight in a plain step is its share of the predicted tokens."""
    plain = run(engine(shards))
    use = functions("def reweight(losses):\n    return COUNTS.pop(0)\n")
    made = engine(shards, {"use": use, "sample": sample}, tmp_path)
    counts = []
    for step in range(made.plan.steps):
        samples = Samples.of(made.shards, made.plan.global_batch(step), sample)
        counts.append(samples.predicted[samples.real])
    sys.modules["weigh_here"].COUNTS = counts
    weighed = run(made)
    for mine, theirs in zip(weighed, plain, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("kind", ["linupper", "selecting", "uds"])
def test_zero_stages_train_as_stage_0(
    shards: Path, tmp_path: Path, functions: Callable[[str], str], stage: int, kind: str
) -> None:
    specs = {
        "linupper": LINUPPER,
        "selecting": {"use": functions(SELECTING)},
        "uds": {"use": "uds"},
    }
    overrides = {"zero_optimization": {"stage": stage}}
    found, expected = (
        [(step.loss, step.grad_norm, step.reweighting["weighted_loss"]) for step in run(made)]
        for made in (
            engine(shards, specs[kind], tmp_path, deepspeed=overrides),
            engine(shards, specs[kind], tmp_path),
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("reweight", [LINUPPER, {"use": "uds", "memory": 8}])
def test_a_resumed_run_has_the_same_weights(
    shards: Path, tmp_path: Path, reweight: dict[str, Any]
) -> None:
    """Model and optimiser are in the checkpoint; state and journal are saved and restored here."""
    whole = run(engine(shards, reweight, tmp_path / "whole"))
    killed = engine(shards, reweight, tmp_path / "cut")
    assert killed.reweighting
    steps = killed.run()
    next(steps), next(steps)
    kept = killed.reweighting.save()
    (tmp_path / "state").mkdir()
    saved = recorded(tmp_path / "state", killed.backend.save(tmp_path / "state"))
    next(steps)
    killed.reweighting.save()
    killed.close()

    again = engine(shards, reweight, tmp_path / "cut")
    assert again.reweighting
    again.backend.load(saved, 1)
    again.reweighting.restore(kept)
    rest = run(again, start=2)
    assert [(step.loss, step.reweighting) for step in rest] == [
        (step.loss, step.reweighting) for step in whole[2:]
    ]
    assert journal(tmp_path / "cut").equals(journal(tmp_path / "whole"))


def test_uniform_weights_need_no_scores(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    made = engine(shards, {**LINUPPER, "warmup": {"steps": 2}}, tmp_path)
    forward = made._model.forward

    def counted(*inputs: Any, **keywords: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return forward(*inputs, **keywords)

    monkeypatch.setattr(made._model, "forward", counted)
    seen = []
    for _ in made.run():
        seen.append(tuple(calls))
        calls.clear()
    made.close()
    # Three micro-batches: they are scored first, without gradients except for the last.
    weighed = (False, False, True, True, True)
    assert seen[:3] == [(True,) * 3, (True,) * 3, weighed]


def test_sequences_without_weight_are_left_out(
    shards: Path, tmp_path: Path, functions: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(shards, {"use": functions(SELECTING)}, tmp_path)
    rows = []
    forward = made._model.forward

    def counted(batch: Any, *inputs: Any, **keywords: Any) -> Any:
        rows.append((len(batch.input_ids), bool(keywords)))
        return forward(batch, *inputs, **keywords)

    monkeypatch.setattr(made._model, "forward", counted)
    next(made.run())
    made.close()
    assert rows == [(4, True), (3, True), (3, True), (3, False)]


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("return losses[1:]", "got 9"),
        ("return losses * np.nan", "got nan"),
        ("return 0 * losses", "got 0"),
        ("return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_invalid_weights_stop_the_run(
    shards: Path, tmp_path: Path, functions: Callable[[str], str], body: str, got: str
) -> None:
    made = engine(shards, {"use": functions(f"def reweight(losses):\n    {body}\n")}, tmp_path)
    with pytest.raises(TrainingError) as info:
        run(made)
    message = str(info.value)
    assert "step 0" in message and "weigh_here:reweight" in message and got in message


def test_a_loss_that_is_not_finite_stops_the_run_before_weights_are_computed(
    shards: Path, tmp_path: Path
) -> None:
    wild = engine(shards, LINUPPER, tmp_path)
    next(wild._model.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step \d.*loss is nan"):
        run(wild)
