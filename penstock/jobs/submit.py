"""Run a recipe as a Ray Job: upload it, follow its log, return its exit status.

Only the recipe and the user's own scorer modules are uploaded, some kilobytes. Data is named by
absolute paths, so every machine must have it, and the work directory, under the same path. Penstock
itself is installed on the cluster. A Ray Job runs once and ends with its cluster. After a crash
submit the same recipe again: what the work directory holds is not made again.

The driver reserves no CPU. It schedules items and writes manifests, which costs little; and Ray
pins a driver without resources to the head node, while one that reserves a CPU may be placed on any
worker: on a spot machine, or nowhere while a cluster scaled to zero has none (a head with ``CPU:
0`` offers none, by design).
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from penstock import __version__
from penstock.display import numbered
from penstock.errors import BadInput, JobError, RecipeError
from penstock.jobs.job_logs import JobLog, log_from_tail, log_pieces
from penstock.jobs.job_server import connect, find_job
from penstock.jobs.staging import stage
from penstock.temporary import temporary_directory

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = [
    "COMMANDS",
    "INTERRUPTED",
    "follow_job",
    "follow_submitted",
    "new_id",
    "run_job",
    "submit",
]

Progress = Callable[[str], None]

COMMANDS = ("curate", "train", "compare")
INTERRUPTED = 130
"""The shell's status for Ctrl-C (128 + SIGINT): the job continues, neither done nor failed."""

_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",  # lines appear when they are printed, those of workers too
    "PYTHONUTF8": "1",  # Ray stops streaming a log that is not UTF-8
}
_SILENCE = 4.0
"""Seconds without log lines after which the job's status is read."""
_REOPEN = 75
"""Silences after which the stream is opened again: a connection can die without an error."""
_NO_AGENT = "No available agent"
"""In the answer of a head whose process that runs jobs is not there yet."""
_HEAD_STARTS = 120.0
"""Seconds for that process to start."""
_SERVER_TIMEOUT = 300.0
"""Seconds without an answer of the job server after which following ends."""
_REMINDER = 30.0
"""Seconds between messages that it does not answer."""
_KILLED = 128
"""A shell's exit status of a command that a signal ended, less the signal's number."""
_LONGEST_WAIT = 30.0
_TRIES = 5
"""Attempts to fetch the end of a finished job's log."""


def submit(
    recipe_path: Path,
    command: str,
    address: str,
    *,
    settings: Sequence[str] = (),
    submission_id: str | None = None,
    follow: bool = True,
    trust: Sequence[Path] = (),
    debug: bool = False,
    on_line: Progress,
    progress: Progress | None = None,
) -> int:
    """Run a command of Penstock on a cluster, as a Ray Job.

    Args:
        recipe_path: The recipe here; relative paths in it are made absolute.
        command: ``curate``, ``train`` or ``compare``.
        address: The job server, as ``http://127.0.0.1:8265``.
        settings: ``key.path=value`` overrides.
        submission_id: Makes submitting idempotent: a job of this name with the same recipe and
            code is followed instead of started again.
        follow: Wait for the job and pass its log on.
        trust: Directories of the cluster, as of :func:`penstock.train`; a relative one is here,
            too.
        debug: The job's log has all that Ray and other libraries log there.
        on_line: Called with each line of the job's log.
        progress: Called with each message of Penstock itself; ``on_line`` by default.

    Returns:
        0 if the job succeeded (or was only submitted), 2 for bad input, 130 if following was
        interrupted, else 1.

    Raises:
        BadInput: The recipe, a scorer, the command, the address or the id cannot be used.
        JobError: The job server cannot be reached or refuses, or the job never ran to an end.
    """
    if command not in COMMANDS:
        raise BadInput(key="--job", expected=f"one of {', '.join(COMMANDS)}", got=repr(command))
    for one in trust:  # a directory of the cluster that is not here has an absolute path
        if not one.is_absolute() and not one.is_dir():
            raise BadInput("no such directory", key="--trust", file=one)
    progress = progress or on_line
    options = "".join(f" --trust {shlex.quote(os.path.abspath(one))}" for one in trust)
    options += " --debug" * debug
    with temporary_directory("job-") as directory:
        staged = stage(recipe_path, directory, settings)
        if command == "compare" and not staged.evaluates:
            raise RecipeError(key="evaluate", expected="at least one held-out file", got="none")
        for line in staged.notes:
            progress(line)
        progress(f"sending {numbered(len(staged.files), 'file')}, {sum(staged.sizes):,} bytes:")
        for name, size in zip(staged.files, staged.sizes):
            progress(f"  {name} ({size:,} bytes)")
        progress("not sent; machines of the cluster open by these paths:")
        for key, path in staged.opened:
            progress(f"  {key}: {path}")
        return run_job(
            connect(address),
            f"python -m penstock {command} recipe.yaml --runner ray --json{options}",
            staged.directory,
            submission_id=submission_id,
            metadata={
                "penstock": __version__,
                "recipe": recipe_path.name,
                "command": command,
                "staged": staged.digest,
            },
            follow=follow,
            on_line=on_line,
            progress=progress,
        )


