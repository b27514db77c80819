"""Targets: texts in compiled loops, expressions, recipes, answers of servers, manifests."""

from __future__ import annotations

import functools
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock.artefact import Artefact
from penstock.artefact.draft import _recorded_files
from penstock.lease import _decoded
from penstock.personal_data import count_personal_data, mask
from penstock.pipeline.cleaning.minhash.signatures import Signatures
from penstock.pipeline.rewriting.answers import AnswerJournal, RequestKey
from penstock.recipe_file import load_recipe
from penstock.rules import Expression
from penstock.rules.statistics import count_statistics
from penstock.selectors.kernels.ngram import hash_tokens
from penstock.selectors.rewriting.base import MOST_TOKENS, Answer
from penstock.selectors.rewriting.completions import _read, _retry_after
from penstock.selectors.rewriting.program import refine
from penstock.text_hashes import hash_normalised, hash_texts, name_texts
from tests.fuzz.child import Target
from tests.fuzz.seeds import ROWS

__all__ = ["TARGETS"]

_TEXTS = [
    "The quick brown fox, of the hill. And then?\n\nA second line of it…\n".encode() * 3,
    "Größe 日本語 \U0001f600 e\u0301 \u202e\u200b İßſ ﷺ\n\t• one\n- two".encode(),
    b"mail a.b@c.example 4111 1111 1111 1111 DE89370400440532013000 +49 30 901820 ::1 10.0.0.1",
    b"AKIAIOSFODNN7EXAMPLE -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
    b"lorem ipsum { javascript } " * 40,
    b"F",
]


def _texts(content: bytes, files: Path, compute: Callable[[pa.Array], Any]) -> None:
    """Compute something of texts, and of a slice of them in an array of its own."""
    text = content.decode("utf-8", "replace")
    parts = [text, *text.split("\n")[:50], "", text[::-1][:2000], text * 3]
    texts = pa.array(parts, pa.large_string())
    whole = compute(texts)
    start = random.Random(content).randrange(len(parts))
    alone = compute(pa.array(parts[start:], pa.large_string()))
    assert whole[start:] == alone, "a value depends on other texts"
    assert compute(texts.slice(start)) == alone, "a value depends on the place in the buffer"


def _statistics(texts: pa.Array) -> list[Any]:
    return count_statistics(texts).to_pylist() if len(texts) else []


def _hashes(texts: pa.Array) -> list[Any]:
    columns = (f(texts).to_pylist() for f in (hash_texts, hash_normalised, name_texts))
    return list(zip(*columns))


def _personal(texts: pa.Array) -> list[Any]:
    return list(zip(count_personal_data(texts).to_pylist(), mask(texts).to_pylist()))


def _signatures(texts: pa.Array) -> list[Any]:
    return Signatures(ngram=3).compute(texts).to_pylist()


def _tokens(texts: pa.Array) -> list[Any]:
    return [hash_tokens(texts.slice(row, 1), 10**6).tolist() for row in range(len(texts))]


_COLUMNS = pa.record_batch(
    {
        "text": ["a", "b c"],
        "language": pa.array(["en", None]).dictionary_encode(),
        "language_probability": pa.array([0.5, None], pa.float32()),
        "words": pa.array([1, 2**40], pa.int64()),
        "meta": pa.array(['{"a": {"b": 1}, "s": "x", "l": [1]}', None], pa.large_string()),
    }
)
_EXPRESSIONS = [
    b"language == 'en' and language_probability > 0.65",
    b"not (words >= 2 or meta.a.b in (1, 2, 3)) and meta.s != 'x'",
    b"number(meta.s) < 1e3 and words * 2 + 1 - 3 / words > -1",
]


def _expression(content: bytes, files: Path) -> None:
    expression = Expression.of(content.decode("utf-8", "surrogateescape"))
    assert len(expression.evaluate(_COLUMNS)) == 2
    again = Expression.of(expression.identity()["where"])
    assert again.identity() == expression.identity(), "the canonical text is another expression"


def _recipe(content: bytes, files: Path) -> None:
    path = files / "recipe.yaml"
    path.write_bytes(content)
    load_recipe(path)


