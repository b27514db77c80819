"""ProX: programs read and carried out as a naive executor does, and nothing else ever changed."""

from __future__ import annotations

import random
import string
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SelectorError
from penstock.selectors.rewriting import Answer, Document, ProxChunk, ProxDocument, Rewriter
from penstock.selectors.rewriting.program import (
    Normalize,
    Program,
    RemoveAll,
    RemoveLines,
    parse,
    refine,
)
from penstock.selectors.rewriting.prox import numbered_chunks

# A naive executor, written from SELECTORS.md 6.3 without a look at the real one.


NAME = string.ascii_letters + "_"


class Bad(Exception):
    pass


class Scanner:
    """Reads one line, a character at a time."""

    def __init__(self, line: str) -> None:
        self.line, self.at = line + "\n", 0  # no line holds a line break, so reading stops there

    def blanks(self) -> None:
        while self.line[self.at] in " \t":
            self.at += 1

    def take(self, character: str) -> None:
        self.blanks()
        if self.line[self.at] != character:
            raise Bad
        self.at += 1

    def word(self) -> str:
        start = end = self.at
        while self.line[end].isalnum() or self.line[end] == "_":
            end += 1
        self.at = end
        return self.line[start:end]

    def string(self) -> str:
        quote, out = self.line[self.at], ""
        self.at += 1
        while self.line[self.at] != quote:
            character = self.line[self.at]
            if character == "\n":
                raise Bad
            self.at += 1
            if character != "\\":
                out += character
                continue
            kind = self.line[self.at]
            if kind == "\n":
                raise Bad
            digits = {"x": 2, "u": 4, "U": 8}.get(kind, 0)
            number = self.line[self.at + 1 : self.at + 1 + digits]
            if digits and len(number) == digits and all(c in string.hexdigits for c in number):
                out += self.character(int(number, 16))
                self.at += 1 + digits
            elif kind in "01234567":
                number = kind
                for more in self.line[self.at + 1 : self.at + 3]:
                    if more not in "01234567":
                        break
                    number += more
                out += self.character(int(number, 8))
                self.at += len(number)
            else:
                known = dict(zip("\\'\"abfnrtv", "\\'\"\a\b\f\n\r\t\v"))
                out += known.get(kind, "\\" + kind)
                self.at += 1
        self.at += 1
        return out

    def character(self, point: int) -> str:
        if point >= 0x110000 or 0xD800 <= point < 0xE000:
            raise Bad
        return chr(point)

    def value(self) -> object:
        self.blanks()
        if self.line[self.at] in "'\"":
            return self.string()
        word = self.word()
        if word in ("True", "False"):
            return word == "True"
        if 1 <= len(word) <= 9 and all(c in string.digits for c in word):
            return int(word)
        raise Bad

    def arguments(self) -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = []
        self.take("(")
        while True:
            self.blanks()
            if self.line[self.at] == ")":
                self.at += 1
                break
            before, name = self.at, ""
            if self.line[self.at] in NAME:
                name = self.word()
                self.blanks()
                if self.line[self.at] == "=":
                    self.at += 1
                else:
                    self.at, name = before, ""
            found.append((name, self.value()))
            self.blanks()
            if self.line[self.at] not in ",)":
                raise Bad
            if self.line[self.at] == ",":
                self.at += 1
        self.blanks()
        if self.line[self.at] not in "\n#":
            raise Bad
        return found


def naive_operation(line: str) -> tuple | None:
    """("remove", a, b), ("all",), ("normalize", a, b), or None for a line that means nothing."""
    line = line.strip()
    if not line.startswith(("remove_lines", "normalize")):
        return None
    scanner = Scanner(line)
    name = scanner.word()
    if name not in ("remove_lines", "normalize"):
        return None
    arguments = scanner.arguments()
    if name == "remove_lines" and arguments == [("all", True)] and arguments[0][1] is True:
        return ("all",)
    slots = ["start", "end"] if name == "remove_lines" else ["source", "target"]
    values: dict[str, object] = {}
    seen_name = False
    for place, (key, value) in enumerate(arguments):
        slot = key
        if key == "":
            if seen_name or place >= len(slots):
                raise Bad
            slot = slots[place]
        else:
            seen_name = True
        if name == "normalize" and key in ("source_str", "target_str"):
            slot = key[:6]
        if slot not in slots or slot in values:
            raise Bad
        values[slot] = value
    if name == "normalize":
        values.setdefault("target", "")
        if "source" not in values or not all(isinstance(v, str) for v in values.values()):
            raise Bad
        if values["source"] == "" or values["source"] == " ":
            raise Bad
        return ("normalize", values["source"], values["target"])
    if len(values) != 2 or any(isinstance(v, (bool, str)) for v in values.values()):
        raise Bad
    if values["start"] > values["end"]:
        raise Bad
    return ("remove", values["start"], values["end"])


