"""Gopher's rules: those for quality, then those for repetition, in one set."""

from __future__ import annotations

from typing import Any, ClassVar

from penstock.rules.gopher_quality import GopherQuality
from penstock.rules.gopher_repetition import GopherRepetition
from penstock.rules.rule import Rule

__all__ = ["Gopher"]


class Gopher(GopherQuality, GopherRepetition):
    """The 23 rules of both sets, with the parameters of both."""

    name: ClassVar = "gopher"
    version: ClassVar = 1
    summary: ClassVar = "Gopher's rules for quality and repetition"
    rules: ClassVar[tuple[Rule, ...]] = (*GopherQuality.rules, *GopherRepetition.rules)

    def counting(self) -> dict[str, Any]:
        """Return the stop words, and that n-grams are needed."""
        return {**GopherRepetition.counting(self), "stop_words": self.stop_words}

    def identity(self) -> dict[str, Any]:
        """Return name, parameters, and the versions of both sets."""
        versions = [self.version, GopherQuality.version, GopherRepetition.version]
        return {**super().identity(), "version": versions}
