"""Garbage collection is off during a start, and on again when work begins."""

from __future__ import annotations

import gc
import threading
from contextlib import closing
from typing import Any

import pytest

from penstock.garbage import collection_paused
from penstock.pipeline.runner import LocalRunner


def test_it_is_off_until_the_last_pause_ends() -> None:
    assert gc.isenabled()
    inside, over = threading.Event(), threading.Event()

    def pause() -> None:
        with collection_paused():
            inside.set()
            over.wait(10)

    other = threading.Thread(target=pause)
    with collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            other.start()
            assert inside.wait(10)
        assert not gc.isenabled()
    assert not gc.isenabled(), "the other thread's pause goes on"
    over.set()
    other.join()
    assert gc.isenabled()


def test_it_is_on_after_an_error_and_stays_off_where_it_was_off() -> None:
    with pytest.raises(ZeroDivisionError), collection_paused():
        1 / 0  # noqa: B018
    assert gc.isenabled()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


class _Item:
    """What a worker unpickles, with whether collection was on then."""

    def __init__(self, collecting: bool) -> None:
        self.collecting = collecting

    def __reduce__(self) -> tuple[Any, ...]:
        return _item, ()


def _item() -> _Item:
    return _Item(gc.isenabled())


def _states(shared: _Item, item: _Item) -> tuple[bool, bool, bool]:
    return shared.collecting, item.collecting, gc.isenabled()


def test_a_worker_collects_while_it_works_and_not_while_it_imports() -> None:
    with closing(LocalRunner(2)) as runner:
        found = dict(runner.run(_states, [_Item(True), _Item(True)], _Item(True)))
    assert set(found.values()) == {(False, False, True)}
