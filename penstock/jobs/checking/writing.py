"""The text of a recipe that ``penstock init`` writes: items of ``corpus``, comments, a budget.

Names and values of the inputs come from strangers: in values they are written by the YAML library,
in comments without characters that end a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from penstock.display import numbered, printable
from penstock.errors import BadInput
from penstock.jobs.checking.check import RecipeCheck
from penstock.jobs.checking.guessing import Guess
from penstock.jobs.checking.printing import size_words
from penstock.selectors.classifiers.classifier import LEAST_EXAMPLES

__all__ = ["CorpusItem", "TargetExamples", "keys_of", "notes_on", "recipe_text"]

_KEPT = 0.3
"""Share of the sample's text that the rules must keep: the strictest are off where they do not."""

_LEAST_TOKENS = 500_000
"""Estimated tokens of a pool below which sequences and the vocabulary are made smaller."""


@dataclass(slots=True, kw_only=True)
class CorpusItem:
    """An item of ``corpus`` to be written."""

    path: str
    guess: Guess | None
    """None of files without fields."""
    name: str | None = None
    """A literal source."""
    files: int = 0
    hints: list[str] = field(default_factory=list)
    """Comments on licences."""
    missing: BadInput | None = None
    """A module that these files need is not installed: the item is written as a comment."""

    @property
    def why_missing(self) -> str:
        """The problem and the fix of :attr:`missing`, in words that follow ``it``."""
        return f"{self.missing.problem}: {self.missing.fix}" if self.missing else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetExamples:
    """Counts of the examples of the files of a target."""

    count: int
    """Examples, of each file 10,000 at most."""
    questions: int
    """Those that have a question and an answer."""


def keys_of(item: CorpusItem) -> dict[str, Any]:
    """Return the keys of an item, those with their defaults left out."""
    keys: dict[str, Any] = {"path": item.path}
    own = item.guess
    if own is not None and own.text not in (None, "text"):
        keys["text"] = own.text
    if own is not None and own.id not in (None, "id"):
        keys["id"] = own.id
    if own is not None and own.source is not None:
        if own.source != "source":
            keys["source"] = own.source
    elif item.name is not None:
        keys["source"] = {"name": item.name}
    return keys


def _yaml(value: Any) -> str:
    """Return a value as YAML in one line."""
    flow = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return " ".join(flow.removesuffix("...\n").split("\n")).strip()


def recipe_text(
    items: Sequence[CorpusItem],
    checked: RecipeCheck,
    keys: Mapping[str, Sequence[str]],
    tokens: str | None,
    file: str,
    examples: TargetExamples | None = None,
) -> str:
    """Return the text of the recipe.

    Args:
        items: Items of ``corpus``.
        checked: A check of the inputs with the rules of ``gopher``.
        keys: Files of ``target`` and ``evaluate``.
        tokens: The budget as the user gives it; None for 30 % of the pool.
        file: The name of the recipe's file, as a shell takes it.
        examples: Counts of the target's examples, which choose the selector.
    """
    own = checked.estimate
    assert own is not None
    about = "" if own.exact else "about "
    off, kept = checked.judged.strictest(_KEPT) if checked.judged else ({}, 1.0)
    held = own.tokens
    if (off or held is None) and own.text_bytes is not None and own.bytes_per_token:
        held = int(kept * own.text_bytes / own.bytes_per_token)
    small = held is not None and held < _LEAST_TOKENS
    length = 64 if small else 512
    lines = [
        "# Written by `penstock init`. Every key: docs/recipe.md.",
        "#",
        f"#   penstock check {file}     looks at the inputs again, and runs nothing",
        f"#   penstock clean {file}     what each rule drops",
        f"#   penstock curate {file}    the shards",
        "",
        "seed: 17                        # of every draw: the same seed gives the same bytes",
        "work: work                      # directory of the results; or s3://bucket/prefix",
        "",
    ]
    if own.documents is not None and own.text_bytes is not None:
        lines.append(
            f"# The pool: {about}{numbered(own.documents, 'document')}, "
            f"{size_words(own.text_bytes)} of text"
            + (f", estimated {held:,} tokens." if held is not None else ".")
        )
    lines.append("corpus:")
    for item in items:
        lines += _item_lines(item)
    lines += ["", "clean:", *_rules_lines(off)]
    lines += [
        "  dedup: {exact: true, minhash: {}}   # drops equal documents, and those that are alike",
        '  # where: "bytes > 200"         # a condition that documents must meet; also meta.FIELD',
        "",
    ]
    lines += _select_lines(keys["target"], examples, own.documents)
    lines += [
        "",
        "budget:",
        "  tokens: 30%                   # of the kept text; or a number, as 20M or 1.5B"
        if tokens is None
        else f"  tokens: {tokens if _INTEGER.fullmatch(tokens) else _yaml(tokens)}",
        f"  rank: {'target' if keys['target'] else 'random'}"
        + ("" if keys["target"] else "                  # or the name of a selector above"),
        "  allow_short: true             # take the whole pool where it holds fewer tokens",
        "",
        f"tokenizer: {{train: {{vocab_size: {1024 if small else 8192}}}}}   "
        "# or a tokenizer.json, a directory, a hub name",
        f"shards: {{sequence_length: {length}}}",
        "",
        "# For `penstock train` and `penstock compare`, which need the extra `train`:",
        "train:",
        "  model: {layers: 4, width: 256, heads: 4}",
        f"  batch_tokens: {_batch(own.tokens, length)}",
    ]
    if keys["evaluate"]:
        lines.append(f"evaluate: {_yaml(list(keys['evaluate']))}")
    else:
        lines.append(
            "# evaluate: [held-out.jsonl]      # copies of these are dropped from the pool"
        )
    return "\n".join(lines) + "\n"


