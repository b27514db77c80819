"""Gopher's repetition rules: documents that say the same again and again.

Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, "Repetition removal", table A1. As in datatrove,
all shares of characters are of the whole text's characters, white space included.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat

from penstock.rules.rule import Rule, RuleSet, share

__all__ = ["GopherRepetition"]

_SOURCE = "Rae et al. 2021, table A1"


def _rule(name: str, part: str, whole: str = "characters", *, by_words: bool = False) -> Rule:
    return Rule(name, "most", share(part, whole), _SOURCE, by_words=by_words)


class GopherRepetition(RuleSet):
    """Thirteen rules for repeated lines, paragraphs and n-grams."""

    name: ClassVar = "gopher_repetition"
    version: ClassVar = 1
    summary: ClassVar = "Gopher's repetition rules: lines, paragraphs, n-grams"
    rules: ClassVar[tuple[Rule, ...]] = (
        _rule("max_duplicate_paragraphs", "duplicate_paragraphs", "paragraphs"),
        _rule("max_duplicate_paragraph_characters", "duplicate_paragraph_characters"),
        _rule("max_duplicate_lines", "duplicate_gopher_lines", "gopher_lines"),
        _rule("max_duplicate_line_characters", "duplicate_gopher_line_characters"),
        *(_rule(f"max_top_{n}_gram", f"top_{n}_gram_characters", by_words=True) for n in (2, 3, 4)),
        *(
            _rule(f"max_duplicate_{n}_grams", f"duplicate_{n}_gram_characters", by_words=True)
            for n in range(5, 11)
        ),
    )

    max_duplicate_paragraphs: NonNegativeFloat | None = Field(
        default=0.3, description="Share of paragraphs that occurred before, at most."
    )
    max_duplicate_paragraph_characters: NonNegativeFloat | None = Field(
        default=0.2, description="Characters of these paragraphs for each character, at most."
    )
    max_duplicate_lines: NonNegativeFloat | None = Field(
        default=0.3, description="Share of lines that occurred before, at most."
    )
    max_duplicate_line_characters: NonNegativeFloat | None = Field(
        default=0.2, description="Characters of these lines for each character, at most."
    )
    max_top_2_gram: NonNegativeFloat | None = Field(
        default=0.2, description="Characters of the most frequent 2-gram, at most."
    )
    max_top_3_gram: NonNegativeFloat | None = Field(
        default=0.18, description="Characters of the most frequent 3-gram, at most."
    )
    max_top_4_gram: NonNegativeFloat | None = Field(
        default=0.16, description="Characters of the most frequent 4-gram, at most."
    )
    max_duplicate_5_grams: NonNegativeFloat | None = Field(
        default=0.15, description="Characters of 5-grams that occurred before, at most."
    )
    max_duplicate_6_grams: NonNegativeFloat | None = Field(
        default=0.14, description="Characters of 6-grams that occurred before, at most."
    )
    max_duplicate_7_grams: NonNegativeFloat | None = Field(
        default=0.13, description="Characters of 7-grams that occurred before, at most."
    )
    max_duplicate_8_grams: NonNegativeFloat | None = Field(
        default=0.12, description="Characters of 8-grams that occurred before, at most."
    )
    max_duplicate_9_grams: NonNegativeFloat | None = Field(
        default=0.11, description="Characters of 9-grams that occurred before, at most."
    )
    max_duplicate_10_grams: NonNegativeFloat | None = Field(
        default=0.1, description="Characters of 10-grams that occurred before, at most."
    )

    def counting(self) -> dict[str, Any]:
        """Return that n-grams are needed, unless each of their rules is off."""
        needed = any(
            rule.by_words and getattr(self, rule.name) is not None
            for rule in GopherRepetition.rules
        )
        return {**super().counting(), "ngrams": needed}