def naive(text: str, program: str) -> tuple[str, str]:
    errors, operations = 0, []
    for line in program.split("\n"):
        try:
            operation = naive_operation(line)
        except Bad:
            errors += 1
            continue
        if operation:
            operations.append(operation)
    result = text
    for operation in operations:
        if operation[0] == "normalize":
            if operation[1].isspace() and "\n" in operation[1]:
                continue  # it was an escape, of white space alone
            after = operation[2].join(result.split(operation[1]))
            if len(after) > len(result) and len(after) > 2 * len(text):
                errors += 1
            else:
                result = after
    lines = result.split("\n")
    intervals = [list(operation[1:]) for operation in operations if operation[0] == "remove"]
    if ("all",) in operations:
        intervals.append([0, min(text.count("\n"), len(lines) - 1)])
    joined = True
    while joined:
        joined = False
        for one in intervals:
            for other in intervals:
                if one is not other and one[0] <= other[0] <= one[1] + 1 and not joined:
                    one[1] = max(one[1], other[1])
                    intervals.remove(other)
                    joined = True
    errors += sum(interval[1] > len(lines) - 1 for interval in intervals)
    result = "\n".join(
        line
        for place, line in enumerate(lines)
        if not any(interval[0] <= place <= interval[1] for interval in intervals)
    )
    words, kept = len(text.split()), len(result.split())
    if result == text:
        return text, "errors" if errors >= 2 else "unchanged"
    if errors >= 2:
        return text, "errors"
    if kept <= 10 or kept / words <= 0.05:
        return "", "emptied"
    return result, "changed"


# Programs: out of the grammar, and then spoilt.

WORDS = [
    *["the", "gate", "of", "water", "is", "a", "river,", "wheel", "and", "stone", "Home", "|"],
    *["(c)", "水力", "größe", "a\\b", '"so"', "it's", "\u00a0", "e\u0301", "#1", "\r"],
    "http://x.org/a,b",
]


