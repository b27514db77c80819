"""Examples of an evaluation, and the trees of tokens that a model reads of them.

**The boundary.** A question and its answer are tokenised as one text, as in training, not apart and
joined. An answer begins at the first token that holds a byte of it. A token that holds bytes of
both (most often a space and the answer's first word) is scored whole. The characters between
question and answer belong to the question, so a newline before every choice is not scored.

**The context.** A text longer than the model's context is read in consecutive windows, each without
the tokens before it, so that every token counts once. An answer in such a text is read anew with as
many tokens before it as fit, and one that is longer than the context is scored on its end.

**What is read once.** The question with its right answer is the trunk of a tree
(:mod:`penstock.language_models.trees`), and each wrong choice is a branch that begins where its
tokens differ. Without this, the four choices of ARC-Easy cost 2.7 times the tokens (docs/lab.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from penstock.artefact import canonical
from penstock.errors import InputError
from penstock.language_models.trees import Branch, TokenTree
from penstock.panics import panics_as_errors

__all__ = ["Evaluation", "Example", "TreeNats", "example_nats"]

TreeNats: TypeAlias = Callable[[Sequence[TokenTree]], np.ndarray]
"""Sum -ln p over the parts of the trees, in order: (parts,) float64."""

_TREE_CONTEXTS = 2
"""The longest tree, in contexts of the model: the mask takes L² bytes a tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with its answer and perhaps wrong choices, or a plain text."""

    context: str = ""
    """Text before the answer, with the characters between them; empty for a plain text."""
    choices: tuple[str, ...]
    """Texts that continue ``context``: the answer, and wrong ones if there are any."""
    answer: int = 0
    """Index of the answer in ``choices``."""

    @property
    def text(self) -> str:
        """The question with its answer."""
        return self.context + self.choices[self.answer]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Examples of one benchmark."""

    name: str
    examples: tuple[Example, ...]

    @cached_property
    def digest(self) -> str:
        """The sha256 of the examples, whatever the name."""
        content = [[one.context, one.choices, one.answer] for one in self.examples]
        return hashlib.sha256(canonical(content)).hexdigest()

    @classmethod
    def of_texts(cls, name: str, *texts: str) -> Evaluation:
        """Return an evaluation on plain texts."""
        return cls(name=name, examples=tuple(Example(choices=(text,)) for text in texts))


