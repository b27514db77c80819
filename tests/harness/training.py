"""Run the workers of a training run in forks of one process, without Ray, and kill them.

A point is ``{"rank": r, "point": name}``; a name is the kind of a call, the file below the run's
directory (without step number and random parts) and the moment, such as ``rename checkpoints/step,
before``, or that of a collective or of a part of a step, such as ``forward, after``.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from penstock.artefact import Workspace
from penstock.recipe import Train
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.trainers import worker
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.group import Group
from penstock.trainers.spec import RunSpec
from tests.harness.forks import ForkServer
from tests.harness.points import Plan, Points, path_of

TRAIN: dict[str, Any] = {
    "model": {"layers": 1, "width": 32, "heads": 2},
    "batch_tokens": 8 * 32,
    "micro_batch": 2,
    "lr": 1e-2,
    "warmup": 0.0,
    "device": "cpu",
    "checkpoint": {"minutes": None, "tokens": 2 * 8 * 32, "keep": 1},
}
"""37 sequences make 5 steps; checkpoints after 2 and 4, and one at the end."""

LATE = (
    "deepspeed.checkpoint.ds_to_universal",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "functorch.compile",
    "pandas",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.event_file_writer",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
)
"""Modules that a worker imports late."""


def prepare() -> None:
    """Import what a worker needs, late imports too."""
    import pyarrow as pa

    from penstock.hashing import hash_ids
    from penstock.trainers.backends.deepspeed.engine import load_deepspeed

    load_deepspeed(torch.device("cpu"))
    hash_ids(pa.array(["numba and pandas are imported by the first call"]), 0)
    for module in LATE:
        importlib.import_module(module)
    torch.set_num_threads(1)


def run(order: dict[str, Any], rank: int) -> int:
    """Be one worker of a run; return its exit status."""
    workers = order["workers"]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    if "call" in order:
        module, _, function = order["call"].partition(":")
        getattr(importlib.import_module(module), function)(*order["arguments"], rank, workers)
        return 0
    torch.distributed.init_process_group(
        "gloo",
        f"file://{order['store']}",
        rank=rank,
        world_size=workers,
        timeout=datetime.timedelta(seconds=60),
    )
    spec, workspace = spec_of(order), Workspace(Path(order["work"]))
    directories = {
        f"{spec.draft(workspace).path}/": "",
        f"{workspace.root / 'evaluation'}/": "evaluation/",
    }
    _WorkerPoints(order["plan"], directories, rank).watch()
    worker.run_one(spec, workspace, Group(rank, workers), signer_of(order))
    torch.distributed.barrier()
    return 0


class _WorkerPoints:
    _RANDOM = re.compile(r"\.[0-9a-f]{32}(?:\.tmp)?$|(?<=/events)\.out\.tfevents\..*$")

    def __init__(self, plan: str, directories: dict[str, str], rank: int) -> None:
        self._directories = directories
        """The beginning of a point's name for each directory in which files are watched."""
        self._rank = rank
        self._points = Points(plan, self._of_file)

    def watch(self) -> None:
        from deepspeed.runtime.engine import DeepSpeedEngine

        from penstock.trainers.backends.torch import Torch
        from penstock.trainers.engine import Engine
        from penstock.trainers.evaluation.run_evaluator import RunEvaluator

        self._points.watch_files()
        self._watch_torch_save()
        for name in ("barrier", "all_gather_object", "broadcast"):
            self._around(torch.distributed, name, name)
        for name in ("forward", "backward", "step", "save_checkpoint", "load_checkpoint"):
            self._around(DeepSpeedEngine, name, name)
        for method, name in (("forward", "forward"), ("accumulate", "backward"), ("step", "step")):
            self._around(Torch, method, name)
        self._around(Engine, "save", "export")
        self._around(RunEvaluator, "_evaluate", "evaluation")

    def _around(self, owner: Any, attribute: str, name: str) -> None:
        self._points.around(owner, attribute, lambda moment: self._named(f"{name}, {moment}"))

    def _watch_torch_save(self) -> None:
        """Count writes of PyTorch and safetensors, which open files outside of Python."""
        import safetensors.torch

        def watched(real: Callable[..., None]) -> Callable[..., None]:
            def save(value: Any, file: Any, *args: Any, **named: Any) -> None:
                if not isinstance(file, (str, os.PathLike)):
                    return real(value, file, *args, **named)
                path = path_of(file)
                meet("write", path, "before")
                real(value, file, *args, **named)
                meet("write", path, "half", lambda: os.truncate(path, os.path.getsize(path) // 2))
                return meet("write", path, "after")

            return save

        meet = self._points.meet_file
        torch.save = watched(torch.save)
        safetensors.torch.save_file = watched(safetensors.torch.save_file)

    def _of_file(self, kind: str, path: str, moment: str) -> dict[str, Any] | None:
        known = [own for own in self._directories if path.startswith(own)]
        if not known:
            return None
        name = self._RANDOM.sub("", self._directories[known[0]] + path[len(known[0]) :])
        name = re.sub(r"^evaluation/[0-9a-f]{16}/", "evaluation/", name)
        name = re.sub(r"step-\d+", "step", name)
        name = re.sub(r"(?<=step|odel)\.[0-9a-f]{8,}(?=\.(tmp|old|damaged))", "", name)
        return self._named(f"{kind} {name}, {moment}")

    def _named(self, name: str) -> dict[str, Any]:
        return {"rank": self._rank, "point": name}


def signer_of(order: dict[str, Any]) -> Signer:
    """Return the signer of a run: as a driver's, whose workers get it."""
    return Signer(bytes.fromhex(order["key"]), [Path(one) for one in order["trusted"]])


def spec_of(order: dict[str, Any]) -> RunSpec:
    """Return the specification of the run that an order describes."""
    train = Train.model_validate(order["train"])
    return RunSpec(
        train=train,
        shards=Path(order["shards"]),
        seed=order["seed"],
        reweighter=PlannedReweighter(train.reweight, []) if train.reweight else None,
        evaluations=(Evaluation.of_texts("water", "water flows to the turbine", "hello " * 30),),
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in a work directory of its own."""

    shards: Path
    work: Path
    seed: int = 1
    train: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from :data:`TRAIN`."""
    key: str = "11" * 32
    """Signs checkpoints, in hexadecimal digits."""
    trusted: tuple[Path, ...] = ()
    """Directories of checkpoints that are read with another signature."""

    @property
    def order(self) -> dict[str, Any]:
        return {
            "train": {**TRAIN, **self.train},
            "shards": str(self.shards),
            "seed": self.seed,
            "work": str(self.work),
            "key": self.key,
            "trusted": [str(one) for one in self.trusted],
        }

    @property
    def spec(self) -> RunSpec:
        return spec_of(self.order)

    @property
    def directory(self) -> Path:
        """The run's draft, which becomes its artefact."""
        return Path(self.spec.draft(Workspace(self.work)).path)

    @property
    def checkpoints(self) -> list[str]:
        """Entries of the directory of checkpoints, without the name of the last attempt."""
        found = {path.name for path in (self.directory / "checkpoints").glob("*")}
        return sorted(found - {".attempt"})

    @property
    def finished(self) -> bool:
        return self.spec.find(Workspace(self.work)) is not None

    def lines(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def notes(self) -> list[str]:
        return [line["note"] for line in self.lines("notes.jsonl")]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Exit states of the workers of a run."""

    statuses: list[int]
    """Negative: the signal that ended one."""
    logs: list[str]

    def well(self) -> None:
        """Check that all of them succeeded."""
        assert not any(self.statuses), f"{self.statuses}\n{self.logs[0][-3000:]}"


class Trainings:
    """Start runs, one after another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._plan = Plan(directory / "kills")
        self._forks = ForkServer(
            "tests.harness.training", directory, DS_ACCELERATOR="cpu", LOCAL_SIZE="1"
        )

    def run(
        self,
        run: Run,
        workers: int,
        kill: dict[str, Any] | None = None,
        *,
        census: bool = False,
        patience: float = 10.0,
    ) -> Workers:
        """Run until it ends or is killed.

        Args:
            run: The run.
            workers: Their number.
            kill: ``rank``, ``point`` and ``nth``.
            census: Record the points that every worker passes.
            patience: Seconds after the first worker has failed when the others are killed.
        """
        kills = [({"rank": kill["rank"], "point": kill["point"]}, kill["nth"])] if kill else []
        self._plan.write(kills, census=census)
        order = {
            **run.order,
            "workers": workers,
            "plan": str(self._plan.directory),
            "store": str(self._directory / f"store-{uuid.uuid4().hex}"),
        }
        return self._ended(order, patience)

    def call(self, function: str, arguments: list[str], workers: int) -> Workers:
        """Call ``function(*arguments, rank, workers)`` in a fork for each rank.

        Args:
            function: ``module:function``.
            arguments: Those before rank and workers.
            workers: Their number.
        """
        order = {"call": function, "arguments": arguments, "workers": workers}
        return self._ended(order, patience=10.0)

    def _ended(self, order: dict[str, Any], patience: float) -> Workers:
        workers = order["workers"]
        statuses = self._forks.wait(self._forks.fork(order, workers), patience)
        outputs = [
            (self._forks.output("out", i), self._forks.output("err", i)) for i in range(workers)
        ]
        return Workers(statuses=statuses, logs=["".join(output) for output in outputs])

    def census(self, rank: int) -> Counter[str]:
        """Return the points that a worker of the last run passed, in order, and how often."""
        return Counter(point["point"] for point in self._plan.census if point["rank"] == rank)

    def close(self) -> None:
        self._forks.close()