def some_text(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.03:
        return draw.choice(["", " ", "\n\n\n", "one", "one two\nthree"])
    lines = draw.choice([1, 2, 5, 12, 30])
    return "\n".join(
        " ".join(draw.choices(WORDS, k=draw.choice([0, 1, 3, 6]))) for _ in range(lines)
    )


def quoted(draw: random.Random, value: str) -> str:
    if draw.random() < 0.5:
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + escaped.replace("\r", "\\r") + '"'


def some_operation(draw: random.Random, text: str) -> tuple[str, object]:
    """A line, and what it should be read as."""
    blank, kind = draw.choice(["", "", " "]), draw.random()
    end = draw.choice(["", "", " ", "  # noise", "#)"])
    if kind < 0.5:
        start = draw.randrange(text.count("\n") + 2)
        stop = start + draw.choice([0, 0, 1, 3, 9])
        label = draw.choice(["{}", "{:03d}"])
        first, last = label.format(start), label.format(stop)
        arguments = draw.choice(
            [f"start={first},{blank}end={last}", f"{first},{blank}{last}",
             f"{first}{blank}, end{blank}={blank}{last}", f"end={last}, start={first},"]
        )  # fmt: skip
        return f"remove_lines({blank}{arguments}){end}", RemoveLines(start, stop)
    if kind < 0.55:
        return f"remove_lines(all{blank}=True){end}", RemoveAll()
    if kind < 0.95:
        place = draw.randrange(len(text) + 1)
        source = text[place : place + draw.choice([1, 2, 5, 20])]
        source = source if source.strip() else "zz"
        target = draw.choice(["", " ", "x", ", ", "\n", source * 3])
        first, last = quoted(draw, source), quoted(draw, target)
        if not target:
            argument = draw.choice([first, f"source={first}", f"source_str={first}"])
            return f"normalize({blank}{argument}){end}", Normalize(source)
        arguments = draw.choice(
            [f"{first}, {last}", f"source={first}, target={last}",
             f"source_str={first},{blank}target_str={last}"]
        )  # fmt: skip
        return f"normalize{blank}({arguments}){end}", Normalize(source, target)
    return draw.choice(["keep_chunk()", "untouch_doc()", "", "# why not", "```python", "ok"]), None


ALPHABET = "remov_lins(alz)=\"'\\,0123 #\nTrue\tx\x00é\udcff…u"


def spoilt(draw: random.Random, program: str) -> str:
    for _ in range(draw.choice([1, 1, 2, 4])):
        place = draw.randrange(len(program) + 1)
        kind = draw.random()
        if kind < 0.35:
            program = program[:place] + draw.choice(ALPHABET) + program[place:]
        elif kind < 0.7:
            program = program[:place] + program[place + draw.choice([1, 1, 3]) :]
        elif kind < 0.85:
            program = program[:place] + draw.choice(ALPHABET) + program[place + 1 :]
        elif kind < 0.95:
            program = program[:place]
        else:
            program += program[place:]
    return program


def test_fuzzed_programs_equal_a_naive_executor() -> None:
    draw = random.Random(6)
    texts = [some_text(draw) for _ in range(500)]
    outcomes: Counter[str] = Counter()
    program = text = ""
    for turn in range(100_000):
        if turn % 3:  # the program before, spoilt, or spoilt once more
            program = spoilt(draw, program)
        else:
            text = draw.choice(texts)
            written = [some_operation(draw, text) for _ in range(draw.choice([1, 1, 2, 3]))]
            program = "\n".join(line for line, _ in written)
            expected = tuple(operation for _, operation in written if operation)
            assert parse(program) == Program(operations=expected), program
        refined = refine(text, [program])
        assert (refined.text, refined.outcome) == naive(text, program), (text, program)
        outcomes[refined.outcome] += 1
        if "normalize" not in program:
            kept = iter(text.split("\n"))
            assert not refined.text or all(line in kept for line in refined.text.split("\n"))
    assert len(outcomes) == 4 and min(outcomes.values()) > 3_000, outcomes


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(), st.booleans())
def test_strings_are_read_as_python_writes_them(source: str, target: str, named: bool) -> None:
    line = f"normalize(source_str={source!r}, target_str={target!r})"
    if not named:
        line = f"normalize({source!r}, {target!r})"
    program = parse(line)
    surrogates = any("\ud800" <= character <= "\udfff" for character in target)
    if source in ("", " ") or surrogates:
        assert program == Program(operations=(), errors=1)
    else:
        assert program == Program(operations=(Normalize(source, target),))


@given(st.text(), st.lists(st.text()))
def test_any_answer_at_all_is_survived(text: str, answers: list[str]) -> None:
    refined = refine(text, answers)
    assert refined.outcome in ("unchanged", "errors")
    assert refined.text == text


SIXTEEN = "\n".join(f"line {number} has words of its own" for number in range(16))
LINES = SIXTEEN.split("\n")


def without(*numbers: int) -> str:
    return "\n".join(line for place, line in enumerate(LINES) if place not in numbers)


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("remove_lines(start=1, end=3)", without(1, 2, 3)),
        ("remove_lines(007, 009)", without(7, 8, 9)),
        ("  remove_lines(0, 0)  # the menu\r\nremove_lines(15,15)", without(0, 15)),
        ('normalize(source="line 4 has words, of its own")', SIXTEEN),
        ('normalize("has words", "has, as ever, words")', SIXTEEN.replace("has", "has, as ever,")),
        ("normalize(source_str=' of its own')", SIXTEEN.replace(" of its own", "")),
        # Normalisations come first, in their order, wherever they stand.
        ('remove_lines(0, 0)\nnormalize("line 1 ", "line 0 ")\nnormalize("line 0 ", "A ")',
         without(0).replace("line 1 ", "A ")),
        # A line break that goes moves the numbers of the lines behind it, as published.
        ('normalize("\\nline 1 ", " and ")\nremove_lines(1, 1)', without(1, 2).replace(
            "line 0 has words of its own", "line 0 has words of its own and has words of its own")),
    ],
)  # fmt: skip
def test_operations(program: str, result: str) -> None:
    refined = refine(SIXTEEN, [program])
    assert refined.text == result
    assert refined.errors == 0


