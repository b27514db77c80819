"""ProX's programs: their parser, and their effect on a text.

Zhou et al. 2024, *Programming Every Example: Lifting Pre-training Data Quality Like Experts at
Scale*. A refiner answers with one operation a line::

    program   = { line "\\n" }
    line      = [ operation ] [ "#" comment ]       other lines mean nothing
    operation = "remove_lines" "(" start "," end ")"            both included, from zero
              | "remove_lines" "(" "all" "=" "True" ")"
              | "normalize" "(" source [ "," target ] ")"       everywhere; removed without target
    argument  = [ name "=" ] ( digits | string | "True" | "False" )

A line that begins with an operation's name and is no operation is an *error*, as is one that
cannot be carried out. Nothing is ever evaluated. Python's own parser is not used. It refuses
``remove_lines(007, 009)``, as lines are labelled in the prompt, warns about the backslashes of a
quoted path, and can crash on the output of a model. The reference splits arguments at commas, so
that it ignores every string that holds one.

**Backslashes.** A string is taken literally first, as in the reference: ``"\\theta"`` is a command
of LaTeX and ``"C:\\temp"`` a path. Only where the text does not hold it are Python's escapes read,
so that a model can write ``"a \\"quoted\\" word"``, and never to white space alone:
``normalize("\\n")`` would join all lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

__all__ = ["Normalize", "Program", "Refined", "RemoveAll", "RemoveLines", "parse", "refine"]

MOST_ERRORS = 1
"""Most errors in the programs of a text; with more the text is left as it was."""

FEWEST_WORDS = 10
"""A text with no more words is emptied; a rule that the authors took from FineWeb."""

LEAST_KEPT = 20
"""A text that keeps no more than one word in 20, 5 %, is emptied."""

GROWTH = 2
"""A normalisation that makes the text longer than this multiple of the original is an error: a
refiner cleans, and thirty times "a" to "aa" would need gigabytes."""

_OPERATION = re.compile(r"(remove_lines|normalize)\b[ \t]*(\(?)")
_ARGUMENT = re.compile(
    r"""[ \t]*(?:([A-Za-z_]\w*)[ \t]*=[ \t]*)?"""
    r"""(?:([0-9]{1,9})|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(True|False)\b)"""
    r"""[ \t]*([,)])""",
    re.DOTALL,
)
_CLOSED = re.compile(r"[ \t]*\)")
_REST = re.compile(r"[ \t]*(?:#.*)?$", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_SIMPLE = {
    "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r",
    "t": "\t", "v": "\v",
}  # fmt: skip

_ALIASES = {"source_str": "source", "target_str": "target"}
"""Argument names that the published refiners write, and ours."""


@dataclass(frozen=True, slots=True)
class RemoveLines:
    """Drop lines ``start`` to ``end``, both included, counted from zero over the document."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RemoveAll:
    """Drop every line that the refiner was shown."""


@dataclass(frozen=True, slots=True)
class Normalize:
    """Replace one string by another wherever it occurs in the document.

    ``literal`` if the document holds its source; else ``source`` by ``target``.
    """

    source: str
    target: str = ""
    literal: tuple[str, str] | None = field(default=None, compare=False, kw_only=True)
    """Source and target as they were written, where the source has escapes."""

    def within(self, text: str) -> tuple[str, str] | None:
        """Return the source that a text holds, and its target; None if it holds none."""
        if self.literal is not None:
            if self.literal[0] in text:
                return self.literal
            if self.source.isspace():
                return None
        return (self.source, self.target) if self.source in text else None


Operation: TypeAlias = RemoveLines | RemoveAll | Normalize


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Operations of one answer of a refiner."""

    operations: tuple[Operation, ...]
    errors: int = 0
    """Lines that begin like an operation and cannot be parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """Result of running programs on a text."""

    text: str
    errors: int
    """Errors in the programs and in running them."""
    outcome: str
    """``unchanged``, ``changed``, ``emptied``, or ``errors``: unchanged because of too many."""


def parse(answer: str) -> Program:
    """Parse a program; never raises, for any answer."""
    operations: list[Operation] = []
    errors = 0
    for line in answer.split("\n"):
        stripped = line.strip()
        found = _OPERATION.match(stripped)
        if found is None:
            continue
        try:
            operations.append(_operation(found[1], found[2], stripped, found.end()))
        except (TypeError, ValueError):
            errors += 1
    return Program(operations=tuple(operations), errors=errors)


def _operation(name: str, bracket: str, line: str, place: int) -> Operation:
    """Parse the operation whose arguments begin at ``place``.

    Raises:
        TypeError, ValueError: It is none.
    """
    if not bracket:
        raise ValueError("no bracket")
    plain, named = _arguments(line, place)
    if name == "normalize":
        replaced = Normalize(
            *map(_value, plain), **{key: _value(own) for key, own in named.items()}
        )
        written = Normalize(*map(_written, plain), **{k: _written(v) for k, v in named.items()})
        if "literal" in named:
            raise ValueError("an argument of no operation")
        if written.source != replaced.source:
            replaced = replace(replaced, literal=(written.source, written.target))
        source = replaced.source
        # An empty source matches everywhere; without spaces all words run together.
        if type(source) is not str or type(replaced.target) is not str or source in ("", " "):
            raise ValueError("not a string")
        return replaced
    if not plain and list(named) == ["all"] and named["all"] is True:
        return RemoveAll()
    removed = RemoveLines(*plain, **named)
    if (
        type(removed.start) is not int
        or type(removed.end) is not int
        or removed.start > removed.end
    ):
        raise ValueError("not an interval")
    return removed


