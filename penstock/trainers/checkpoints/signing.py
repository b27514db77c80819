"""The signature of a checkpoint: HMAC-SHA256 of its manifest, with a key of this user.

A back end may unpickle its files, so another user who can write into a work directory could run
code by a checkpoint of their own. A manifest beside it protects nothing, because it can be replaced
with it. So a manifest is signed, and the key lies where only its owner can read it::

    $XDG_CONFIG_HOME/penstock/checkpoint.key     64 hexadecimal digits, mode 0600 (~/.config)

The driver reads the key and hands it to the workers as an argument of their function. It is in no
artefact, log, environment or command line, and :meth:`Signer.__repr__`, which Ray Train's records
of a run contain, does not show it.

Trade-off: a checkpoint is resumed from without a question only where the key is. Another user, or a
machine with another home directory, needs ``--trust DIR`` or a copy of the key's file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

from penstock.display import logger_of
from penstock.errors import BadInput, StorageError

__all__ = ["Signer", "key_file", "trusting"]

_DOMAIN = b"penstock checkpoint manifest\n"
"""Comes before all signed bytes, so that a signature is good for nothing else."""

_BYTES = 32
_LONGEST = 4 * _BYTES
"""Bytes that are read of a key's file: more than a key's."""

_trusted: ContextVar[tuple[Path, ...]] = ContextVar("trusted", default=())

_log = logger_of(__name__)


class Signer:
    """Signs manifests, and compares signatures.

    Args:
        key: 32 bytes.
        trusted: Directories whose checkpoints are read with another signature, or without one.
        source: The file of the key, for errors.
    """

    def __init__(self, key: bytes, trusted: Sequence[Path] = (), source: str = "") -> None:
        self.source = source
        self._key = key
        self._trusted = tuple(trusted)

    @classmethod
    def of_user(cls) -> Signer:
        """Return the signer of the user's key, which is made at the first use.

        Where no key can be stored, the signer has one of its own, with a warning.

        Raises:
            StorageError: Another user could have read or written the key.
        """
        try:
            path = key_file()
            return cls(_user_key(path), _trusted.get(), str(path))
        except StorageError:
            raise
        except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
            _log.warning(
                "no key to sign checkpoints with can be stored (%s): they can be resumed from "
                "with `--trust` only; set XDG_CONFIG_HOME to a directory of your own",
                error,
            )
            return cls(secrets.token_bytes(_BYTES), _trusted.get())

    def __repr__(self) -> str:
        return f"<Signer with the key {self.name}>"

    @property
    def name(self) -> str:
        """The name of the key: 16 hexadecimal digits, from which it cannot be found."""
        return self._hmac(b"name")[:16]

    def sign(self, content: bytes) -> str:
        """Return the signature of a content: 64 hexadecimal digits."""
        return self._hmac(_DOMAIN + content)

    def signed(self, content: bytes, signature: str) -> bool:
        """Return whether a signature was made of this content and with this key."""
        return hmac.compare_digest(self.sign(content).encode(), signature.encode())

    def trusts(self, directory: Path) -> bool:
        """Return whether a directory is one of the trusted ones, or below one."""
        real = directory.resolve()
        return any(real.is_relative_to(one) for one in self._trusted)

    def _hmac(self, content: bytes) -> str:
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()


@contextlib.contextmanager
def trusting(directories: Sequence[str | os.PathLike[str]]) -> Iterator[None]:
    """Trust all checkpoints below these directories within the context: ``--trust``.

    Raises:
        BadInput: There is no such directory.
    """
    for directory in directories:
        if not Path(directory).is_dir():
            raise BadInput("no such directory", key="--trust", file=directory)
    token = _trusted.set((*_trusted.get(), *(Path(one).resolve() for one in directories)))
    try:
        yield
    finally:
        _trusted.reset(token)


def key_file() -> Path:
    """Return the path of the user's key.

    Raises:
        RuntimeError: This user has no home directory.
    """
    chosen = Path(os.environ.get("XDG_CONFIG_HOME") or "")  # the standard: else it is ignored
    root = chosen if chosen.is_absolute() else Path.home() / ".config"
    return root / "penstock" / "checkpoint.key"


def _user_key(path: Path) -> bytes:
    """Read the key, after making it if there is none: by a link, so that one of two drivers does.

    Raises:
        StorageError: Another user could have read or written it, or it is no key.
        OSError: It can neither be read nor made.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read_key(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    made = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(made, "wb") as sink:
            sink.write(secrets.token_hex(_BYTES).encode() + b"\n")
            sink.flush()
            os.fsync(sink.fileno())
        try:
            os.link(own, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StorageError(
            "the key that signs checkpoints is a link", file=path, fix=f"run `rm {path}`"
        ) from None
    with open(opened, "rb") as source:
        found = os.fstat(opened)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            problem = "the key that signs checkpoints is not a file of this user's"
        elif mode & 0o077:
            problem = "others could have read or written the key that signs checkpoints"
        else:
            text = source.read(_LONGEST).decode("ascii", "replace").strip()
            if re.fullmatch(f"[0-9a-f]{{{2 * _BYTES}}}", text):
                return bytes.fromhex(text)
            problem = "not a key that signs checkpoints"
    raise StorageError(
        problem,
        file=path,
        expected=f"{2 * _BYTES} hexadecimal digits in a file of user {os.geteuid()}, mode 600",
        got=f"{found.st_size} bytes of user {found.st_uid}, mode {mode:o}",
        fix=f"run `rm {path}`; a new one is made",
    )
