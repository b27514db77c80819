"""Target files: rendering, and every way in which a line can be wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InputError
from penstock.selectors.base import Target
from penstock.selectors.targets import Choices, read_examples, read_targets, render

QUESTION = {"question": "What do plants need?", "answer": "light"}


def written(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (QUESTION, "What do plants need?\nlight"),
        ({"question": "The sun is responsible for ", "answer": " warmth "},
         "The sun is responsible for warmth"),
        ({**QUESTION, "support": "Leaves are green."},
         "Leaves are green.\nWhat do plants need?\nlight"),
        ({**QUESTION, "context": ["One.", "Two."], "passage": "Zero.", "support": None},
         "Zero.\nOne.\nTwo.\nWhat do plants need?\nlight"),
        ({**QUESTION, "choices": ["stone", "light"]}, "What do plants need?\nlight"),
        ({**QUESTION, "choices": ["stone", "light"], "answer": "B"},
         "What do plants need?\nlight"),
        ({**QUESTION, "choices": ["stone", "light"], "answer": 1}, "What do plants need?\nlight"),
        ({**QUESTION, "choices": ["A", "C"], "answer": "C"}, "What do plants need?\nC"),
        ({"question": "Two and two?", "answer": 4}, "Two and two?\n4"),
        ({"text": " As it is.\n", "question": "no"}, "As it is."),
    ],
)  # fmt: skip
def test_an_example_becomes_one_natural_text(example: dict, text: str) -> None:
    assert render(example) == text


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [("arc.train.jsonl", "arc.train"), ("arc.jsonl.gz", "arc"), ("arc.jsonl.zst", "arc")],
)
def test_reads_plain_and_compressed_files(tmp_path: Path, name: str, benchmark: str) -> None:
    lines = f"{json.dumps(QUESTION)}\n\n{json.dumps({**QUESTION, 'benchmark': 'own'})}\n".encode()
    path = tmp_path / name
    if name.endswith(".gz"):
        lines = gzip.compress(lines)
    if name.endswith(".zst"):
        lines = pa.compress(lines, codec="zstd", asbytes=True)
    path.write_bytes(lines)
    text = "What do plants need?\nlight"
    assert read_targets(path) == [
        Target(benchmark=benchmark, text=text),
        Target(benchmark="own", text=text),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": ', "no JSON"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "no JSON"),
        ("[1]", r"got \[1\]"),
        ({"question": "What?"}, r"got the keys \['question'\]"),
        ({"question": "What?", "answer": ""}, "answer: expected a text that is not empty"),
        ({"question": None, "answer": "a"}, "question: expected a text that is not empty"),
        ({"question": "What?", "answer": True}, "answer: expected a text"),
        ({"text": "   "}, "text: expected a text that is not empty"),
        ({"text": "half \ud800 a pair"}, "surrogate"),
        ({**QUESTION, "choices": ["a", "b"], "answer": "E"}, "expected one of 2 choices, got 'E'"),
        ({**QUESTION, "choices": ["a", "b"], "answer": -1}, "expected one of 2 choices, got -1"),
        ({**QUESTION, "choices": ["a", 3.5, None], "answer": "a"}, "choices: expected a text"),
        ({**QUESTION, "benchmark": 7}, "benchmark, expected a name, got 7"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = written(tmp_path / "t.jsonl", QUESTION, "", line)
    with pytest.raises(InputError, match=message) as caught:
        read_targets(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_targets(tmp_path / "missing.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_targets(tmp_path)
    with pytest.raises(InputError, match="empty file"):
        read_targets(written(tmp_path / "empty.jsonl", "", "  "))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(QUESTION).encode() + b'\n{"text": "caf\xe9"}')
    with pytest.raises(InputError, match="latin.jsonl:2: expected UTF-8, got the byte 0xe9"):
        read_targets(latin)


@pytest.mark.parametrize(("suffix", "codec"), [(".gz", "gzip"), (".zst", "zstd")])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, codec: str) -> None:
    lines = "\n".join(json.dumps({"text": f"line {n * n}"}) for n in range(2000)).encode()
    whole = pa.compress(lines, codec=codec, asbytes=True)
    path = tmp_path / f"t.jsonl{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="t.jsonl"):
        read_targets(path)


def test_a_line_that_is_gigabytes_when_decompressed_is_named(tmp_path: Path) -> None:
    """Compression bomb in a file of targets."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"a" * 2**26 + b'"}', 1))
    with pytest.raises(InputError, match="a line of at most 33,554,432 bytes") as caught:
        read_targets(path)
    assert caught.value.file == f"{path}:1"


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(QUESTION).encode())
    assert len(read_targets(path)) == 1


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(
                        st.sampled_from(["question", "answer", "choices", "text", "context"]),
                        inner)))  # fmt: skip
def test_any_json_gives_a_text_or_an_error(value: object) -> None:
    try:
        text = render(value if isinstance(value, dict) else {"text": value})
    except ValueError as error:
        assert "expected" in str(error)
    else:
        assert text.strip() == text != ""


def test_choices_continue_the_context_as_the_answer_does(tmp_path: Path) -> None:
    lines = [
        {**QUESTION, "choices": ["stone", " light "], "answer": "B"},
        {"question": "The sun is", "choices": ["cold", "warm"], "answer": "warm", "support": "S."},
        QUESTION,
        {"text": "plain", "choices": ["a"]},
    ]
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second, third, fourth = read_examples(path)
    assert first == Choices(context="What do plants need?\n", choices=("stone", "light"), answer=1)
    assert second == Choices(context="S.\nThe sun is ", choices=("cold", "warm"), answer=1)
    assert third == Choices(context=third.context, choices=(third.choices[0],), answer=0)
    assert third.context == first.context
    assert fourth == Choices(context="", choices=("plain",), answer=0)
    for found, line in zip((first, second, third, fourth), lines):
        assert found.context + found.choices[found.answer] == render(line)


def test_an_answer_that_is_no_choice_is_refused_where_choices_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({**QUESTION, "choices": ["stone", "iron"]}) + "\n")
    assert len(read_targets(path)) == 1
    with pytest.raises(InputError, match=r"quiz.jsonl:1: answer: expected one of the choices, got"):
        read_examples(path)
