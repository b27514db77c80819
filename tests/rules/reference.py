"""The counts of a text in plain Python: slow, literal, and without any part of the kernels."""

from __future__ import annotations

import re
from collections import Counter

from penstock.rules.characters import SYMBOL, TERMINAL, UNSPACED, classes

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


def is_symbol(character: str) -> bool:
    return bool(classes()[ord(character)] & SYMBOL)


def is_terminal(character: str) -> bool:
    return bool(classes()[ord(character)] & TERMINAL)


def words_of_piece(piece: str) -> list[str]:
    core = piece
    while core and is_symbol(core[0]):
        core = core[1:]
    begin = len(piece) - len(core)
    while core and is_symbol(core[-1]):
        core = core[:-1]
    return [*piece[:begin], *([core] if core else []), *piece[begin + len(core) :]]


def words_of(text: str) -> list[str]:
    return [word for piece in text.split() for word in words_of_piece(piece)]


def sentences_of(line: str) -> list[list[str]]:
    """Return the words of each sentence of a line that is not empty."""
    sentences: list[list[str]] = [[]]
    ended = False
    for piece in line.split():
        before = ""
        for word in words_of_piece(piece):
            abbreviated = "." in before or (len(before) == 1 and before.isalpha())
            if len(word) == 1 and is_symbol(word):
                ended |= is_terminal(word) and not (word == "." and abbreviated)
                before = ""
            else:
                if ended:
                    sentences.append([])
                ended, before = False, word
            sentences[-1].append(word)
    return sentences


def duplicates(items: list[str]) -> tuple[int, int]:
    again = [item for place, item in enumerate(items) if item in items[:place]]
    return len(again), sum(map(len, again))


def top(words: list[str], n: int) -> int:
    grams = Counter(" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
    if not grams:
        return 0
    ((gram, occurrences),) = grams.most_common(1)
    return len(gram) * occurrences


def repeated(words: list[str], n: int) -> int:
    known, characters, at = set(), 0, 0
    while at + n <= len(words):
        gram = tuple(words[at : at + n])
        if gram in known:
            characters += len("".join(gram))
            at += n
        else:
            known.add(gram)
            at += 1
    return characters


def c4(text: str, min_words: int, longest_word: int) -> tuple[int, int, int, int]:
    kept = sentences = lorem = curly = 0
    for whole in text.splitlines():
        line = whole.strip()
        pieces = line.split()
        if any(len(piece) > longest_word for piece in pieces):
            continue
        line = CITATION.sub("", line)
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("..."):
            continue
        if len(pieces) < min_words:
            continue
        lower = line.lower()
        lorem += "lorem ipsum" in lower
        if "javascript" in lower:
            continue
        curly += "{" in line
        if any(policy in lower for policy in POLICIES):
            continue
        kept += 1
        sentences += len(sentences_of(line))
    return kept, sentences, lorem, curly


def count(
    text: str,
    stop_words: tuple[str, ...] = STOP_WORDS,
    short_line: int = 30,
    min_words: int = 3,
    longest_word: int = 1000,
) -> dict[str, int]:
    """Return the counts by name."""
    words = words_of(text)
    cores = [word for word in words if not all(map(is_symbol, word))]
    lines = text.splitlines()
    newline_lines = re.split(r"\n+", text)
    filled = [line for line in text.split("\n") if line.strip()]
    paragraphs = re.split(r"\n{2,}", text.strip())
    kept, sentences, lorem, curly = c4(text, min_words, longest_word)
    counts = {
        "characters": len(text),
        "letters": sum(character.isalpha() for character in text),
        "unspaced_letters": sum(bool(classes()[ord(letter)] & UNSPACED) for letter in text),
        "words": len(words),
        "cores": len(cores),
        "core_characters": sum(map(len, cores)),
        "lettered_words": sum(any(map(str.isalpha, word)) for word in words),
        "stop_words": len({*words} & {*stop_words}),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "newlines": text.count("\n"),
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines),
        "c4_lines": kept,
        "c4_sentences": sentences,
        "c4_lorem_ipsum_lines": lorem,
        "c4_curly_bracket_lines": curly,
        "gopher_lines": len(newline_lines),
        "filled_lines": len(filled),
        "terminal_lines": sum(is_terminal(line[-1]) for line in filled),
        "short_lines": sum(len(line) <= short_line for line in filled),
        "paragraphs": len(paragraphs),
    }
    for name, pieces in (
        ("gopher_line", newline_lines),
        ("filled_line", filled),
        ("paragraph", paragraphs),
    ):
        counts[f"duplicate_{name}s"], counts[f"duplicate_{name}_characters"] = duplicates(pieces)
    counts |= {f"top_{n}_gram_characters": top(words, n) for n in (2, 3, 4)}
    counts |= {f"duplicate_{n}_gram_characters": repeated(words, n) for n in range(5, 11)}
    return counts