def new_id() -> str:
    """Return an id for a job that no other has."""
    return f"penstock-{secrets.token_hex(8)}"


def run_job(
    client: JobSubmissionClient,
    entrypoint: str,
    working_dir: Path,
    *,
    submission_id: str | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
    follow: bool = True,
    on_line: Progress,
    progress: Progress | None = None,
) -> int:
    """Run a command line as a Ray Job in a copy of ``working_dir``; returns as :func:`submit`.

    Raises:
        BadInput: The id cannot be used.
        JobError: The job server refuses, a job of this id is another one, or the job never ran to
            an end.
    """
    progress = progress or on_line
    name = submission_id or new_id()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise BadInput(
            key="--id",
            expected="at most 100 letters, digits and any of _ . -, since it names a log file",
            got=repr(name),
        )
    try:
        _send(
            client,
            progress,
            entrypoint=entrypoint,
            submission_id=name,
            runtime_env={"working_dir": str(working_dir), "env_vars": dict(_ENVIRONMENT)},
            metadata=dict(metadata),
            entrypoint_num_cpus=0,
        )
        progress(f"job {name} submitted")
    except JobError:  # the token was refused
        raise
    except (OSError, RuntimeError) as error:
        # It exists, or was refused, or the response was lost and it exists nevertheless.
        found = _found_after(client, name, error)
        staged = (found.metadata or {}).get("staged")
        if (found.entrypoint, staged) != (entrypoint, metadata.get("staged")):
            raise JobError(
                f"the cluster has a job {name} with another command, recipe or scorer "
                f"({found.entrypoint})",
                key="--id",
                fix="choose another id, or see that job's log with "
                f"`{_command('logs', client, name)}`",
            ) from None
        ended = found.status.is_terminal()
        exists = f"job {name} exists: {found.status}"
        if ended:
            exists += "; another id would run it again"
        progress(exists)
    else:
        ended = False
    if not follow:
        progress(_ways(client, name))
        return 0
    try:
        return follow_submitted(client, name, on_line, progress)
    finally:
        if ended:  # its whole log came after the first time
            progress(exists)


def _send(client: JobSubmissionClient, progress: Progress, **job: Any) -> None:
    """Submit a job; wait for a head that has just been started and cannot run jobs yet.

    Raises:
        OSError, RuntimeError, JobError: It is refused, or the head is not ready in two minutes.
    """
    deadline = time.monotonic() + _HEAD_STARTS
    waits = False
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
        if not waits:
            progress(f"{client.get_address()}: the head is not ready for jobs yet; waiting")
            waits = True
        time.sleep(1)


def follow_submitted(
    client: JobSubmissionClient,
    name: str,
    on_line: Progress,
    progress: Progress,
    tail: int | None = None,
) -> int:
    """Follow a job as :func:`follow_job` does; Ctrl-C ends following, not the job.

    Args:
        client: The job server.
        name: The id of the job.
        on_line: Called with each line of the job's log.
        progress: Called with each message of Penstock itself.
        tail: Of the lines that are there already, pass on no more than this many of the last.

    Raises:
        JobError: As of :func:`follow_job`.
    """
    try:
        log = JobLog(on_line) if tail is None else log_from_tail(client, name, on_line, tail)
        return follow_job(client, name, log, progress)
    except KeyboardInterrupt:
        progress(f"stopped following; job {name} continues. {_ways(client, name)}")
        return INTERRUPTED


def _found_after(client: JobSubmissionClient, name: str, error: Exception) -> JobDetails:
    reason = str(error).strip().splitlines()[-1]
    try:
        found = find_job(client, name)
    except (OSError, RuntimeError):
        found = None
    if found is None:
        raise JobError(
            f"the job server refused the job: {reason}", file=client.get_address()
        ) from None
    return found


def _command(verb: str, client: JobSubmissionClient, name: str) -> str:
    return f"penstock {verb} {name} --address {client.get_address()}"


