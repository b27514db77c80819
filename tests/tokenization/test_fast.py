"""gigatoken gives the ids of `tokenizers`, or is not asked."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from penstock.tokenization import fast as fast_module
from penstock.tokenization.definition import Definition
from penstock.tokenization.encoder import TextEncoder
from penstock.tokenization.fast import FastEncoder, find_encoder, probes, refusal_of
from penstock.tokenization.hiding import text_settings, tokenizer_of
from tests.pools import documents, make, recipe_of, write_jsonl

from .kinds import END, TEXTS, byte_level, llama, unigram, words

pytest.importorskip("gigatoken")

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def of(tokenizer: Tokenizer) -> dict[str, Any]:
    return text_settings(Definition.of(tokenizer).flag([END]), ends=[END])


def split(pattern: str = GPT4, behavior: str = "isolated", **flags: Any) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior, **flags),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def normalized() -> Tokenizer:
    tokenizer = split()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


TAKEN = {"gpt-2": byte_level, "llama-3": split, "qwen": normalized}


def expected(settings: dict[str, Any], texts: Sequence[str]) -> list[list[int]]:
    found = tokenizer_of(settings).encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in found]


@pytest.mark.parametrize("kind", TAKEN)
def test_ids_are_equal_on_hostile_texts(kind: str) -> None:
    own = of(TAKEN[kind]())
    assert refusal_of(own) is None
    runs = [run * 3000 for run in ("a", " ", "\n", "1", "'s", "\U0001f600", "\u0301")]
    texts = [*probes(own, 1500), *runs, "", *TEXTS, f"a{END}b", "<tool>", "x<tool> "]
    found = FastEncoder(own).encode(texts)
    assert [ids.tolist() for ids in found] == expected(own, texts)
    assert all(ids.dtype == np.uint32 for ids in found)


@pytest.mark.parametrize("kind", TAKEN)
def test_code_points_of_other_versions_of_unicode_are_equal(kind: str) -> None:
    """4,657 letters of Unicode 17 divide texts otherwise in gigatoken 0.10."""
    own = of(TAKEN[kind]())
    new = [0x88F, 0xC5C, 0xCDC, 0xA7CE, 0x10940, 0x11DB3, 0x16EB7, 0x187F9, 0x2CEA8]
    texts = [f"{chr(code)}'s 1{chr(code)}" for code in new]
    fast = FastEncoder(own)
    assert [ids.tolist() for ids in fast.encode(texts)] == expected(own, texts)
    if unicodedata.unidata_version < "16":
        direct = [fast._encoder.encode(text).tolist() for text in texts]
        assert direct != expected(own, texts), "no text goes to the reference any more"


@given(st.lists(st.text(max_size=40), max_size=5))
@settings(max_examples=100, deadline=None)
def test_ids_are_equal_on_any_text(texts: list[str]) -> None:
    own = SETTINGS
    assert [ids.tolist() for ids in FAST.encode(texts)] == expected(own, texts)


SETTINGS = of(normalized())
FAST = FastEncoder(SETTINGS)


def test_the_encoder_is_made_anew_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_module, "_RENEWED", 50)
    fast = FastEncoder(SETTINGS)
    first, texts = fast._encoder, [text * 3 for text in TEXTS]
    assert [ids.tolist() for ids in fast.encode(texts)] == expected(SETTINGS, texts)
    assert fast._encoder is not first


def prefixed() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def whole() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def digits() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def lowered() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def with_added(**flags: bool) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<tool>", **{"normalized": False, **flags})])
    return tokenizer


def added_twice() -> Tokenizer:
    tokenizer = with_added()
    tokenizer.add_tokens([AddedToken("<to", normalized=True)])
    return tokenizer


def without_a_byte() -> Tokenizer:
    settings = json.loads(byte_level().to_str())
    vocabulary, merges = settings["model"]["vocab"], settings["model"]["merges"]
    vocabulary["\u6c34"] = vocabulary.pop("".join(merges.pop()))
    return Tokenizer.from_str(json.dumps(settings))


def without_pre_tokenizer() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = None
    return tokenizer


def test_a_gigatoken_that_cannot_be_imported_leaves_ids_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = byte_level()
    definition, eos = plain.to_str(), plain.token_to_id(END)
    encoder = {"library": "gigatoken", "version": fast_module.installed_version()}
    sound = TextEncoder(definition, eos, encoder)
    assert sound._fast is not None
    wanted = [ids.tolist() for ids in sound.documents(TEXTS, "uint32")]
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    found = TextEncoder(definition, eos, encoder)
    assert found._fast is None
    assert [ids.tolist() for ids in found.documents(TEXTS, "uint32")] == wanted


REFUSED = {
    "unigram": unigram,
    "words": words,
    "letters": llama,
    "prefix space": prefixed,
    "no expression": whole,
    "other pre-tokenizers": digits,
    "behaviour": lambda: split(behavior="merged_with_previous"),
    "inverted": lambda: split(invert=True),
    "normalizer": lowered,
    "strips": lambda: with_added(lstrip=True),
    "single word": lambda: with_added(single_word=True),
    "added twice": added_twice,
    "no byte": without_a_byte,
    "no pre-tokenizer": without_pre_tokenizer,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_that_it_passes_over_are_refused(kind: str) -> None:
    own = of(REFUSED[kind]())
    assert refusal_of(own)
    assert find_encoder(own, [], [])["library"] == "tokenizers"


def merging(*merges: str) -> dict[str, Any]:
    """Byte-level BPE of given merges, each token numbered when it is first made."""
    own = of(byte_level(vocabulary=256))
    vocabulary = {name: index for name, index in own["model"]["vocab"].items() if len(name) == 1}
    pairs = [merge.split() for merge in merges]
    for pair in pairs:
        vocabulary.setdefault("".join(pair), len(vocabulary))
    own["model"] |= {"vocab": vocabulary, "merges": pairs}
    return {**own, "added_tokens": []}


def test_a_merge_that_is_listed_twice_is_refused() -> None:
    assert refusal_of(merging("a b", "b c", "a b"))


def test_pairs_that_make_one_token_keep_their_order() -> None:
    """By ids alone the pairs of one token are equal, as Llama 3's are."""
    own = merging("b a", "a ba", "x a", "a b", "xa b", "x ab", "ba ba", "b aba")
    assert refusal_of(own) is None
    merged = [own["model"]["vocab"]["".join(pair)] for pair in own["model"]["merges"]]
    assert merged == sorted(merged) and len(merged) > len({*merged})
    chance = random.Random(5)
    texts = ["".join(chance.choices("abx", k=chance.randrange(2, 12))) for _ in range(3000)]
    assert [ids.tolist() for ids in FastEncoder(own).encode(texts)] == expected(own, texts)


