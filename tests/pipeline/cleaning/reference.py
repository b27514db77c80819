"""MinHash in plain Python, character by character, after the definitions of the modules."""

from __future__ import annotations

from penstock.rules.characters import DIGIT, LETTER, UNSPACED, classes

__all__ = ["bands_of", "grams_of", "jaccard", "shingle_of", "words_of"]

MASK = 2**64 - 1
OFFSET, PRIME, BASE = 0xCBF29CE484222325, 0x100000001B3, 0x9E3779B97F4A7C15


def avalanche(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def mixed(*parts: int | str) -> int:
    state = OFFSET
    for byte in "".join(f"{part}\x1f" for part in parts).encode():
        state = (state ^ byte) * PRIME & MASK
    return state


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded."""
    words: list[str] = []
    for piece in text.split():
        word, alone = "", False
        for letter in "".join(one.lower() for one in piece).replace("ς", "σ"):
            kind = int(classes()[ord(letter)])
            begins = kind & int(UNSPACED) or (alone and kind & int(LETTER | DIGIT))
            if begins and word:
                words.append(word)
                word = ""
            if begins:
                alone = bool(kind & int(UNSPACED))
            word += letter
        words.append(word)
    return words


def grams_of(text: str, n: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    if not words:
        return set()
    return {tuple(words[at : at + n]) for at in range(max(1, len(words) - n + 1))}


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other)


def shingle_of(gram: tuple[str, ...]) -> int:
    state = 0
    for word in gram:
        own = OFFSET
        for letter in word:
            own = (own ^ (ord(letter) + 1)) * PRIME & MASK
        state = (state * BASE + avalanche(own)) & MASK
    return avalanche(state) >> 32


def bands_of(text: str, n: int, bands: int, rows: int, seed: int = 0) -> list[int]:
    shingles = {shingle_of(gram) for gram in grams_of(text, n)}
    if not shingles:
        return [0] * bands
    found = []
    for band in range(bands):
        state = OFFSET ^ band
        for number in range(band * rows, (band + 1) * rows):
            drawn = avalanche(mixed(seed, "minhash", number))
            factor, term = drawn >> 32 | 1, drawn & 0xFFFFFFFF
            least = min((factor * shingle + term) % 2**32 for shingle in shingles)
            state = avalanche((state ^ least) * PRIME & MASK)
        found.append(max(state, 1))
    return found
