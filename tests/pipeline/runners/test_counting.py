"""Counts of documents on Ray."""

from __future__ import annotations

from typing import Any

from penstock.pipeline.runners.counting import CountsActor, RayCounts


class _Method:
    """A method of an actor, called at once, as Ray checks it with ``num_returns=0``."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def options(self, *, num_returns: int) -> _Method:
        assert num_returns == 0
        return self

    def remote(self, *values: Any) -> None:
        assert self._call(*values) is None, "Ray warns: NumReturnsWarning"


class _Handle:
    def __init__(self, actor: CountsActor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._actor, name))


def test_a_run_begins_with_no_counts_of_the_last_and_asks_for_no_result() -> None:
    actor = CountsActor([])
    counts = RayCounts.__new__(RayCounts)
    counts.actor = _Handle(actor)
    actor.add(3, 40)
    counts.begin()
    assert actor.take() == (0, 0)
