"""C4's rules: documents of too few sentences, placeholder text and source code.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 21(140), section 2.2. C4 removes lines first and judges a document by the others
(:mod:`penstock.rules.kernels.c4_lines`). So do these rules, but they leave the text as it is. The
paper's list of bad words is not applied.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt

from penstock.rules.rule import Rule, RuleSet, count

__all__ = ["C4"]

_SOURCE = "Raffel et al. 2020, 2.2"


class C4(RuleSet):
    """Three rules for the lines that C4 keeps."""

    name: ClassVar = "c4"
    version: ClassVar = 1
    summary: ClassVar = "C4's rules: sentences in clean lines, placeholder text, source code"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("max_lorem_ipsum_lines", "most", count("c4_lorem_ipsum_lines"), _SOURCE, unit="lines"),
        Rule(
            "max_curly_bracket_lines",
            "most",
            count("c4_curly_bracket_lines"),
            _SOURCE,
            unit="lines",
        ),
        Rule(
            "min_sentences",
            "least",
            count("c4_sentences"),
            _SOURCE,
            by_words=True,
            unit="sentences",
        ),
    )

    max_lorem_ipsum_lines: NonNegativeInt | None = Field(
        default=0, description="Lines with `lorem ipsum`, at most."
    )
    max_curly_bracket_lines: NonNegativeInt | None = Field(
        default=0, description="Lines with `{`, at most."
    )
    min_sentences: NonNegativeInt | None = Field(
        default=5, description="Sentences in the lines that are kept, at least."
    )
    min_words_in_line: NonNegativeInt = Field(
        default=3, description="Words of a line that is kept; a change reads all text again."
    )
    longest_word: NonNegativeInt = Field(
        default=1000,
        description="Characters of a word of a line that is kept; a change reads all text again.",
    )

    def counting(self) -> dict[str, Any]:
        """Return the limits of a line."""
        return {
            **super().counting(),
            "c4_min_words": self.min_words_in_line,
            "c4_longest_word": self.longest_word,
        }
