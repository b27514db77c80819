"""Statistics: equal to plain Python for any text; definitions by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.arrow_text import checked_view
from penstock.errors import InputError, RecipeError
from penstock.rules import statistics
from penstock.rules.kernels.spans import Utf8
from penstock.rules.statistics import FIELDS, Counting, count_statistics, schema
from tests.rules.reference import count, repeated, top, words_of

ODD = [
    *"aeiou \n\n.,;!?\"'-#[]{}…•“”’«»_*0123456789",
    *"\r\t\v\f\x00\x1c\x1d\x1e\x85\xa0\u2028\u2029\u200b\ufeff",
    *"éßİK٣३。？！、漢字かなไทยខ្មែρΩя🙂𝒳",
    "\r\n",
    "...",
    "[1]",
    "[edit]",
    "[citation needed]",
    "[[2]",
    "Lorem Ipsum",
    "JavaScript",
    "uses cooKies",
    "Use of Cookies",
    "terms of use",
    "PRIVACY POLICY",
    "the ",
    "of ",
    "that ",
    "One more word. ",
    "One more word.\n",
    "J. ",
    "U.S. ",
    "x" * 12,
    " " * 9,
]
TEXTS = st.lists(st.sampled_from(ODD), max_size=60).map("".join)
REPEATING = st.lists(st.sampled_from(["a", "b", "a b", "- ", "ab. ", "\n"]), max_size=80).map(
    " ".join
)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def one(text: str, counting: Counting | None = None) -> dict[str, int]:
    (row,) = count_statistics(pa.array([text], pa.large_string()), counting).to_pylist()
    return row


@settings(max_examples=300)
@given(st.lists(TEXTS | REPEATING | ANY, max_size=4))
def test_counts_are_those_of_plain_python(texts: list[str]) -> None:
    counted = count_statistics(pa.array(texts, pa.large_string())).to_pylist()
    assert counted == [{name: count(text)[name] for name in FIELDS} for text in texts]


@settings(max_examples=100)
@given(TEXTS)
def test_limits_are_those_of_the_recipe(text: str) -> None:
    counting = Counting(
        stop_words=("a", "e", "12"), short_line=4, c4_min_words=1, c4_longest_word=9
    )
    expected = count(text, ("a", "e", "12"), 4, 1, 9)
    assert one(text, counting) == {name: expected[name] for name in FIELDS}


LONG = {
    "empty": "",
    "line feeds": "\n" * 1000,
    "returns": "\r\n" * 1000,
    "line separators": "\u2028" * 1000,
    "symbols": "-" * 1000,
    "one word": "x" * 5000,
    "one word a line": "word\n" * 1000,
    "a long word": "x" * 1001 + " is too long.",
    "a word of 1,000": "é" * 1000 + " is not.",
    "one repeated line": "The same line again.\n" * 500,
    "one long line": "every word of it ".replace(" ", " \t") * 1000,
    "numbers": " ".join(map(str, range(3000))),
    "citations": "[" * 500 + "1]" * 400 + ".",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_long_texts(text: str) -> None:
    assert one(text) == {name: count(text)[name] for name in FIELDS}


def test_every_character_alone_and_in_a_word() -> None:
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert len(every) == 0x110000 - 2048
    lines = ["".join(every[at : at + 97]) for at in range(0, len(every), 97)]
    found = count_statistics(pa.array(lines, pa.large_string()), Counting(ngrams=False))
    expected = [count(line) for line in lines]
    for name, values in found.to_pydict().items():
        assert values == [counts[name] for counts in expected], name
    # No other character completes a phrase of C4 in lower case.
    assert {c for c in every if c > "\x7f" and any("a" <= x <= "z" for x in c.lower())} == {
        "\u0130",
        "\u212a",
    }


def test_counts_depend_on_neither_batch_nor_slice_nor_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [*LONG.values(), "漢字 and é. [1]", *LONG.values()]
    whole = count_statistics(pa.array(texts, pa.large_string()))
    alone = [count_statistics(pa.array([text], pa.string())) for text in texts]
    assert whole.to_pylist() == [row for batch in alone for row in batch.to_pylist()]
    sliced = count_statistics(pa.array(["before", *texts, "after"], pa.large_string())[1:-1])
    assert sliced.equals(whole)
    for seed in (0, 1, 2**64 - 1):
        monkeypatch.setattr(statistics, "_seed", lambda seed=seed: statistics.np.uint64(seed))
        assert count_statistics(pa.array(texts, pa.large_string())).equals(whole)


def test_texts_of_very_many_words_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_WORDS", 40)
    texts = ["a b. c " * 30 + "-" * 99 + " é。" * 50, "no more than 40 words: " * 6, "x " * 40]
    for row, text in zip(count_statistics(pa.array(texts)).to_pylist(), texts):
        words = words_of(text)
        blocks = [words[at : at + 40] for at in range(0, len(words), 40)]
        for n in (2, 3, 4):
            assert row[f"top_{n}_gram_characters"] == max(top(block, n) for block in blocks)
        for n in range(5, 11):
            total = sum(repeated(block, n) for block in blocks)
            assert row[f"duplicate_{n}_gram_characters"] == total
    assert len(words_of(texts[1])) <= 40 < len(words_of(texts[0]))


def test_colliding_hashes_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines whose hashes are equal under a known seed are told apart by their bytes."""
    seed = 0
    step, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def state(first: bytes) -> int:
        value = (seed ^ (16 * step)) & mask
        value = ((value ^ int.from_bytes(first, "little")) * step) & mask
        return value ^ (value >> 32)

    # hash(a + x) == hash(b + y) where y = x ^ state(a) ^ state(b), and both are ASCII.
    found = None
    for number in range(10**6):
        a, b = b"%08d" % number, b"%08d" % (number * 7 + 1)
        difference = (state(a) ^ state(b)).to_bytes(8, "little")
        if a != b and all(byte < 0x80 for byte in difference):
            x = bytes(0x40 | (0x1F & byte) for byte in b"abcdefgh")
            y = bytes(one ^ other for one, other in zip(x, difference))
            if b"\n" not in y:
                found = (a + x).decode(), (b + y).decode()
                break
    assert found is not None
    monkeypatch.setattr(statistics, "_seed", lambda: statistics.np.uint64(seed))
    data = pa.array(found, pa.large_string())
    view = checked_view(data)
    from penstock.rules.kernels.spans import hash_span

    text = Utf8.of(view.data)
    hashes = {int(hash_span(text, at, at + 16, statistics.np.uint64(0))) for at in (0, 16)}
    assert len(hashes) == 1
    assert one("\n".join(found))["duplicate_gopher_lines"] == 0
    assert one("\n".join([*found, found[0]]))["duplicate_gopher_lines"] == 1


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three? Four.", 4),
        ("No end (at all), 3.5 or so.", 1),
        ('He said "no." She went.', 2),
        ("Wait... what?! Yes.", 3),
        ("J. R. Smith of the U.S. wrote, e.g. this.", 1),
        ("Is it I? It is I.", 2),
        ("Lost . Dot.", 2),
        ("Two.Glued words end.", 1),
        ("Cited twice.[1] Then[edit] again.", 2),
    ],
)
def test_sentences(line: str, sentences: int) -> None:
    assert one(line)["c4_sentences"] == sentences