def test_an_expression_that_it_does_not_know_falls_back() -> None:
    own = of(split(r"\p{L}+|\s+|."))
    assert refusal_of(own) is None
    found = find_encoder(own, [], [])
    assert found["library"] == "tokenizers" and found["reason"].startswith("gigatoken")


def test_the_choice_says_what_was_compared() -> None:
    texts = ["old news", *TEXTS]
    found = find_encoder(SETTINGS, texts, expected(SETTINGS, texts))
    tried = [*texts, *probes(SETTINGS)]
    assert found == {
        "library": "gigatoken",
        "version": fast_module.installed_version(),
        "checked": len(tried),
        "bytes": sum(len(text.encode()) for text in tried),
    }


def test_one_other_id_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    wrong = expected(SETTINGS, TEXTS)
    wrong[1][-1] += 1
    found = find_encoder(SETTINGS, TEXTS, wrong)
    assert found["library"] == "tokenizers" and repr(TEXTS[1][:80]) in found["reason"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_worker_without_the_checked_version_uses_tokenizers() -> None:
    plain = byte_level()
    text, end = plain.to_str(), plain.token_to_id(END)
    for version in ("0.0", fast_module.installed_version()):
        made = TextEncoder(text, end, {"library": "gigatoken", "version": version})
        found = made.documents(["old</s>", ""], "uint16")
        assert [ids.dtype for ids in found] == [np.uint16, np.uint16]
        assert [ids.tolist() for ids in found] == [
            [end, *expected(of(plain), ["old</s>"])[0], end],
            [end, end],
        ]
        assert (made._fast is None) == (version == "0.0")


def test_digests_do_not_depend_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(60, seed=1))
    recipe = recipe_of(tmp_path)
    digests, libraries = [], []
    for work, version in (("with", fast_module.installed_version()), ("without", None)):
        monkeypatch.setattr(fast_module, "installed_version", lambda version=version: version)
        made = make(recipe, work=tmp_path / work)
        digests.append(made.shards().digest)
        libraries.append(made.tokenizer.facts["encoder"]["library"])
    assert libraries == ["gigatoken", "tokenizers"]
    assert digests[0] == digests[1]
