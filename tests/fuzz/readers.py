"""Targets: files of every input format, and target files."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

from penstock.errors import InputError
from penstock.pipeline.reading.readers import Bad, read_batches, reader_of
from penstock.pipeline.reading.records import Span
from penstock.recipe import CorpusSource
from penstock.selectors.targets import read_examples, read_targets
from tests.fuzz import seeds
from tests.fuzz.child import Target
from tests.pipeline.reading.reference import is_array, json_lines, records_of

__all__ = ["TARGETS"]

_CAP = 2**20
"""Most bytes of a document."""


def _read(content: bytes, files: Path, name: str) -> None:
    """Read a file twice, and once in the spans that it is divided into."""
    path = files / name
    path.write_bytes(content)
    spec = CorpusSource(path=str(path), per="line")
    reader = reader_of(path, spec)
    assert reader is not None
    whole = records_of(read_batches(path, spec, Span(), _CAP))
    for record in whole:
        if isinstance(record, Bad):
            assert record.error and record.place and len(record.raw) <= len(content) + 2**21
        else:
            assert len(record.text.encode()) <= _CAP, "a document over the cap"
    assert records_of(read_batches(path, spec, Span(), _CAP)) == whole
    if reader.spans is not None:
        parts = [
            record
            for span in reader.spans(path, spec, 16)
            for record in records_of(read_batches(path, spec, span, _CAP))
        ]
        assert parts == whole, "spans hold other records than the file"
    if name.endswith(".jsonl") and not is_array(content):
        assert whole == json_lines(content, _CAP, spec), "not the reference's records"
    if name.endswith((".jsonl", ".txt")) and content:
        # A line belongs to the span in which it begins.
        middle = random.Random(len(content)).randrange(1, len(content) + 1)
        if not is_array(content):
            parts = [
                record
                for span in (Span(end=middle), Span(start=middle, end=len(content)))
                for record in records_of(read_batches(path, spec, span, _CAP))
            ]
            assert len(parts) == len(whole), "two spans hold more or fewer records"


def _targets(content: bytes, files: Path, name: str) -> None:
    path = files / name
    path.write_bytes(content)
    for example in read_targets(path):
        example.text.encode()
    try:
        read_examples(path)
    except InputError:
        return


def _seeds_of(name: str) -> Sequence[bytes]:
    kind, _, coding = name.partition(".")
    if kind in ("arrow", "parquet"):
        return seeds.tables()[kind]
    plain = {
        "jsonl": lambda: [seeds.json_lines(), b"[" + b",\n".join(
            seeds.json_lines().splitlines()) + b"]"],
        "txt": lambda: [b"one line\nanother\r\n\n", "zwei é 日本\n".encode() * 9],
        "csv": lambda: [seeds.csv(",")],
        "tsv": lambda: [seeds.csv("\t")],
        "md": lambda: [b"---\ntitle: a\n---\n# Head\n\nSome *text*.\n"],
        "html": lambda: [seeds.html()],
        "warc": lambda: [seeds.warc()],
        "wet": lambda: [seeds.warc("conversion")],
    }[kind]()  # fmt: skip
    return [seeds.compressed(one)[f".{coding}" if coding else ""] for one in plain]


_NAMES = [
    *(f"{kind}{coding}" for kind in ("jsonl", "warc", "txt") for coding in ("", ".gz", ".zst")),
    *("csv", "tsv", "md", "html", "wet", "arrow", "parquet"),
]

_EXAMPLES = [
    b'{"question": "What?", "answer": "light", "choices": ["light", "b"], "benchmark": "x"}\n'
    b'{"text": "a text"}\n{"question": "q", "answer": 1, "choices": ["a", "b"]}\n'
]

TARGETS = [
    *(
        Target(
            f"read-{name.replace('.', '-')}",
            functools.partial(_read, name=f"input.{name}"),
            functools.partial(_seeds_of, name),
        )
        for name in _NAMES
    ),
    Target(
        "targets",
        functools.partial(_targets, name="t.jsonl"),
        lambda: [*_EXAMPLES, seeds.json_lines()],
    ),
    Target(
        "targets-gz",
        functools.partial(_targets, name="t.jsonl.gz"),
        lambda: [seeds.compressed(one)[".gz"] for one in _EXAMPLES],
    ),
]
"""A target is found by the beginning of its name."""
