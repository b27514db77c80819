"""What a rewriter is: a document to prompts, and the prompts' answers to documents.

A rewriter is pure: it never talks to a model. The engine owns what lies between: it sends the
requests through a :class:`Completions`, journals each answer as it comes, so that a run that was
killed asks nothing twice, and counts by reason what came to nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from penstock.errors import SelectorError
from penstock.hashing import mix
from penstock.selectors.parameters import number, whole

__all__ = [
    "Answer",
    "Completions",
    "Document",
    "Request",
    "Rewriter",
    "Rewritten",
    "Sampling",
    "fault",
    "request_seed",
]

Key = TypeVar("Key")

BLANK, UNANSWERED, REFUSED, TRUNCATED = "blank", "unanswered", "refused", "truncated"
"""Reasons that all rewriters share; a rewriter may have others of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is rewritten."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: 0 is greedy decoding.
        top_p: Share of the probability that is drawn from, in (0, 1].
        max_tokens: Of an answer.
    """

    temperature: float
    top_p: float
    max_tokens: int

    def __post_init__(self) -> None:
        if isinstance(self.temperature, bool) or self.temperature != 0:
            number("temperature", self.temperature)
        if self.top_p != 1:
            number("top_p", self.top_p, below=1)
        whole("max_tokens", self.max_tokens)


GREEDY = 0.0
"""The temperature that always takes the likeliest token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt, and how it is to be answered."""

    user: str
    sampling: Sampling
    system: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates and the chat-completions API take them."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def digest(self) -> str:
        """sha256 of all that it says: an answer in a journal belongs to this and to no other."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for a request."""

    text: str
    finish: str = "stop"
    """In the API's words: ``stop``, ``length`` (cut off at ``max_tokens``), ``content_filter``."""
    error: str = ""
    """Why this one request cannot be answered, now or later (a prompt that is too long)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What a document became."""

    texts: tuple[str, ...] = ()
    """None of them blank. Their ids are the engine's to make: (parent, place here)."""
    rejected: tuple[str, ...] = ()
    """A reason for each answer that was not used, and for a document that got no request."""


@runtime_checkable
class Rewriter(Protocol):
    """Turns one document into prompts, and their answers into documents.

    Hyperparameters are the constructor's keywords. Both methods are functions of their arguments
    and the hyperparameters alone.
    """

    summary: ClassVar[str]
    """One line for ``penstock selectors``."""
    paper: ClassVar[str]
    """Where the algorithm is published."""
    version: ClassVar[int]
    """Raised whenever the same answers would give other texts. What is asked is in
    :attr:`Request.digest` already."""
    replaces: ClassVar[bool]
    """Whether the texts stand in their parent's place (ProX), or beside it (REWIRE, WRAP)."""

    def identity(self) -> Mapping[str, Any]:
        """What the texts depend on besides documents and answers; no paths."""
        ...

    def requests(self, document: Document) -> Sequence[Request]:
        """The prompts, in an order of their own; none where there is nothing to ask."""
        ...

    def assemble(self, document: Document, answers: Sequence[Answer]) -> Rewritten:
        """The answers to :meth:`requests`, one for each and in its order, to texts."""
        ...


class Completions(Protocol):
    """Whoever answers requests."""

    def identity(self) -> Mapping[str, Any]:
        """Which model it is; no address and no secret."""
        ...

    def answers(self, asked: Iterable[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        """Answer each (key, request, seed), as soon as may be and in any order.

        ``asked`` is read no further ahead than what is under way. Closing the iterator gives up
        what is still under way.

        Raises:
            CompletionError: Requests cannot be answered at all; those already under way were
                waited for and yielded first.
        """
        ...


def request_seed(seed: int, document_id: str, index: int) -> int:
    """The seed of a document's ``index``-th request: 31 bits, which every server takes."""
    return mix(seed, "rewrite", document_id, index) >> 33


def fault(answer: Answer) -> str:
    """The reason why an answer cannot be read at all, or an empty string."""
    if answer.error:
        return UNANSWERED
    if answer.finish in ("content_filter", "refusal"):
        return REFUSED
    return TRUNCATED if answer.finish == "length" else ""


def check_answers(requests: int, answers: Sequence[Answer]) -> None:
    """Refuse answers that cannot be those of so many requests."""
    if requests != len(answers):
        raise SelectorError(
            f"answers: expected {requests}, one for each request, got {len(answers)}"
        )
