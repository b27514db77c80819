"""Evaluation of a run: a learning curve while it trains, and its saved model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.artefact import Artefact, Workspace
from penstock.language_models.trees import TokenTree, TreeBatch, tree_nats
from penstock.language_models.windows import batch_windows
from penstock.node_cache import local_tree
from penstock.recipe import ModelFrom
from penstock.trainers.backends.base import Backend
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.evaluation.artefacts import MODEL, evaluation_of, losses_of
from penstock.trainers.evaluation.documents import write_document_losses
from penstock.trainers.evaluation.evaluator import evaluate
from penstock.trainers.evaluation.examples import Evaluation, TreeNats
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

    All workers call :meth:`evaluate_live` and :meth:`measure` together.

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
        """Return whether to evaluate after a step: the last, or one that passes a multiple.

        The multiples are of ``evaluate_every``; without it there is no evaluation in training.

        Args:
            before: Tokens trained on before the step.
            after: Tokens trained on after it.
        """
        every = self.spec.train.evaluate_every
        if not every or not self.spec.evaluations:
            return False
        return before // every < after // every or after >= self.spec.tokens

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
                return self._evaluate(
                    self.spec.evaluations,
                    backend.model,
                    backend.forward,
                    self.shards.tokenizer,
                )
        finally:
            backend.model.train()

    def measure(self, workspace: Workspace, generation: int = 0) -> None:
        """Evaluate the finished run on what it was not evaluated on, and read its documents.

        Every worker loads the whole model, in float32; rank 0 decides what is missing, and writes.

        Args:
            workspace: Where the run is, and the artefacts are made.
            generation: Number of the driver's lease.

        Raises:
            ArtefactError: A file of the model changed since it was written.
        """
        spec, group = self.spec, self.group
        found = None if group.rank else _missing(spec, workspace)
        missing, losses, manifest = group.gather(found)[0]
        if not missing and not losses:
            return
        run = Artefact.of(spec.draft(workspace).path, manifest)
        files = run.named(MODEL)
        for record in files:
            run.verified(record)
        names = [(record.path, record.sha256) for record in files]
        directory = local_tree(run.path, names, run.digest_of(MODEL)) / "model"
        # Loaded like a model to continue, so that documents are kept apart as in training.
        saved = ModelFrom(hf=str(directory))
        model = build_model(saved, self.shards, spec.seed).eval().to(group.device)
        for number in missing:
            item = spec.evaluations[number]
            scores = self._evaluate([item], model, model, directory / "tokenizer.json")
            examples = scores.examples[item.name]
            if not group.rank:
                facts = {"name": item.name, "metrics": examples.summary()}
                evaluation_of(run, item).make(workspace, examples.write, facts, generation)
        if losses:
            self._read_documents(run, model, workspace, generation)
        group.barrier()

    def _read_documents(
        self, run: Artefact, model: LanguageModel, workspace: Workspace, generation: int
    ) -> None:
        size, group = self.spec.train.micro_batch, self.group

        def write(path: Path) -> None:
            write_document_losses(model, self.shards, path, micro_batch=size, group=group)

        if group.rank:
            write(Path())
        else:
            losses_of(run).make(workspace, write, {}, generation)

    def _evaluate(
        self,
        evaluations: Sequence[Evaluation],
        model: LanguageModel,
        forward: Callable[[TreeBatch], torch.Tensor],
        tokenizer: Path,
    ) -> Scores:
        return evaluate(
            evaluations,
            tree_reader(forward, self.group),
            tokenizer,
            eos=self.shards.eos,
            context=self.shards.sequence_length,
            branches=model.reads_branches,
        )


def _missing(spec: RunSpec, workspace: Workspace) -> tuple[list[int], bool, dict[str, Any]]:
    """Return the numbers of missing evaluations, whether losses are missing, and the manifest."""
    run = spec.run(workspace)
    assert run is not None
    missing = {
        item.digest: number
        for number, item in enumerate(spec.evaluations)
        if evaluation_of(run, item).find(workspace) is None
    }
    losses = spec.train.document_losses and losses_of(run).find(workspace) is None
    return list(missing.values()), losses, run.manifest


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
