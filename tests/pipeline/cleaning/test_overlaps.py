"""Overlaps against a reference in plain Python, on planted, generated and hostile texts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import random
import time
import unicodedata
from collections import Counter
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RecipeError, SelectorError
from penstock.pipeline.cleaning.overlaps import grams as grams_module
from penstock.pipeline.cleaning.overlaps import kernels
from penstock.pipeline.cleaning.overlaps.grams import Grams, OverlapCounts
from penstock.pipeline.cleaning.overlaps.overlaps import EXAMPLES, UNCHECKED, Overlaps
from penstock.rules.characters import UNSPACED, classes
from penstock.selectors.targets import read_texts

QUESTION = (
    "Which statement best explains why photosynthesis is the foundation of most food webs? "
    "Sunlight is the source of energy for nearly all ecosystems."
)
SHORT = "What do bees make? They make honey."
IGNORABLE = {
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9)),
    *range(0xE0000, 0xE1000),
}
"""Default_Ignorable_Code_Point of DerivedCoreProperties.txt, but for those of the category Cf."""
ALPHABET = "aAbéß ﬁe\u0301\n.-\u00ad\u200b\ufe0f\u3164\u115fÎ中文が\u3099กิ한ΣςI\u0130"


def large(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


# -- the reference ----------------------------------------------------------------------------


def is_accent(letter: str) -> bool:
    return "\u0300" <= letter < "\u0370"


def stripped(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKD", text) if not is_accent(one))


@cache
def folded(letter: str) -> str:
    plain = stripped(stripped(letter).casefold()).replace("ς", "σ")
    ok = 1 <= len(plain) <= 3 and all(unicodedata.category(one)[0] in "LNM" for one in plain)
    return plain if ok else letter


def words_of(text: str) -> list[str]:
    words: list[str] = []
    inside = alone = False
    for letter in text:
        kind = unicodedata.category(letter)
        if kind == "Cf" or is_accent(letter) or ord(letter) in IGNORABLE:
            continue
        if kind[0] not in "LNM":
            inside = alone = False
            continue
        mark = kind[0] == "M"
        own = bool(classes()[ord(letter)] & UNSPACED)
        if not inside or own or (alone and not mark):
            words.append("")
        words[-1] += folded(letter)
        inside, alone = True, own or (alone and mark)
    return words


def reference(
    examples: list[list[str]], ngram: int, texts: list[str]
) -> list[tuple[float, int, int]]:
    origins: dict[tuple[str, ...], int] = {}
    for number, example in enumerate(examples):
        for text in example:
            words = words_of(text)
            size = min(ngram, len(words))
            if size >= 5:
                for at in range(len(words) - size + 1):
                    origins.setdefault(tuple(words[at : at + size]), number)
    rows = []
    for text in texts:
        words = words_of(text)
        covered: set[int] = set()
        tally: Counter[int] = Counter()
        begins = set()
        for at in range(len(words)):
            for size in range(5, min(ngram, len(words) - at) + 1):
                origin = origins.get(tuple(words[at : at + size]))
                if origin is not None:
                    tally[origin] += 1
                    covered |= set(range(at, at + size))
                    begins.add(at)
        best = min(tally, key=lambda one: (-tally[one], one)) if tally else -1
        rows.append((len(covered) / len(words) if words else 0.0, best, len(begins)))
    return rows


def assert_reference(examples: list[list[str]], ngram: int, texts: list[str]) -> OverlapCounts:
    found = Grams.of(examples, ngram).count(large(*texts))
    assert (found.share.dtype, found.example.dtype, found.grams.dtype) == (
        np.float32,
        np.int32,
        np.uint32,
    )
    expected = reference(examples, ngram, texts)
    assert found.share.tolist() == [np.float32(share) for share, _, _ in expected]
    assert found.example.tolist() == [example for _, example, _ in expected]
    assert found.grams.tolist() == [grams for _, _, grams in expected]
    return found


# -- planted copies ---------------------------------------------------------------------------


def variants(text: str, rng: random.Random) -> list[str]:
    words = text.split()
    return [
        text,
        text.upper(),
        text.swapcase(),
        "\n".join(words),
        " \t\r\n ".join(words),
        text.replace(" ", "\u00a0\u2003"),
        text.replace("?", " ?").replace(".", " . ").replace("'", "\u2019"),
        "".join(f"{letter}\u00ad" if rng.random() < 0.2 else letter for letter in text),
        unicodedata.normalize("NFD", text),
        " ".join("".join(one for one in word if one.isalnum()) for word in words),
    ]


def noise(rng: random.Random, words: int) -> str:
    return " ".join(
        "".join(rng.choice("bcdfghjkl") for _ in range(rng.randrange(1, 9))) for _ in range(words)
    )


@pytest.mark.parametrize("around", [0, 3, 4_500])
def test_planted_copies_are_found(around: int) -> None:
    """Also across the blocks of words that the kernel holds, and at both ends of a page."""
    rng = random.Random(around)
    examples = [[SHORT], [QUESTION], ["Die Straße führt den fröhlichen Wanderer über die Brücke."]]
    texts, origins = [], []
    for number, (text,) in enumerate(examples):
        for copy in variants(text, rng):
            texts.append(f"{noise(rng, around)} {copy} {noise(rng, around)}")
            origins.append(number)
    found = assert_reference(examples, 13, texts)
    assert found.example.tolist() == origins
    assert Grams.of(examples).count(large(noise(rng, around))).grams.tolist() == [0]


def test_a_copy_is_found_at_every_place_of_a_block() -> None:
    rng = random.Random(1)
    grams = Grams.of([[QUESTION], [SHORT]])
    limit = kernels._BLOCK
    texts = [
        f"{noise(rng, count)} {copy} {noise(rng, rng.choice((0, 1, 9)))}"
        for count in range(limit - 40, limit + 30)
        for copy in (QUESTION, SHORT)
    ]
    found = grams.count(large(*texts))
    size = len(words_of(QUESTION))
    assert found.grams.tolist() == [size - 12, 1] * (len(texts) // 2)
    assert found.example.tolist() == [0, 1] * (len(texts) // 2)


def test_counts_by_hand() -> None:
    examples = [["a b c d e f g"], ["x", "v w x y z a b c"], ["one two three four"]]
    grams = Grams.of(examples, 6)
    assert grams.unchecked == (1, 2) and len(grams) == 5 and grams.examples == 3
    found = grams.count(large("A-b (c) d, e. f g h", "a b c d e", "v w x y z a b c d e f", "", "x"))
    assert found.share.tolist() == [np.float32(7 / 8), 0, 1, 0, 0]
    assert found.example.tolist() == [0, -1, 1, -1, -1]
    assert found.grams.tolist() == [2, 0, 4, 0, 0]


def test_the_example_with_most_grams_and_the_first_of_equals() -> None:
    examples = [["a b c d e"], ["f g h i j k"], ["f g h i j"], ["l m n o p"]]
    grams = Grams.of(examples, 5)
    found = grams.count(large("a b c d e . f g h i j k", "l m n o p a b c d e", "f g h i j"))
    assert found.example.tolist() == [1, 0, 1]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.text(ALPHABET, max_size=30), min_size=1, max_size=3), max_size=4),
    st.lists(st.text(ALPHABET, max_size=80), max_size=4),
    st.integers(5, 9),
    st.randoms(use_true_random=False),
)
def test_generated_texts(
    examples: list[list[str]], texts: list[str], ngram: int, rng: random.Random
) -> None:
    given_texts = [text for example in examples for text in example]
    planted = [
        rng.choice(["", "a ", "中"]) + rng.choice(given_texts) + rng.choice(["", " b", "b", "文"])
        for _ in range(2 if given_texts else 0)
    ]
    assert_reference(examples, ngram, texts + planted)


def test_every_character() -> None:
    """Each between two words: is it part of a word, and as which letters?"""
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = large(*(f"a{letter}b" for letter in everything))
    spelling = grams_module._spelled(texts)
    counts = np.diff(spelling.offsets)
    rng = random.Random(7)
    some = rng.sample(range(len(everything)), 20_000)
    for row in [*range(0x3200), *some]:
        assert counts[row] == len(words_of(f"a{everything[row]}b")), hex(ord(everything[row]))
    letters = (spelling.letters.astype(np.int64) - 1).tolist()
    for row in [*range(0x3200), *some]:
        first = spelling.starts[spelling.offsets[row]]
        last = spelling.offsets[row + 1]
        stop = spelling.starts[last] if last < len(spelling.starts) else len(letters)
        own = "".join(chr(code) if code >= 0 else " " for code in letters[first : stop - 1])
        assert own == " ".join(words_of(f"a{everything[row]}b")), hex(ord(everything[row]))


# -- hashes decide nothing, hostile texts -----------------------------------------------------


def test_a_hash_alone_is_no_match() -> None:
    """Grams whose hashes are those of others: the text is compared."""
    grams = Grams.of([["a b c d e f"], ["g h i j k l"]], 5)
    letters = grams.letters.copy()
    letters[letters == ord("c") + 1] = ord("q") + 1  # the words behind the hashes are others now
    damaged = dataclasses.replace(grams, letters=letters)
    assert grams.count(large("a b c d e f")).grams.tolist() == [2]
    assert damaged.count(large("a b c d e f")).grams.tolist() == [0]
    assert damaged.count(large("g h i j k l")).grams.tolist() == [2]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 8_000_000,
        "a " * 4_000_000,
        " " * 8_000_000,
        "\0" * 8_000_000,
        "\u00ad" * 4_000_000,
        "中" * 2_700_000,
        f"{SHORT} " * 220_000,
        ("bees make" + " " * 5000) * 1500,
    ],
    ids=["letter", "letters", "spaces", "nul", "invisible", "han", "copies", "gaps"],
)
def test_time_is_linear(text: str) -> None:
    grams = Grams.of([[SHORT], [QUESTION], ["a a a a a a a"], ["中" * 20], ["bees make " * 9]])
    grams.count(large("warm"))
    half, whole = large(text[: len(text) // 2]), large(text)
    times = []
    for texts in (half, whole):
        best = min(_seconds(grams, texts) for _ in range(2))
        times.append(best)
    assert times[1] < 5 * times[0] + 0.2
    assert times[1] < 8


def _seconds(grams: Grams, texts: pa.Array) -> float:
    start = time.process_time()
    grams.count(texts)
    return time.process_time() - start


def test_many_equal_documents_and_a_slice() -> None:
    grams = Grams.of([[QUESTION]])
    texts = pa.array([QUESTION] * 20_000, pa.string())
    found = grams.count(texts)
    assert (found.share == 1).all() and (found.example == 0).all()
    mixed = large("nothing", QUESTION, "nothing", QUESTION).slice(1, 2)
    assert grams.count(mixed).share.tolist() == [1, 0]
    assert grams.count(large()).share.shape == (0,)


# -- the column -------------------------------------------------------------------------------


def test_the_column_of_a_file(tmp_path: Path) -> None:
    lines = [
        {
            "question": "What do bees make?",
            "choices": ["They make honey.", "Milk and also wax."],
            "answer": "They make honey.",
        },
        {"question": "Why?", "answer": "Because."},
        {"text": QUESTION},
    ]
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    examples = read_texts(path)
    assert examples == [
        ["What do bees make?\nThey make honey.", "What do bees make?\nMilk and also wax."],
        ["Why?\nBecause."],
        [QUESTION],
    ]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    given = Overlaps(file=path.name, sha256=sha256, read=partial(read_texts, path))
    packed = pickle.dumps(given)
    path.unlink()  # a worker may not have it
    column = pickle.loads(packed)
    assert column.grams.unchecked == (1,) and pickle.loads(pickle.dumps(column)).name == given.name
    assert not pickle.loads(pickle.dumps(given.without_examples())).__dict__.get("grams")
    batch = column.compute(large("what DO bees make milk and also wax", QUESTION, "Why? Because."))
    assert batch.schema.metadata == {EXAMPLES: b"3", UNCHECKED: b"1"}
    assert batch.schema == pa.schema(
        [("share", pa.float32()), ("example", pa.int32()), ("grams", pa.uint32())]
    )
    assert batch.column("share").to_pylist() == [1, 1, 0]
    assert batch.column("example").to_pylist() == [0, 2, -1]
    assert json.loads(json.dumps(column.config())) == column.config()
    assert column.config()["sha256"] == sha256 and column.config()["ngram"] == 13
    assert (column.name, column.version) == (f"overlaps:{sha256}", 2)


@pytest.mark.parametrize("ngram", [4, 0, -1, 1001])
def test_an_ngram_out_of_range_is_refused(ngram: int) -> None:
    with pytest.raises(RecipeError) as info:
        Grams.of([[QUESTION]], ngram)
    assert (info.value.key, info.value.got) == ("ngram", str(ngram))


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(SelectorError):
        Grams.of([[QUESTION]]).count(pa.array([1, 2]))


def test_no_examples() -> None:
    grams = Grams.of([])
    assert len(grams) == 0
    assert grams.count(large(QUESTION)).example.tolist() == [-1]
    assert Grams.of([["", "a b c d e"], []]).unchecked == (0, 1)


def test_invisible_characters_hide_no_copy() -> None:
    """Attack: a variation selector or another ignorable character within each word of a copy."""
    grams = Grams.of([[QUESTION]])
    for code in sorted(IGNORABLE - set(range(0xE0100, 0xE1000))):
        hidden = " ".join(f"{word[:1]}{chr(code)}{word[1:]}" for word in QUESTION.split())
        assert grams.count(large(hidden)).share.tolist() == [1.0], hex(code)