def _rules_lines(off: Mapping[str, float]) -> list[str]:
    """Return the lines of ``clean.rules``; the rules that drop too much of the sample are off."""
    about = "# also c4, fineweb; `penstock rules` lists them"
    if not off:
        return [f"  rules: [gopher]                {about}"]
    lines = [
        f"  rules:                        {about}",
        "    gopher:                     # the other rules of this set are on; off are (null):",
    ]
    for name, share in off.items():
        rule = name.partition(": ")[2]
        lines.append(f"      {f'{rule}: null':<24}  # it drops {share:.0%} of the text of a sample")
    return lines


_INTEGER = re.compile("[1-9][0-9_]*")
"""An amount that YAML reads as the number that it is; as a text it would be quoted."""


def _batch(tokens: int | None, length: int) -> int:
    """Return tokens of a step for some hundreds of steps, a power of two."""
    wanted = max(length, min(65_536, (tokens or 0) // 1000))
    return max(length, 1 << (wanted.bit_length() - 1))


def _item_lines(item: CorpusItem) -> list[str]:
    own = item.guess
    keys = keys_of(item)
    lines = [f"  - path: {_yaml(keys.pop('path'))}   # {numbered(item.files, 'file')}"]
    for key, value in keys.items():
        lines.append(f"    {key}: {_yaml(value)}")
    if item.missing:
        head, *others = lines
        below = [f"  #   {line.strip()}" for line in others]
        return [
            f"  # {head.strip()}",
            *below,
            f"  #   not read: it {item.why_missing}; then write these lines without #",
        ]
    if own is not None and own.fields:
        fields = ", ".join(f"{printable(name)} ({kind})" for name, kind in own.fields.items())
        lines.append(f"    # found in the records: {fields[:300]}")
        if own.id is None:
            lines.append("    # no id in the records: each document is named by a hash of its text")
        if own.sources:
            shown = ", ".join(printable(one)[:40] for one in own.sources[:8])
            lines.append(f"    # sources: {shown}")
        if own.licences:
            shown = ", ".join(printable(one) for one in own.licences)
            lines.append(f"    # licences in the records of a sample: {shown}")
    for hint in item.hints:
        lines.append(f"    # licence? {hint}")
    if not (own and own.licences):
        lines.append("    # fields: {licence: cc-by-4.0}   # of all records, if you know it")
    return lines


def _select_lines(
    target: Sequence[str], examples: TargetExamples | None, documents: int | None
) -> list[str]:
    """Return the lines of ``select``: dclm for questions and answers, dsir for texts."""
    if target:
        asks = examples is not None and 2 * examples.questions > examples.count
        why_not = _lacking(examples.count if examples else 0, documents)
        if asks and not why_not:
            return [
                "select:",
                "  target:                       # questions and answers: a classifier of them",
                f"    use: dclm                   # against the pool; {_ADVICE}",
                f"    target: {_yaml(list(target))}",
            ]
        return [
            "select:",
            *(["  # dclm suits questions and answers better, and " + why_not] if asks else []),
            "  target:                       # n-grams that are likelier in the target than here",
            f"    use: dsir                   # {_ADVICE}",
            "    per_ngram: true             # the mean; the published sum takes short texts",
            f"    target: {_yaml(list(target))}",
        ]
    return [
        "# Which documents are taken first: `penstock selectors` lists all. With examples of what",
        '# the model should become good at, as lines of {"question", "answer"} or {"text"}:',
        "# select:",
        f"#   target: {{use: dsir, per_ngram: true, target: [targets.jsonl]}}   # {_ADVICE}",
    ]


def _lacking(examples: int, documents: int | None) -> str:
    """Return what `dclm` lacks, in words; empty where it has enough of both sides."""
    if examples < LEAST_EXAMPLES:
        return f"needs {LEAST_EXAMPLES} examples: here are {examples}"
    if documents is not None and documents < 2 * LEAST_EXAMPLES:  # rules may drop half of them
        return f"needs {LEAST_EXAMPLES} documents after cleaning: here are {documents:,} before"
    return ""


_ADVICE = "or betr, which compares meanings (extra `encoders`)"


def notes_on(items: Sequence[CorpusItem]) -> list[str]:
    """Describe each item in a line, and the hints on licences."""
    notes = []
    for item in items:
        own = item.guess
        if item.missing:
            files = numbered(item.files, "file")
            notes.append(f"{item.path}: {files} not read: it {item.why_missing}; a comment for now")
            continue
        read = "each file is a document" if own is None else f"text in {own.text or 'text'!r}"
        if own is not None:
            read += f", id in {own.id!r}" if own.id else ", no id"
            if own.source:
                read += f", source in {own.source!r}"
        if own is None or not own.source:
            read += f", source {item.name!r}"
        notes.append(f"{item.path}: {numbered(item.files, 'file')}; {read}")
        notes += [f"licence? {hint}" for hint in item.hints]
    return notes
