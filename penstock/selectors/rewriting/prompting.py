"""The base of the built-in rewriters: sampling, prompts as identity, counts of tokens, refusals."""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, PrivateAttr

from penstock.errors import InputError, SelectorError
from penstock.selectors.parameters import Algorithm, Located
from penstock.selectors.rewriting.base import Sampling
from penstock.storage import sha256_unless_known
from penstock.tokenization.definition import Definition

__all__ = ["PromptRewriter", "TokenCounter", "refuses", "without_opener"]


_PIECE = re.compile(r"[A-Za-z]{1,6}|[^\sA-Za-z]|\n")

_LONGEST_TOKEN = 64
"""Characters that are read of a text that is cut, for each token of the limit."""


class TokenCounter:
    """Counts tokens, and cuts a text after a number of them.

    Args:
        tokenizer: A ``tokenizer.json`` or a directory that holds one: the model's own, if limits
            are to be exact. Without, tokens are guessed: a token is up to six English letters, a
            line break, or any other character. Over 800 web pages that is 1.15 of what all-MiniLM's
            tokenizer counts; for one page in twenty it is below 1.02.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self.path = None if tokenizer is None else tokenizer_file(tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        assert self.path is not None
        try:
            return Tokenizer.from_str(Definition.read(self.path).to_str())
        except InputError as error:
            raise SelectorError(f"cannot be read: {error.problem}", file=self.path) from None

    def count(self, text: str) -> int:
        """Count the tokens of a text, without those that begin and end a sequence."""
        if self.path is None:
            return sum(1 for _ in _PIECE.finditer(text))
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cut(self, text: str, tokens: int) -> str:
        if self.path is None:
            for place, piece in enumerate(_PIECE.finditer(text)):
                if place == tokens:
                    return text[: piece.start()]
            return text
        head = text[: tokens * _LONGEST_TOKEN]
        offsets = self._tokenizer.encode(head, add_special_tokens=False).offsets
        return head if len(offsets) <= tokens else head[: offsets[tokens][0]]


def tokenizer_file(tokenizer: str) -> Path:
    """Find the file of a tokenizer.

    Raises:
        SelectorError: There is none.
    """
    if tokenizer and "\0" not in tokenizer:
        path = Path(tokenizer)
        path = path / "tokenizer.json" if path.is_dir() else path
        if path.is_file():
            return path
    raise SelectorError(
        expected="a tokenizer.json or a directory that holds one", got=repr(tokenizer)
    )


def _check(tokenizer: str) -> str:
    TokenCounter(tokenizer).count("")  # an unreadable file is an error now
    return tokenizer


TokenizerPath = Annotated[
    str,
    AfterValidator(_check),
    Located(lambda tokenizer: sha256_unless_known(tokenizer_file(tokenizer))),
]
"""A ``tokenizer.json``, or a directory that holds one."""


class PromptRewriter(Algorithm):
    """A rewriter whose texts depend on its parameters, its tokenizer and its prompts."""

    replaces: ClassVar[bool] = False

    tokenizer: TokenizerPath | None = Field(
        default=None,
        description="The model's own ``tokenizer.json``, for exact limits; tokens are guessed "
        "without.",
    )

    _counter: TokenCounter = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._counter = TokenCounter(self.tokenizer)

    @property
    @abstractmethod
    def sampling(self) -> Sampling:
        """Sampling of answers."""

    @property
    @abstractmethod
    def prompts(self) -> Sequence[str]:
        """All text of requests besides the documents."""

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters, the tokenizer's sha256 and the prompts'."""
        prompts = hashlib.sha256(json.dumps(list(self.prompts)).encode()).hexdigest()
        return {**super().identity(), "prompts": prompts}


# Openers and refusals of assistants around a text. Patterns are for English, the language of the
# prompts. Each requires words about the task (rewritten, paraphrase, version), so that a text that
# begins "Here is how bread is made:" or "I cannot remember such a summer" is not changed.

_WORK = (
    r"(?:re-?writ|re-?phras|paraphras|re-?word|re-?stat|simplified|version\b|conversation\b"
    r"|questions?\s(?:and|&)\sanswers?)"
)
_OPENERS = re.compile(
    # "Sure!", "Of course, " before what follows
    r"(?:(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|gladly)"
    r"(?:\s*[!.:]\s*(?=\n)|\s*!\s*|\s*[.,:]\s*(?=here|below|the\s+following|i(?:['’]|\s)))"
    # "Here is a paraphrase of the text in simple words:"
    rf"|(?:here(?:['’]s|\s+(?:is|are))|below\s+(?:is|are))\b(?=[^:\n]{{0,200}}{_WORK})"
    r"[^:\n]{0,240}[:\n]"
    # "I have rewritten the text below:"
    rf"|(?:i(?:['’](?:ve|ll)|\s+(?:have|will))|the\s+following\s+is)\b"
    rf"(?=[^:\n]{{0,200}}{_WORK})[^:\n]{{0,240}}:[ \t]*\n"
    # "Paraphrase:", "**Rewritten text:**"
    r"|[*#\s_]{0,8}(?:the\s+)?(?:paraphrased?|rephrased|rewritten|reworded|simplified)"
    r"(?:\s+(?:text|paragraph|passage|version|article))?\s?(?:\*\*:|:\*\*|:)"
    r")\s*",
    re.IGNORECASE,
)
_CANNOT = (
    r"i(?:\s+(?:can(?:not|['’]t|\s+not)|am\s+(?:not\s+able|unable)\s+to|won['’]t|will\s+not"
    r"|do\s+not\s+feel\s+comfortable)|['’]m\s+(?:not\s+able|unable)\s+to)"
)
_DO = (
    r"(?:(?:help|assist)(?:\s+(?:you|with|in)\b|\s*[.,!]|\s*$)"
    r"|(?:fulfill?|comply|provide|re-?write|rephrase|paraphrase|create|generate|produce|process"
    r"|complete|continue|engage|do\s+(?:that|this))\b)"
)
_REFUSAL = re.compile(
    r"(?:i(?:['’]m|\s+am)\s+(?:very\s+|so\s+)?sorry|i\s+apologi[sz]e|my\s+apologies|sorry"
    r"|unfortunately)?[\s,.;:!]{0,4}(?:but\s+)?"
    rf"(?:as\s+an?\s+(?:ai|ai\s+assistant|(?:ai\s+)?language\s+model)\s*,\s*i\b"
    rf"|{_CANNOT}\b[^.\n]{{0,20}}?\b{_DO})",
    re.IGNORECASE,
)


def without_opener(text: str) -> str:
    """Strip a text, and remove an assistant's opener."""
    text = text.strip()
    while found := _OPENERS.match(text):
        text = text[found.end() :].strip()
    return text


def refuses(text: str) -> bool:
    """Return true where a text begins as a refusal."""
    return _REFUSAL.match(text.lstrip()) is not None