def _ways(client: JobSubmissionClient, name: str) -> str:
    return (
        f"Follow it with `{_command('logs', client, name)} --follow`, see its state with "
        f"`{_command('status', client, name)}`, stop it with `{_command('stop', client, name)}`"
    )


def follow_job(client: JobSubmissionClient, name: str, log: JobLog, progress: Progress) -> int:
    """Pass each line of a job's log on once, until the job has ended; returns as :func:`submit`.

    A stream always starts at the log's beginning, so after a lost connection the lines that were
    passed on are skipped.

    Raises:
        JobError: The job was stopped or could not be started, or its server does not answer.
    """
    wait, stuck, lost, told = 1.0, False, None, 0.0
    while True:
        try:
            job = find_job(client, name)
        except JobError:
            raise
        except (OSError, RuntimeError) as error:
            now = time.monotonic()
            if lost is None:
                lost = told = now
                progress(
                    f"{client.get_address()}: lost ({type(error).__name__}); trying again for at "
                    f"most {_SERVER_TIMEOUT:.0f} s"
                )
            if now - told >= _REMINDER:
                told = now
                progress(
                    f"{client.get_address()}: no answer for {now - lost:.0f} s; trying again for "
                    f"{_SERVER_TIMEOUT - (now - lost):.0f} s more"
                )
            if now - lost > _SERVER_TIMEOUT:
                log.close()
                raise JobError(
                    f"no answer for {_SERVER_TIMEOUT:.0f} s; the job may still run",
                    file=client.get_address(),
                    fix=_ways(client, name),
                ) from None
            time.sleep(1)
            continue
        lost = None
        if job is None:
            log.close()
            raise JobError(
                f"job {name} is not there any more; was the cluster restarted?",
                file=client.get_address(),
                fix="submit again: finished artefacts are not made again",
            )
        if job.status.is_terminal():
            for _ in range(_TRIES):
                if _fetch(client, job, log):
                    break
                time.sleep(1)
            else:
                progress(f"job {name}: cannot fetch the end of its log, which is on the head")
            log.close()
            return _exit_status(job, name, progress)
        if stuck:  # without a stream the whole log can still be fetched
            _fetch(client, job, log)
            time.sleep(wait)
        before = log.passed_on
        asyncio.run(_read_stream(client, name, log, progress))
        stuck = log.passed_on == before
        wait = min(2 * wait, _LONGEST_WAIT) if stuck else 1.0


def _fetch(client: JobSubmissionClient, job: JobDetails, log: JobLog) -> bool:
    """Pass on what a whole log holds beyond the lines passed on; False if it cannot be read."""
    position = 0
    try:
        for piece in log_pieces(client, job):
            position = log.feed(piece, position)
    except JobError:
        raise
    except (OSError, RuntimeError):
        return False
    return True


async def _read_stream(
    client: JobSubmissionClient, name: str, log: JobLog, progress: Progress
) -> None:
    """Read one stream into the log, until the stream or the job ends.

    A stream that breaks ends without an error; the caller reads whether the job has ended too.
    """
    import aiohttp

    pieces = client.tail_job_logs(name)

    async def take() -> str | None:
        return await anext(pieces, None)

    position = silence = 0
    coming = asyncio.create_task(take())
    while silence < _REOPEN:
        done, _ = await asyncio.wait({coming}, timeout=_SILENCE)
        try:
            piece = coming.result() if done else ""
            job = None if piece else client.get_job_info(name)
        except (aiohttp.ClientError, OSError, RuntimeError):
            return
        if piece is None or (job and job.status.is_terminal()):
            return
        if job and job.status == "PENDING":
            progress(f"job {name} waits to be started: {job.message}")
        silence = 0 if piece else silence + 1
        position = log.feed(piece, position)
        if done:
            coming = asyncio.create_task(take())


def _exit_status(job: JobDetails, name: str, progress: Progress) -> int:
    if job.status == "SUCCEEDED":
        return 0
    if job.driver_exit_code is None:
        reason = (job.message or "no reason given").strip()
        raise JobError(
            f"{job.status}: {reason}",
            key=f"job {name}",
            fix="submit again under another id: finished work is kept",
        )
    if job.driver_exit_code == 2:
        return 2
    if killed := _signal_of(job.driver_exit_code):
        progress(
            f"job {name} was killed by {killed}; submit again under another id: finished work is "
            "kept"
        )
    else:
        progress(f"job {name} failed with exit status {job.driver_exit_code}")
    return 1


def _signal_of(status: int) -> str:
    """Return the name of the signal that ended a process; empty where none did."""
    number = -status if status < 0 else status - _KILLED
    return signal.Signals(number).name if number in set(signal.Signals) else ""
