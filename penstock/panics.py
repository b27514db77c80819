"""Panics of libraries in Rust, which are no ``Exception`` in Python, as errors of Penstock.

A pattern of a tokenizer that gives up on a text panics. Uncaught it would end a worker process,
whose items would run again, and end the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.errors import InputError

__all__ = ["is_panic", "panic_reason", "panics_as_errors"]


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic: of a class that PyO3 makes, which cannot be imported."""
    return type(error).__module__ == "pyo3_runtime"


def panic_reason(error: BaseException) -> str:
    """Return the first line of a panic, at most 200 characters."""
    return str(error).strip().partition("\n")[0][:200]


@contextmanager
def panics_as_errors(key: str) -> Iterator[None]:
    """Raise an InputError for a panic of a tokenizer.

    Args:
        key: The recipe key of the tokenizer or the model.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise InputError(
            f"a text cannot be encoded ({panic_reason(error)})",
            key=key,
            fix="give a tokenizer whose patterns take linear time",
        ) from None
