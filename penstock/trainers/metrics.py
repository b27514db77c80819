"""Metrics of a run: JSON lines for programs, TensorBoard event files for people.

Event files are written with tensorboard's own writer; PyTorch's wrapper does the same.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from penstock.errors import StorageError
from penstock.storage import atomic_file, read_file
from penstock.trainers.spikes import SpikeWatch

__all__ = ["FILE", "NOTES", "MetricsLog", "NotFiniteStep", "StepMetrics", "add_note"]

FILE = "metrics.jsonl"

NOTES = "notes.jsonl"
"""Notes for the user, such as the step and the checkpoint from which a run resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """The line of a step in ``metrics.jsonl``.

    That of a loss spike (:mod:`penstock.trainers.spikes`) also has ``spike``, true.

    With ``train.evaluate_every`` there are lines of evaluations too: ``step``, ``tokens`` and
    ``evaluation`` (:meth:`penstock.trainers.evaluation.scores.Scores.to_json`).
    """

    step: int
    tokens: int
    """Tokens trained on so far, with this step."""
    loss: float
    """Nats per predicted token, over the global batch."""
    lr: float
    tokens_per_second: float
    """Tokens a second in this step, over all workers."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    data: str
    """Digest of the token ids of the global batch, in order: equal for any number of workers, on
    any processor, and in a resumed run."""
    loader_seconds: float
    """Seconds of this step in which this worker waited for its batches."""
    mfu: float
    """Model FLOPs utilisation of this worker; see :mod:`penstock.trainers.modelling.flops`."""
    reweighting: Mapping[str, float] = field(default_factory=dict)
    """Facts of a reweighted step (:class:`penstock.trainers.reweighting.steps.Reweighted`), written
    beside the other numbers."""

    def line(self) -> dict[str, Any]:
        """Return plain data."""
        values = asdict(self)
        values.update(values.pop("reweighting"))
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFiniteStep:
    """A step that updated nothing, as its loss or gradient was not finite.

    Its line has ``not_finite`` instead of ``loss``.
    """

    step: int
    tokens: int
    """Tokens passed so far, with this step: they count in the budget."""
    not_finite: str
    """``loss`` or ``gradient``."""
    lr: float
    data: str
    """As of :class:`StepMetrics`."""

    def line(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


class MetricsLog:
    """Writes a run's metrics into its directory.

    Args:
        directory: The run's.
        start: The first step to be written. Lines of an earlier attempt are kept if their step is
            before it, in both files; lines of later steps are removed.
    """

    def __init__(self, directory: Path, start: int = 0) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._directory = directory
        path = directory / FILE
        kept = [line for line in _read(path) if line["step"] < start]
        # A new file replaces the old one, so that a reader that follows it notices the change.
        with atomic_file(path, durable=False) as sink:
            sink.write(b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        shutil.rmtree(directory / "tensorboard", ignore_errors=True)
        self._lines = _appending(path)
        self._events = EventFileWriter(str(directory / "tensorboard"), flush_secs=10)
        self.last: Mapping[str, Any] = {}
        """The line of the last step that was finite."""
        self.not_finite = 0
        """Number of steps that were not."""
        self.spikes = SpikeWatch()
        """The losses so far, and the number of spikes."""
        for line, at in _timed(kept):
            if "loss" in line:
                self.spikes.follow(line["loss"])
            self._show(line, at)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line of a step or of an evaluation, as :class:`StepMetrics` describes them.

        It is at once in the JSON lines, and within 10 s in TensorBoard's. A loss spike is marked in
        its line, and is a note.
        """
        median = self.spikes.follow(line["loss"]) if "loss" in line else None
        if median is not None:
            line = {**line, "spike": True}
            add_note(
                self._directory,
                f"step {line['step']}: a loss spike, {line['loss']:.4f} nats per token; the median "
                f"of the steps before is {median:.4f}",
            )
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        self._show(line, time.time())

    def _show(self, line: Mapping[str, Any], at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if "loss" in line:
            self.last = line
        self.not_finite += "not_finite" in line
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(line)]
        self._events.add_event(
            Event(wall_time=at, step=line["step"], summary=Summary(value=scalars))
        )

    def sync(self) -> None:
        """Fsync the lines, before a checkpoint that relies on them is committed."""
        os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        self._events.close()


def add_note(
    directory: Path, line: str, step: int | None = None, *, restart: int | None = None
) -> None:
    """Append a note for the user of a run.

    Args:
        directory: The run's.
        line: The note, one line.
        step: The step from which the run resumes, if the note is about that.
        restart: The number of the restart, if the note is about one.
    """
    facts = {"step": step, "restart": restart}
    note = {"note": line, **{key: value for key, value in facts.items() if value is not None}}
    with _appending(directory / NOTES) as notes:
        notes.write(json.dumps(note) + "\n")


def _appending(path: Path) -> TextIO:
    """Open a file to append lines to; a link there could lead to any file of this user's.

    Raises:
        StorageError: It is a link, or no file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return open(os.open(path, flags, 0o666), "a", encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise StorageError(
            "a link or a pipe in the place of a run's file", file=path, fix=f"run `rm {path}`"
        ) from None


def _read(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a metrics file, if it exists."""
    data = read_file(path) if path.exists() else b""
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def _timed(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float]]:
    """Give lines times, as if the last step ended now and no time passed between steps."""
    seconds, tokens = [], 0
    for line in lines:
        taken = line["tokens"] - tokens
        seconds.append(taken / line["tokens_per_second"] if "loss" in line else 0.0)
        tokens = line["tokens"]
    began = time.time() - sum(seconds)
    return [(line, began + passed) for line, passed in zip(lines, itertools.accumulate(seconds))]


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line by their tags in TensorBoard."""
    if "evaluation" in line:
        for measure, targets in line["evaluation"].items():
            for target, score in targets.items():
                yield f"evaluation/{measure}/{target}", score["mean"]
        return
    for name, value in line.items():
        if name != "step" and isinstance(value, (int, float)):
            yield f"train/{name}", value