@pytest.mark.parametrize(
    ("program", "result"),
    [
        (r'normalize("\theta", "angle")', r"the angle of C:\temp and \nu is 3\n wide"),
        (r'normalize(source_str="C:\temp", target_str="C:\new")',
         r"the \theta of C:\new and \nu is 3\n wide"),
        (r'normalize("\n")', r"the \theta of C:\temp and \nu is 3 wide".replace(r"\nu", "u")),
        # Not there as it is written: with its escapes.
        (r'normalize("C:\\temp", "\u00a9")', "the \\theta of \u00a9 and \\nu is 3\\n wide"),
    ],
)  # fmt: skip
def test_a_string_is_literal_first(program: str, result: str) -> None:
    text = r"the \theta of C:\temp and \nu is 3\n wide"
    rest = f"\n{SIXTEEN}"
    refined = refine(text + rest, [program])
    assert (refined.text, refined.errors) == (result + rest, 0)


@pytest.mark.parametrize("program", [r'normalize("\n")', r'normalize("\n\t", " ")'])
def test_white_space_alone_is_not_read_from_escapes(program: str) -> None:
    refined = refine(SIXTEEN, [program])
    assert (refined.text, refined.outcome, refined.errors) == (SIXTEEN, "unchanged", 0)


@pytest.mark.parametrize(
    "program",
    ["", "keep_chunk()", "keep()", "untouch_doc()", "no program at all", "```python\n```",
     "print(remove_lines(0, 5))", "import os; remove_lines(0, 5)", "remove_lines_of(0, 5)",
     "Remove_lines(0, 5)", "drop_doc()"],
)  # fmt: skip
@pytest.mark.parametrize("text", [SIXTEEN, "", "\n", "just four words here", " \r\n "])
def test_an_empty_or_keeping_program_changes_nothing(program: str, text: str) -> None:
    refined = refine(text, [program])
    assert (refined.text, refined.outcome, refined.errors) == (text, "unchanged", 0)


@pytest.mark.parametrize(
    "line",
    ["remove_lines", "remove_lines(", "remove_lines()", "remove_lines(1)", "remove_lines(1, 2",
     "remove_lines(1, 2, 3)", "remove_lines(3, 1)", "remove_lines(-1, 2)", "remove_lines(1.0, 2)",
     "remove_lines(True, 2)", "remove_lines(1, '2')", "remove_lines(start=1, start=2)",
     "remove_lines(start=1, 2)", "remove_lines(1, start=2)", "remove_lines(1, 2) or so",
     "remove_lines(1, 9999999999)", "remove_lines(1, 1_0)", "remove_lines(1, 0x2)",
     "remove_lines(1 + 1, 2)", "remove_lines(all=False)", "remove_lines(True)",
     "remove_lines(all=True, start=1, end=2)", "remove_lines(all=1)", "remove_lines[1, 2]",
     "remove_lines(f(1), 2)", "remove_lines(1,, 2)", "normalize()", "normalize('')",
     "normalize(' ', '')", "normalize(1)", "normalize('a', 'b', 'c')", "normalize('a' 'b')",
     "normalize(\"it's)", "normalize('it's')", "normalize(b'a')", "normalize(source='a', to='b')",
     "normalize(source='a', source_str='b')", "normalize('a', '\\ud83d\\ude00')",
     "normalize('a', '\\U00110000')", "normalize(text)", "normalize('\\ud800')",
     "normalize('\\udfff')"],
)  # fmt: skip
def test_a_line_that_is_no_operation_is_one_error(line: str) -> None:
    assert parse(line) == Program(operations=(), errors=1)
    assert refine(SIXTEEN, [f"{line}\nremove_lines(0, 0)"]).text == without(0)
    refined = refine(SIXTEEN, [f"{line}\n{line}\nremove_lines(0, 0)"])
    assert (refined.text, refined.outcome, refined.errors) == (SIXTEEN, "errors", 2)


