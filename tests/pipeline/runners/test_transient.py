"""Transient errors are recognised, and permanent ones are not taken for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socket
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from s3fs.errors import translate_boto_error

from penstock.errors import InputError
from penstock.pipeline.runners import attempt as attempt_module
from penstock.pipeline.runners.attempt import delay, is_transient


def client_error(code: str, status: int) -> ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")


def status(code: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(None, (), status=code)  # type: ignore[arg-type]


def wrapped(cause: Exception) -> InputError:
    error = InputError("x.jsonl: cannot be read")
    error.__cause__ = cause
    return error


def handled(context: Exception) -> InputError:
    error = InputError("x.jsonl: cannot be read")
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "i/o"),
        OSError(errno.ESTALE, "stale"),
        OSError(errno.ETIMEDOUT, "slow"),
        ConnectionResetError("reset"),
        BrokenPipeError("pipe"),
        TimeoutError("late"),
        asyncio.TimeoutError("late"),
        concurrent.futures.TimeoutError("late"),
        socket.gaierror(socket.EAI_AGAIN, "try again"),
        client_error("SlowDown", 503),
        client_error("InternalError", 500),
        client_error("Whatever", 502),
        translate_boto_error(client_error("SlowDown", 503)),
        translate_boto_error(client_error("InternalError", 500)),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        aiohttp.ServerDisconnectedError(),
        status(503),
        status(429),
        wrapped(OSError(errno.EIO, "i/o")),
    ],
    ids=repr,
)
def test_transient_errors(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EROFS, "read-only"),
        PermissionError(errno.EACCES, "denied"),
        FileNotFoundError(errno.ENOENT, "none"),
        OSError("no number"),
        socket.gaierror(socket.EAI_NONAME, "no such host"),
        client_error("AccessDenied", 403),
        client_error("NoSuchKey", 404),
        translate_boto_error(client_error("AccessDenied", 403)),
        translate_boto_error(client_error("NoSuchBucket", 404)),
        status(404),
        ValueError("5xx"),
        handled(OSError(errno.EIO, "i/o")),
        wrapped(ValueError("no")),
    ],
    ids=repr,
)
def test_permanent_errors(error: Exception) -> None:
    assert not is_transient(error)


def test_a_ring_of_causes_ends() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert not is_transient(one)


def test_waits_double_and_differ_from_item_to_item_alone() -> None:
    def all_of(number: int) -> list[float]:
        return [delay(f"unit-{number}", attempt) for attempt in range(len(attempt_module._WAITS))]

    waits = [all_of(number) for number in range(50)]
    assert waits == [all_of(number) for number in range(50)]
    assert len({tuple(wait) for wait in waits}) == 50
    for wait in waits:
        for waited, middle in zip(wait, attempt_module._WAITS):
            assert 0.75 * middle <= waited < 1.25 * middle
