"""Signatures: equal to plain Python for any text; an estimate without bias; the S-curve."""

from __future__ import annotations

import pickle
import time
from fractions import Fraction
from math import comb

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InputError, RecipeError
from penstock.pipeline.cleaning.minhash import kernels
from penstock.pipeline.cleaning.minhash.folding import ALONE, CODE, WORDY, folded
from penstock.pipeline.cleaning.minhash.signatures import Signatures, band_hashes, shingle_sets
from penstock.pipeline.cleaning.minhash.threshold import Banding, choose_banding
from penstock.rules.characters import DIGIT, LETTER, UNSPACED, classes
from penstock.text_hashes import normalise
from tests.pipeline.cleaning.reference import bands_of, grams_of, jaccard, shingle_of, words_of

ODD = [
    *"aeiouAEIOU \n\n\t\r\v\f\x00\x1c\x85\xa0\u2028\u3000\u200b\ufeff.,-12",
    *"éÉßẞİıKΣσςΩωǅⅧⓐ３。」漢字かなไทยี่ខ្មែរЯя🙂𝒳",
    "İ",
    "I\u0307",
    "word ",
    "Word ",
    "x" * 20,
]
TEXTS = st.lists(st.sampled_from(ODD), max_size=60).map("".join)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def strings(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


def bands(signatures: Signatures, texts: pa.Array) -> np.ndarray:
    return band_hashes(signatures.compute(texts).column("bands"))


@settings(max_examples=200)
@given(st.lists(TEXTS | ANY, max_size=4), st.sampled_from([1, 2, 5]))
def test_bands_are_those_of_plain_python(texts: list[str], ngram: int) -> None:
    signatures = Signatures(threshold=0.7, ngram=ngram, permutations=12, seed=ngram)
    banding = signatures.banding
    expected = [bands_of(text, ngram, banding.bands, banding.rows, ngram) for text in texts]
    assert bands(signatures, strings(*texts)).tolist() == expected


@settings(max_examples=200)
@given(st.lists(TEXTS | ANY, min_size=1, max_size=4), st.sampled_from([1, 3]))
def test_sets_are_those_of_plain_python(texts: list[str], ngram: int) -> None:
    found = shingle_sets(strings(*texts), ngram)
    expected = [sorted({shingle_of(gram) for gram in grams_of(text, ngram)}) for text in texts]
    assert [one.tolist() for one in found] == expected


@settings(max_examples=300)
@given(TEXTS | ANY)
def test_equal_after_normalising_means_equal_bands(text: str) -> None:
    signatures = Signatures(ngram=2)
    one, other, last = bands(signatures, strings(text, normalise(text), f" {text.upper()}\n"))
    assert (one == other).all()
    if normalise(text.upper()) == normalise(text):
        assert (one == last).all()
    assert (one == 0).all() == (not text.split())
    assert (one == 0).any() == (not text.split())


def test_every_character_is_folded_as_python_does() -> None:
    kinds = classes()
    for code in range(0x110000):
        entry = int(folded()[code])
        character = "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)
        if character.isspace():
            assert entry == 0
        elif character != "\ufffd":
            lower = character.lower()
            assert lower[1:] == ("\u0307" if character == "İ" else "")
            other = ord(lower[0].replace("ς", "σ"))
            assert (entry & int(CODE)) == other + 1
            assert bool(entry & int(ALONE)) == bool(kinds[other] & UNSPACED)
            assert bool(entry & int(WORDY)) == bool(kinds[other] & (LETTER | DIGIT))


WORDS = {
    "The  CAT\tsat.": ["the", "cat", "sat."],
    "漢字。abc 12": ["漢", "字。", "abc", "12"],
    "第3章": ["第", "3", "章"],
    "see漢": ["see", "漢"],
    "漢-x": ["漢-", "x"],
    "ไทยที่": ["ไ", "ท", "ย", "ที่"],
    "ΟΔΟΣ οδος": ["οδοσ", "οδοσ"],
    "\x00a\u200bb": ["\x00a\u200bb"],
}


@pytest.mark.parametrize("text", WORDS)
def test_words(text: str) -> None:
    assert words_of(text) == WORDS[text]
    [found] = shingle_sets(strings(text), 1)
    assert found.tolist() == sorted({shingle_of((word,)) for word in WORDS[text]})


@pytest.mark.parametrize("word", ["ab ", "漢", "漢。x ", "é "])
@pytest.mark.parametrize("extra", range(-8, 9, 4))
def test_blocks_join(word: str, extra: int) -> None:
    """A text of about three blocks of words has the n-grams of one."""
    rng = np.random.default_rng(extra + 8)
    count = 3 * kernels.BLOCK + extra
    text = "".join(f"{word}{'x' * (n % 3)} " if n else word for n in rng.integers(0, 5, count))
    signatures = Signatures(permutations=4, ngram=7)
    banding = signatures.banding
    expected = bands_of(text, 7, banding.bands, banding.rows)
    assert bands(signatures, strings("", text, "a")).tolist()[1] == expected
    [found] = shingle_sets(strings(text), 7)
    assert found.tolist() == sorted({shingle_of(gram) for gram in grams_of(text, 7)})


def test_slices_and_types() -> None:
    texts = ["one two three four five six", "", "é é é", "x"]
    whole = bands(Signatures(), strings(*texts))
    assert whole.dtype == np.uint64
    assert whole.shape == (4, 9)
    assert (bands(Signatures(), strings(*texts)[1:3]) == whole[1:3]).all()
    assert (bands(Signatures(), pa.array(texts)[1:3]) == whole[1:3]).all()
    assert bands(Signatures(), strings()).shape == (0, 9)


HOSTILE = {
    "one word": "x" * 2**24,
    "white space": " " * 2**24,
    "returns": "\r" * 2**24,
    "zeros": "\0" * 2**24,
    "words of one letter": "a " * 2**23,
    "letters without spaces": "漢" * (2**24 // 3),
    "marks": "\u0307" * 2**23,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_linear_time(name: str) -> None:
    text = HOSTILE[name]
    signatures = Signatures()
    signatures.compute(strings("a"))
    began = time.process_time()
    [found] = bands(signatures, strings(text))
    assert time.process_time() - began < 2  # 16 MiB; 0.1 s here
    [short] = bands(signatures, strings(text[:4096] if " " in text else text))
    assert (found == short).all()


def test_damaged_texts_are_refused() -> None:
    data = pa.py_buffer(b"ab\xe3")
    offsets = pa.py_buffer(np.array([0, 3], np.int64))
    damaged = pa.LargeStringArray.from_buffers(1, offsets, data)
    with pytest.raises(InputError, match="damaged"):
        Signatures().compute(damaged)
    with pytest.raises(InputError, match="1 null"):
        Signatures().compute(pa.array(["a", None]))


def test_parameters_are_checked_and_the_column_travels() -> None:
    for wrong in (
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"ngram": 0},
        {"permutations": 0},
        {"false_negatives": -1},
    ):
        with pytest.raises(RecipeError) as caught:
            Signatures(**wrong)
        assert caught.value.key == next(iter(wrong))
    column = Signatures(threshold=0.9, ngram=3)
    assert pickle.loads(pickle.dumps(column)) == column
    assert column.config() | {"unicode": ""} == {
        "ngram": 3,
        "bands": 5,
        "rows": 25,
        "seed": 0,
        "unicode": "",
    }


def area(threshold: Fraction, banding: Banding) -> Fraction:
    """Return the sum of both areas, exactly: the binomial theorem, integrated term by term."""

    def missed(to: Fraction) -> Fraction:
        """Integrate (1 - s^r)^b from 0."""
        terms = (
            (-1) ** k * comb(banding.bands, k) * to ** (banding.rows * k + 1)
            / Fraction(banding.rows * k + 1)
            for k in range(banding.bands + 1)
        )  # fmt: skip
        return sum(terms, Fraction(0))

    below = threshold - missed(threshold)
    return below + missed(Fraction(1)) - missed(threshold)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, (25, 5)), (0.6, (18, 7)), (0.7, (14, 9)), (0.8, (9, 13)), (0.9, (5, 25))],
)
def test_banding_has_the_least_area(threshold: float, expected: tuple[int, int]) -> None:
    chosen = choose_banding(threshold)
    assert (chosen.bands, chosen.rows) == expected
    exact = Fraction(threshold)
    least = area(exact, chosen)
    for bands, rows in ((14, 8), (9, 14), (8, 16), (16, 8), (10, 12), (20, 6), (25, 5), (5, 25)):
        assert least <= area(exact, Banding(bands=bands, rows=rows))


