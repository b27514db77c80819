"""Target files: benchmark examples as JSON lines, each rendered to one natural text.

The same text is used twice. BETR embeds it (BETR step 2: question, answer and extra fields such as
support passages, as one text), and the evaluation takes its bits per byte. So it holds only text
that a page could hold: no "Question:" labels, and no wrong choices, which would make three quarters
of a multiple-choice text untrue. Trade-off: the topic words of wrong choices are lost.

A line is either ``{"text": ...}``, taken as it is, or ``{"question": ..., "answer": ...}`` with
optional ``choices``, ``benchmark`` and passages (:data:`PASSAGES`); other fields are ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from penstock.display import encodable, shortened
from penstock.errors import InputError
from penstock.opening import open_plain, read_plain
from penstock.selectors.base import Target, Targets
from penstock.selectors.parameters import at_parameter

__all__ = [
    "PASSAGES",
    "Choices",
    "check_examples",
    "choices_of",
    "examples_in",
    "lines_in",
    "read_examples",
    "read_targets",
    "read_texts",
    "render",
    "rendered_in",
    "targets_in",
    "texts_in",
]

PASSAGES = ("passage", "context", "support")
"""Fields of an example that are rendered before its question."""

T = TypeVar("T")

_ENDS_OF_SENTENCES = '.?!:;"”)'
_EXPECTED = '{"question": ..., "answer": ...} or {"text": ...}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The parts of an example; it is rendered to ``context`` and one of ``choices``."""

    context: str
    """The text before the answer; empty for a plain text."""
    choices: tuple[str, ...]
    """The answer, and wrong choices where the example has any."""
    answer: int
    """The index of the right one."""


def read_targets(path: str | Path, data: bytes | None = None) -> list[Target]:
    """Read the examples of a ``.jsonl`` file, also ``.gz`` or ``.zst``, in file order.

    Args:
        path: The file.
        data: Its bytes, where they were read already.

    Raises:
        InputError: The file is missing, unreadable, not UTF-8 or without an example, or a line
            is not an example; the message names the file and the line.
    """
    path = Path(path)
    stem = encodable(path.name).removesuffix(".gz").removesuffix(".zst")
    stem = stem.removesuffix(".jsonl").removesuffix(".json")
    targets = [
        Target(
            benchmark=_benchmark(example, stem, place),
            text=_at(place, render, example),
            place=place,
        )
        for place, example in examples_in(path, data)
    ]
    if not targets:
        raise _no_example(path)
    return targets


def check_examples(path: Path) -> None:
    """Check that a file has an example, by its first line alone.

    Raises:
        InputError: The file is missing, unreadable or empty, or its first line is not an object.
    """
    if next(examples_in(path), None) is None:
        raise _no_example(path)


def _no_example(path: Path) -> InputError:
    return InputError(
        file=path, expected="at least one example", got="an empty file", fix=_EXPECTED
    )


def targets_in(files: Sequence[Path]) -> Targets:
    """Read target files into one object: each once, so that its hash is of what was read.

    Raises:
        InputError: As :func:`read_targets`.
    """
    examples, hashes = [], []
    for file in files:
        with _readable(file):
            data = read_plain(file)
        examples += read_targets(file, data)
        hashes.append(hashlib.sha256(data).hexdigest())
    return Targets(examples=examples, hashes=hashes)


