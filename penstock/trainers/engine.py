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
from penstock.hashing import mix
from penstock.recipe import Train
from penstock.selectors.reweighting import Reweighter
from penstock.trainers.backend import deepspeed_config, forget_dry_run, load_deepspeed
from penstock.trainers.data.loader import LoadedStep, Loader
from penstock.trainers.data.plan import BatchPlan
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.metrics import StepMetrics
from penstock.trainers.modelling.build import build_model
from penstock.trainers.modelling.flops import Arithmetic, Parameters, Utilisation, peak_flops
from penstock.trainers.modelling.model import LanguageModel
from penstock.trainers.modelling.options import apply_options
from penstock.trainers.reweighting.steps import Reweighting
from penstock.trainers.schedule import LearningRate

__all__ = ["Engine"]


class Engine:
    """Model, optimiser and data order of one worker, in a process group that is up.

    Args:
        train: The recipe's training settings.
        shards: What to train on.
        seed: Of the initial weights and the order.
        group: The workers.
        reweighter: A new one, where ``train.reweight`` asks for it.
        journal: Directory in which the weights of a reweighted run are kept; rank 0's.
    """

    def __init__(
        self,
        train: Train,
        shards: ShardSet,
        seed: int,
        group: Group,
        *,
        reweighter: Reweighter | None = None,
        journal: Path | None = None,
    ) -> None:
        self.train = train
        self.seed = seed
        self.shards = shards
        self.group = group
        self.plan = BatchPlan.of(train, shards, seed)
        self.loader = Loader(shards, self.plan, group, train.micro_batch)
        self.rate = LearningRate.of(train, self.plan.tokens)
        self._model = build_model(train.model, shards, seed)
        self.parameters = Parameters.of(self._model)
        arithmetic = Arithmetic.of(self._model)
        apply_options(self._model, train, group.device)
        self.deepspeed = self._start()
        dtype = next(self._model.parameters()).dtype
        self._utilisation = Utilisation(arithmetic, peak_flops(group.device, dtype))
        assert (train.reweight is None) == (reweighter is None)
        self.reweighting: Reweighting | None = None
        if train.reweight and reweighter:
            self.reweighting = Reweighting(
                train.reweight,
                reweighter,
                engine=self.deepspeed,
                loader=self.loader,
                trained=self._utilisation.add,
                directory=journal if group.rank == 0 else None,
            )

    def run(self, start: int = 0) -> Iterator[StepMetrics]:
        """Train from step ``start`` until the budget is spent, telling of each step.

        Raises:
            TrainingError: A step failed; the message names it and the worker's sequences.
        """
        self.deepspeed.train()
        began, waited = time.perf_counter(), 0.0
        for loaded in self.loader.steps(start):
            try:
                step = self._step(loaded)
            except Exception as error:
                raise self._step_error(loaded, error) from error
            now = time.perf_counter()
            yield StepMetrics(
                **step,
                tokens_per_second=loaded.batch.tokens / (now - began),
                loader_seconds=self.loader.waited - waited,
                mfu=self._utilisation.take(now - began),
            )
            began, waited = time.perf_counter(), self.loader.waited

    def save(self, directory: Path) -> None:
        """Write the model as transformers reads it; every worker must call this."""
        model: Any = self._model.causal
        if self.deepspeed.zero_optimization_partition_weights():
            deepspeed = load_deepspeed()
            with deepspeed.zero.GatheredParameters(list(model.parameters())):
                if self.group.rank == 0:
                    model.save_pretrained(directory)
        elif self.group.rank == 0:
            model.save_pretrained(directory)

    def close(self) -> None:
        """Free what DeepSpeed holds, so that another run can follow in this process."""
        self.deepspeed.destroy()

    def _start(self) -> Any:
        deepspeed = load_deepspeed()
        accumulation = -(-self.plan.batch // (self.group.workers * self.train.micro_batch))
        on_gpu = self.group.device.type == "cuda"
        config = deepspeed_config(self.train, accumulation=accumulation, bf16=on_gpu)
        engine, *_ = deepspeed.initialize(
            model=self._model,
            optimizer=_optimizer(self._model, self.train),
            config=config,
        )
        forget_dry_run(engine)
        return engine

    def _step(self, loaded: LoadedStep) -> dict[str, Any]:
        engine, batch = self.deepspeed, loaded.batch
        # What a model draws (dropout) belongs to the step, so a resumed run draws the same.
        torch.manual_seed(mix("step", self.seed, batch.step, self.group.rank))
        rate = self.rate.at(batch.before + batch.tokens / 2)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        if self.reweighting:
            reweighted = self.reweighting.step(loaded)
            total, facts = torch.tensor(reweighted.loss), reweighted.facts
        else:
            total, facts = self._accumulate(loaded), {}
        norm = self._gradient_norm()
        engine.step()
        mean = float(total)
        if not np.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean}; lower train.lr or train.clip")
        return {
            "step": batch.step,
            "tokens": batch.before + batch.tokens,
            "loss": mean,
            "lr": rate,
            "grad_norm": self._known_norm() if norm is None else norm,
            "data": loaded.digest,
            "reweighting": facts,
        }

    def _accumulate(self, loaded: LoadedStep) -> torch.Tensor:
        """Gradients of the mean over the global batch's labels, and that mean: () float64."""
        engine = self.deepspeed
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        last = len(loaded.pieces) - 1
        for number, micro_batch in enumerate(loaded.micro_batches):
            engine.set_gradient_accumulation_boundary(number == last)
            self._utilisation.add(micro_batch)
            loss = engine(micro_batch.to(self.group.device)) / max(1, loaded.predicted)
            total += loss.detach()
            # Gradients are averaged over workers; ours are parts of one mean.
            engine.backward(loss * self.group.workers, scale_wrt_gas=False)
        return self.group.all_sum(total)

    def _gradient_norm(self) -> float | None:
        """The norm where DeepSpeed keeps none: stage 0 in float32."""
        engine = self.deepspeed
        if engine.zero_optimization() or engine.bfloat16_enabled() or engine.fp16_enabled():
            return None
        grads = [p.grad for p in self._model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def _known_norm(self) -> float:
        norm = self.deepspeed.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def _step_error(self, loaded: LoadedStep, error: Exception) -> TrainingError:
        where = self.shards.where(loaded.batch.sequences[np.concatenate(loaded.pieces)].tolist())
        what = " ".join(str(error).split())
        return TrainingError(f"step {loaded.batch.step}, {where}: {type(error).__name__}: {what}")


def _optimizer(model: LanguageModel, train: Train) -> torch.optim.Optimizer:
    """AdamW in PyTorch's own fused loop; matrices decay, gains do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
