"""A Ray job server: a client with timeouts, the cluster's token, and errors that name the fix.

Ray 2.60 switches token authentication on where ``ray start`` finds a token, but its client sends
the token only where ``RAY_AUTH_MODE=token`` is set: a head that has ``~/.ray/auth_token`` refused
every job. The client here sends the token that Ray would find, unless ``RAY_AUTH_MODE`` is
``disabled``. The token is in the header of requests and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock import extras
from penstock.errors import BadInput, JobError
from penstock.ray_token import Token, find_token
from penstock.redaction import Secret

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["ADDRESS", "connect", "find_job", "open_stream"]

ADDRESS = "http://127.0.0.1:8265"
"""Where Ray's job server listens, and where ``ray dashboard`` forwards it to."""

_CHATTY = (
    "ray._private.authentication.http_token_authentication",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of every upload and every closed stream."""

_UNAUTHORISED, _FORBIDDEN = 401, 403


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job server at ``address``.

    Ray's own client lets ``RAY_ADDRESS`` override its argument, and has no timeouts; this one does
    neither.

    Raises:
        BadInput: The address is not that of an HTTP server, or Ray is not installed.
        JobError: No job server answers, or it wants a token and none was found, or it refuses the
            one that was found.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(key="--address", expected="one like http://127.0.0.1:8265", got=address)
    with extras.named("ray", "submit"):
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    token = find_token()

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            # (to connect, between bytes): an upload is answered when it is stored.
            options.setdefault("timeout", (10, 30 if method == "GET" else 300))
            try:
                return super()._do_request(method, endpoint, **options)
            except AuthenticationError as error:
                raise _refusal(address, token, str(error.message)) from None

    for name in _CHATTY:  # until the process ends: the client logs while it is followed
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            headers = {"Authorization": f"Bearer {token.value}"} if token.value else None
            return Client(address, headers=headers)
    except JobError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise JobError(
            f"no Ray job server answers ({type(error).__name__})",
            file=address,
            fix="start one with `ray start --head` on the cluster's head, or forward its port with "
            "`ray dashboard ray_cluster.yaml`",
        ) from None


def _refusal(address: str, token: Token, reason: str) -> JobError:
    """Return the error of a request that was refused for its token, or for the lack of one."""
    if not token.value:
        return JobError(
            f"the job server asks for a token, and there is none here ({token.place})",
            file=address,
            fix="on the head `ray get-auth-token` prints it: write it to ~/.ray/auth_token, mode "
            "0600, or to a file that RAY_AUTH_TOKEN_PATH names",
        )
    answer = Secret(token.value).mask(reason.strip().split("\n")[0])
    return JobError(
        f"the job server refuses the token of {token.place} ({answer})",
        file=address,
        fix="put the token there that the head has: `ray get-auth-token` on the head prints it",
    )


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def open_stream(client: JobSubmissionClient, endpoint: str, asked: Mapping[str, Any]) -> Any:
    """Request what is read piece by piece: Ray's client reads each answer whole.

    Args:
        client: The job server.
        endpoint: The path.
        asked: The query.

    Returns:
        A ``requests.Response``, to be closed.

    Raises:
        OSError, RuntimeError: The server does not answer, or answers with an error.
        JobError: It refuses the token.
    """
    import requests

    answer = requests.get(
        client.get_address() + endpoint,
        params=asked,
        headers=client._headers,
        cookies=client._cookies,
        verify=client._verify,
        timeout=(10, 30),
        stream=True,
    )
    if answer.status_code == 200:
        return answer
    with answer:
        reason = next(answer.iter_content(500), b"").decode("utf-8", "replace")
    if answer.status_code in (_UNAUTHORISED, _FORBIDDEN):
        raise _refusal(client.get_address(), find_token(), reason)
    raise RuntimeError(f"status code {answer.status_code}: {reason}")


def find_job(client: JobSubmissionClient, name: str) -> JobDetails | None:
    """Return the server's record of a job, or None if it has none.

    Raises:
        OSError, RuntimeError: The server does not answer, or answers with an error.
        JobError: It refuses the token.
    """
    try:
        return client.get_job_info(name)
    except RuntimeError as error:
        if "status code 404" in str(error):
            return None
        raise
