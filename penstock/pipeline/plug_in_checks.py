"""Checks of a plug-in's object and of what its fit reports: both leave the process.

The object goes to workers as a pickle, the report into a manifest as JSON.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from penstock.artefact import canonical
from penstock.errors import ScoringError

__all__ = ["check_facts", "check_sendable"]


def check_facts(key: str, facts: Any) -> dict[str, Any]:
    """Return what a fit reported as a dict of which JSON can be written.

    Args:
        key: The selector's in the recipe, as ``select.mine``.
        facts: What ``fit`` returned.

    Raises:
        ScoringError: It is no mapping from texts, or JSON has no such value; ``file`` names it.
    """
    if not isinstance(facts, Mapping):
        raise ScoringError(
            key=key,
            file="fit",
            expected="a dict of numbers and texts for the report, or None",
            got=f"a {type(facts).__name__}",
        )
    for name, value in facts.items():
        try:
            if not isinstance(name, str):
                raise TypeError("a key that is no text")
            canonical(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ScoringError(
                key=key,
                file=f"fit, the member {name!r}",
                expected="a finite number, a text, or a list or dict of these: it goes into JSON",
                got=f"{value!r:.80}, a {type(value).__name__}",
                fix="convert it, as by float(x), or leave it out",
            ) from error
    return dict(facts)


def check_sendable(key: str, plug_in: Any) -> None:
    """Check that a plug-in can be copied, and sent to a worker as a pickle.

    Args:
        key: The plug-in's in the recipe, as ``select.mine``.
        plug_in: A selector, a rewriter or a reweighter, whole or behind an adapter.

    Raises:
        ScoringError: It holds what cannot be pickled, such as a lock or an open file.
    """
    try:
        copy.deepcopy(plug_in)
        cloudpickle.dumps(plug_in, protocol=5)
    except Exception as error:  # objects of users raise what they like
        raise ScoringError(
            key=key,
            expected="an object that can be sent to a worker",
            got=f"{type(error).__name__}: {error}",
            fix="open files, and make locks and models, when the documents first come, or leave "
            "them out in __getstate__",
        ) from error
