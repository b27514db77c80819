"""A rule: the documents that are dropped.

::

    clean: {rules: {gopher: {}, stubs: {use: "own_rule:drop", phrases: ["coming soon"]}}}
"""

from __future__ import annotations


def drop(texts: list[str], *, phrases: list[str], characters: int = 500) -> list[bool]:
    """Return True for each short text that has one of the phrases."""
    lower = [phrase.lower() for phrase in phrases]
    return [
        len(text) < characters and any(phrase in text.lower() for phrase in lower) for text in texts
    ]