@pytest.mark.parametrize(
    ("program", "errors", "result"),
    [
        ("remove_lines(14, 15)", 0, without(14, 15)),
        ("remove_lines(14, 16)", 1, without(14, 15)),
        ("remove_lines(16, 16)", 1, SIXTEEN),
        ("remove_lines(16, 16)\nremove_lines(0, 0)", 1, without(0)),
        ("remove_lines(16, 16)\nremove_lines(17, 999)", 1, SIXTEEN),  # adjacent: one interval
        ("remove_lines(16, 16)\nremove_lines(18, 18)", 2, SIXTEEN),
        ("remove_lines(14, 99)\nremove_lines(101, 999999999)", 2, SIXTEEN),
        ("remove_lines(14, 99)\nremove_lines(", 2, SIXTEEN),
        ("remove_lines(0, 0)\nremove_lines(14, 99)\nremove_lines(15, 20)", 1, without(0, 14, 15)),
    ],
)
def test_intervals_past_the_end(program: str, errors: int, result: str) -> None:
    refined = refine(SIXTEEN, [program])
    assert (refined.errors, refined.text) == (errors, result)


def test_merging_intervals_never_changes_the_output() -> None:
    draw = random.Random(3)
    for _ in range(2_000):
        pairs = []
        for _ in range(draw.randrange(1, 6)):
            start = draw.randrange(20)
            pairs.append((start, start + draw.randrange(5)))
        marked = sorted({line for start, end in pairs for line in range(start, end + 1)})
        runs: list[list[int]] = []
        for line in marked:
            if runs and runs[-1][1] == line - 1:
                runs[-1][1] = line
            else:
                runs.append([line, line])
        written, merged = ("\n".join(f"remove_lines({a}, {b})" for a, b in which)
                           for which in (pairs, runs))  # fmt: skip
        assert refine(SIXTEEN, [written]) == refine(SIXTEEN, [merged])


@pytest.mark.parametrize(
    ("words", "kept", "outcome"),
    [
        (400, 20, "emptied"), (400, 21, "changed"), (419, 21, "changed"), (420, 21, "emptied"),
        (100, 10, "emptied"), (100, 11, "changed"), (12, 11, "changed"), (11, 10, "emptied"),
    ],
)  # fmt: skip
def test_programs_that_keep_too_little_empty_the_document(
    words: int, kept: int, outcome: str
) -> None:
    text = f"{'keep ' * kept}\n{'drop ' * (words - kept)}"
    refined = refine(text, ["remove_lines(1, 1)"])
    assert refined.outcome == outcome
    assert refined.text == ("keep " * kept if outcome == "changed" else "")
    # One error leaves the rules as they are; after two the text is what it was.
    assert refine(text, ["remove_lines(1, 1)\nnormalize("]).outcome == outcome
    bad = ["remove_lines(1, 1)\nnormalize(\nnormalize("]
    assert refine(text, bad).text == text
    # As the reference has it, ten words are too few whatever the errors.
    assert (refine(text, bad, short_first=True).text == "") == (kept <= 10)


def test_an_empty_original_is_no_division_by_zero() -> None:
    for text in ("", " ", "\n\n"):
        assert refine(text, ["remove_lines(all=True)"]).text == ""
        assert refine(text, ["remove_lines(0, 0)\nnormalize('a')"]).text in ("", text)


def test_all_lines_are_those_that_were_shown() -> None:
    refined = refine(SIXTEEN, ["remove_lines(all=True)", "keep()"], [range(0, 5), range(5, 16)])
    assert refined.text == without(0, 1, 2, 3, 4)
    assert refine(SIXTEEN, ["remove_lines(all=True)"]).outcome == "emptied"
    # Fewer lines than were shown, for lack of line breaks, is no error.
    refined = refine(SIXTEEN, ["normalize('\\nline 15', '')\nremove_lines(all=True)", ""],
                     [range(10, 16), range(0, 10)])  # fmt: skip
    assert (refined.errors, refined.text) == (0, "\n".join(LINES[:10]))


