"""What a run tells while it trains: JSON lines for programs, TensorBoard for people.

Event files are written with tensorboard's own writer; PyTorch's wrapper does the same.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.trainers.evaluation.evaluator import Scores

__all__ = ["FILE", "MetricsLog", "StepMetrics"]

FILE = "metrics.jsonl"


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
    """Writes a run's metrics into its directory; an earlier attempt's are replaced."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        shutil.rmtree(directory / "tensorboard", ignore_errors=True)
        self._lines = open(directory / FILE, "w", encoding="utf-8")  # noqa: SIM115
        self._events = EventFileWriter(str(directory / "tensorboard"), flush_secs=10)
        self.last: dict[str, Any] = {}
        """The line of the last step."""

    def write(self, metrics: StepMetrics) -> None:
        """Append one step; readers see it at once in the JSON lines, soon in TensorBoard."""
        self.last = metrics.line()
        self._append(self.last)

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
        self._show(line)

    def _show(self, line: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(line)]
        self._events.add_event(
            Event(wall_time=time.time(), step=line["step"], summary=Summary(value=scalars))
        )

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        self._events.close()


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
