"""Tokenizers of strangers: ids, patterns, replacements and tables that end a process or fill it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from penstock.errors import Failure, InputError
from penstock.pipeline.runners.attempt import attempt, is_transient
from penstock.tokenization import examining
from penstock.tokenization.definition import DeclaredTokens, Definition, end_of_text
from penstock.tokenization.encoder import TextEncoder

MODEL = tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, [("a", "b")])


def tokenizer(path: Path, **parts: Any) -> Path:
    settings = json.loads(tokenizers.Tokenizer(MODEL).to_str())
    settings["model"] |= parts.pop("model", {})
    path.write_text(json.dumps(settings | parts))
    return path


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


def added(number: int) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": number, "content": "z", **flags}]


PUBLISHED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]
"""Patterns of GPT-2, Llama 3 and o200k."""


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_are_read_without_a_trial(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "_tried", lambda text: pytest.fail("a process was started"))
    path = tokenizer(tmp_path / "t.json", pre_tokenizer=split(pattern))
    assert Definition.read(path).vocabulary["ab"] == 2


def test_what_is_checked_is_what_is_read(tmp_path: Path) -> None:
    """Of two equal keys the library could take the one that was not looked at."""
    text = tokenizer(tmp_path / "t.json").read_text()
    twice = text.replace('"vocab": {', '"vocab": {"x": 3000000000}, "vocab": {', 1)
    assert twice != text
    (tmp_path / "t.json").write_text(twice)
    assert set(Definition.read(tmp_path / "t.json").vocabulary.values()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "parts",
    [
        {"model": {"vocab": {"a": 0, "b": 3_000_000_000}, "merges": []}},
        {"model": {"vocab": {"a": 0, "b": 2**24}, "merges": []}},
        {"model": {"vocab": {"a": -1}, "merges": []}},
        {"model": {"vocab": {"a": 1.0}, "merges": []}},
        {"model": {"vocab": 7}},
        {"added_tokens": added(3_000_000_000)},
        {"added_tokens": 7},
        {"model": {"type": "Unigram", "unk_id": 4_000_000_000, "vocab": [["a", -1.0]]}},
    ],
)
def test_ids_beyond_any_vocabulary_are_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    """The library allocates a table up to the highest id: 11.8 GB for 3·10⁹."""
    path = tokenizer(tmp_path / "t.json", **parts)
    before = time.process_time()
    with pytest.raises(InputError) as caught:
        Definition.read(path, "tokenizer")
    assert (caught.value.file, caught.value.key) == (str(path), "tokenizer")
    assert "\n" not in str(caught.value) and time.process_time() - before < 1


def test_an_end_whose_id_is_another_token_s_too_is_refused(tmp_path: Path) -> None:
    """Texts with that token would hold the mark between documents (found by fuzzing)."""
    end = [{**added(1)[0], "content": "<|endoftext|>", "special": True}]
    # The library gives an added token the number of the model's tokens as its id.
    parts = {"model": {"vocab": {"a": 0, "b": 2}, "merges": []}, "added_tokens": end}
    definition = Definition.read(tokenizer(tmp_path / "t.json", **parts))
    with pytest.raises(InputError) as caught:
        end_of_text(definition, DeclaredTokens())
    assert (caught.value.key, caught.value.got) == ("tokenizer", "'b'")


GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": 10_000 * "a"}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"pre_tokenizer": split("(a+)+$")}, "retry-limit"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("(z|z)*y")]}}, "retry"),
        ({"pre_tokenizer": split("a*a*a*a*c")}, "retry-limit"),
        ({"pre_tokenizer": split("(a|[ab]){24}[cd]")}, "retry-limit"),
        ({"pre_tokenizer": split("(a|aa){40}[cd]")}, "retry-limit"),
        ({"pre_tokenizer": split(28 * "[ab]?" + "[ab]{28}[cd]")}, "retry-limit"),
        ({"normalizer": {"type": "Sequence", "normalizers": 3 * [GROWING]}}, "more than"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "charsmap"),
        ({"model": {"continuing_subword_prefix": 1_000 * "x"}}, "out of range"),
    ],
)
def test_what_takes_hours_or_crashes_is_tried_in_a_process_and_refused(
    tmp_path: Path, parts: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catastrophic patterns, replacements that multiply a text, tables that panic."""
    monkeypatch.setattr(examining, "_failures", {})
    path = tokenizer(tmp_path / "t.json", **parts)
    with pytest.raises(InputError) as caught:
        Definition.read(path)
    assert reason in caught.value.problem
    assert caught.value.file == str(path) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a?){30}", "(a|(b|(c|d)?)?){3}", 40 * "(a|aa)", 9 * "a{1,9}", 30 * "a{0}?"),
        *("a{1,9}+", "a{9}{9}", "a**", "(a+)?" * 9, "(?x:(a|aa)#(\n*)c", ")(a", "(a{0,9})?" * 3),
    ],
)
def test_a_pattern_of_many_choices_is_tried(pattern: str) -> None:
    """Bounded repetitions and optional parts multiply: each of these counted as linear."""
    pre_tokenizer = split(f"x|{pattern}y")
    assert not examining.is_plain({"model": {"type": "BPE"}, "pre_tokenizer": pre_tokenizer})


def test_a_panic_at_a_text_is_the_error_of_an_item(tmp_path: Path) -> None:
    """A panic of Rust is no Exception: it ended each worker that took the item."""
    text = 60 * "a" + "!"
    path = tokenizer(tmp_path / "t.json", pre_tokenizer=split("(a+)+$"))
    library = tokenizers.Tokenizer.from_file(str(path))
    found = attempt(lambda: (lambda item, state: library.encode(item), None), text)
    assert isinstance(found.error, Failure) and not is_transient(found.error)
    assert "retry-limit" in found.error.problem and "\n" not in str(found.error)
    encoder = TextEncoder(path.read_text(), 3, {"library": "tokenizers"})
    found = attempt(lambda: (lambda item, state: encoder.documents([item], "<u2"), None), text)
    assert isinstance(found.error, InputError) and found.error.key == "tokenizer"
    assert "\n" not in str(found.error) and [len(ids) for ids in encoder.documents(["ab"], "<u2")]


def test_an_unusual_one_that_is_sound_is_read_after_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "_failures", {})
    path = tokenizer(tmp_path / "t.json", pre_tokenizer=split(r"(?:\p{L}\p{M}*)+|\s"))
    assert Definition.read(path).vocabulary["ab"] == 2
    assert list(examining._failures.values()) == [None]


def test_files_that_are_no_json_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"", b"[" * 100_000, b"[1]", b'{"model": 7}', b'{"a": ' + b"9" * 5_000 + b"}"):
        (tmp_path / "t.json").write_bytes(content)
        with pytest.raises(InputError, match="can be used"):
            Definition.read(tmp_path / "t.json")
    monkeypatch.setattr(examining, "_MOST_BYTES", 99)
    with pytest.raises(InputError, match="at most 99 bytes"):
        Definition.read(tokenizer(tmp_path / "t.json"))
    with pytest.raises(InputError, match="cannot be read"):
        Definition.read(tmp_path / "nothing.json")
