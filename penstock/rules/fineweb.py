"""FineWeb's own rules: lists, menus and repeated lines.

Penedo et al. 2024, "The FineWeb Datasets", arXiv:2406.17557, section 3.6, "Developing additional
heuristic filters", has three rules. The fourth, for line feeds, is in the code that made the data
set, datatrove's ``FineWebQualityFilter``. Of the characters, 0.1 may be in repeated lines in the
paper, and 0.01 in the code; the default here is the code's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from penstock.rules.rule import Rule, RuleSet, share

__all__ = ["FineWeb"]

_PAPER = "Penedo et al. 2024, 3.6"
_CODE = "datatrove 0.10, FineWebQualityFilter"


class FineWeb(RuleSet):
    """Four rules for lines."""

    name: ClassVar = "fineweb"
    version: ClassVar = 1
    summary: ClassVar = "FineWeb's rules: line ends, short lines, repeated lines"
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("min_terminal_lines", "least", share("terminal_lines", "filled_lines"), _PAPER),
        Rule("max_short_lines", "most", share("short_lines", "filled_lines"), _PAPER),
        Rule(
            "max_duplicate_line_characters",
            "most",
            share("duplicate_filled_line_characters", "characters", "newlines"),
            _PAPER,
        ),
        Rule("max_newlines_per_word", "most", share("newlines", "words"), _CODE, by_words=True),
    )

    min_terminal_lines: NonNegativeFloat | None = Field(
        default=0.12, description="Share of lines that end in a terminal character, at least."
    )
    max_short_lines: NonNegativeFloat | None = Field(
        default=0.67, description="Share of lines of at most `short_line` characters, at most."
    )
    max_duplicate_line_characters: NonNegativeFloat | None = Field(
        default=0.01, description="Characters of lines that occurred before, at most."
    )
    max_newlines_per_word: NonNegativeFloat | None = Field(
        default=0.3, description="Line feeds for each word, at most."
    )
    short_line: NonNegativeInt = Field(
        default=30, description="Characters of a short line; a change reads all text again."
    )

    def counting(self) -> dict[str, Any]:
        """Return the length of a short line."""
        return {**super().counting(), "short_line": self.short_line}
