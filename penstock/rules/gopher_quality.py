"""Gopher's quality rules: documents that are too short, or not like prose.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
arXiv:2112.11446, appendix A.1.1, "Quality filtering". The paper leaves open which words count. As
in datatrove, words that are one symbol do not count for the length of a document and of its words,
and count elsewhere. Ellipses and ``#`` share one threshold there; here each has its own.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, field_validator

from penstock.rules.rule import Rule, RuleSet, count, share
from penstock.rules.statistics import GOPHER_STOP_WORDS, Counting

__all__ = ["GopherQuality"]

_SOURCE = "Rae et al. 2021, A.1.1, quality filtering"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class GopherQuality(RuleSet):
    """Ten rules for length, word length, symbols, bullets, ellipses, letters and stop words."""

    name: ClassVar = "gopher_quality"
    version: ClassVar = 1
    summary: ClassVar = "Gopher's quality rules: length, symbols, bullets, stop words"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("min_words", "least", count("cores"), _SOURCE, by_words=True, unit="words"),
        Rule("max_words", "most", count("cores"), _SOURCE, by_words=True, unit="words"),
        Rule(
            "min_word_length",
            "least",
            share("core_characters", "cores"),
            _SOURCE,
            by_words=True,
            unit="characters",
        ),
        Rule(
            "max_word_length",
            "most",
            share("core_characters", "cores"),
            _SOURCE,
            by_words=True,
            unit="characters",
        ),
        Rule("max_hashes_per_word", "most", share("hashes", "words"), _SOURCE, by_words=True),
        Rule("max_ellipses_per_word", "most", share("ellipses", "words"), _SOURCE, by_words=True),
        Rule("max_bullet_lines", "most", share("bullet_lines", "lines"), _SOURCE),
        Rule("max_ellipsis_lines", "most", share("ellipsis_lines", "lines"), _SOURCE),
        Rule(
            "min_lettered_words",
            "least",
            share("lettered_words", "words"),
            _SOURCE,
            by_words=True,
            unit="of words and punctuation marks",
        ),
        Rule(
            "min_stop_words",
            "least",
            count("stop_words"),
            _SOURCE,
            by_words=True,
            unit="stop words",
        ),
    )

    min_words: NonNegativeInt | None = Field(
        default=50, description="Words that are not symbols, at least."
    )
    max_words: NonNegativeInt | None = Field(
        default=100_000, description="Words that are not symbols, at most."
    )
    min_word_length: NonNegativeFloat | None = Field(
        default=3.0, description="Mean characters of words that are not symbols, at least."
    )
    max_word_length: NonNegativeFloat | None = Field(
        default=10.0, description="Mean characters of words that are not symbols, at most."
    )
    max_hashes_per_word: NonNegativeFloat | None = Field(
        default=0.1, description="`#` for each word, at most."
    )
    max_ellipses_per_word: NonNegativeFloat | None = Field(
        default=0.1, description="`...` and `…` for each word, at most."
    )
    max_bullet_lines: NonNegativeFloat | None = Field(
        default=0.9, description="Share of lines that begin with `•` or `-`, at most."
    )
    max_ellipsis_lines: NonNegativeFloat | None = Field(
        default=0.3, description="Share of lines that end in an ellipsis, at most."
    )
    min_lettered_words: NonNegativeFloat | None = Field(
        default=0.8,
        description="Share of words with a letter, at least. Each punctuation mark is a word "
        "without one, as in datatrove.",
    )
    min_stop_words: NonNegativeInt | None = Field(
        default=2, description="Different stop words that occur, at least."
    )
    stop_words: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        default=GOPHER_STOP_WORDS,
        description="Stop words, at most 64; a change reads all text again.",
    )

    @field_validator("stop_words")
    @classmethod
    def _words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return Counting(stop_words=words).stop_words

    def counting(self) -> dict[str, Any]:
        """Return the stop words."""
        return {**super().counting(), "stop_words": self.stop_words}
