"""One worker's training: DeepSpeed steps over global batches, until the budget is spent.

The loss of a step is the mean over the global batch's predicted tokens, whichever worker and
micro-batch they fell to. Each worker can count them all from the shards' offsets, so the sums are
weighted right without a word between workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.errors import TrainingError
from penstock.recipe import Train
from penstock.trainers.backend import deepspeed_config, load_deepspeed
from penstock.trainers.data.batch import IGNORED, collate
from penstock.trainers.data.order import Order
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.metrics import StepMetrics
from penstock.trainers.modelling.model import LanguageModel, build_model
from penstock.trainers.schedule import LearningRate

__all__ = ["Engine"]


class Engine:
    """Model, optimiser and data order of one worker, in a process group that is up.

    Args:
        train: The recipe's training settings.
        shards: What to train on, once.
        seed: Of the initial weights and the order.
        device: Where this worker computes.
        rank: This worker.
        workers: All of them.
    """

    def __init__(
        self,
        train: Train,
        shards: ShardSet,
        seed: int,
        *,
        device: torch.device,
        rank: int,
        workers: int,
    ) -> None:
        self.train = train
        self.shards = shards
        self.device = device
        self.rank = rank
        self.workers = workers
        batch = max(1, train.batch_tokens // shards.sequence_length)
        self.order = Order(sequences=len(shards), batch=batch, seed=seed)
        self.rate = LearningRate.of(train, shards.tokens)
        self._model = build_model(train.model, shards, seed)
        self._deepspeed = self._start()

    def run(self) -> Iterator[StepMetrics]:
        """Train on every sequence once, telling of each step.

        Raises:
            TrainingError: A step failed; the message names it and the worker's sequences.
        """
        self._deepspeed.train()
        for step in range(self.order.steps):
            began = time.perf_counter()
            pieces = self.order.micro_batches(
                step, rank=self.rank, workers=self.workers, micro_batch=self.train.micro_batch
            )
            try:
                metrics = self._step(step, pieces, began)
            except Exception as error:
                raise _step_error(step, pieces, error) from error
            yield metrics

    def save(self, directory: Path) -> None:
        """Write the model as transformers reads it; every worker must call this."""
        model: Any = self._model.causal
        if self._deepspeed.zero_optimization_partition_weights():
            deepspeed = load_deepspeed()
            with deepspeed.zero.GatheredParameters(list(model.parameters())):
                if self.rank == 0:
                    model.save_pretrained(directory)
        elif self.rank == 0:
            model.save_pretrained(directory)

    def close(self) -> None:
        """Free what DeepSpeed holds, so that another run can follow in this process."""
        self._deepspeed.destroy()

    def _start(self) -> Any:
        deepspeed = load_deepspeed()
        accumulation = -(-self.order.batch // (self.workers * self.train.micro_batch))
        on_gpu = self.device.type == "cuda"
        config = deepspeed_config(self.train, accumulation=accumulation, bf16=on_gpu)
        engine, *_ = deepspeed.initialize(
            model=self._model,
            optimizer=_optimizer(self._model, self.train),
            config=config,
        )
        return engine

    def _step(self, step: int, pieces: list[np.ndarray], began: float) -> StepMetrics:
        engine = self._deepspeed
        batch = self.order.global_batch(step)
        before = step * self.order.batch * self.shards.sequence_length
        tokens = len(batch) * self.shards.sequence_length
        rate = self.rate.at(before + tokens / 2)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        predicted = self.shards.predicted(batch)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, piece in enumerate(pieces):
            engine.set_gradient_accumulation_boundary(number == len(pieces) - 1)
            loss = engine(self._batch(piece)) / max(1, predicted)
            total += loss.detach()
            # Gradients are averaged over workers; ours are parts of one mean.
            engine.backward(loss * self.workers, scale_wrt_gas=False)
        norm = self._gradient_norm()
        engine.step()
        if self.workers > 1:
            torch.distributed.all_reduce(total)
        mean = float(total)
        if not np.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean}; lower train.lr or train.clip")
        return StepMetrics(
            step=step,
            tokens=before + tokens,
            loss=mean,
            lr=rate,
            tokens_per_second=tokens / (time.perf_counter() - began),
            grad_norm=self._known_norm() if norm is None else norm,
        )

    def _batch(self, piece: np.ndarray) -> Any:
        """This worker's micro-batch; with none left, one that counts for nothing."""
        if len(piece):
            return collate([self.shards[int(index)] for index in piece]).to(self.device)
        batch = collate([self.shards[0]]).to(self.device)
        batch.labels.fill_(IGNORED)
        return batch

    def _gradient_norm(self) -> float | None:
        """The norm where DeepSpeed keeps none: stage 0 in float32."""
        engine = self._deepspeed
        if engine.zero_optimization() or engine.bfloat16_enabled() or engine.fp16_enabled():
            return None
        grads = [p.grad for p in self._model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def _known_norm(self) -> float:
        norm = self._deepspeed.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)


def _optimizer(model: LanguageModel, train: Train) -> torch.optim.Optimizer:
    """AdamW in PyTorch's own fused loop; matrices decay, gains do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)


def _step_error(step: int, pieces: list[np.ndarray], error: Exception) -> TrainingError:
    sequences = np.concatenate(pieces).tolist()
    shown = ", ".join(map(str, sequences[:8])) + (", …" if len(sequences) > 8 else "")
    return TrainingError(
        f"step {step}, sequences {shown}: {type(error).__name__}: {' '.join(str(error).split())}"
    )