def example_nats(
    examples: Sequence[Example],
    reader: TreeNats,
    tokenizer: Any,
    *,
    eos: int,
    context: int,
    branches: bool = True,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compute -ln p of each text, and of each choice given its question.

    Args:
        examples: (n,).
        reader: Reads the model.
        tokenizer: The model's tokenizer, of the tokenizers library.
        eos: The token on which every text is conditioned.
        context: Tokens of the model's context.
        branches: False to read each choice in a window of its own.

    Returns:
        Nats of the texts, (n,) float64, 0 for an empty one; and of the choices of each example,
        (choices,) float64.

    Raises:
        InputError: A choice gives no token.
    """
    plan = _ReadingPlan(context=context, branches=branches)
    for example, lines in zip(examples, _tokenised(examples, tokenizer, eos)):
        plan.add(example, lines)
    nats = reader(plan.trees)
    # bincount adds in the order of the parts, however the trees were batched.
    sums = np.bincount(np.array(plan.slots, np.int64), nats, minlength=plan.used)
    sizes = np.array([1 + len(example.choices) for example in examples])
    own = np.split(sums, np.cumsum(sizes)[:-1])
    return np.array([one[0] for one in own]), [one[1:] for one in own]


@dataclass(frozen=True, slots=True)
class _TokenLine:
    """Tokens of a question with one of its choices."""

    ids: np.ndarray
    """(1 + t,) int64: the token that the text is conditioned on, then its own."""
    first: int
    """The first target of the choice."""

    @property
    def size(self) -> int:
        """Number of targets."""
        return len(self.ids) - 1


def _tokenised(
    examples: Sequence[Example], tokenizer: Any, eos: int
) -> Iterator[tuple[_TokenLine, ...]]:
    """Tokenise each example with each of its choices."""
    texts = [(one.context, choice) for one in examples for choice in one.choices]
    # encode_batch_fast computes no offsets, which only questions need.
    plain = not any(before for before, _ in texts)
    encode = tokenizer.encode_batch_fast if plain else tokenizer.encode_batch
    with panics_as_errors("tokenizer"):
        encodings = iter(encode([a + b for a, b in texts], add_special_tokens=False))
    for example in examples:
        yield tuple(
            _TokenLine(
                np.array([eos, *found.ids], np.int64),
                _first(found.offsets, example.context, choice) if example.context else 0,
            )
            for choice, found in zip(example.choices, encodings)
        )


def _first(offsets: Sequence[tuple[int, int]], question: str, choice: str) -> int:
    """Return the index of the first token that ends after the question.

    Offsets count characters, and a token with a part of a character has the offsets of all of it.
    So this is also the first token that holds a byte of the choice.
    """
    for index, (_, end) in enumerate(offsets):
        if end > len(question):
            return index
    raise InputError(
        f"the tokenizer makes no token of the choice {choice!r}", key="evaluate", fix="leave it out"
    )


@dataclass(slots=True, kw_only=True)
class _ReadingPlan:
    """The trees to read, and the sum to which each of their parts is added: its slot.

    An example has a slot for its text, and one for each choice.
    """

    context: int
    branches: bool
    trees: list[TokenTree] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    used: int = 0

    def add(self, example: Example, lines: Sequence[_TokenLine]) -> None:
        """Plan an example, which ``lines`` has with each of its choices."""
        text, self.used = self.used, self.used + 1 + len(lines)
        right, slot = lines[example.answer], text + 1 + example.answer
        left = [(text + 1 + at, line) for at, line in enumerate(lines) if at != example.answer]
        if right.size > self.context:
            self._read_windows(right, [text] if example.context else [text, slot])
            if example.context:
                self._read_end(slot, right)
        elif right.size:
            parts = [(0, right.size, text), (right.first, right.size, slot)]
            left = self._read_tree(right, parts, left)
        while left:
            (slot, line), *left = left
            if line.size > self.context:
                self._read_end(slot, line)
            else:
                left = self._read_tree(line, [(line.first, line.size, slot)], left)

    def _read_tree(
        self,
        trunk: _TokenLine,
        parts: list[tuple[int, int, int]],
        others: list[tuple[int, _TokenLine]],
    ) -> list[tuple[int, _TokenLine]]:
        """Read a trunk with the next of the other lines that fit; return those that are left."""
        made: list[Branch] = []
        length, taken = trunk.size, 0
        for slot, line in others if self.branches else ():
            same = _common(trunk.ids, line.ids)
            # The last token in common is read again, to predict the first that differs.
            size = line.size - (same - 1)
            if line.size > self.context or length + size > _TREE_CONTEXTS * self.context:
                break
            taken += 1
            if line.first < same - 1:
                parts.append((line.first, same - 1, slot))
            if size:
                parts.append((length + max(0, line.first - (same - 1)), length + size, slot))
                made.append(Branch(shared=same - 1, tokens=line.ids[same - 1 :]))
            length += size
        self._read(trunk.ids, parts, made)
        return others[taken:]

    def _read_windows(self, line: _TokenLine, slots: Sequence[int]) -> None:
        """Read all of a text in consecutive windows."""
        for start in range(0, line.size, self.context):
            ids = line.ids[start : start + self.context + 1]
            self._read(ids, [(0, len(ids) - 1, slot) for slot in slots])

    def _read_end(self, slot: int, line: _TokenLine) -> None:
        """Read a choice in a window of its own, which ends with it."""
        begin = max(0, line.size - self.context)
        ids = line.ids[begin:]
        self._read(ids, [(max(0, line.first - begin), len(ids) - 1, slot)])

    def _read(
        self,
        ids: np.ndarray,
        parts: Sequence[tuple[int, int, int]],
        branches: Sequence[Branch] = (),
    ) -> None:
        self.trees.append(TokenTree(ids, [(begin, end) for begin, end, _ in parts], branches))
        self.slots += [slot for _, _, slot in parts]


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Count the tokens with which both lines begin."""
    size = min(len(first), len(second))
    differing = np.flatnonzero(first[:size] != second[:size])
    return int(differing[0]) if len(differing) else size
