"""Shared parts of the benchmarks: documents of this machine, and a line for a missing peer."""

from __future__ import annotations

import glob
import importlib
import io
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from inspect import cleandoc
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import zstandard

__all__ = ["Side", "docstrings", "jsonl", "peer_module", "refuse_without_peer", "write_pool"]

_DOCSTRING = re.compile(r'(?:\A|:\n)\s*[rR]?"""(.+?)"""', re.DOTALL)


def docstrings() -> Iterator[str]:
    """Yield the docstrings of each installed source file as a document, from 1,000 characters."""
    for root in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}):
        for path in sorted(Path(root).rglob("*.py")):
            source = path.read_bytes().decode("utf-8", "replace")
            page = "\n".join(map(cleandoc, _DOCSTRING.findall(source)))
            if len(page) >= 1000:
                yield page


def jsonl(pattern: str) -> Iterator[dict[str, Any]]:
    """Yield the documents of ``.jsonl.zst`` files."""
    for path in sorted(glob.glob(pattern)):
        with pa.input_stream(path, compression="zstd") as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                yield json.loads(line)


def write_pool(directory: Path, documents: int) -> Path:
    """Write :func:`docstrings` as ``docs.jsonl.zst`` into a directory, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"id": f"page-{number}", "source": "docs", "text": text})
        for number, text in enumerate(islice(docstrings(), documents))
    ]
    packed = zstandard.ZstdCompressor().compress("\n".join(lines).encode())
    (directory / "docs.jsonl.zst").write_bytes(packed)
    return directory


def peer_module(name: str) -> Any:
    """Import a peer that runs in Penstock's own environment, or end with how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        sys.exit(f"the peer is missing: pip install {name}")


def refuse_without_peer(directory: str, packages: str, others: str = "") -> NoReturn:
    """Exit with instructions for the environment of a peer that needs its own."""
    sys.exit(
        f"the peer is missing: python -m venv {directory} && {directory}/bin/pip install {packages}"
        f", then give --peer-python {directory}/bin/python{others}"
    )


class Side:
    """A process that prints an object as JSON at its start, and one for each line it is sent."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()

    def ask(self, line: object) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        sys.exit(f"{self._process.args!r} ended; see above")
