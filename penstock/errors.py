"""Every error a user can meet, in one tree.

::

    PenstockError
    ├── BadInput (ValueError)      what the user gave is wrong: exit status 2
    │   ├── RecipeError            a key or value of the recipe
    │   ├── InputError             a corpus file, a target file, a tokenizer, a model
    │   ├── SelectorError          a selector's parameters, or what it was given to fit
    │   └── BudgetError            more tokens asked for than there are
    └── Failure (RuntimeError)     the work itself failed: exit status 1
        ├── ScoringError           a selector raised, or returned the wrong thing
        ├── WorkerError            a worker was lost for good
        ├── ArtefactError          a file of ours is missing, changed, or from a newer version
        ├── UnmadeError            what was only to be looked at is not made yet
        ├── StorageError           a place cannot be read or written: full, read-only, denied
        ├── LeaseError             another driver holds, or took over, the work directory
        ├── CompletionError        a language model's server cannot be reached, or refuses us
        ├── TrainingError          a training run stopped
        └── JobError               a job on a cluster could not be run

A message says what was expected, what came, and the fix; it begins with the place:
a recipe key (``budget.tokens:``), a file, or ``file:line``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtefactError",
    "BadInput",
    "BudgetError",
    "CompletionError",
    "Failure",
    "InputError",
    "JobError",
    "LeaseError",
    "PenstockError",
    "RecipeError",
    "ScoringError",
    "SelectorError",
    "StorageError",
    "TrainingError",
    "UnmadeError",
    "WorkerError",
    "did_you_mean",
]


class PenstockError(Exception):
    """The root: catching it catches everything Penstock raises on purpose."""

    exit_status = 1


class BadInput(PenstockError, ValueError):
    """What the user gave cannot be used; nothing was started."""

    exit_status = 2


class RecipeError(BadInput):
    """A recipe's key or value."""


class InputError(BadInput):
    """A corpus file, a target file, a tokenizer or a model."""


class SelectorError(BadInput):
    """A selector's parameters, or the documents and targets it was given to fit on."""


class BudgetError(BadInput):
    """The budget asks for more than the pool holds."""


class Failure(PenstockError, RuntimeError):
    """The work was started and did not succeed."""


class ScoringError(Failure):
    """A selector raised, or returned something that is not one float for each document."""


class WorkerError(Failure):
    """A worker was lost again and again over the same item."""


class StorageError(Failure):
    """A place cannot be read or written: it is full, read-only or denied."""


class LeaseError(Failure):
    """Another driver holds the work directory, or took it over."""


class ArtefactError(Failure):
    """An artefact's file is missing, was changed, or was written by a newer version."""


class UnmadeError(Failure):
    """What was only to be looked at is not made yet."""


class TrainingError(Failure):
    """A training run stopped before its budget was spent."""


class CompletionError(Failure):
    """A language model's server cannot be reached, does not know us, or goes on failing."""


class JobError(Failure):
    """A job on a cluster could not be submitted or did not succeed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""
