"""Who is answered: a request to this host, from this page, with the token; others get nothing.

The page has texts of a pool that may be private, so that reading it must need more than an account
on the machine. The token is in the URL that the command prints. The page sends it in a header, and
not as a cookie: browsers send cookies of 127.0.0.1 to every port, which on a shared machine may be
another user's. A header is also what no form of another site can send.

Names that resolve to this machine (DNS rebinding) fail by ``Host``, other sites by ``Origin`` and
``Sec-Fetch-Site``.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADER", "Guard"]

HEADER = "x-penstock-token"

_ALWAYS = [
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


class Guard:
    """Passes on the requests that may be answered; others get 403 and no body.

    Args:
        app: The application.
        token: The secret.
        port: The port of the server, on loopback.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif not self._allows(scope):
            headers = [*_ALWAYS, (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:

            async def with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *_ALWAYS]
                await send(message)

            await self._app(scope, receive, with_headers)

    def _allows(self, scope: Scope) -> bool:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", HEADER.encode()):
                return False
            headers[name] = value
        host = headers.get(b"host", b"")
        if host not in self._hosts or headers.get(b"origin", b"http://" + host) != (
            b"http://" + host
        ):
            return False
        if scope["path"] == "/":
            query = parse_qs(scope["query_string"].decode("latin-1"))
            (given,) = query.get("token", [""])[:1]
            return scope["method"] in ("GET", "HEAD") and self._is_token(
                given.encode("utf-8", "replace")
            )
        if headers.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
            return False
        return self._is_token(headers.get(HEADER.encode(), b""))

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)