def test_no_answer_can_take_much_time_or_memory() -> None:
    long = 100_000
    answers = ["(" * long, "remove_lines(" * long, "normalize(" + "(" * long, '"' * long,
               'normalize("' + "\\" * long, "normalize('" + "\\" * (long + 1) + "'",
               "normalize(" + " " * long, "remove_lines(" + "1" * long + ", 2)", "\n" * long,
               "normalize(" + "a" * long, "normalize(source" + " " * long + "'x'",
               "normalize('" + "a" * long + "' " + " " * long, "remove_lines(0, 999999999)",
               "remove_lines(0,0)\n" * long, "normalize" + " " * long,
               "\n".join(["normalize('line', 'lineline')"] * 40),
               "\n".join(["normalize('e', 'ee')"] * 40)]  # fmt: skip
    for answer in answers:
        began = time.process_time()
        refined = refine(SIXTEEN, [answer])
        # Linear work is well under a second; quadratic would be minutes, on any machine.
        assert time.process_time() - began < 10
        assert len(refined.text) <= 2 * len(SIXTEEN)


# The rewriters.


def by_word(text: str) -> int:
    return len(text.split())


def test_lines_are_numbered_over_the_whole_document() -> None:
    text = "\n".join(["a b", "", "c", "d " * 9, "e", "f g", "h"])
    chunks = numbered_chunks(text, by_word, 4)
    assert [chunk.lines for chunk in chunks] == [range(0, 3), range(4, 7)]
    assert [chunk.text for chunk in chunks] == [
        "[000]a b\n[001]\n[002]c", "[004]e\n[005]f g\n[006]h"
    ]  # fmt: skip
    assert [chunk.text[:9] for chunk in numbered_chunks("x\n" * 1500, by_word, 1)][999:1001] == [
        "[999]x", "[1000]x"
    ]  # fmt: skip


@given(st.text("a b\n", max_size=80), st.integers(1, 6))
def test_chunks_hold_each_line_once_and_keep_to_the_limit(text: str, limit: int) -> None:
    lines = text.split("\n")
    seen = []
    for chunk in numbered_chunks(text, by_word, limit):
        shown = chunk.text.split("\n")
        assert shown == [f"[{number:03d}]{lines[number]}" for number in chunk.lines]
        assert sum(map(by_word, shown)) <= limit
        seen += chunk.lines
    long = [place for place, line in enumerate(lines) if by_word(f"[000]{line}") > limit]
    assert sorted(seen + long) == list(range(len(lines)))


def test_the_chunk_pass() -> None:
    prox = ProxChunk(max_chunk=60)
    assert prox.replaces
    document = Document(id="d", text=SIXTEEN)
    requests = prox.requests(document)
    assert [request.user.count("[0") for request in requests] == [4, 4, 4, 4]
    assert requests[0].user.startswith("[doc]\n[000]line 0 has")
    assert requests[3].user.endswith(f"\n[015]{LINES[15]}\n[/doc]")
    assert requests[0].sampling.temperature == 0 and requests[0].sampling.max_tokens == 256
    answers = [Answer(text=program) for program in
               ("remove_lines(0, 0)", "keep_chunk()", "remove_lines(11, 11)\nnormalize('line 7 ')",
                "remove_lines(all=True)")]  # fmt: skip
    done = prox.assemble(document, answers)
    assert done.texts == (without(0, 11, 12, 13, 14, 15).replace("line 7 ", ""),)
    assert done.rejected == ()


@pytest.mark.parametrize(
    ("answers", "texts", "rejected"),
    [
        (["keep()"] * 4, (SIXTEEN,), ()),
        (["remove_lines("] * 4, (SIXTEEN,), ("program errors",)),
        (["remove_lines(0, 15)", "", "", ""], (), ("emptied",)),
        ([Answer(text="", error="http 400"), "remove_lines(7, 7)", "", ""], (without(7),),
         ("unanswered",)),
        ([Answer(text="", error="http 400")] * 4, (), ("unanswered",) * 4),
        ([Answer(text="remove_lines(7, 7)\nremove_l", finish="length"), "", "", ""],
         (without(7),), ()),
    ],
)  # fmt: skip
def test_outcomes_of_a_document(answers: list, texts: tuple, rejected: tuple) -> None:
    read = [answer if isinstance(answer, Answer) else Answer(text=answer) for answer in answers]
    done = ProxChunk(max_chunk=60).assemble(Document(id="d", text=SIXTEEN), read)
    assert (done.texts, done.rejected) == (texts, rejected)


