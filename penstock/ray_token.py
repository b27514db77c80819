"""The token of a Ray cluster, found as Ray finds it.

Ray 2.60 switches token authentication on where ``ray start`` finds a token, but a client sends the
token only where ``RAY_AUTH_MODE=token`` is set: without it the head refuses every call, and Ray
says after half a minute that it cannot connect. So clients here look for the token themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Token", "find_token"]

_LONGEST_TOKEN = 65_536
"""Bytes of a token that are read; a file that is longer is not one."""


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """The cluster's token, or why there is none."""

    value: str
    """Empty where none was found."""

    place: str
    """Where it was found, or where it was looked for and what was found there."""

    def __repr__(self) -> str:
        return f"<Token of {self.place}>"


def find_token(environment: Mapping[str, str] = os.environ) -> Token:
    """Find the token as Ray does, though whatever ``RAY_AUTH_MODE`` is except ``disabled``.

    The first that is set of ``RAY_AUTH_TOKEN``, the file that ``RAY_AUTH_TOKEN_PATH`` names, and
    ``~/.ray/auth_token``.
    """
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return Token("", "RAY_AUTH_MODE=disabled: none is sent")
    if value := environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token(value, "RAY_AUTH_TOKEN")
    looked = ["RAY_AUTH_TOKEN: not set"]
    own = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(own or "~/.ray/auth_token").expanduser()
    name = f"RAY_AUTH_TOKEN_PATH={path}" if own else str(path)
    if not own:
        looked.append("RAY_AUTH_TOKEN_PATH: not set")
    try:
        with open(path, "rb") as file:
            value = file.read(_LONGEST_TOKEN + 1).decode("ascii").strip()
    except OSError as error:
        looked.append(f"{name}: {error.strerror}")
    except UnicodeDecodeError:
        looked.append(f"{name}: not a token, which has ASCII characters only")
    else:
        if len(value.split()) == 1 and len(value) <= _LONGEST_TOKEN:
            return Token(value, name)
        looked.append(f"{name}: {'not a token, which is one word' if value else 'empty'}")
    return Token("", "; ".join(looked))
