"""A model that is being trained, judged between two steps, on every stage of ZeRO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.recipe import Train
from penstock.trainers.data.plan import GlobalBatch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation.documents import write_document_losses
from penstock.trainers.evaluation.during import TrainingEvaluator
from penstock.trainers.evaluation.evaluator import Evaluation, Evaluator
from penstock.trainers.evaluation.reading import Reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import load_model
from penstock.trainers.modelling.model import LanguageModel
from penstock.trainers.modelling.options import compile_inner
from tests.trainers.test_engine import TRAIN, engine

from .conftest import READING
from .test_choices import QUESTIONS

pytestmark = pytest.mark.usefixtures("process_group")

EVALUATIONS = (Evaluation("quiz", ("water flows", "the turbine é"), tuple(QUESTIONS)),)


def of_stage(stage: int, **changes: Any) -> Train:
    zero = {"zero_optimization": {"stage": stage}}
    return TRAIN.model_copy(update={"deepspeed": zero, **changes})


def evaluator(made: Engine, model: Any) -> Evaluator:
    reader = Reader(model, Group())
    return Evaluator(reader, made.shards.tokenizer, **READING)


def during(made: Engine, every: int) -> TrainingEvaluator:
    return TrainingEvaluator(
        deepspeed=made.deepspeed,
        evaluator=evaluator(made, made.deepspeed),
        evaluations=EVALUATIONS,
        every=every,
        tokens=made.plan.tokens,
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_live_model_scores_as_it_does_when_saved_and_trains_on_as_if_alone(
    shards: Path, tmp_path: Path, stage: int
) -> None:
    alone = engine(shards, of_stage(stage))
    expected = [(step.loss, step.grad_norm) for step in alone.run()]
    alone.close()
    made = engine(shards, of_stage(stage))
    judge = during(made, every=1)
    found, curve = [], [judge.scores()]
    for step in made.run():
        found.append((step.loss, step.grad_norm))
        curve.append(judge.scores())
        assert made.deepspeed.module.training
    assert found == expected, "to the bit"
    made.save(tmp_path / "model")
    saved = evaluator(made, load_model(tmp_path / "model").eval()).scores(EVALUATIONS)
    made.close()
    bits = [scores.bits_per_byte["quiz"].mean for scores in curve]
    assert bits[-1] == pytest.approx(saved.bits_per_byte["quiz"].mean, rel=1e-6)
    assert curve[-1].accuracy == saved.accuracy
    assert len(set(bits)) == len(bits), "the model did change between them"


def test_nothing_is_compiled_for_it(shards: Path) -> None:
    made = engine(shards, of_stage(0))
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    compile_inner(made.deepspeed.module, backend)  # type: ignore[arg-type]
    judge = during(made, every=1)
    before = judge.scores()
    assert not compiled
    next(made.run())
    trained = len(compiled)
    assert trained
    assert judge.scores() != before and len(compiled) == trained
    made.close()


def test_when_it_is_due(shards: Path) -> None:
    def due(every: int) -> list[int]:
        judge = TrainingEvaluator(
            deepspeed=None,
            evaluator=None,
            evaluations=(),
            every=every,
            tokens=1000,  # type: ignore[arg-type]
        )
        none = np.empty(0, np.int64)
        steps = [
            GlobalBatch(step=step, before=before, tokens=300, sequences=none, counted=none)
            for step, before in enumerate((0, 300, 600))
        ]
        last = GlobalBatch(step=3, before=900, tokens=100, sequences=none, counted=none)
        return [step.step for step in [*steps, last] if judge.due(step)]

    assert due(300) == [0, 1, 2]
    assert due(500) == [1], "the last step is judged from what was saved"
    assert due(1) == [0, 1, 2]
    assert due(10_000) == []


def test_a_steps_loss_is_that_of_its_documents(shards: Path, tmp_path: Path) -> None:
    """Over one pass of a model that does not learn: the sum of steps is the sum of documents."""
    made = engine(shards, of_stage(0, lr=1e-30, weight_decay=0.0))
    model: LanguageModel = made.deepspeed.module
    nats = [
        step.loss * made.shards.predicted(batch.sequences, batch.counted).sum()
        for step in made.run()
        for batch in [made.plan.global_batch(step.step)]
    ]
    write_document_losses(
        model.eval(),
        ShardSet.open(shards),
        tmp_path / "losses.parquet",
        micro_batch=3,
        group=Group(),
    )
    table = pq.read_table(tmp_path / "losses.parquet")
    own = {name: cost for name, cost in zip(*table.select(["doc_id", "nats"]).to_pydict().values())}
    for step, total in enumerate(nats):
        names = [
            name
            for index in made.plan.global_batch(step).sequences.tolist()
            for name in made.shards.documents(index, index + 1).ids.to_pylist()
        ]
        assert sum(own[name] for name in names) == pytest.approx(total, rel=1e-5)
    made.close()
    assert len(nats) == 4 and len(own) > 37
