"""The end of text and other control tokens, by the files of a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from penstock.errors import InputError
from penstock.tokenization.definition import DeclaredTokens, Definition, end_of_text

from .kinds import byte_level, saved, special, unigram


def declared(tmp_path: Path, content: Any) -> DeclaredTokens:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return DeclaredTokens.read(path)


@pytest.mark.parametrize(
    ("content", "end", "control"),
    [
        ({}, None, ()),
        ({"eos_token": None, "model_max_length": 5}, None, ()),
        ({"eos_token": "<end>"}, "<end>", ("<end>",)),
        ({"eos_token": {"content": "<end>", "lstrip": False}}, "<end>", ("<end>",)),
        ({"bos_token": "<b>", "pad_token": "<p>", "unk_token": "<u>"}, None, ("<b>", "<p>")),
        ({"eos_token": "e", "additional_special_tokens": ["x", {"content": "y"}]}, "e",
         ("e", "x", "y")),
        ({"extra_special_tokens": {"image_token": "<i>"}}, None, ("<i>",)),
    ],
)  # fmt: skip
def test_tokens_are_declared_in_each_form(
    tmp_path: Path, content: Any, end: str | None, control: tuple[str, ...]
) -> None:
    assert declared(tmp_path, content) == DeclaredTokens(end, control)


def test_a_file_that_is_not_there_declares_nothing(tmp_path: Path) -> None:
    assert DeclaredTokens.read(tmp_path / "tokenizer_config.json") == DeclaredTokens()


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token": 7}', '{"pad_token": {"id": 3}}'])
def test_a_file_that_declares_no_text_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError) as caught:
        declared(tmp_path, content)
    assert caught.value.file == str(tmp_path / "tokenizer_config.json")


def test_the_end_is_the_declared_one_then_one_that_is_flagged() -> None:
    plain = byte_level("<eos>")
    plain.add_special_tokens([special("[SEP]")])
    plain.add_tokens([AddedToken("</s>", normalized=False), AddedToken("<mine>")])
    definition = Definition.of(plain)
    assert end_of_text(definition, DeclaredTokens()) == "<eos>"
    assert end_of_text(definition, DeclaredTokens("<mine>")) == "<mine>"
    with pytest.raises(InputError) as caught:
        end_of_text(definition, DeclaredTokens("<none>"))
    assert caught.value.got == "'<none>'"


def test_markup_is_no_end_but_endoftext_is() -> None:
    definition = Definition.of(byte_level("</s>", special=False))
    with pytest.raises(InputError) as caught:
        end_of_text(definition, DeclaredTokens())
    assert caught.value.key == "tokenizer" and "eos_token" in str(caught.value.fix)
    definition = Definition.of(byte_level("<|endoftext|>", special=False))
    assert end_of_text(definition, DeclaredTokens()) == "<|endoftext|>"


def test_flags_are_written_and_ids_stay(tmp_path: Path) -> None:
    plain = unigram()
    plain.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<late>")])
    definition = Definition.read(saved(plain, tmp_path)).flag({"old", "<late>", "not there"})
    again = Definition.parse(definition.to_str())
    assert again.vocabulary == plain.get_vocab()
    assert again.flagged == {"<s>", "</s>", "old", "<late>"}


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        Definition.read(path, "select.x.model")
    assert (caught.value.key, caught.value.file) == ("select.x.model", str(path))


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"eos_token": ' + "[" * 5_000 + "]" * 5_000 + "}", "9" * 5_000]
)
def test_a_deep_or_long_config_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    """Found by fuzzing: a RecursionError."""
    (path := tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        DeclaredTokens.read(path)
    assert caught.value.file == str(path)
