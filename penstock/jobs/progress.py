"""Progress of training runs: a bar for each on a terminal, log lines elsewhere.

Both show tokens trained on and left of the budget, speed, loss and remaining time. The speed is a
running mean of the seconds that steps took, without pauses for evaluation; the remaining time
follows from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import rich.console
import rich.progress

if TYPE_CHECKING:  # it imports PyTorch, which curating does not need
    from penstock.trainers.spec import OnMetrics, RunSpec

__all__ = ["follow_in_log", "follow_on_terminal"]

SECONDS_BETWEEN_LINES = 2

_STEPS = 20
"""Steps over which the speed is a mean: slow enough to read, fast enough to follow a change."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class _RunProgress:
    """The state of a run, from the lines of its ``metrics.jsonl``."""

    name: str
    total: int
    tokens: int = 0
    loss: float = float("nan")
    steps: int = 0
    pace: float = 0.0
    """Seconds per token, of all workers together."""

    def step(self, line: dict[str, Any]) -> None:
        self.tokens, self.loss = line["tokens"], line["loss"]
        self.steps += 1
        # The first step includes warm-up, so the second replaces it in the mean.
        counted = min(max(1, self.steps - 1), _STEPS)
        self.pace += (1 / line["tokens_per_second"] - self.pace) / counted

    @property
    def left(self) -> int:
        return max(0, self.total - self.tokens)


@contextmanager
def follow_on_terminal(
    console: rich.console.Console, progress: Progress, moved: Callable[[], None] = lambda: None
) -> Iterator[OnMetrics]:
    """Show a bar for each run, and evaluations as lines above the bars.

    Args:
        console: The terminal.
        progress: Called with each line.
        moved: Called when a bar has moved.
    """
    tasks: dict[str, rich.progress.TaskID] = {}
    with rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.TextColumn("{task.fields[text]}"),
        console=console,
        expand=True,
    ) as bars:

        def show(run: _RunProgress) -> None:
            if run.name not in tasks:
                tasks[run.name] = bars.add_task(run.name, total=run.total, text="")
            bars.update(tasks[run.name], completed=run.tokens, text=_bar(run))
            moved()

        yield _on_metrics(progress, show)


@contextmanager
def follow_in_log(
    progress: Progress, clock: Callable[[], float] = time.monotonic
) -> Iterator[OnMetrics]:
    """Log a line for each run every :data:`SECONDS_BETWEEN_LINES` seconds, and at its end."""
    logged: dict[str, float] = {}

    def show(run: _RunProgress) -> None:
        now = clock()
        due = now - logged.get(run.name, float("-inf")) >= SECONDS_BETWEEN_LINES
        if due or not run.left:
            logged[run.name] = now
            progress(_line(run))

    yield _on_metrics(progress, show)


def _on_metrics(progress: Progress, show: Callable[[_RunProgress], None]) -> OnMetrics:
    """Return a callback that prints evaluations and notes, and shows a run after each step."""
    runs: dict[str, _RunProgress] = {}

    def follow(spec: RunSpec, line: dict[str, Any]) -> None:
        name = f"run {spec.fingerprint[:8]} seed {spec.seed}"
        run = runs.setdefault(spec.fingerprint, _RunProgress(name, spec.tokens))
        if event := _event(run, line):
            progress(event)
        elif "loss" in line:
            run.step(line)
            show(run)

    return follow


def _bar(run: _RunProgress) -> str:
    if not run.left:
        return f"{_short(run.total)} tokens, loss {run.loss:.3f}, trained"
    return (
        f"{_short(run.left)} of {_short(run.total)} tokens left, {_short(1 / run.pace)}/s, "
        f"loss {run.loss:.3f}, {_clock(run)}"
    )


def _line(run: _RunProgress) -> str:
    text = (
        f"{run.name}: {run.tokens:,} of {run.total:,} tokens, loss {run.loss:.3f}, "
        f"{1 / run.pace:,.0f} tokens/s"
    )
    return text + (f", {run.left:,} tokens and {_clock(run)} left" if run.left else "")


def _event(run: _RunProgress, line: dict[str, Any]) -> str | None:
    """Return the text of an evaluation or a note; None of a step."""
    if "note" in line:
        return f"{run.name}: {line['note']}"
    if "evaluation" not in line:
        return None
    right = line["evaluation"]["accuracy"]
    scores = [
        f"{name} {bits['mean']:.4f} bits per byte"
        + (f" and {right[name]['mean']:.1%} right" if name in right else "")
        for name, bits in line["evaluation"]["bits_per_byte"].items()
    ]
    return f"{run.name} after {line['tokens']:,} tokens: {', '.join(scores)}"


def _short(number: float) -> str:
    """Format with three digits: 1.23M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return f"{number:.0f}"


def _clock(run: _RunProgress) -> str:
    """Format the remaining time."""
    return str(timedelta(seconds=round(run.left * run.pace)))
