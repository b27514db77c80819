"""Answers from a server with OpenAI's chat-completions API, such as vLLM's.

``concurrency`` requests are sent in parallel over connections that are kept open; a request to a
busy, broken or slow server is repeated with growing delays. No port is opened, requests are not
logged, and the key is read from the environment when it is needed, so that it is never pickled with
this object. A server that repeats the key, in any form, has it masked in answers, errors and logs.
Trade-off: a seed is sent with each request, but a server that batches answers the same
request in slightly different words, so answers are kept in a journal and never requested again.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import queue
import threading
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from penstock.display import logger_of
from penstock.errors import CompletionError, SelectorError
from penstock.hashing import mix
from penstock.redaction import Secret
from penstock.selectors.parameters import Declared, Natural, Positive, Text, Whole
from penstock.selectors.rewriting.base import Answer, CompletionRequirements, Request

__all__ = ["Endpoint"]

Key = TypeVar("Key")
Result = TypeVar("Result")

_REFUSED = frozenset({400, 413, 422})
"""Statuses of a bad request, mostly of a prompt that is too long; others may succeed."""

_BUSY = frozenset({408, 409, 425, 429})
"""Statuses that are retried, like any 5xx."""

ALL_REFUSED = 20
"""Refused requests, without any answer, after which the settings are considered wrong."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds; doubled at each try, which makes two minutes in eight tries."""

_PATIENCE, _SECONDS_BETWEEN_WARNINGS = 5.0, 30.0
"""Seconds of failed tries before the first warning, and between warnings."""

_log = logger_of("penstock.completions")

_MOST_PATIENCE = 600.0
"""The longest delay that a server may request, in seconds; a longer one is an error."""

_LONG_KEY = 16
"""Characters of a key that is masked in answers, too; a short one, such as ``none``, is a word."""

_READ = 2**16
"""Characters of a server's message in which the key is masked, before it is shortened."""

_EXCERPT = 300
"""Characters of a server's message that an error quotes."""

_BODY_BYTES, _TOKEN_BYTES = 2**20, 2**10
"""Decoded bytes that an answer may have: the first number, and the second for each of its tokens.
The longest token of Llama 3 has 128 bytes, which JSON may spell in 768."""


