"""Evaluation of a model in training, between two steps, on every stage of ZeRO."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.recipe import Train
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.evaluation.documents import write_document_losses
from penstock.trainers.evaluation.evaluator import evaluate
from penstock.trainers.evaluation.examples import Evaluation, Example
from penstock.trainers.evaluation.run_evaluator import RunEvaluator, tree_reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import compile_inner, load_model
from penstock.trainers.modelling.model import LanguageModel
from penstock.trainers.spec import RunSpec
from tests.trainers.test_engine import TRAIN, engine

from .conftest import READING
from .test_examples import QUESTIONS

pytestmark = pytest.mark.usefixtures("process_group")

TEXTS = (Example(choices=("water flows",)), Example(choices=("the turbine é",)))
EVALUATIONS = (Evaluation(name="quiz", examples=(*QUESTIONS, *TEXTS)),)


def of_stage(stage: int, **changes: Any) -> Train:
    zero = {"zero_optimization": {"stage": stage}}
    return TRAIN.model_copy(update={"deepspeed": zero, **changes})


def evaluator(made: Engine, **train: Any) -> RunEvaluator:
    asked = TRAIN.model_copy(update={"evaluate_every": 1, "tokens": made.plan.tokens, **train})
    spec = RunSpec(train=asked, shards=made.shards.artefact.path, seed=1, evaluations=EVALUATIONS)
    return RunEvaluator(spec, made.shards, Group())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_model_in_training_scores_like_the_saved_one_and_training_does_not_change(
    shards: Path, tmp_path: Path, stage: int
) -> None:
    alone = engine(shards, of_stage(stage))
    expected = [(step.loss, step.grad_norm) for step in alone.run()]
    alone.close()
    made = engine(shards, of_stage(stage))
    live = evaluator(made)
    found, curve = [], [live.evaluate_live(made.backend)]
    for step in made.run():
        found.append((step.loss, step.grad_norm))
        curve.append(live.evaluate_live(made.backend))
        assert made.backend.model.training
    assert found == expected, "to the bit"
    made.save(tmp_path / "model")
    reader = tree_reader(load_model(tmp_path / "model").eval(), Group())
    saved = evaluate(EVALUATIONS, reader, made.shards.tokenizer, **READING)
    made.close()
    bits = [scores.to_json()["bits_per_byte"]["quiz"]["mean"] for scores in curve]
    last, expected = (scores.examples["quiz"].table.to_pydict() for scores in (curve[-1], saved))
    for name in last:
        found_values, wanted = (np.array(one[name], float) for one in (last, expected))
        np.testing.assert_allclose(found_values, wanted, rtol=1e-4, atol=1e-4)
    assert len(set(bits)) == len(bits), "the model did not change between them"


# torch._dynamo reads .grad of the tensors that it traces, and instantiates the linear function that
# DeepSpeed puts in the place of PyTorch's once a process has run ZeRO 3.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Function.. should not be instantiated:DeprecationWarning")
def test_nothing_is_compiled_for_it(shards: Path) -> None:
    made = engine(shards, of_stage(0))
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    compile_inner(made.backend.model, backend)  # type: ignore[arg-type]
    live = evaluator(made)
    before = live.evaluate_live(made.backend).to_json()
    assert not compiled
    next(made.run())
    trained = len(compiled)
    assert trained
    assert live.evaluate_live(made.backend).to_json() != before and len(compiled) == trained
    made.close()


def test_when_it_is_due(shards: Path) -> None:
    def due(every: int | None, evaluations: tuple[Evaluation, ...] = EVALUATIONS) -> list[int]:
        asked = Train(tokens=1000, evaluate_every=every)
        spec = RunSpec(train=asked, shards=shards, seed=1, evaluations=evaluations)
        run = RunEvaluator(spec, ShardSet.open(shards), Group())
        edges = [0, 300, 600, 900, 1000]
        return [step for step, pair in enumerate(pairwise(edges)) if run.due(*pair)]

    assert due(300) == [0, 1, 2, 3]
    assert due(500) == [1, 3], "the curve ends at the last step"
    assert due(1) == [0, 1, 2, 3]
    assert due(10_000) == [3] and due(None) == due(1, ()) == []


def test_a_steps_loss_is_that_of_its_documents(shards: Path, tmp_path: Path) -> None:
    """In one pass of a model that does not learn, the steps have the losses of their documents."""
    made = engine(shards, of_stage(0, lr=1e-30, weight_decay=0.0))
    model: LanguageModel = made._model
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
