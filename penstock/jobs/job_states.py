"""Jobs of a cluster: their states, and how one is stopped."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from penstock.errors import BadInput, JobError
from penstock.jobs.job_logs import log_tail
from penstock.jobs.job_server import find_job

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["JobState", "job_state", "known_job", "list_states", "stop_job"]

_PROGRESS = re.compile(r"\[ *\d+\.\d s\] (.*)")
"""A line of :meth:`penstock.jobs.console.Console.progress`."""

_POLL_SECONDS = 0.5

_LINES = 200
"""Last lines of a log among which progress is looked for: a worker's traceback has some tens."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as its server knows it, and the last progress line of its log."""

    job: str
    state: str
    """``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``."""

    command: str | None
    """``curate``, ``train`` or ``compare``; None for a job that Penstock did not submit."""

    recipe: str | None
    """The file's name where the job was submitted."""

    started: str | None
    """ISO 8601, UTC, in seconds."""

    ended: str | None
    seconds: float | None
    """From its start to its end, or until now."""

    exit_status: int | None
    message: str | None
    """Ray's words on the state."""

    progress: str | None
    """The last progress line of the log, without the time that it begins with; or None."""

    digest: str | None
    """Of the shards, by the log of a ``curate`` that succeeded."""

    error: str | None
    """The first line of the error that ended a failed command of Penstock, by its log."""

    def summary(self) -> dict[str, Any]:
        """Return the object of ``--json``."""
        return asdict(self)

    @property
    def terminal(self) -> bool:
        """True if the job has ended."""
        return self.state in ("SUCCEEDED", "FAILED", "STOPPED")


def known_job(client: JobSubmissionClient, name: str) -> JobDetails:
    """Return the server's record of a job.

    Raises:
        BadInput: The server has no job of this id.
        JobError: The server does not answer, or refuses the token.
    """
    with _answers(client):
        found = find_job(client, name)
    if found is None:
        raise BadInput(
            f"{client.get_address()} has no job {name!r}",
            key="JOB",
            fix=f"`penstock status --address {client.get_address()}` lists the jobs",
        )
    return found


def job_state(client: JobSubmissionClient, name: str) -> JobState:
    """Return the state of one job; raises as :func:`known_job`."""
    return _state(client, known_job(client, name))


def list_states(client: JobSubmissionClient, limit: int = 20) -> tuple[list[JobState], int]:
    """Return the states of the jobs that Penstock submitted, the newest first.

    Of each only the end of its log is read.

    Args:
        client: The job server.
        limit: Most jobs.

    Returns:
        The states, and the number of older jobs.

    Raises:
        JobError: The server does not answer, or refuses the token.
    """
    with _answers(client):
        jobs = [job for job in client.list_jobs() if "penstock" in (job.metadata or {})]
    jobs.sort(key=lambda job: (-(job.start_time or 0), str(job.submission_id)))
    return [_state(client, job) for job in jobs[:limit]], len(jobs[limit:])


def stop_job(
    client: JobSubmissionClient,
    name: str,
    *,
    timeout: float = 60.0,
    progress: Callable[[str], None],
) -> JobState:
    """Stop a job and wait until it has ended; one that has ended already is left as it is.

    Ray sends SIGTERM to the driver, and SIGKILL after three seconds. What the job has finished is
    kept: the same recipe, submitted again, continues.

    Args:
        client: The job server.
        name: The id of the job.
        timeout: Seconds to wait for its end.
        progress: Called with each message.

    Raises:
        BadInput: The server has no job of this id.
        JobError: The server does not answer, refuses the token, or the job has not ended in time.
    """
    if known_job(client, name).status.is_terminal():
        state = job_state(client, name)
        progress(f"job {name} had ended already: {state.state}")
        return state
    with _answers(client):
        client.stop_job(name)
    progress(f"job {name}: waiting for its end")
    deadline = time.monotonic() + timeout
    while not known_job(client, name).status.is_terminal():
        if time.monotonic() > deadline:
            raise JobError(
                f"job {name} has not ended in {timeout:.0f} s",
                file=client.get_address(),
                fix="run `penstock stop` again; the head may be busy or lost",
            )
        time.sleep(_POLL_SECONDS)
    return job_state(client, name)


def _state(client: JobSubmissionClient, job: JobDetails) -> JobState:
    own = job.metadata or {}
    lines = _last_lines(client, job)
    end = job.end_time or time.time() * 1000
    return JobState(
        job=str(job.submission_id),
        state=str(job.status.value),
        command=own.get("command"),
        recipe=own.get("recipe"),
        started=_time(job.start_time),
        ended=_time(job.end_time),
        seconds=round((end - job.start_time) / 1000, 1) if job.start_time else None,
        exit_status=job.driver_exit_code,
        message=job.message,
        progress=_last_progress(lines),
        digest=_digest(lines) if job.status.value == "SUCCEEDED" else None,
        error=_error(lines) if job.status.value == "FAILED" else None,
    )


def _last_lines(client: JobSubmissionClient, job: JobDetails) -> list[str]:
    try:
        return log_tail(client, job, _LINES)
    except (OSError, RuntimeError):  # it has none yet, or its head's agent is busy
        return []


def _last_progress(lines: Sequence[str]) -> str | None:
    for line in reversed(lines):
        if found := _PROGRESS.fullmatch(line):
            return found[1]
    return None


def _digest(lines: Sequence[str]) -> str | None:
    """Return the digest in the JSON object of the last line."""
    try:
        value = json.loads(lines[-1])["digest"]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def _error(lines: Sequence[str]) -> str | None:
    """Return the last line that begins as those of :func:`penstock.jobs.terminal.write_error`."""
    return next((line for line in reversed(lines) if line.startswith("penstock: ")), None)


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return moment.isoformat(timespec="seconds")


@contextmanager
def _answers(client: JobSubmissionClient) -> Iterator[None]:
    """Raise JobError where the server does not answer."""
    try:
        yield
    except JobError:  # it refuses the token
        raise
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[-1]
        raise JobError(
            f"the job server does not answer ({type(error).__name__}: {reason})",
            file=client.get_address(),
            fix="try again; is the port still forwarded?",
        ) from None