def _checked(url: str) -> str:
    """Check an address, and drop the slash at its end."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise SelectorError(expected="http://host:port/v1 or the like", got=repr(url))
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SelectorError(
            expected="an address without a user, a query or a key in it",
            fix="give the key in an environment variable (key_variable)",
        )
    return url.rstrip("/")


def _variable(name: str) -> str:
    if not name.isidentifier():
        raise SelectorError(expected="the name of an environment variable, not the key itself")
    return name


class Endpoint(Declared):
    """A model behind a URL.

    Proxies that the environment names are not used, and redirects are not followed: the key is
    sent to the recipe's address and nowhere else.
    """

    url: Annotated[str, AfterValidator(_checked)] = Field(
        description="The base address of the API, such as ``http://localhost:8000/v1``.",
    )
    model: Text = Field(
        description="The name that the server gives the model.",
    )
    concurrency: Whole = Field(
        default=64,
        description="Requests under way at once. vLLM batches up to 256 by itself, and more "
        "wait there; a hosted API's limits may require fewer.",
    )
    timeout: Positive = Field(
        default=600.0,
        description="Seconds for one answer, from sending to the last byte.",
    )
    retries: Natural = Field(
        default=8,
        description="Further tries after one that failed and may succeed later.",
    )
    key_variable: Annotated[str, AfterValidator(_variable)] = Field(
        default="OPENAI_API_KEY",
        description="The environment variable that holds the API key, if the server requires one.",
    )

    @property
    def requirements(self) -> CompletionRequirements:
        return CompletionRequirements()

    def split(self, workers: int) -> Endpoint:
        """Return the endpoint with a worker's share of ``concurrency``, at least 1."""
        return self.model_copy(update={"concurrency": max(1, self.concurrency // workers)})

    def identity(self) -> Mapping[str, Any]:
        """Return the model's name, since the same model may be served at another address."""
        return {"model": self.model}

    def answers(self, asked: Iterable[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        """Answer each (key, request, seed), in the order of the answers.

        A request that the server refuses (HTTP 400, 413, 422) is answered with an ``error``.

        Raises:
            CompletionError: The server cannot be reached or fails after all tries, denies access,
                or refuses every request. It is raised after the requests under way were yielded.
        """
        done: queue.SimpleQueue[tuple[Key, Answer | CompletionError]] = queue.SimpleQueue()
        failure: CompletionError | None = None
        answered = under_way = 0
        refused: list[str] = []
        source = iter(asked)
        with _calls(self) as start:
            while True:
                while failure is None and under_way < self.concurrency:
                    item = next(source, None)
                    if item is None:
                        break
                    key, request, seed = item
                    start(request, seed, lambda answer, key=key: done.put((key, answer)))
                    under_way += 1
                if not under_way:
                    break
                key, answer = done.get()
                under_way -= 1
                if isinstance(answer, CompletionError):
                    failure = failure or answer
                    continue
                answered += not answer.error
                if answer.error and not answered:
                    refused.append(answer.error)
                    if len(refused) >= ALL_REFUSED:
                        failure = failure or CompletionError(
                            f"{self.url}: expected answers, got none: each of the first "
                            f"{ALL_REFUSED} requests was refused, the last with {refused[-1]}"
                        )
                        continue
                yield key, answer
        if failure is not None:
            raise failure


@contextmanager
def _calls(endpoint: Endpoint) -> Iterator[Callable[[Request, int, Callable[..., None]], Any]]:
    """Yield ``start(request, seed, on_done)``; requests under way at the end are cancelled.

    An event loop in a thread of its own runs while the caller records answers.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="completions", daemon=True)
    thread.start()

    def wait_for(work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    try:
        caller = wait_for(_Caller.opened(endpoint))
        try:
            yield lambda request, seed, on_done: asyncio.run_coroutine_threadsafe(
                caller.call(request, seed, on_done), loop
            )
        finally:
            wait_for(caller.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Again(Exception):
    """A failed try that may be repeated, after ``wait`` seconds if the server requires it."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Caller:
    """One endpoint's open connections."""

    def __init__(self, endpoint: Endpoint, session: Any, key: str) -> None:
        self.endpoint = endpoint
        self.session = session
        self.url = f"{endpoint.url}/chat/completions"
        self._key = Secret(key)
        self._in_texts = Secret(key if len(key) >= _LONG_KEY else "")
        self._silent_until = time.monotonic() + _PATIENCE

    @classmethod
    async def opened(cls, endpoint: Endpoint) -> _Caller:
        import aiohttp

        key = os.environ.get(endpoint.key_variable, "").strip()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=endpoint.concurrency),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            headers={"Authorization": f"Bearer {key}"} if key else None,
            cookie_jar=aiohttp.DummyCookieJar(),  # nothing that a server sends is kept
        )
        return cls(endpoint, session, key)

    async def close(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.session.close()

    async def call(self, request: Request, seed: int, on_done: Callable[..., None]) -> None:
        try:
            answer: Answer | CompletionError = await self._answer(request, seed)
        except CompletionError as error:
            answer = error
        except Exception as error:  # any error must reach the caller, which waits
            answer = self._error(self._clean(f"{type(error).__name__}: {error}"))
            answer.__cause__ = error
        on_done(answer)

    async def _answer(self, request: Request, seed: int) -> Answer:
        tries = self.endpoint.retries + 1
        for attempt in range(tries):
            try:
                return await self._once(request, seed)
            except _Again as again:
                reason, asked = str(again), again.wait
            self._tell(reason)
            if asked > _MOST_PATIENCE:
                raise self._error(f"{reason}, with a Retry-After of {asked:.0f} s")
            if attempt < tries - 1:
                # Jittered by a hash, so that requests do not retry in lockstep.
                draw = mix(request.digest, seed, attempt) / 2**64
                wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * (0.75 + draw / 2)
                await asyncio.sleep(max(wait, asked))
        raise self._error(f"{reason}, {tries} times" if tries > 1 else reason)

    def _tell(self, reason: str) -> None:
        """Log a warning about retries, at most every ``_SECONDS_BETWEEN_WARNINGS``."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SECONDS_BETWEEN_WARNINGS
            _log.warning("%s: %s; trying again", self.endpoint.url, reason)

    async def _once(self, request: Request, seed: int) -> Answer:
        import aiohttp
        from aiohttp.http_exceptions import HttpProcessingError

        body = {
            "model": self.endpoint.model,
            "messages": request.messages,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.sampling.max_tokens,
            "seed": seed,
            "stream": False,
            **({"logprobs": True, "top_logprobs": request.likeliest} if request.choices else {}),
        }
        try:
            async with self.session.post(self.url, json=body, allow_redirects=False) as response:
                status, headers = response.status, response.headers
                content = await _body(response, request.sampling.max_tokens)
        except (asyncio.TimeoutError, TimeoutError):
            raise _Again(f"no answer within {self.endpoint.timeout:g} s") from None
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:  # malformed HTTP, too
            raise _Again(self._clean(f"{type(error).__name__}: {error}")) from None
        if status == 200:
            return self._read(content, request.choices)
        said = f"HTTP {status}: {self._clean(content.decode('utf-8', 'replace'))}"
        if status in _BUSY or status >= 500:
            raise _Again(said, _retry_after(headers))
        if status in _REFUSED:
            return Answer(text="", error=f"{self.url}: {said}")
        raise self._error(said)

    def _clean(self, text: str) -> str:
        """Shorten a server's message to one line, without the key, which some servers repeat."""
        shown = self._key.mask(text[:_READ])
        if len(text) > _READ:  # the key may be cut in two there
            shown = shown[: max(0, len(shown) - self._key.longest)]
        return " ".join(shown.split())[:_EXCERPT] or "no reason given"

    def _error(self, reason: str) -> CompletionError:
        hint = ""
        if reason.startswith(("HTTP 401", "HTTP 403")):
            hint = f"; the key is read from the environment variable {self.endpoint.key_variable}"
        elif reason.startswith("HTTP 404"):
            hint = f"; is {self.endpoint.model!r} the model's name there, and the URL's end right?"
        return CompletionError(f"{self.url}: expected an answer, got {reason}{hint}")

    def _read(self, content: bytes, choices: Sequence[str]) -> Answer:
        """Read the answer of a body; a truncated or malformed one is tried again."""
        try:
            answer = _read(content, choices)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            reason = self._clean(f"{type(error).__name__}: {error}")
            raise _Again(f"HTTP 200 and no completion ({reason})") from None
        return replace(
            answer, text=self._in_texts.mask(answer.text), finish=self._key.mask(answer.finish)
        )


async def _body(response: Any, max_tokens: int) -> bytes:
    """Read a body, decompressed, up to the most bytes that an answer may have.

    aiohttp decompresses in parts of bounded size, so that a compressed body takes no more memory
    than this.
    """
    most = _BODY_BYTES + _TOKEN_BYTES * max_tokens
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            raise _Again(f"HTTP {response.status} and a body of more than {most:,} bytes")
    return b"".join(parts)


def _read(content: bytes, choices: Sequence[str] = ()) -> Answer:
    """Read the answer of a body, with the probabilities of choices.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: It is truncated or malformed.
    """
    body = json.loads(content, parse_int=_integer)
    choice = body["choices"][0]
    message = dict(choice["message"])
    text, usage = message.get("content") or "", body.get("usage")
    if not isinstance(text, str):
        raise TypeError(f"content: {text!r}")
    usage = usage if isinstance(usage, dict) else {}
    return Answer.of(
        text=text,
        finish="refusal" if message.get("refusal") else choice.get("finish_reason") or "stop",
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        probabilities=_probabilities(choice.get("logprobs"), choices),
    )


def _probabilities(logprobs: Any, choices: Sequence[str]) -> list[float]:
    """Return the probability of each choice at the first token that is one of them.

    Tokens that are equal but for white space are one choice, as ``4`` and `` 4``. The result is
    empty where the server gives no log-probabilities, or no token is a choice; a choice that is
    not among the likeliest tokens has 0.

    Raises:
        ValueError, TypeError, LookupError: They are malformed.
    """
    tokens = logprobs.get("content") if isinstance(logprobs, dict) and choices else None
    for token in tokens or ():
        if str.strip(token["token"]) not in choices:
            continue
        found = {one["token"]: one["logprob"] for one in token.get("top_logprobs") or ()}
        found[token["token"]] = token["logprob"]
        sums = dict.fromkeys(choices, 0.0)
        for name, logprob in found.items():
            if (choice := str.strip(name)) in sums:
                sums[choice] += _probability(logprob)
        return [min(1.0, own) for own in sums.values()]
    return []


def _probability(logprob: float) -> float:
    if math.isnan(logprob):
        raise ValueError("a log-probability that is no number")
    return math.exp(min(logprob, 0.0))


def _integer(digits: str) -> int | float:
    """Read an integer of JSON; Python refuses a body for one number of 4,301 digits."""
    return int(digits) if len(digits) < 20 else math.inf


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the least seconds to wait: the header's number, or the time until its date."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return 0.0
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