def _arguments(line: str, place: int) -> tuple[list[Any], dict[str, Any]]:
    """Parse the arguments from ``place``, after a bracket, to the line's end.

    Raises:
        ValueError: They are none.
    """
    plain: list[int | str | bool] = []
    named: dict[str, int | str | bool] = {}
    while (closed := _CLOSED.match(line, place)) is None:
        found = _ARGUMENT.match(line, place)
        if found is None:
            raise ValueError("no argument")
        key, digits, string, truth, _ = found.groups()
        value: int | str | bool = int(digits) if digits else truth == "True"
        if string:
            value = _Quoted(string[1:-1])
        key = _ALIASES.get(key, key)
        if key is None and not named:
            plain.append(value)
        elif key is not None and key not in named:
            named[key] = value
        else:
            raise ValueError("an argument out of order")
        # The comma is passed; the bracket is left for the loop's own end.
        place = found.end() if found[5] == "," else found.end() - 1
    if not _REST.match(line, closed.end()):
        raise ValueError("text after the operation")
    return plain, named


class _Quoted(str):
    """What stands between the quotes of a string."""


def _value(argument: Any) -> Any:
    """Read the escapes of a string by Python's rules; unknown ones stay as they are."""
    return str(_ESCAPE.sub(_unescaped, argument)) if isinstance(argument, _Quoted) else argument


def _written(argument: Any) -> Any:
    return str(argument) if isinstance(argument, _Quoted) else argument


def _unescaped(found: re.Match[str]) -> str:
    hexadecimal = found[1] or found[2] or found[3]
    if hexadecimal or found[4]:
        point = int(hexadecimal, 16) if hexadecimal else int(found[4], 8)
        # Half a surrogate pair is no character, and no file could hold it.
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            raise ValueError("no character")
        return chr(point)
    return _SIMPLE.get(found[5], found[0])


def refine(
    text: str,
    answers: Sequence[str],
    shown: Sequence[range] | None = None,
    *,
    short_first: bool = False,
) -> Refined:
    """Run the programs of a refiner's answers on a text.

    Normalisations are applied to the whole text, one after the other; then it is split into
    lines again and the marked ones are dropped. Line numbers are the whole document's.

    Args:
        text: The document.
        answers: The refiner's answer for each chunk.
        shown: The lines that each answer was about, which ``remove_lines(all=True)`` drops; the
            whole document's by default. The reference drops the document, whatever the chunk.
        short_first: Empty what would be left with ten words or fewer even where there are too
            many errors to use the programs, as the reference does. By default such a text is
            left as it was: an answer that cannot be parsed must not cost a document.
    """
    programs = [parse(answer) for answer in answers]
    spans = [range(text.count("\n") + 1)] * len(programs) if shown is None else shown
    errors = sum(program.errors for program in programs)
    result, failed = _normalised(text, programs)
    errors += failed
    result, failed = _without_lines(result, programs, spans)
    errors += failed

    words, kept = len(text.split()), len(result.split())
    too_many = errors > MOST_ERRORS
    if result == text:
        return Refined(text=text, errors=errors, outcome="errors" if too_many else "unchanged")
    if too_many and not (short_first and kept <= FEWEST_WORDS):
        return Refined(text=text, errors=errors, outcome="errors")
    if kept * LEAST_KEPT <= words or kept <= FEWEST_WORDS:
        return Refined(text="", errors=errors, outcome="emptied")
    return Refined(text=result, errors=errors, outcome="changed")


def _normalised(text: str, programs: Sequence[Program]) -> tuple[str, int]:
    limit = GROWTH * len(text)
    errors = 0
    for program in programs:
        for operation in program.operations:
            if not isinstance(operation, Normalize):
                continue
            found = operation.within(text)
            if found is None:
                continue
            longer = len(found[1]) - len(found[0])
            if longer > 0 and len(text) + longer * text.count(found[0]) > limit:
                errors += 1
            else:
                text = text.replace(*found)
    return text, errors


def _without_lines(
    text: str, programs: Sequence[Program], shown: Sequence[range]
) -> tuple[str, int]:
    """Return the text without the marked lines, and the number of intervals past its end."""
    lines = text.split("\n")
    marked: list[tuple[int, int]] = []
    for program, span in zip(programs, shown, strict=True):
        for operation in program.operations:
            if isinstance(operation, RemoveLines):
                marked.append((operation.start, operation.end))
            elif isinstance(operation, RemoveAll) and span and span.start < len(lines):
                # A normalisation may have removed line breaks; that is no error of this operation.
                marked.append((span.start, min(span.stop, len(lines)) - 1))
    errors = 0
    kept: list[str] = []
    place = 0
    for start, end in _merged(marked):
        errors += end >= len(lines)
        kept += lines[place : max(start, place)]
        place = end + 1
    return "\n".join(kept + lines[place:]), errors


def _merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge overlapping and adjacent intervals; ascending."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