def test_weights_of_areas_move_the_curve() -> None:
    at = np.array([0.75])
    seldom = choose_banding(0.8, false_negatives=0.1).probability(at)
    often = choose_banding(0.8, false_negatives=0.9).probability(at)
    assert seldom < choose_banding(0.8).probability(at) < often


def pairs(rng: np.random.Generator, size: int, shared: int, count: int) -> pa.Array:
    """Return 2 x ``count`` texts: pairs of sets of ``size`` words with ``shared`` in common."""
    texts = []
    for start in range(0, count * 2 * size, 2 * size):
        words = [f"w{start + number}" for number in rng.permutation(2 * size)]
        texts.append(" ".join(words[:size]))
        texts.append(" ".join(words[size - shared : 2 * size - shared]))
    return strings(*texts)


@pytest.mark.parametrize(("size", "shared"), [(3, 2), (10, 7), (60, 40), (300, 150), (300, 285)])
def test_the_estimate_has_no_bias_and_a_binomial_variance(size: int, shared: int) -> None:
    """Of 128 functions, in 2,000 pairs: agreements have mean 128 s and variance 128 s (1 - s)."""
    signatures = Signatures(threshold=0.01, ngram=1)
    assert signatures.banding == Banding(bands=128, rows=1)
    count = 2000
    found = bands(signatures, pairs(np.random.default_rng(size), size, shared, count))
    agree = (found[0::2] == found[1::2]).sum(axis=1)
    s = shared / (2 * size - shared)
    variance = 128 * s * (1 - s)
    assert abs(agree.mean() - 128 * s) < 4 * np.sqrt(variance / count)
    assert abs(agree.var() / variance - 1) < 4 * np.sqrt(2 / count)


@pytest.mark.parametrize("shared", [200, 240, 270, 290])
def test_pairs_are_found_on_the_s_curve(shared: int) -> None:
    signatures, count, size = Signatures(ngram=1), 1500, 300
    found = bands(signatures, pairs(np.random.default_rng(shared), size, shared, count))
    share = (found[0::2] == found[1::2]).any(axis=1).mean()
    expected = float(signatures.banding.probability(shared / (2 * size - shared)))
    assert 0 < expected < 1
    assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / count)


def test_similarity_is_that_of_the_n_grams() -> None:
    texts = "a b c d e f g", "a b c d e f h", "a b c"
    one, other, short = shingle_sets(strings(*texts), 3)
    assert len(np.intersect1d(one, other)) / len(np.union1d(one, other)) == pytest.approx(4 / 6)
    assert jaccard(grams_of(texts[0], 3), grams_of(texts[1], 3)) == pytest.approx(4 / 6)
    assert len(np.intersect1d(one, short)) == 1
