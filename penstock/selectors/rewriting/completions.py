"""Answers from a server that speaks OpenAI's chat-completions API, such as vLLM's.

Requests go out side by side, as many as the server is given to chew on, over connections that are
kept open; a server that is busy, broken or slow is waited for, longer each time. Nothing listens,
nothing is logged, and the key is read from the environment when it is needed, so that it never
travels with this object. What is traded away: a seed goes with each request, but a server that
batches answers the same request in slightly different words, so answers are kept in a journal,
never asked for again.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import queue
import threading
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from penstock.errors import CompletionError, SelectorError
from penstock.hashing import mix
from penstock.selectors.parameters import number, whole
from penstock.selectors.rewriting.base import Answer, Request

__all__ = ["Endpoint"]

Key = TypeVar("Key")
Result = TypeVar("Result")

_REFUSED = frozenset({400, 413, 422})
"""This request is wrong, mostly too long; the next one may be right."""

_BUSY = frozenset({408, 409, 425, 429})
"""Like any 5xx: the same request may well be answered in a moment."""

ALL_REFUSED = 20
"""So many refused requests and not one answer mean that the settings are wrong, not the texts."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds; doubled at each try, which makes two minutes in eight tries."""

_PATIENCE, _SECONDS_BETWEEN_WARNINGS = 5.0, 30.0
"""Seconds of trouble before it is said, and between saying so."""

_log = logging.getLogger("penstock.completions")

_MOST_PATIENCE = 600.0
"""Seconds that a server may ask for; one that asks for more is an error."""

_EXCERPT = 300
"""Characters of a server's own words in a message."""


class Endpoint:
    """A model behind a URL.

    Proxies that the environment names are not used, and redirects are not followed: the key goes
    where the recipe says and nowhere else.

    Args:
        url: Where the API begins, such as ``http://localhost:8000/v1``.
        model: The name that the server knows the model by.
        concurrency: Requests under way at once. vLLM batches up to 256 by itself, and more wait
            there; a hosted API's limits may ask for fewer.
        timeout: Seconds for one answer, from sending to the last byte.
        retries: Further tries after one that failed and may succeed later.
        key_variable: The environment variable that holds the API key, if the server wants one.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        concurrency: int = 64,
        timeout: float = 600.0,
        retries: int = 8,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        self.url = _checked(url)
        if not isinstance(model, str) or not model:
            raise SelectorError(f"model: expected the name of a served model, got {model!r}")
        if not isinstance(key_variable, str) or not key_variable.isidentifier():
            raise SelectorError(
                "key_variable: expected the name of an environment variable, not the key itself"
            )
        self.model = model
        self.concurrency = whole("concurrency", concurrency)
        self.timeout = number("timeout", timeout)
        self.retries = whole("retries", retries, least=0)
        self.key_variable = key_variable

    def identity(self) -> Mapping[str, Any]:
        """The model's name: the same model may be served elsewhere tomorrow."""
        return {"model": self.model}

    def answers(self, asked: Iterable[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        """Answer each (key, request, seed), in the order in which answers come.

        A request that the server calls wrong (HTTP 400, 413, 422) is answered with an ``error``.

        Raises:
            CompletionError: The server cannot be reached or goes on failing after all tries, does
                not let us in, or calls every request wrong. It is raised when what was under way
                has been waited for and yielded.
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


def _checked(url: Any) -> str:
    """The address without a slash at its end."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise SelectorError(f"url: expected http://host:port/v1 or the like, got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SelectorError(
            "url: expected an address without a user, a query or a key in it; give the key in an "
            "environment variable (key_variable)"
        )
    return str(url).rstrip("/")


@contextmanager
def _calls(endpoint: Endpoint) -> Iterator[Callable[[Request, int, Callable[..., None]], Any]]:
    """Gives ``start(request, seed, on_done)``; what is still under way at the end is given up.

    An event loop in a thread of its own goes on while the caller writes down what it got.
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
    """A try failed that may be repeated, not before so many seconds if the server said so."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Caller:
    """One endpoint's open connections."""

    def __init__(self, endpoint: Endpoint, session: Any, key: str) -> None:
        self.endpoint = endpoint
        self.session = session
        self.url = f"{endpoint.url}/chat/completions"
        self._key = key
        self._silent_until = time.monotonic() + _PATIENCE

    @classmethod
    async def opened(cls, endpoint: Endpoint) -> _Caller:
        import aiohttp

        key = os.environ.get(endpoint.key_variable, "").strip()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=endpoint.concurrency),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout),
            headers={"Authorization": f"Bearer {key}"} if key else None,
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
        except Exception as error:  # what nobody thought of must not leave the caller waiting
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
                raise self._error(f"{reason}, and was told to come back in {asked:.0f} s")
            if attempt < tries - 1:
                # Spread by a hash, so that those who were sent away together do not return so.
                draw = mix(request.digest, seed, attempt) / 2**64
                wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * (0.75 + draw / 2)
                await asyncio.sleep(max(wait, asked))
        raise self._error(f"{reason}, {tries} times" if tries > 1 else reason)

    def _tell(self, reason: str) -> None:
        """Say that something is tried again, now and then: it may go on for minutes."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SECONDS_BETWEEN_WARNINGS
            _log.warning("%s: %s; trying again", self.endpoint.url, reason)

    async def _once(self, request: Request, seed: int) -> Answer:
        import aiohttp

        body = {
            "model": self.endpoint.model,
            "messages": request.messages,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.sampling.max_tokens,
            "seed": seed,
            "stream": False,
        }
        try:
            async with self.session.post(self.url, json=body, allow_redirects=False) as response:
                status, headers = response.status, response.headers
                content = await response.read()
        except (asyncio.TimeoutError, TimeoutError):
            raise _Again(f"no answer within {self.endpoint.timeout:g} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise _Again(self._clean(f"{type(error).__name__}: {error}")) from None
        if status == 200:
            return _read(content)
        said = f"HTTP {status}: {self._clean(content.decode('utf-8', 'replace'))}"
        if status in _BUSY or status >= 500:
            raise _Again(said, _retry_after(headers))
        if status in _REFUSED:
            return Answer(text="", error=f"{self.url}: {said}")
        raise self._error(said)

    def _clean(self, text: str) -> str:
        """A server's words in one line, without the key, which some repeat."""
        text = " ".join(text.split())
        text = text.replace(self._key, "***") if self._key else text
        return text[:_EXCERPT] or "no reason given"

    def _error(self, reason: str) -> CompletionError:
        hint = ""
        if reason.startswith(("HTTP 401", "HTTP 403")):
            hint = f"; the key is read from the environment variable {self.endpoint.key_variable}"
        elif reason.startswith("HTTP 404"):
            hint = f"; is {self.endpoint.model!r} the model's name there, and the URL's end right?"
        return CompletionError(f"{self.url}: expected an answer, got {reason}{hint}")


def _read(content: bytes) -> Answer:
    """A body's answer; one that is cut or odd may be whole the next time."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        usage = body.get("usage") or {}
        finish = "refusal" if message.get("refusal") else choice.get("finish_reason") or "stop"
        return Answer(
            # JSON can spell half a surrogate pair, which no file could hold.
            text=text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
            finish=str(finish),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _Again(f"HTTP 200 and no completion ({type(error).__name__}: {error})") from None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait at least: the header's number, or the time until its date."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return 0.0
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
