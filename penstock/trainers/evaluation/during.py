"""Evaluation while a model is trained: a learning curve that costs what its points cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from penstock.trainers.data.plan import GlobalBatch
from penstock.trainers.evaluation.evaluator import Evaluation, Evaluator, Scores

__all__ = ["TrainingEvaluator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEvaluator:
    """Judges the model of a DeepSpeed engine after every so many tokens.

    It is read as it is trained: in the engine's own type (bfloat16 on a GPU) and partitioned as
    ZeRO has it. The saved model is judged in float32, so the end of the curve may differ from it in
    the last digits. Nothing of the training changes: no random number is drawn.
    """

    deepspeed: Any
    evaluator: Evaluator
    evaluations: Sequence[Evaluation]
    every: int
    """Tokens between two evaluations."""
    tokens: int
    """The run's budget."""

    def due(self, batch: GlobalBatch) -> bool:
        """Whether a step passes a multiple; not the last, since the saved model is judged then."""
        after = batch.before + batch.tokens
        return batch.before // self.every < after // self.every and after < self.tokens

    def scores(self) -> Scores:
        """All workers call this together, between two steps."""
        self.deepspeed.eval()
        try:
            # Compiled code is of training's shapes; others would be compiled for a few batches.
            with torch.compiler.set_stance("force_eager"):
                return self.evaluator.scores(self.evaluations)
        finally:
            self.deepspeed.train()
