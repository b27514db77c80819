"""No text gives the id of a control token; all other texts keep the ids of the library."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from penstock.errors import InputError
from penstock.tokenization.definition import Definition
from penstock.tokenization.hiding import read_text_tokenizer, text_tokenizer, tokenizer_of

from .kinds import END, KINDS, TEXTS, byte_level, pieces, saved, special, unigram, words

SPELLED = ["</s>", " a </s> b", "</s></s>d", "<s>old</s>", "</", "/s>", "\n</s>\n", "<</s>>"]


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def of(tokenizer: Tokenizer, *more: str, end: str = END) -> Tokenizer:
    definition = Definition.of(tokenizer).flag({end, *more})
    return text_tokenizer(definition, ends=[end])


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_gives_the_end_and_nothing_is_lost(kind: str) -> None:
    plain = KINDS[kind]()
    hidden = of(plain)
    end = plain.token_to_id(END)
    gave = 0
    for text in SPELLED:
        found = ids(hidden, text)
        assert end not in found
        gave += end in ids(plain, text)
        if kind not in ("WordPiece", "WordLevel"):
            assert plain.decode(found, skip_special_tokens=False) == text
    assert gave, "the library would not have given it either"
    for text in (*TEXTS[::2], "old news", "", " ", "a < b / s > c"):
        assert ids(hidden, text) == ids(plain, text)
    for name, index in plain.get_vocab().items():
        assert name in (END, "<s>") or hidden.token_to_id(name) == index


def brute_force(text: str, merges: list[tuple[str, str]], letters: str) -> list[str]:
    """Merge by the definition: the first of the merges that applies, from the left, over again."""
    found = [letter if letter in letters else "<unk>" for letter in text.replace(" ", "\u2581")]
    while True:
        pairs = list(itertools.pairwise(found))
        rank = min((merges.index(pair) for pair in pairs if pair in merges), default=None)
        if rank is None:
            return found
        at = pairs.index(merges[rank])
        found[at : at + 2] = ["".join(merges[rank])]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_merges_that_make_the_end_are_not_made(data: st.DataObject) -> None:
    letters = "</s>a\u2581"
    merges: list[tuple[str, str]] = []
    tokens = list(letters)
    for _ in range(data.draw(st.integers(0, 9))):
        pair = data.draw(st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)))
        if "".join(pair) not in tokens and len("".join(pair)) < 7:
            merges.append(pair)
            tokens.append("".join(pair))
    merges += [pair for pair in [("<", "/"), ("s", ">"), ("</", "s>")] if pair not in merges]
    plain = pieces(merges, list(letters))
    hidden = of(plain)
    left = [pair for pair in merges if END not in (*pair, "".join(pair))]
    for _ in range(4):
        text = data.draw(st.text("</s>a </s>", max_size=14))
        expected = [plain.token_to_id(token) for token in brute_force(text, left, letters)]
        assert ids(hidden, text) == expected


@given(st.text(st.sampled_from("</s>old w"), max_size=12).map(lambda text: text + END))
@settings(max_examples=80, deadline=None)
def test_pieces_of_unigram_are_the_best_without_the_end(text: str) -> None:
    plain = unigram()
    model = json.loads(plain.to_str())["model"]["vocab"]
    scores = {piece: score for piece, score in model if piece not in (END, "<s>", "<unk>")}
    found = of(plain).encode(text, add_special_tokens=False)
    for word, own in zip(_words(text), _groups(found.tokens, _words(text))):
        best = [0.0] + [-1e9] * len(word)
        for stop in range(1, len(word) + 1):
            for start in range(stop):
                if word[start:stop] in scores:
                    best[stop] = max(best[stop], best[start] + scores[word[start:stop]])
        assert sum(scores[piece] for piece in own) == pytest.approx(best[-1])


def _words(text: str) -> list[str]:
    """Divide before each space, as Metaspace."""
    parts = text.replace(" ", "\u2581").split("\u2581")
    return [part for part in [parts[0], *("\u2581" + part for part in parts[1:])] if part]


def _groups(tokens: list[str], words: list[str]) -> list[list[str]]:
    groups, rest = [], list(tokens)
    for word in words:
        own: list[str] = []
        while "".join(own) != word:
            own.append(rest.pop(0))
        groups.append(own)
    assert not rest
    return groups


def test_other_control_tokens_are_letters_and_markup_stays() -> None:
    plain = byte_level("<eos>", special=True)
    plain.add_special_tokens([special("<pad>", lstrip=True, rstrip=True)])
    plain.add_tokens([AddedToken("<bos>", normalized=False), AddedToken("</s>", normalized=False)])
    plain.add_tokens([AddedToken("<tool>", lstrip=True, normalized=False)])
    hidden = of(plain, "<bos>", end="<eos>")
    text = "a <pad> b<bos>c <tool></s><eos>"
    control = [plain.token_to_id(name) for name in ("<eos>", "<pad>", "<bos>")]
    found = ids(hidden, text)
    assert not {*control} & {*found}
    assert [plain.token_to_id("<tool>"), plain.token_to_id("</s>")] == [
        index for index in found if index >= min(control) and index not in control
    ]
    assert plain.decode(found, skip_special_tokens=False) == text.replace(" <tool>", "<tool>")


def test_processors_dropout_truncation_and_padding_are_off(tmp_path: Path) -> None:
    plain = byte_level()
    end = plain.token_to_id(END)
    text = " ".join(TEXTS)
    expected = ids(of(plain), text)
    plain.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, end)]
    )
    plain.model.dropout = 0.5
    plain.enable_truncation(4)
    plain.enable_padding(length=50)
    assert len({tuple(ids(plain, text)) for _ in range(99)}) > 1
    path = saved(plain, tmp_path)
    read = read_text_tokenizer(path)
    for _ in range(5):
        assert read.encode(text).ids == expected


def test_a_directory_says_more_of_its_tokens(tmp_path: Path) -> None:
    plain = byte_level("<end>", special=False)
    path = saved(plain, tmp_path)
    index = plain.token_to_id("<end>")
    assert index in ids(read_text_tokenizer(path), "a<end>")
    assert index not in ids(read_text_tokenizer(path, ids=[index]), "a<end>")
    letter = plain.token_to_id("a")
    assert letter in ids(read_text_tokenizer(path, ids=[letter]), "a<end>")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    assert index not in ids(read_text_tokenizer(path), "a<end>")


def test_a_padding_letter_stays_a_letter() -> None:
    plain = byte_level()
    plain.add_special_tokens([special("!")])
    assert ids(of(plain), "a!") == ids(byte_level(), "a!")


def _unknown_end(model: object) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([special(END)])
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "end"),
    [
        (_unknown_end(models.WordLevel({END: 0, "a": 1}, unk_token=END)), END),
        (_unknown_end(models.Unigram([(END, 0.0), ("a", -1.0)], unk_id=0)), END),
        (_unknown_end(models.BPE({END: 0, "a": 1}, [], unk_token=END)), END),
        (_unknown_end(models.WordLevel({END: 0, "a": 1}, unk_token="?")), END),
        (byte_level(), "a"),
        (byte_level("\u00b6"), "\u00b6"),  # the letter of a byte, too
        (pieces([], ["a", "<0x61>"], byte_fallback=True), "<0x61>"),
    ],
)  # fmt: skip
def test_an_end_that_texts_need_is_refused(tokenizer: Tokenizer, end: str) -> None:
    with pytest.raises(InputError) as caught:
        of(tokenizer, end=end)
    assert caught.value.key == "tokenizer"


def test_an_unknown_token_that_no_byte_needs_may_be_the_end() -> None:
    plain = byte_level()
    expected = ids(of(plain), "".join(TEXTS))
    settings = json.loads(plain.to_str())
    settings["model"]["unk_token"] = "</s>"
    settings["model"]["vocab"]["</s>"] = plain.token_to_id(END)
    assert ids(of(Tokenizer.from_str(json.dumps(settings))), "".join(TEXTS)) == expected


def test_a_letter_without_a_name_is_unknown_where_there_is_an_unknown() -> None:
    plain = pieces([], ["a", "|"])
    found = ids(of(plain, end="|"), "a|a")
    assert found == [plain.token_to_id("a"), plain.token_to_id("<unk>"), plain.token_to_id("a")]


def test_normalization_does_not_bring_the_end() -> None:
    plain = KINDS["merges"]()
    plain.normalizer = normalizers.Sequence([normalizers.NFKC(), plain.normalizer])
    wide = "\uff1c/\uff53\uff1e"
    assert plain.token_to_id(END) in ids(plain, wide)
    assert ids(of(plain), wide) == [
        plain.token_to_id(token) for token in ("</", "s>")
    ]  # fmt: skip


@pytest.mark.parametrize("model", [models.WordPiece, models.WordLevel])
def test_unknown_words_stay_unknown(model: type) -> None:
    assert ids(of(words(model)), "\u4e2d </s>")[0] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {
            "added_tokens": [
                {
                    "id": 999,
                    "content": "zz",
                    "special": False,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                }
            ]
        },
        {"model": {"merges": [["a", "nothing"]]}},
    ],
)
def test_settings_that_do_not_fit_together_are_an_error(changes: dict) -> None:
    """Found by fuzzing: an AssertionError, and a bare Exception of the library."""
    model = models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
    settings = json.loads(Tokenizer(model).to_str())
    settings["model"] |= changes.get("model", {})
    settings["added_tokens"] = changes.get("added_tokens", [])
    with pytest.raises(InputError) as caught:
        tokenizer_of(settings)
    assert caught.value.key == "tokenizer"
