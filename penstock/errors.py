"""Every error that Penstock raises on purpose, in one tree.

::

    PenstockError
    ├── BadInput (ValueError)      the user's input is wrong: exit status 2
    │   ├── RecipeError            a key or value of the recipe
    │   ├── InputError             a corpus file, a target file, a tokenizer, a model
    │   ├── SelectorError          a selector's parameters, or its documents and targets
    │   └── BudgetError            the budget is larger than the pool
    └── Failure (RuntimeError)     the work itself failed: exit status 1
        ├── ScoringError           a selector raised, or returned the wrong thing
        ├── WorkerError            an item crashed several workers
        ├── ArtefactError          a file of an artefact is missing, changed, or of a newer version
        ├── UnmadeError            an artefact to be read does not exist yet
        ├── StorageError           a place cannot be read or written: full, read-only, denied
        ├── LeaseError             another driver holds, or took over, the work directory
        ├── CompletionError        a language model's server cannot be reached, or refuses
        ├── TrainingError          a training run stopped
        │   └── NotFiniteError     a step's loss or gradient was infinite or not a number
        └── JobError               a job on a cluster could not be run

Every error carries its fields (:attr:`~PenstockError.key`, ``file``, ``expected``, ``got``,
``fix``), and :meth:`PenstockError.__str__` formats them in one place::

    budget.tokens: expected a positive integer, got -5; write a number of tokens
    corpus.0.path: pool/a.jsonl:17: not JSON; remove the line
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from typing_extensions import Self

from penstock.display import printable
from penstock.redaction import mask_addresses

__all__ = [
    "ArtefactError",
    "BadInput",
    "BudgetError",
    "CompletionError",
    "Failure",
    "InputError",
    "JobError",
    "LeaseError",
    "NotFiniteError",
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


_COMMAND = re.compile(r"`penstock ([a-z]+) RECIPE\b")
"""The beginning of a command on a recipe in a text of ours."""

_MOST, _BEGIN, _END = 4000, 3000, 900
"""Characters of an error's text; of a longer one the beginning and the end, which has the fix."""


class PenstockError(Exception):
    """The root of the tree: every error that Penstock raises on purpose.

    Args:
        problem: The fault, in one clause. Leave it out if ``expected`` and ``got`` describe it.
        key: The recipe key, dotted, as in ``select.betr.target``.
        file: A file or directory, with ``:line`` where that is known.
        expected: The accepted values.
        got: The value that was given.
        fix: The remedy, in the imperative.
    """

    exit_status = 1

    def __init__(
        self,
        problem: str = "",
        *,
        key: str | None = None,
        file: object = None,
        expected: str | None = None,
        got: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.key = key
        self.file = None if file is None else str(file)
        self.expected = expected
        self.got = None if got is None else str(got)
        self.fix = fix

    def under(self, key: str) -> Self:
        """Put ``key`` and a dot in front of this error's key, or set it; returns the error."""
        self.key = key if self.key is None else f"{key}.{self.key}"
        return self

    def on_recipe(self, words: str | None) -> Self:
        """Put a recipe in place of ``RECIPE`` in commands that the fix names; return the error.

        Args:
            words: The recipe's file as a shell takes it, with what else is given to each command;
                None of a recipe without a file, for which the fix names functions of Python.
        """
        if self.fix and words is not None:
            self.fix = _COMMAND.sub(lambda found: f"`penstock {found[1]} {words}", self.fix)
        elif self.fix:
            self.fix = self.fix.replace("`penstock curate RECIPE`", "`penstock.curate(recipe)`")
        return self

    def __str__(self) -> str:
        wanted = self.expected and f"expected {self.expected}"
        wanted = wanted or ""
        if self.got is not None:
            wanted += f"{', ' if wanted else ''}got {self.got}"
        clauses = ", ".join(part for part in (self.problem, wanted) if part)
        sentence = "; ".join(part for part in (clauses, self.fix) if part)
        file = self.file and printable(self.file)
        text = ": ".join(part for part in (self.key, file, sentence) if part)
        text = printable(mask_addresses(text), keep="\n\t")
        if len(text) <= _MOST:
            return text
        left = len(text) - _BEGIN - _END
        return f"{text[:_BEGIN]} [… {left:,} characters …] {text[-_END:]}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.problem), self.__dict__


def _rebuilt(kind: type[PenstockError], problem: str) -> PenstockError:
    """Make an error from its pickle, in which it travels between processes."""
    return kind(problem)


class BadInput(PenstockError, ValueError):
    """The user's input cannot be used; no work was started."""

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
    """The work was started and failed."""


class ScoringError(Failure):
    """A selector raised, or returned something that is not one float for each document."""


class WorkerError(Failure):
    """One item crashed several workers."""


class StorageError(Failure):
    """A place cannot be read or written: it is full, read-only or denied."""


class LeaseError(Failure):
    """Another driver holds the work directory, or took it over."""


class ArtefactError(Failure):
    """An artefact's file is missing, was changed, or was written by a newer version."""


class UnmadeError(Failure):
    """An artefact that a command reads does not exist yet."""


class TrainingError(Failure):
    """A training run stopped before its budget was spent."""


class NotFiniteError(TrainingError):
    """A step's loss or gradient was infinite or not a number, under ``train.not_finite: stop``."""


class CompletionError(Failure):
    """A language model's server cannot be reached, refuses the credentials, or keeps failing."""


class JobError(Failure):
    """A job on a cluster could not be submitted or did not succeed."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name: the nearest known name, or all.

    Args:
        name: The unknown name.
        known: The known ones; give them in an order that is the same in each run.
        otherwise: In place of all names.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if otherwise:
        return f"; {otherwise}"
    return f"; expected one of {', '.join(known)}" if known else ""
