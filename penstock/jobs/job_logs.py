"""The log of a job, read from a cluster's head in pieces, or only its end.

Ray's job client gets a log as one answer, however long: the log of a day is hundreds of MB, for one
line of progress. The head's log service, of which ``ray logs`` is made, sends a file in pieces, and
its last lines without reading those before.
"""

from __future__ import annotations

import codecs
import collections
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock.errors import JobError
from penstock.jobs.job_server import find_job, open_stream

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["JobLog", "log_from_tail", "log_pieces", "log_tail", "print_log", "readable"]

_TAIL_BYTES = 256 * 2**10
"""Most bytes that are read for the last lines; where lines are longer, fewer are asked for."""

_PIECE = 64 * 2**10
"""Bytes of a piece, as the head sends them."""

_SECONDS = 3_600
"""Seconds in which the head has to send a whole log."""

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\\\)")
"""Colours and other control sequences of a terminal, which Ray and libraries write into logs."""

_STACK = re.compile(r"(?:\[.*\] \S+\.cc:\d+: )?(?:PC: @| +@) +(?:0x[0-9a-f]+|\(nil\)).*")
_SIGTERM = re.compile(r"(\[.*\] \S+\.cc:\d+: )?\*\*\* SIGTERM received at .*")
"""What Ray's libraries write where a job is stopped: a line and a stack, each twice."""

OnLine = Callable[[str], None]


def readable(line: str) -> str | None:
    """Return a line of a log without control sequences; None for Ray's stack of a stopped job."""
    line = _CONTROL.sub("", line)
    if _STACK.fullmatch(line):
        return None
    if found := _SIGTERM.fullmatch(line):
        return None if found[1] else "stopped by SIGTERM"
    return line


class JobLog:
    """Passes a log on once, though it is read in pieces and several times from its beginning.

    Args:
        on_line: Called with each line.

    Attributes:
        on_line: As given; it may be replaced.
        passed_on: Characters that were passed on, or wait for the end of their line.
    """

    def __init__(self, on_line: OnLine) -> None:
        self.passed_on = 0
        self.on_line = on_line
        self._line = ""

    def feed(self, text: str, start: int = 0) -> int:
        """Take the piece of the log that starts at a character, and return where it ends."""
        new = text[max(0, self.passed_on - start) :]
        self.passed_on = max(self.passed_on, start + len(text))
        *lines, self._line = (self._line + new).split("\n")
        for line in lines:
            self._pass_on(line)
        return start + len(text)

    def _pass_on(self, line: str) -> None:
        shown = readable(line)
        if shown is not None:
            self.on_line(shown)

    def close(self) -> None:
        """Pass the last line on where no newline ended it."""
        if self._line:
            self._pass_on(self._line)
            self._line = ""


def log_pieces(client: JobSubmissionClient, job: JobDetails, lines: int = -1) -> Iterator[str]:
    """Read the log of a job piece by piece, from its beginning or from its last lines.

    Line ends are ``\\n``, as in the streams of Ray's client; bytes that are not UTF-8 are replaced.

    Args:
        client: The job server.
        job: Its record of the job.
        lines: How many of the last lines; -1 for all.

    Yields:
        Pieces of at most 64 KiB.

    Raises:
        OSError, RuntimeError: The head does not answer, or there is no log yet.
        JobError: It refuses the token.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
    with _opened(client, job, lines) as answer:
        for piece in answer.iter_content(_PIECE):
            if text := decoder.decode(piece):
                yield text
    if text := decoder.decode(b"", final=True):
        yield text


def log_tail(client: JobSubmissionClient, job: JobDetails, lines: int) -> list[str]:
    """Return the last lines of a job's log, reading little more than these.

    Where they have more than 256 KiB, fewer lines are returned: none where the last is longer.

    Args:
        client: The job server.
        job: Its record of the job.
        lines: Most lines.

    Raises:
        OSError, RuntimeError: As of :func:`log_pieces`.
        JobError: As of :func:`log_pieces`.
    """
    while lines:
        found, size = [], 0
        for piece in log_pieces(client, job, lines):
            found.append(piece)
            size += len(piece)
            if size > _TAIL_BYTES:
                break
        else:
            return "".join(found).splitlines()
        lines //= 8
    return []


def log_from_tail(client: JobSubmissionClient, name: str, on_line: OnLine, tail: int) -> JobLog:
    """Pass the last lines of a job's log so far on; return it for those that follow.

    All of it is read, in pieces: a stream of further lines starts at the log's beginning, too.

    Args:
        client: The job server.
        name: The id of the job.
        on_line: Called with each line.
        tail: Most lines of those that are there.

    Raises:
        JobError: The head refuses the token.
    """
    last: collections.deque[str] = collections.deque(maxlen=tail)
    log = JobLog(last.append)
    position = 0
    try:
        if job := find_job(client, name):
            for piece in log_pieces(client, job):
                position = log.feed(piece, position)
    except JobError:
        raise
    except (OSError, RuntimeError):  # it has none yet, or the head is lost: the stream says so
        pass
    for line in last:
        on_line(line)
    log.on_line = on_line
    return log


def print_log(
    client: JobSubmissionClient, name: str, on_line: OnLine, tail: int | None = None
) -> None:
    """Pass each line of a job's log so far on.

    Args:
        client: The job server.
        name: The id of the job.
        on_line: Called with each line.
        tail: Pass on no more than this many of the last lines.

    Raises:
        JobError: The log cannot be read.
    """
    log = JobLog(on_line)
    try:
        job = find_job(client, name)
        if job is None:
            raise RuntimeError
        if tail is not None:
            for line in filter(None, map(readable, log_tail(client, job, tail))):
                on_line(line)
            return
        position = 0
        for piece in log_pieces(client, job):
            position = log.feed(piece, position)
    except JobError:
        raise
    except (OSError, RuntimeError):
        raise JobError(
            f"the log of job {name} cannot be read; it is on the cluster's head",
            file=client.get_address(),
            fix="try again; a job that waits for its start has none yet",
        ) from None
    log.close()


@contextmanager
def _opened(client: JobSubmissionClient, job: JobDetails, lines: int) -> Iterator[Any]:
    """Request a log, and close the connection where it is left early."""
    if not job.driver_node_id:
        raise RuntimeError("the job has no driver yet")
    asked = {
        "node_id": job.driver_node_id,
        "submission_id": job.submission_id,
        "lines": lines,
        "timeout": _SECONDS,
    }
    with open_stream(client, "/api/v0/logs/file", asked) as answer:
        yield answer
