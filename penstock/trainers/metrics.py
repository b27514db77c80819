"""What a run tells while it trains: JSON lines for programs, TensorBoard for people.

Event files are written with tensorboard's own writer; PyTorch's wrapper does the same.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["FILE", "MetricsLog", "StepMetrics"]

FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One line of ``metrics.jsonl``."""

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


class MetricsLog:
    """Writes a run's metrics into its directory; an earlier attempt's are replaced."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        shutil.rmtree(directory / "tensorboard", ignore_errors=True)
        self._lines = open(directory / FILE, "w", encoding="utf-8")  # noqa: SIM115
        self._events = EventFileWriter(str(directory / "tensorboard"), flush_secs=10)

    def write(self, metrics: StepMetrics) -> None:
        """Append one step; readers see it at once in the JSON lines, soon in TensorBoard."""
        values = asdict(metrics)
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()
        step, _ = values.pop("step"), values.pop("data")
        self._show(step, {f"train/{name}": value for name, value in values.items()})

    def _show(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._events.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        )

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        self._events.close()
