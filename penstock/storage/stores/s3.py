"""Amazon S3, and stores with its protocol: ``s3://bucket/key``.

Credentials, region and endpoint come from the environment, as for every other S3 client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from upath import UPath

from penstock.errors import StorageError
from penstock.storage.remote import RemoteStore
from penstock.storage.store import AnyPath

__all__ = ["STORE", "S3Store"]

_CLIENTS = ("aiobotocore", "aiohttp", "botocore")

_TEMPORARY = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectTimeout",
    "ConnectionClosedError",
    "ConnectionError",
    "HTTPClientError",  # of botocore: connections and time limits
    "IncompleteReadError",
}

_CODES = {
    "InternalError",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}


_BOTOCORE = (1, 35, 69)
"""The first version that knows IfMatch of PutObject. s3fs leaves out what the client does not know,
so an older one would write unconditionally."""

_LOST = {"PreconditionFailed", "ConditionalRequestConflict"}
"""Error codes of a conditional PUT after another writer succeeded."""


class S3Store(RemoteStore):
    """S3: one writer creates a file (If-None-Match), one replaces it (If-Match)."""

    schemes = ("s3", "s3a")
    package = "penstock[s3]"
    credentials = (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, and check what the bucket "
        "allows them"
    )
    options: ClassVar[Mapping[str, Any]] = {
        # Other processes write what this one lists.
        "use_listings_cache": False,
        "default_block_size": 8 << 20,
        # Six tries take 15 s with the waits between them. A store that fails one request in seven
        # fails six in a row once in 100,000; then workers begin again, up to four times.
        "config_kwargs": {
            "retries": {"total_max_attempts": 6, "mode": "standard"},
            "connect_timeout": 5,
            "read_timeout": 60,
        },
    }

    def path(self, scheme: str, rest: str) -> UPath:
        where = super().path(scheme, rest)
        from botocore import __version__ as found  # type: ignore[import-untyped]

        if tuple(map(int, found.split(".")[:3])) < _BOTOCORE:
            raise StorageError(
                "this S3 client writes unconditionally, so two writers would both succeed",
                file=where,
                expected=f"botocore {'.'.join(map(str, _BOTOCORE))} or newer",
                got=found,
                fix=f"pip install --upgrade {self.package!r} botocore",
            )
        return where

    def replace(self, path: AnyPath, old: bytes, new: bytes) -> bool:
        """Replace an object by a conditional PUT; of several writers exactly one gets True.

        The entity tag is read before the bytes are compared, so a change after that fails the PUT.
        A PUT that succeeded and whose answer was lost is sent again and fails; reading then shows
        the new bytes.
        """
        version = self.version(path)
        if not version or self.read(path) != old:
            return False
        try:
            with self._writing(path) as (files, name):
                files.pipe_file(name, new, IfMatch=version[1])
            return True
        except OSError as error:
            if _code(error.__cause__) not in _LOST:
                raise
            return self.read(path) == new

    def is_temporary(self, error: BaseException) -> bool:
        if super().is_temporary(error):
            return True
        kinds = [kind for kind in type(error).__mro__ if kind.__module__.startswith(_CLIENTS)]
        return any(kind.__name__ in _TEMPORARY for kind in kinds) or (
            bool(kinds) and _is_busy(vars(error))
        )


def _code(error: BaseException | None) -> str | None:
    """Return the S3 code of an error of botocore."""
    answer: Mapping[str, Any] = vars(error).get("response", {}) if error else {}
    code: str | None = answer.get("Error", {}).get("Code")
    return code


def _is_busy(fields: Mapping[str, Any]) -> bool:
    """Return whether the store answered that it is busy or broken: HTTP 429, 5xx, or an S3 code."""
    answer = fields.get("response") or {}  # of botocore's ClientError
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", fields.get("status"))
    busy = isinstance(status, int) and (status == 429 or 500 <= status < 600)
    return busy or answer.get("Error", {}).get("Code") in _CODES


STORE = S3Store()
