"""Checkpoints by tokens, and by a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.recipe import Checkpoint
from penstock.trainers.checkpoints.saving import CheckpointSchedule
from penstock.trainers.group import Group


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Callable[..., CheckpointSchedule]:
    def made(settings: Checkpoint | None) -> CheckpointSchedule:
        return CheckpointSchedule(settings, Group(), clock)

    return made


def test_without_an_interval_none_is_due(
    pace: Callable[..., CheckpointSchedule], clock: Clock
) -> None:
    never = pace(None)
    clock.now = 1e9
    assert not never.due(0, 10**12)


def test_an_interval_of_tokens(pace: Callable[..., CheckpointSchedule]) -> None:
    """Counted from the run's first token, so that one that was resumed saves at the same steps."""
    every = pace(Checkpoint(minutes=None, tokens=100))
    steps = [(30 * step, 30 * step + 30) for step in range(12)]
    assert [after for before, after in steps if every.due(before, after)] == [120, 210, 300]
    assert every.due(0, 1000), "a step of many intervals saves once"


@pytest.mark.parametrize("seconds", [0.001, 0.09, 7.0, 70.0, 1000.0])
def test_an_interval_of_minutes(
    pace: Callable[..., CheckpointSchedule], clock: Clock, seconds: float
) -> None:
    """The first step that ends after the interval saves; few steps need a broadcast."""
    paced = pace(Checkpoint(minutes=1))
    for last in (0.0, 500.0):
        clock.now, clock.asked = last, 0
        paced.saved()
        steps = 1
        clock.now += seconds
        while not paced.due(0, 1):
            clock.now += seconds
            steps += 1
        late = clock.now - last - 60
        assert late + 1e-6 >= 0 and late <= seconds * 1.000001
        assert clock.asked < 40 or clock.asked <= steps + 2


def test_steps_that_slow_down_do_not_delay_a_checkpoint(
    pace: Callable[..., CheckpointSchedule], clock: Clock
) -> None:
    """The next broadcast is after half of the steps that fit: twice as slow ones are in time."""
    paced = pace(Checkpoint(minutes=1))
    step = 0
    clock.now = 0.1
    while not paced.due(0, 1):
        step += 1
        clock.now += 0.1 if clock.now < 2 else 0.2
    assert 60 <= clock.now <= 60.5


def test_the_shorter_interval_decides(
    pace: Callable[..., CheckpointSchedule], clock: Clock
) -> None:
    both = pace(Checkpoint(minutes=1, tokens=100))
    clock.now = 1
    assert both.due(90, 110)
    both.saved()
    clock.now = 62
    assert both.due(110, 130)
