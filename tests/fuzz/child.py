"""One target's cases, in a process that was forked for them and has limits."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import resource
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import PenstockError
from tests.fuzz.mutation import MOST, mutated

__all__ = ["LIMIT_BYTES", "LIMIT_SECONDS", "Target", "case", "run_slice"]

LIMIT_SECONDS = 10
"""Of CPU time, for one case; the slowest sound one takes 0.5 s. On the clock, ten times as many,
since other processes of a machine may take most of it."""

LIMIT_BYTES = 2**30
"""Growth of the process's memory over all cases of a slice."""


_HEAD = struct.Struct("<3q")
"""Cases, inputs that were found, and the bytes of the one that is tried."""

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where files are written: a disk would take most of the time."""


_SPACE = 24 * 2**30
"""Bytes of address space for all cases of a slice. A read of Arrow that fails keeps the space of
its 4 MiB, untouched."""


_CASES = 4_000
"""Most cases of a slice: after 7,800 damaged zstd files that space was spent."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function of bytes that is tried."""

    name: str
    run: Callable[[bytes, Path], None]
    """Called with an input, and a directory for files."""
    seeds: Callable[[], Sequence[bytes]]


def case(target: Target, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Return the input of a case."""
    draw = hashlib.sha256(f"{seed} {target.name} {number}".encode()).digest()
    return mutated(seeds, random.Random(draw))


def run_slice(target: Target, seed: int, first: int, seconds: float, saved: Path) -> dict[str, int]:
    """Run cases from ``first`` on for some seconds, in a forked process; save what was found.

    Returns:
        ``cases``, and ``found``, the inputs that were saved.
    """
    shared = mmap.mmap(-1, _HEAD.size + MOST)  # what the child leaves, whatever ends it
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY) as name:
        child = os.fork()
        if child == 0:
            code, errors = 1, os.fdopen(os.dup(2), "w")
            try:
                _cases(target, seed, first, seconds, Path(name), shared, saved)
                code = 0
            except BaseException:
                traceback.print_exc(file=errors)
                errors.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
    cases, found, size = _HEAD.unpack_from(shared)
    if status and os.WIFSIGNALED(status) and size:
        sign = os.WTERMSIG(status)
        content = shared[_HEAD.size : _HEAD.size + size]
        save(
            target,
            content,
            "hang" if sign in (signal.SIGALRM, signal.SIGPROF) else f"signal {sign}",
            saved,
        )
        cases, found = cases + 1, found + 1
    elif status:
        raise RuntimeError(f"{target.name}: the seeds cannot be made or used")
    return {"cases": cases, "found": found}


def save(target: Target, content: bytes, reason: str, saved: Path) -> None:
    """Keep an input and the reason beside it."""
    saved.mkdir(parents=True, exist_ok=True)
    path = saved / f"{target.name}-{hashlib.sha256(content).hexdigest()[:12]}"
    path.write_bytes(content)
    path.with_suffix(".txt").write_text(reason)
    print(f"{path}: {reason.strip().splitlines()[-1]}", flush=True)


def _cases(
    target: Target,
    seed: int,
    first: int,
    seconds: float,
    work: Path,
    shared: mmap.mmap,
    saved: Path,
) -> None:
    # What libraries print of bad inputs is no news; the reason of a crash is in the status.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for sign in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(sign, signal.SIG_DFL)
    seeds = target.seeds()
    for content in seeds:  # compiles, and shows that a sound input is one
        target.run(content, work)
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + LIMIT_BYTES
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + _SPACE, -1))
    cases = found = 0
    end = time.monotonic() + seconds
    reasons: set[str] = set()
    while time.monotonic() < end and cases < _CASES:
        content = case(target, seeds, seed, first + cases)
        shared[_HEAD.size : _HEAD.size + len(content)] = content
        _HEAD.pack_into(shared, 0, cases, found, len(content))
        reason = _reason(target, content, work)
        cases += 1
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > limit:
            reason, limit = reason or "more memory than the limit", 2 * limit
        if reason:
            found += 1
            place = "\n".join(reason.strip().splitlines()[-4:])
            if place not in reasons:  # of one fault, one input
                reasons.add(place)
                save(target, content, reason, saved)
    _HEAD.pack_into(shared, 0, cases, found, 0)


def _reason(target: Target, content: bytes, files: Path) -> str | None:
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 10 * LIMIT_SECONDS)
    try:
        target.run(content, files)
    except PenstockError as error:
        text = str(error)
        return None if len(text) < 5_000 else f"a message of {len(text):,} characters"
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None
