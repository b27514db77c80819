"""Try a ``tokenizer.json`` in a process of its own: ``python probing.py`` with the file on stdin.

A pattern that backtracks, a normaliser that multiplies a text and a table with false offsets show
only when a text is encoded; they end a process, or take all of its memory or hours. Here they end
this one. It imports nothing but ``tokenizers``, so that its limits hold for little else.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["MEMORY", "SECONDS", "texts"]

MEMORY, SECONDS = 2**32, 20
"""Limits of this process: bytes of address space, seconds of CPU. Reading and probing the largest
published tokenizer (Gemma 3's, 262,144 tokens) takes 4 s and 1 GiB."""

_RUN = 500
"""Characters of a probe: enough for a cubic pattern to pass the 10 million steps of a match."""

_RUNS = (
    "a",
    "A",
    "0",
    " ",
    "\n",
    "\t",
    "!",
    "é",
    "中",
    "\u0301",
    "_",
    "'s",
    "a ",
    "Aa1",
    "\r\n",
    " a",
)
_ENDS = ("", "a", "!", " ", "\n", "0")


def texts(definition: Any) -> Iterator[str]:
    """Yield runs of characters, those of the patterns too, with an end that differs."""
    own = sorted({letter for pattern in _patterns(definition) for letter in pattern})[:64]
    for run in (*_RUNS, *own):
        # A pattern is tried at all only where the letters that it requires are in the text.
        for end in (*_ENDS, "\0" + "".join(own)):
            yield (run * _RUN)[:_RUN] + end


def _patterns(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        pattern = node.get("pattern")
        if isinstance(pattern, dict):
            yield from (one for one in pattern.values() if isinstance(one, str))
        for below in node.values():
            yield from _patterns(below)
    elif isinstance(node, list):
        for below in node:
            yield from _patterns(below)


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    content = sys.stdin.buffer.read()

    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    definition = json.loads(content)
    for text in texts([definition.get("normalizer"), definition.get("pre_tokenizer")]):
        try:
            tokenizer.encode(text, add_special_tokens=False)
        except Exception:  # an unknown character without a token for it: sound for other texts
            continue


if __name__ == "__main__":
    try:
        _main()
    except BaseException as error:  # a panic of Rust is no Exception
        sys.exit(f"{type(error).__name__}: {error}"[:300])
