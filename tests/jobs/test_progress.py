"""Progress of training runs, on a terminal and in a log."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import rich.console
from rich.text import Text

from penstock.jobs.progress import follow_in_log, follow_on_terminal


@dataclass
class Spec:
    """The part of a RunSpec that is read."""

    fingerprint: str
    seed: int = 1
    tokens: int = 100_000


FIRST: Any = Spec("aaaaaaaaaaaa")
SECOND: Any = Spec("bbbbbbbbbbbb", seed=2, tokens=2_500_000)


def step(tokens: int, rate: float, loss: float = 3.21) -> dict[str, Any]:
    return {"step": 0, "tokens": tokens, "loss": loss, "tokens_per_second": rate}


EVALUATION = {
    "step": 4,
    "tokens": 50_000,
    "evaluation": {
        "bits_per_byte": {"arc": {"mean": 1.5}, "plain": {"mean": 2.0}},
        "accuracy": {"arc": {"mean": 0.375}},
    },
}


def test_a_log_tells_speed_loss_and_what_is_left_now_and_then() -> None:
    lines: list[str] = []
    now = [0.0]
    with follow_in_log(lines.append, clock=lambda: now[0]) as show:
        show(FIRST, step(10_000, rate=1000))
        show(FIRST, step(20_000, rate=500))
        now[0] = 20.0
        show(FIRST, step(40_000, rate=250))
        show(FIRST, EVALUATION)
        show(FIRST, step(100_000, rate=250, loss=2.5))
    # The first step warmed up. The mean of 2 and 4 ms a token is 3 ms: 180 s for the 60,000 left.
    assert lines == [
        "run aaaaaaaa seed 1: 10,000 of 100,000 tokens, loss 3.210, 1,000 tokens/s, "
        "90,000 tokens and 0:01:30 left",
        "run aaaaaaaa seed 1: 40,000 of 100,000 tokens, loss 3.210, 333 tokens/s, "
        "60,000 tokens and 0:03:00 left",
        "run aaaaaaaa seed 1 after 50,000 tokens: arc 1.5000 bits per byte and 37.5% right, "
        "plain 2.0000 bits per byte",
        "run aaaaaaaa seed 1: 100,000 of 100,000 tokens, loss 2.500, 300 tokens/s",
    ]


def test_a_terminal_has_a_bar_for_each_run() -> None:
    out = io.StringIO()
    console = rich.console.Console(file=out, force_terminal=True, width=110, highlight=False)
    with follow_on_terminal(console, console.print) as show:
        show(FIRST, step(40_000, rate=1000))
        show(SECOND, step(500_000, rate=123_456, loss=4))
        show(FIRST, EVALUATION)
        show(FIRST, step(100_000, rate=1000, loss=2.5))
    text = out.getvalue()
    shown = Text.from_ansi(text.rsplit("run aaaaaaaa", 1)[1]).plain
    assert "after 50,000 tokens: arc 1.5000 bits per byte" in text
    assert "100k tokens, loss 2.500, trained" in shown
    assert "run bbbbbbbb seed 2" in shown
    assert "2.00M of 2.50M tokens left, 123k/s, loss 4.000, 0:00:16" in shown


def test_a_run_that_goes_on_where_it_was_is_not_thought_fast() -> None:
    lines: list[str] = []
    with follow_in_log(lines.append) as show:
        show(SECOND, step(2_400_000, rate=1000))
    assert lines[0].endswith("1,000 tokens/s, 100,000 tokens and 0:01:40 left")