def rendered_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the position of each example of a file, ``file:line``, and its text.

    Raises:
        InputError: As :func:`read_targets`.
    """
    for place, example in examples_in(path):
        yield place, _at(place, render, example)


def render(example: Mapping[str, Any]) -> str:
    """Render one example as one text.

    Passages, then question and answer, joined by newlines; where the question is the beginning
    of a sentence (it ends in no mark), the answer continues it after a space. An answer that
    only points at a choice, by letter or by number from 0, is replaced by that choice.

    Raises:
        ValueError: A field is missing or not a text; the message has what was expected and got.
    """
    if "text" in example:
        return _text(example, "text")
    if "question" not in example or "answer" not in example:
        keys = shortened([repr(key) for key in sorted(example)])
        raise ValueError(f"expected {_EXPECTED}, got the keys [{keys}]")
    return _context(example) + _answer(example)


def read_examples(path: str | Path) -> list[Choices]:
    """Read the examples of a file with their choices, in file order.

    Raises:
        InputError: As :func:`read_targets`, or an answer is none of its choices.
    """
    path = Path(path)
    found = [_at(place, choices_of, example) for place, example in examples_in(path)]
    if not found:
        raise _no_example(path)
    return found


def read_texts(path: str | Path, sha256: str | None = None) -> list[list[str]]:
    """Read the texts that an evaluation on a file reads of each example, in file order.

    The first is :func:`render`; the others are the context with each other choice.

    Args:
        path: The file.
        sha256: Of its bytes, where they were hashed before.

    Raises:
        InputError: As :func:`read_targets`, an answer is none of its choices, or the file changed
            since it was hashed.
    """
    path = Path(path)
    with _readable(path):
        data = read_plain(path)
    if sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise InputError("changed since its bytes were hashed", file=path, fix="run again")
    return [_at(place, _all_texts, example) for place, example in examples_in(path, data)]


def _all_texts(example: Mapping[str, Any]) -> list[str]:
    found = choices_of(example)
    right = found.choices[found.answer]
    others = [text for at, text in enumerate(found.choices) if at != found.answer]
    return [found.context + text for text in (right, *others)]


def choices_of(example: Mapping[str, Any]) -> Choices:
    """Return an example's context, answer and wrong choices, each as in :func:`render`.

    Raises:
        ValueError: The answer is none of the choices, or as :func:`render`.
    """
    if "text" in example:
        return Choices(context="", choices=(_text(example, "text"),), answer=0)
    text = render(example)
    context = _context(example)
    answer = text[len(context) :]
    if example.get("choices") is None:
        return Choices(context=context, choices=(answer,), answer=0)
    choices = _texts(example, "choices")
    if answer not in choices:
        raise ValueError(f"answer: expected one of the choices, got {_short(answer)}")
    return Choices(context=context, choices=tuple(choices), answer=choices.index(answer))


def _context(example: Mapping[str, Any]) -> str:
    """Render the text before the answer."""
    passages = [
        part
        for name in PASSAGES
        if example.get(name) not in (None, "", [])
        for part in _texts(example, name)
    ]
    question = _text(example, "question")
    gap = "\n" if question[-1] in _ENDS_OF_SENTENCES else " "
    return "\n".join([*passages, question + gap])


def _answer(example: Mapping[str, Any]) -> str:
    choices = example.get("choices")
    if choices is None:
        return _text(example, "answer")
    choices, answer = _texts(example, "choices"), example["answer"]
    if isinstance(answer, str) and answer.strip() in choices:
        return answer.strip()
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().isalpha():
        index = ord(answer.strip().upper()) - ord("A")
    elif isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
    else:
        return _text(example, "answer")
    if not 0 <= index < len(choices):
        raise ValueError(f"answer: expected one of {len(choices)} choices, got {answer!r}")
    return choices[index]


def _text(example: Mapping[str, Any], name: str) -> str:
    value = example[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: expected a text that is not empty, got {_short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name}: expected Unicode text, got half of a surrogate pair; write it as UTF-8"
        ) from None
    return value.strip()


def _texts(example: Mapping[str, Any], name: str) -> list[str]:
    value = example[name]
    values = value if isinstance(value, list) else [value]
    return [_text({name: item}, name) for item in values]


def _benchmark(example: Mapping[str, Any], default: str, place: str) -> str:
    name = example.get("benchmark", default)
    if not isinstance(name, str) or not name.strip():
        raise InputError("benchmark", file=place, expected="a name", got=_short(name))
    return name.strip()


def _at(place: str, made: Callable[[Mapping[str, Any]], T], example: Mapping[str, Any]) -> T:
    try:
        return made(example)
    except ValueError as error:
        raise InputError(str(error), file=place) from None


def examples_in(path: Path, data: bytes | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's position, ``file:line``, and its object; blank lines are skipped."""
    for place, text in lines_in(path, data):
        if not text.strip():
            continue
        try:
            example = json.loads(text)
        except (ValueError, RecursionError) as error:  # of 4,301 digits, ValueError
            raise InputError(
                file=place, expected=_EXPECTED, got=f"no JSON: {error}", fix="fix the line"
            ) from None
        if not isinstance(example, dict):
            raise InputError(file=place, expected=_EXPECTED, got=_short(example))
        yield place, example


def texts_in(path: Path, parameter: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield each line's position, its object, and its text, of the file that a parameter names.

    Raises:
        SelectorError: As :func:`read_targets`; the key is the parameter.
    """
    try:
        for place, example in examples_in(path):
            yield place, example, _at(place, render, example)
    except InputError as error:
        raise at_parameter(error, parameter) from None


def lines_in(path: Path, data: bytes | None = None) -> Iterator[tuple[str, str]]:
    """Yield each line's position, ``file:line``, and the line."""
    for number, line in enumerate(_lines(path, data), start=1):
        place = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                file=place,
                expected="UTF-8",
                got=f"the byte {line[error.start]:#04x}",
                fix="convert the file",
            ) from None
        yield place, text


_LINE_BYTES = 2**25
"""Most bytes of a line, decompressed: a compressed file may claim a thousand times its size."""


def _lines(path: Path, data: bytes | None) -> Iterator[bytes]:
    number = 0
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with (
        _readable(path),
        # Arrow opens no name that is not UTF-8.
        open_plain(path) if data is None else io.BytesIO(data) as file,
        io.BufferedReader(pa.input_stream(file, compression=compression)) as source,
    ):
        while line := source.readline(_LINE_BYTES + 1):
            number += 1
            if len(line) > _LINE_BYTES:
                raise InputError(
                    file=f"{path}:{number}",
                    expected=f"a line of at most {_LINE_BYTES:,} bytes",
                    got="more",
                    fix="give an example a line",
                )
            yield line


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError("no such file", file=path, fix="give targets as JSON lines") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot be read: {error}", file=path, fix="is the file complete?"
        ) from None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
