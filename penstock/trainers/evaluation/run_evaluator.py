"""Evaluation of a run: a learning curve while it trains, and the saved model at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from penstock.language_models.trees import TokenTree, TreeBatch, tree_nats
from penstock.language_models.windows import batch_windows
from penstock.recipe import ModelFrom
from penstock.trainers.backends.base import Backend
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation import documents
from penstock.trainers.evaluation.evaluator import evaluate
from penstock.trainers.evaluation.examples import TreeNats
from penstock.trainers.evaluation.scores import Scores
from penstock.trainers.group import Group
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.model import LanguageModel
from penstock.trainers.spec import RunSpec

__all__ = ["RunEvaluator", "tree_reader"]

BATCH_TOKENS = 2048
"""Padded tokens of a forward pass, sorted by length so that few of them are padding. On one core
2,048 ran 8 % faster than 8,192 (48,000 tokens/s at width 128): activations stay in the cache."""


class RunEvaluator:
    """Evaluates the model of a run.

    All workers call :meth:`evaluate_live` and :meth:`finish` together.

    Args:
        spec: The run.
        shards: Training data of the run.
        group: The workers.
    """

    def __init__(self, spec: RunSpec, shards: ShardSet, group: Group) -> None:
        self.spec = spec
        self.shards = shards
        self.group = group

    def due(self, before: int, after: int) -> bool:
        """Return whether to evaluate after a step: it passes a multiple of ``evaluate_every``.

        It is False for the last step, after which the saved model is evaluated.

        Args:
            before: Tokens trained on before the step.
            after: Tokens trained on after it.
        """
        every = self.spec.train.evaluate_every
        if not every or not self.spec.evaluations:
            return False
        return before // every < after // every and after < self.spec.tokens

    def evaluate_live(self, backend: Backend) -> Scores:
        """Evaluate a model between two steps of its training.

        The model is read as it is trained: in its own type (bfloat16 on a GPU), and partitioned if
        the back end partitions it. The saved model is evaluated in float32, so the end of the
        curve may differ from it in the last digits. Training does not change: no random number is
        drawn.
        """
        backend.model.eval()
        try:
            # Compiled code has the shapes of training; others would be compiled for a few batches.
            with torch.compiler.set_stance("force_eager"):
                return self._evaluate(backend.model, backend.forward, self.shards.tokenizer)
        finally:
            backend.model.train()

    def finish(self, directory: Path) -> tuple[Scores, dict[str, str]]:
        """Evaluate the model saved below ``directory``, and write the losses of its documents.

        Every worker loads the whole model, in float32; rank 0 writes the files.

        Returns:
            The results, and the name in ``directory`` of each evaluation's file of examples.
        """
        train = self.spec.train
        if not self.spec.evaluations and not train.document_losses:
            return Scores({}), {}
        # Loaded like a model to continue, so that documents are kept apart as in training.
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
        scores = self._evaluate(model, model, directory / "model" / "tokenizer.json")
        files = {}
        for number, (name, examples) in enumerate(scores.examples.items()):
            files[name] = f"examples-{number:05d}.parquet"
            if not self.group.rank:
                examples.write(directory / files[name])
        return scores, files

    def _evaluate(
        self, model: LanguageModel, forward: Callable[[TreeBatch], torch.Tensor], tokenizer: Path
    ) -> Scores:
        return evaluate(
            self.spec.evaluations,
            tree_reader(forward, self.group),
            tokenizer,
            eos=self.shards.eos,
            context=self.shards.sequence_length,
            branches=model.reads_branches,
        )


def tree_reader(model: Callable[[TreeBatch], torch.Tensor], group: Group) -> TreeNats:
    """Return a function that reads trees of tokens with a model that is in evaluation mode.

    Losses are equal for any number of workers: whole batches are dealt to them. Every worker makes
    equally many forward passes, because a pass is a collective operation where the model is
    partitioned over workers (ZeRO 3). The cost: a worker with a batch less reads the shortest batch
    again.

    Args:
        model: Trees to nats, as :meth:`~penstock.trainers.modelling.model.LanguageModel.forward`
            computes them: a model, or the back end around one.
        group: The workers, which call the function together, with the same trees, and all get the
            same; the model is on its device.
    """

    def read(trees: Sequence[TokenTree]) -> np.ndarray:
        ends = np.cumsum([0, *(len(tree.parts) for tree in trees)])
        nats = np.zeros(ends[-1])
        batches = list(batch_windows(trees, BATCH_TOKENS))
        own = batches[group.rank :: group.workers]
        for rows in own:
            places = [np.arange(ends[row], ends[row + 1]) for row in rows]
            found = tree_nats(model, [trees[row] for row in rows], group.device)
            nats[np.concatenate(places)] = found
        if len(own) < -(-len(batches) // group.workers):
            tree_nats(model, [trees[row] for row in batches[0]], group.device)
        summed: np.ndarray = group.all_sum(torch.from_numpy(nats)).cpu().numpy()
        return summed

    return read
