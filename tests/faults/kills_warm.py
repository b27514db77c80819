"""A process that has Penstock imported and forks one driver after another: 200 kills in minutes.

It is told what to run by a line of JSON on stdin, and answers on stdout with the process id; told
to wait, it answers with the exit status (negative: the signal). It has one thread (and Arrow's
allocator one that minds forks) and never works itself, so a fork of it is as good as a fresh
interpreter.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from typing import Any

import pyarrow as pa
import sitecustomize
import zstandard  # noqa: F401

import penstock.jobs.console
import penstock.jobs.curate
from penstock.hashing import hash_ids
from penstock.jobs import cli
from penstock.pipeline.corpus import make_corpus


def main() -> None:
    """Fork what is asked for until stdin ends."""
    hash_ids(pa.array(["compiled code is loaded by its first call"]), 0)
    assert threading.active_count() == 1, "only one thread would survive the fork"
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        order = json.loads(line)
        if "run" in order:
            pid = os.fork()
            if pid == 0:
                _become(order)
            answers.write(f"{pid}\n")
        else:
            _, status = os.waitpid(order["wait"], 0)
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n")


def _become(order: dict[str, Any]) -> None:
    """The child: a session of its own, its own output, and then the command line."""
    os.setsid()
    for path, descriptor in ((os.devnull, 0), (order["out"], 1), (order["err"], 2)):
        mode = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, mode, 0o600), descriptor)
    os.environ.update(order["environment"])
    if sitecustomize.DIRECTORY in os.environ:
        os.environ[sitecustomize.DRIVER] = str(os.getpid())
        sitecustomize.install()
    # Units of a few documents; a recipe cannot ask for them.
    small = functools.partial(make_corpus, unit_bytes=order["unit_bytes"])
    penstock.jobs.curate.make_corpus = small  # type: ignore[assignment]
    status = 70
    try:
        sys.argv = ["penstock", *order["run"]]
        cli.main(order["run"], standalone_mode=True)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