@pytest.mark.parametrize(
    ("text", "words", "cores", "characters"),
    [
        ("", 0, 0, 0),
        ("\"(Don't stop!)", 6, 2, 9),
        ("well-known and/or 3.14", 3, 3, 20),
        ("...", 3, 0, 0),
        ("\u3000a\x85b\u200bc ", 2, 2, 4),
        ("漢字。かな", 1, 1, 5),
    ],
)
def test_words(text: str, words: int, cores: int, characters: int) -> None:
    row = one(text)
    assert (row["words"], row["cores"], row["core_characters"]) == (words, cores, characters)


def test_a_column_documents_its_fields() -> None:
    fields = schema(Counting())
    assert fields.names == [*FIELDS]
    assert {field.type for field in fields} == {pa.uint32()}
    assert fields.field("c4_sentences").metadata[b"source"].startswith(b"Raffel")
    assert schema(Counting(ngrams=False)).names == [n for n in FIELDS if "gram_" not in n]
    assert one("a", Counting(ngrams=False)).keys() == {n for n in FIELDS if "gram_" not in n}
    assert count_statistics(pa.array([], pa.large_string())).num_rows == 0


def test_the_identity_has_each_parameter() -> None:
    plain = Counting().identity()
    for change in (
        {"stop_words": ("und",)},
        {"short_line": 31},
        {"c4_min_words": 2},
        {"c4_longest_word": 9},
        {"ngrams": False},
    ):
        assert Counting(**change).identity() != plain
    assert plain.keys() >= {"version", "unicode"}


@pytest.mark.parametrize("word", ["", "two words", "end.", "#"])
def test_a_stop_word_is_one_core(word: str) -> None:
    with pytest.raises(RecipeError) as info:
        Counting(stop_words=("a", word))
    assert (info.value.key, info.value.got) == ("stop_words", repr(word))


def test_at_most_64_stop_words() -> None:
    words = tuple(f"w{number}" for number in range(64))
    assert one(" ".join(words), Counting(stop_words=words))["stop_words"] == 64
    with pytest.raises(RecipeError):
        Counting(stop_words=(*words, "more"))


def test_damaged_texts_are_refused() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xf4")]
    )
    for texts, problem in ((broken, "damaged"), (pa.array(["a", None]), "nulls")):
        with pytest.raises(InputError, match=problem):
            count_statistics(texts)