_RECIPES = [
    b"""seed: 17
corpus:
- &one {path: pool/*.jsonl.zst, text: text, source: {name: web}}
- {<<: *one, path: "hf:data"}
clean:
  rules: {gopher: {min_words: 50}, c4: {}}
  where: "language == 'en'"
  dedup: {exact: true, minhash: {threshold: 0.8, keep: longest}}
select:
  betr: {use: betr, target: [a.jsonl]}
budget: {tokens: 20_000_000, rank: {betr: 0.7}, draw: top, shares: {web: 0.3}}
tokenizer: {train: {vocab_size: 8192}}
shards: {sequence_length: 512}
train:
  model: {layers: 4, width: 256, heads: 4}
  lr: 3e-3
evaluate: [t.jsonl]
compare: {arms: {random: {budget: {rank: random}}}, seeds: [1, 2]}
""",
    b"corpus: [{path: a.jsonl}]\nbudget: {tokens: 1024, rank: random}\ntokenizer: t.json\n",
]

_ANSWERS = [
    json.dumps(
        {
            "choices": [{"message": {"content": "a \ud83d text"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
    ).encode()
]


def _storable(answer: Answer) -> None:
    (answer.text + answer.finish + answer.error).encode()
    for number in (answer.prompt_tokens, answer.completion_tokens):
        assert type(number) is int and 0 <= number <= MOST_TOKENS


def _answer(content: bytes, files: Path) -> None:
    try:
        _storable(_read(content))
    except (ValueError, LookupError, TypeError, RecursionError):  # what is tried again
        return


def _header(content: bytes, files: Path) -> None:
    assert _retry_after({"Retry-After": content.decode("latin-1")}) >= 0


def _journal(content: bytes, files: Path) -> None:
    path = files / "journal" / "unit" / "0"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The checksum is right: what is tried is what it protects.
    path.write_bytes(
        b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in content.split(b"\n"))
    )
    with AnswerJournal(files, "unit") as journal:
        for answer in journal.answers.values():
            _storable(answer)


def _manifest(content: bytes, files: Path) -> None:
    (files / "manifest.json").write_bytes(content)
    artefact = Artefact.open(files)
    for record in artefact.files:
        assert ".." not in Path(record.path).parts and not Path(record.path).is_absolute()
        artefact.verified(record)


def _record(content: bytes, files: Path) -> None:
    for record in _recorded_files(content, files / "records" / "a.json"):
        assert ".." not in Path(record.path).parts and not Path(record.path).is_absolute()


def _lease(content: bytes, files: Path) -> None:
    holder = _decoded(content)
    if holder is not None:
        str(holder)
        holder.alive()


_FILES = [{"path": "a/unit-1.parquet", "bytes": 3, "sha256": 64 * "a", "facts": {"rows": 1}}]
_MANIFEST = {
    "format": 1, "stage": "corpus", "fingerprint": 64 * "b", "config": {}, "inputs": {},
    "facts": {}, "files": _FILES,
}  # fmt: skip
_JOURNAL = json.dumps([asdict(RequestKey(1, 0, "d")), asdict(Answer(text="a"))]).encode()
_PROGRAMS = [
    b"remove_lines(1, 2)\nnormalize('a', \"b\\x41\")\nremove_lines(all=True) # no\n",
    b"normalize(source_str='x', target_str='yy')\nremove_lines(start=0, end=007)",
]


def _program(content: bytes, files: Path) -> None:
    text = "x a\nb c d\n" * 20
    answer = content.decode("utf-8", "surrogateescape")
    assert len(refine(text, [answer, answer]).text) <= 4 * len(text) + len(answer)


TARGETS = [
    *(
        Target(f"text-{name}", functools.partial(_texts, compute=compute), lambda: _TEXTS)
        for name, compute in (
            ("statistics", _statistics),
            ("hashes", _hashes),
            ("personal-data", _personal),
            ("signatures", _signatures),
            ("tokens", _tokens),
        )
    ),
    Target("expression", _expression, lambda: _EXPRESSIONS),
    Target("recipe", _recipe, lambda: [*_RECIPES]),
    Target("api-answer", _answer, lambda: [*_ANSWERS, json.dumps(ROWS).encode()]),
    Target("api-retry-after", _header, lambda: [b"5", b"Mon, 01 Jan 2024 00:00:00 GMT"]),
    Target("journal", _journal, lambda: [_JOURNAL + b"\n" + _JOURNAL]),
    Target("manifest", _manifest, lambda: [json.dumps({**_MANIFEST, "files": []}).encode()]),
    Target("record", _record, lambda: [json.dumps(_FILES).encode()]),
    Target(
        "lease", _lease, lambda: [b'{"host": "a", "pid": 1, "started": 1.5, "released": false}']
    ),
    Target("program", _program, lambda: _PROGRAMS),
]
"""A target is found by the beginning of its name."""
