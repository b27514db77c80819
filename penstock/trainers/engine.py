"""One worker's training: optimiser steps over global batches, until the budget is spent.

The loss of a step is the mean over the global batch's predicted tokens, whichever worker and
micro-batch read them. Each worker counts all of them from the shards' offsets, so the sums are
weighted right without communication.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.errors import NotFiniteError, TrainingError
from penstock.hashing import mix
from penstock.recipe import Train
from penstock.selectors.reweighting import Reweighter
from penstock.storage import new_file_status
from penstock.trainers.backends import find_backend
from penstock.trainers.data.loader import LoadedStep, Loader
from penstock.trainers.data.plan import BatchPlan
from penstock.trainers.data.position import DataPosition
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.metrics import NotFiniteStep, StepMetrics
from penstock.trainers.modelling.build import apply_options, build_model
from penstock.trainers.modelling.flops import Utilisation, count_parameters, peak_flops
from penstock.trainers.reweighting.steps import Reweighting
from penstock.trainers.schedule import learning_rate

__all__ = ["Engine"]


class Engine:
    """Model, optimiser and data order of one worker, in a process group that is up.

    Args:
        train: The recipe's training settings.
        shards: The training data.
        seed: Seed of the initial weights and of the order.
        group: The workers.
        reweighter: A new one, if ``train.reweight`` is set.
        journal: Directory for the weights of a reweighted run; rank 0 writes it.
        start: Where the data of an earlier run goes on; by default, its beginning.
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
        start: DataPosition | None = None,
    ) -> None:
        backend = find_backend(train.backend)
        dtype = backend.resolve_dtype(train, gpus=group.device.type == "cuda")
        self.train = train = train.model_copy(update={"dtype": dtype})
        self.seed = seed
        self.shards = shards
        self.group = group
        self.plan = BatchPlan.of(train, shards, seed, start)
        self.loader = Loader(shards, self.plan, group, train.micro_batch)
        self.rate = learning_rate(train, self.plan.tokens)
        self._model = build_model(train.model, shards, seed)
        self.parameters = count_parameters(self._model)
        self.shapes = {name: weight.shape for name, weight in self._model.named_parameters()}
        """Of the weights, by their names."""
        self._utilisation = Utilisation(self._model)
        apply_options(self._model, train, group.device)
        accumulation = -(-self.plan.batch // (group.workers * train.micro_batch))
        self.backend = backend.start(self._model, train, group, accumulation)
        self._utilisation.peak = peak_flops(group.device, next(self._model.parameters()).dtype)
        assert (train.reweight is None) == (reweighter is None)
        self.reweighting: Reweighting | None = None
        if train.reweight and reweighter:
            self.reweighting = Reweighting(
                train.reweight,
                reweighter,
                backend=self.backend,
                loader=self.loader,
                trained=self._utilisation.add,
                directory=journal if group.rank == 0 else None,
            )

    def run(self, start: int = 0) -> Iterator[StepMetrics | NotFiniteStep]:
        """Train from step ``start`` until the budget is spent, and yield every step's metrics.

        A step whose loss or gradient is not finite is yielded as such, unless
        ``train.not_finite`` is ``stop``. The caller may change the weights before the next one.

        Raises:
            TrainingError: A step failed; the message names it and the worker's sequences.
        """
        began, waited = time.perf_counter(), 0.0
        for loaded in self.loader.steps(start):
            try:
                step = self._step(loaded)
            except Exception as error:
                raise self._step_error(loaded, error) from error
            now = time.perf_counter()
            if isinstance(step, NotFiniteStep):
                self._utilisation.take(now - began)
                yield step
                began, waited = time.perf_counter(), self.loader.waited
                continue
            yield StepMetrics(
                **step,
                tokens_per_second=loaded.batch.tokens / (now - began),
                loader_seconds=self.loader.waited - waited,
                mfu=self._utilisation.take(now - began),
            )
            began, waited = time.perf_counter(), self.loader.waited

    def save(self, directory: Path) -> None:
        """Write the model for transformers, with the modes of new files; a collective.

        safetensors makes files of mode 0600, whatever the umask is.
        """
        with self.backend.gathered():
            if self.group.rank == 0:
                self._model.save(directory)
                mode = stat.S_IMODE(new_file_status(directory).st_mode)
                for path in directory.iterdir():
                    path.chmod(mode)

    def close(self) -> None:
        """Free memory, so that another run can follow in this process."""
        self.backend.close()

    def _step(self, loaded: LoadedStep) -> dict[str, Any] | NotFiniteStep:
        batch = loaded.batch
        # Random numbers of the model (dropout) depend on the step, so a resumed run draws the same.
        torch.manual_seed(mix("step", self.seed, batch.step, self.group.rank))
        rate = self.rate(batch.before + batch.tokens / 2)
        if self.reweighting:
            reweighted = self.reweighting.step(loaded)
            total, facts = torch.tensor(reweighted.loss), reweighted.facts
        else:
            total, facts = self._accumulate(loaded), {}
        norm = self.backend.step(rate)
        mean = float(total)
        if not np.isfinite(mean) or np.isinf(norm):
            what = "gradient" if np.isfinite(mean) else "loss"
            # A gradient that is finite has updated the weights by a loss that is not.
            if self.train.not_finite == "stop" or not np.isinf(norm):
                found = mean if what == "loss" else norm
                raise FloatingPointError(f"the {what} is {found}; lower train.lr or train.clip")
            return NotFiniteStep(
                step=batch.step,
                tokens=batch.before + batch.tokens,
                not_finite=what,
                lr=rate,
                data=loaded.digest,
            )
        return {
            "step": batch.step,
            "tokens": batch.before + batch.tokens,
            "loss": mean,
            "lr": rate,
            "grad_norm": norm,
            "data": loaded.digest,
            "reweighting": facts,
        }

    def _accumulate(self, loaded: LoadedStep) -> torch.Tensor:
        """Add the gradient of the mean over the global batch's labels; return it: () float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        last = len(loaded.pieces) - 1
        for number, micro_batch in enumerate(loaded.micro_batches):
            self._utilisation.add(micro_batch)
            summed = self.backend.forward(micro_batch.to(self.group.device))
            loss = summed / max(1, loaded.predicted)
            total += loss.detach()
            self.backend.accumulate(loss, last=number == last)
        return self.group.all_sum(total)

    def _step_error(self, loaded: LoadedStep, error: Exception) -> TrainingError:
        where = self.shards.where(loaded.batch.sequences[np.concatenate(loaded.pieces)].tolist())
        what = " ".join(str(error).split())
        kind = NotFiniteError if isinstance(error, FloatingPointError) else TrainingError
        return kind(f"step {loaded.batch.step}, {where}: {type(error).__name__}: {what}")
