"""All that a run is judged by: on the way, and what was saved at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.recipe import ModelFrom
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import documents
from penstock.trainers.evaluation.during import TrainingEvaluator
from penstock.trainers.evaluation.evaluator import Evaluator, Scores
from penstock.trainers.evaluation.reading import Reader
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.spec import RunSpec

__all__ = ["RunEvaluator"]


class RunEvaluator:
    """Judges a run's model; all workers call each method together.

    Args:
        spec: Of the run.
        shards: What it trains on.
        group: The workers.
    """

    def __init__(self, spec: RunSpec, shards: ShardSet, group: Group) -> None:
        self.spec = spec
        self.shards = shards
        self.group = group

    @property
    def files(self) -> list[str]:
        """What :meth:`finish` writes into the run's directory."""
        return [documents.FILE] if self.spec.train.document_losses else []

    def during(self, deepspeed: Any) -> TrainingEvaluator | None:
        """Who judges the model of this DeepSpeed engine as it is trained, where that is wanted."""
        if not self.spec.train.evaluate_every or not self.spec.evaluations:
            return None
        return TrainingEvaluator(
            deepspeed=deepspeed,
            evaluator=self._evaluator(deepspeed, self.shards.tokenizer),
            evaluations=self.spec.evaluations,
            every=self.spec.train.evaluate_every,
            tokens=self.spec.tokens,
        )

    def finish(self, directory: Path) -> Scores:
        """Evaluate the model saved below ``directory``, and write its documents' losses if wanted.

        Every worker loads all of the model, in float32.
        """
        train = self.spec.train
        if not self.spec.evaluations and not train.document_losses:
            return Scores(bits_per_byte={}, accuracy={})
        # As a model to go on from, so that documents are kept apart as in training.
        saved = ModelFrom(hf=str(directory / "model"))
        model = build_model(saved, self.shards, self.spec.seed).eval().to(self.group.device)
        if train.document_losses:
            documents.write_document_losses(
                model,
                self.shards,
                directory / documents.FILE,
                micro_batch=train.micro_batch,
                group=self.group,
            )
        evaluator = self._evaluator(model, directory / "model" / "tokenizer.json")
        return evaluator.scores(self.spec.evaluations)

    def _evaluator(self, model: Any, tokenizer: Path) -> Evaluator:
        reader = Reader(model, self.group)
        context = self.shards.sequence_length
        return Evaluator(reader, tokenizer, eos=self.shards.eos, context=context)
