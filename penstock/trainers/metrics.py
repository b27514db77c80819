"""What a run tells while it trains: JSON lines for programs, TensorBoard for people.

Event files are written with tensorboard's own writer; PyTorch's wrapper does the same.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.storage import atomic_file
from penstock.trainers.evaluation.evaluator import Scores

__all__ = ["FILE", "NOTES", "MetricsLog", "StepMetrics", "add_note"]

FILE = "metrics.jsonl"

NOTES = "notes.jsonl"
"""What else is to be known of a run: that it was stopped, and where it went on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """A line of ``metrics.jsonl``.

    The others, with ``train.evaluate_every``, hold ``step``, ``tokens`` and ``evaluation``, as
    :meth:`penstock.trainers.evaluation.evaluator.Scores.to_json` has it, and whether it is of the
    ``saved`` model, as the last one is.
    """

    step: int
    tokens: int
    """Trained on so far, this step included."""
    loss: float
    """Nats per predicted token, over the global batch."""
    lr: float
    tokens_per_second: float
    """Of this step, over all workers."""
    grad_norm: float
    """Before clipping."""
    data: str
    """Names the token ids of the global batch, in order: equal for any number of workers, and for
    a run that was resumed."""
    loader_seconds: float
    """Of this step, that this worker waited for its batches."""
    mfu: float
    """Model FLOPs utilisation of this worker; see :mod:`penstock.trainers.modelling.flops`."""
    reweighting: Mapping[str, float] = field(default_factory=dict)
    """Of a reweighted step, as :class:`penstock.trainers.reweighting.steps.Reweighted` says; its
    numbers stand beside the others."""

    def line(self) -> dict[str, Any]:
        """As plain data."""
        values = asdict(self)
        values.update(values.pop("reweighting"))
        return values


class MetricsLog:
    """Writes a run's metrics into its directory.

    Args:
        directory: The run's.
        start: The first step to come. What an earlier attempt told of those before it is kept, in
            both files; what it told of later ones, and of the saved model, is made again.
    """

    def __init__(self, directory: Path, start: int = 0) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        path = directory / FILE
        kept = [line for line in _read(path) if line["step"] < start and not line.get("saved")]
        # A new file in the place of the old one: whoever follows it can tell them apart.
        with atomic_file(path, durable=False) as sink:
            sink.write(b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        shutil.rmtree(directory / "tensorboard", ignore_errors=True)
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = EventFileWriter(str(directory / "tensorboard"), flush_secs=10)
        self.last: Mapping[str, Any] = {}
        """The line of the last step that is told of."""
        for line, at in _timed(kept):
            self._show(line, at)

    def write(self, metrics: StepMetrics) -> None:
        """Append one step; readers see it at once in the JSON lines, soon in TensorBoard."""
        self._append(metrics.line())

    def evaluated(self, step: int, tokens: int, scores: Scores, *, saved: bool = False) -> None:
        """Append a line of its own for an evaluation after ``step``.

        Args:
            step: The last one that was taken.
            tokens: Trained on until then.
            scores: What the model scored.
            saved: Whether it was the model that was saved, at the end.
        """
        line = {"step": step, "tokens": tokens, "evaluation": scores.to_json(), "saved": saved}
        self._append(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        self._show(line, time.time())

    def _show(self, line: Mapping[str, Any], at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if "loss" in line:
            self.last = line
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(line)]
        self._events.add_event(
            Event(wall_time=at, step=line["step"], summary=Summary(value=scalars))
        )

    def sync(self) -> None:
        """Have the lines outlive the machine's power: a checkpoint is about to count on them."""
        os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        self._events.close()


def add_note(directory: Path, line: str, step: int | None = None) -> None:
    """Tell, in one line, what the user should know of a run.

    Args:
        directory: The run's.
        line: What is told.
        step: At which it goes on, where it does.
    """
    told = {"note": line} if step is None else {"note": line, "step": step}
    with open(directory / NOTES, "a", encoding="utf-8") as notes:
        notes.write(json.dumps(told) + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file, if there is one."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def _timed(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float]]:
    """Lines with times as if the last step had ended now and none had been waited for."""
    seconds, tokens = [], 0
    for line in lines:
        taken = line["tokens"] - tokens
        seconds.append(taken / line["tokens_per_second"] if "loss" in line else 0.0)
        tokens = line["tokens"]
    began = time.time() - sum(seconds)
    return [(line, began + passed) for line, passed in zip(lines, itertools.accumulate(seconds))]


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line, by their names in TensorBoard."""
    if "evaluation" in line:
        for measure, targets in line["evaluation"].items():
            for target, score in targets.items():
                yield f"evaluation/{measure}/{target}", score["mean"]
        return
    for name, value in line.items():
        if name != "step" and isinstance(value, (int, float)):
            yield f"train/{name}", value
