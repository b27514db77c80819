"""The rewriting protocols: a rewriter turns a document to prompts, and their answers to documents.

An :class:`Editor` is a rewriter that needs no model: texts to texts.

A rewriter is pure: it calls no model. The engine sends the requests through a :class:`Completions`
and writes each answer to a journal, so that a killed run sends no request twice. It counts by
reason the answers that gave no text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

import pyarrow as pa
from pydantic import Field

from penstock.errors import SelectorError
from penstock.hashing import mix
from penstock.resources import Resources
from penstock.selectors.parameters import number, whole

__all__ = [
    "Answer",
    "CompletionRequirements",
    "Completions",
    "Document",
    "Editor",
    "Prompter",
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
    """A document to rewrite."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling of tokens.

    Args:
        temperature: 0 is greedy decoding.
        top_p: Share of the probability mass that is sampled, in (0, 1].
        max_tokens: Most tokens of an answer.
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


Temperature = Annotated[float, Field(ge=0)]
"""Temperature of the softmax over tokens, 0 or more; 0 is greedy decoding."""

TopP = Annotated[float, Field(gt=0, le=1)]
"""Share of the probability mass that is sampled, in (0, 1]."""

GREEDY = 0.0
"""The temperature that always takes the likeliest token."""


LIKELIEST = 20
"""Likeliest tokens whose probabilities are asked for: the most that OpenAI's API and vLLM give by
default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt, and the sampling of its answer."""

    user: str
    sampling: Sampling
    system: str = ""
    choices: tuple[str, ...] = ()
    """Answers of one token whose probabilities are wanted."""
    likeliest: int = LIKELIEST
    """Likeliest tokens whose probabilities a server is asked for; the choices are sought there."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """Messages in the form of chat templates and the chat-completions API."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def digest(self) -> str:
        """sha256 of the whole request, which identifies its answer in a journal."""
        own = asdict(self)
        if not self.choices:  # as before there were any: answers are found again
            del own["choices"]
        if not self.choices or self.likeliest == LIKELIEST:
            del own["likeliest"]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


MOST_TOKENS = 2**31 - 1
"""The largest number of tokens that is believed of one prompt or answer."""

_FINISH = 64
"""Characters of a ``finish_reason`` that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a request."""

    text: str
    finish: str = "stop"
    """Reason of the end in the API: ``stop``, ``length`` (cut off at ``max_tokens``),
    ``content_filter``."""
    error: str = ""
    """The reason why this request can never be answered (a prompt that is too long)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    probabilities: tuple[float, ...] = field(default=(), repr=False)
    """Of each of :attr:`Request.choices`; empty where the source gives none."""

    @classmethod
    def of(
        cls,
        *,
        text: str,
        finish: object = "stop",
        error: str = "",
        prompt_tokens: object = 0,
        completion_tokens: object = 0,
        probabilities: Sequence[object] = (),
    ) -> Answer:
        """Make an answer of what a server or a journal says, such that a file can hold it.

        Half a surrogate pair, which JSON can spell, becomes U+FFFD. A number of tokens that is not
        an integer from 0 to :data:`MOST_TOKENS` counts as 0: it is reported and nothing else, so
        it is no reason to lose the text.

        Raises:
            TypeError: The text or the error is not text, or a probability is not from 0 to 1.
        """
        if not isinstance(text, str) or not isinstance(error, str):
            raise TypeError("expected texts")
        return cls(
            text=_storable(text),
            finish=_storable(str(finish)[:_FINISH]),
            error=_storable(error),
            prompt_tokens=_tokens(prompt_tokens),
            completion_tokens=_tokens(completion_tokens),
            probabilities=tuple(map(_probability, probabilities)),
        )


def _storable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise TypeError("expected probabilities")
    return float(value)


def _tokens(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The result of rewriting a document."""

    texts: tuple[str, ...] = ()
    """Texts, none of them blank. The engine makes their ids from (parent, index here)."""
    rejected: tuple[str, ...] = ()
    """A reason for each answer that was not used, and for a document that got no request."""


class Prompter(Protocol):
    """Turns one document into prompts.

    Both methods are functions of their arguments and the hyperparameters alone.
    """

    def identity(self) -> Mapping[str, Any]:
        """Return what the prompts depend on besides the documents; no paths."""

    def requests(self, document: Document) -> Sequence[Request]:
        """Make the prompts, in a fixed order; none for a document without a request."""


class Rewriter(Prompter, Protocol):
    """Turns one document into prompts, and their answers into documents.

    Hyperparameters are the constructor's keywords. Both methods are functions of their arguments
    and the hyperparameters alone.
    """

    @property
    def version(self) -> int:
        """Version, raised whenever the same answers would give other texts; prompts are in
        :attr:`Request.digest` already."""

    @property
    def replaces(self) -> bool:
        """True if texts replace their parent (ProX), False if they are added (REWIRE, WRAP)."""

    def identity(self) -> Mapping[str, Any]:
        """Return what the texts depend on besides documents and answers; no paths."""

    def assemble(self, document: Document, answers: Sequence[Answer]) -> Rewritten:
        """Turn the answers to :meth:`requests`, one for each and in its order, into texts."""


class Editor(Protocol):
    """Rewrites texts without a model: ``by: none`` in a recipe. Its texts replace the old ones.

    Hyperparameters are the constructor's keywords. :meth:`edit` is a function of each text and the
    hyperparameters alone, not of the other texts of a batch.
    """

    @property
    def version(self) -> int:
        """Version, raised whenever the same text would be edited in another way."""

    @property
    def replaces(self) -> bool:
        """True: texts replace their parent."""

    def identity(self) -> Mapping[str, Any]:
        """Return what the texts depend on besides the documents; no paths."""

    def edit(self, texts: pa.Array) -> pa.Array:
        """Edit texts, (n,) large_string without nulls, to (n,) string or large_string.

        A document whose text is null or blank afterwards is dropped.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequirements:
    """Requirements of a source of completions on the engine."""

    resources: Resources = field(default_factory=lambda: Resources(by="rewrite"))
    """Resources of one worker that requests completions."""


class Completions(Protocol):
    """A source of completions: a server, or a model in this process."""

    @property
    def requirements(self) -> CompletionRequirements:
        """Requirements on the engine."""

    def split(self, workers: int) -> Completions:
        """Return a copy with one of ``workers`` equal parts of the requests under way at once."""

    def identity(self) -> Mapping[str, Any]:
        """Return the identity of the model; no address and no secret."""

    def answers(self, asked: Iterable[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        """Answer each (key, request, seed), in any order.

        ``asked`` is read no further ahead than the requests under way. Closing the iterator
        cancels these.

        Raises:
            CompletionError: Requests cannot be answered at all; those already under way were
                waited for and yielded first.
        """


def request_seed(seed: int, document_id: str, index: int) -> int:
    """Make the seed of a document's ``index``-th request: 31 bits, which every server takes."""
    return mix(seed, "rewrite", document_id, index) >> 33


def fault(answer: Answer) -> str:
    """Return the reason why an answer cannot be used at all, or an empty string."""
    if answer.error:
        return UNANSWERED
    if answer.finish in ("content_filter", "refusal"):
        return REFUSED
    return TRUNCATED if answer.finish == "length" else ""


def check_answers(requests: int, answers: Sequence[Answer]) -> None:
    """Check that there is one answer for each request."""
    if requests != len(answers):
        raise SelectorError(
            key="answers", expected=f"{requests}, one for each request", got=len(answers)
        )