def test_lines_too_long_to_show_stay_and_are_counted() -> None:
    prox = ProxChunk(max_chunk=60)
    document = Document(id="d", text=f"{LINES[0]}\n{'word ' * 100}\n{LINES[1]}")
    assert len(prox.requests(document)) == 2
    done = prox.assemble(document, [Answer(text="remove_lines(0, 0)"), Answer(text="")])
    assert done.texts == (document.text.split("\n", 1)[1],)
    assert done.rejected == ("lines too long",)
    whole = Document(id="d", text="word " * 100)
    assert prox.requests(whole) == ()
    assert prox.assemble(whole, []).texts == (whole.text,)


@pytest.mark.parametrize("text", ["", " \n\t "])
@pytest.mark.parametrize("prox", [ProxChunk(), ProxDocument()])
def test_blank_documents_have_no_request(prox: Rewriter, text: str) -> None:
    document = Document(id="d", text=text)
    assert list(prox.requests(document)) == []
    assert prox.assemble(document, []).rejected == ("blank",)
    with pytest.raises(SelectorError, match="expected 0, one for each request, got 1"):
        prox.assemble(document, [Answer(text="keep")])


def test_the_document_pass() -> None:
    prox = ProxDocument(max_document=5)
    document = Document(id="d", text=SIXTEEN)
    (request,) = prox.requests(document)
    assert request.user == "line 0 has words of "
    assert prox.assemble(document, [Answer(text="keep_doc()")]).texts == (SIXTEEN,)
    assert prox.assemble(document, [Answer(text="whatever", finish="length")]).texts == (SIXTEEN,)
    assert prox.assemble(document, [Answer(text=" drop_doc()")]).rejected == ("dropped",)
    assert prox.assemble(document, [Answer(text="", error="no")]).rejected == ("unanswered",)


def test_identity_knows_all_that_matters() -> None:
    makers = [
        ProxChunk(), ProxChunk(instruct=True), ProxChunk(max_chunk=9), ProxChunk(short_first=True),
        ProxChunk(max_tokens=9),
    ]  # fmt: skip
    assert len({str(prox.identity()) for prox in makers}) == len(makers)
    assert ProxDocument().identity() != ProxDocument(instruct=True).identity()
    assert ProxChunk().requests(Document(id="d", text=SIXTEEN))[0].digest != (
        ProxChunk(instruct=True).requests(Document(id="d", text=SIXTEEN))[0].digest
    )


def test_a_tokenizer_makes_limits_exact(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0, "line": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    prox = ProxDocument(max_document=5, tokenizer=str(tmp_path))
    assert prox.requests(Document(id="d", text=SIXTEEN))[0].user.split() == LINES[0].split()[:5]
    prox = ProxDocument(max_document=5, tokenizer=str(tmp_path / "tokenizer.json"))
    assert prox.requests(Document(id="d", text="a b c d e "))[0].user == "a b c d e "
    assert len(ProxChunk(max_chunk=14, tokenizer=str(tmp_path)).requests(
        Document(id="d", text=SIXTEEN))) == 8  # fmt: skip
    assert prox.identity() != ProxDocument(max_document=5).identity()


@pytest.mark.parametrize(
    ("maker", "parameters", "key"),
    [
        (ProxChunk, {"max_chunk": 0}, "max_chunk"),
        (ProxChunk, {"max_tokens": 1.5}, "max_tokens"),
        (ProxChunk, {"short_first": 1}, "short_first"),
        (ProxChunk, {"tokenizer": "no/such"}, "tokenizer"),
        (ProxChunk, {"tokenizer": "\0"}, "tokenizer"),
        (ProxChunk, {"tokenizer": __file__}, "tokenizer"),
        (ProxDocument, {"max_document": True}, "max_document"),
        (ProxDocument, {"instruct": "yes"}, "instruct"),
    ],
)
def test_bad_parameters(maker: type, parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        maker(**parameters)
    assert info.value.key == key
