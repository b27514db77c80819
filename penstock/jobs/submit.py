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
import contextlib
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock import __version__, extras
from penstock.errors import BadInput, JobError
from penstock.jobs.staging import stage

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["COMMANDS", "connect", "follow_job", "run_job", "submit"]

COMMANDS = ("curate", "train", "compare")
INTERRUPTED = 130
"""The shell's status for Ctrl-C (128 + SIGINT): the job continues, neither done nor failed."""

_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",  # lines appear when they are printed, those of workers too
    "PYTHONUTF8": "1",  # Ray stops streaming a log that is not UTF-8
}
_SILENCE = 10.0
"""Seconds without log lines after which the job's status is read."""
_REOPEN = 30
"""Silences after which the stream is opened again: a connection can die without an error."""
_SERVER_TIMEOUT = 300.0
"""Seconds without an answer of the job server after which following ends."""
_LONGEST_WAIT = 30.0
_TRIES = 5
"""Attempts to fetch the end of a finished job's log."""

_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of every upload and every closed stream."""


def submit(
    recipe_path: Path,
    command: str,
    address: str,
    *,
    settings: Sequence[str] = (),
    submission_id: str | None = None,
    follow: bool = True,
    on_line: Callable[[str], None],
    progress: Callable[[str], None] | None = None,
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
    progress = progress or on_line
    with tempfile.TemporaryDirectory(prefix="penstock-job-") as directory:
        staged = stage(recipe_path, Path(directory), settings)
        for line in staged.notes:
            progress(line)
        return run_job(
            connect(address),
            f"python -m penstock {command} recipe.yaml --runner ray --json",
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


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job server at ``address``.

    Ray's own client lets ``RAY_ADDRESS`` override its argument, and has no timeouts; this one does
    neither.

    Raises:
        BadInput: The address is not that of an HTTP server, or Ray is not installed.
        JobError: No job server answers.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(key="--address", expected="one like http://127.0.0.1:8265", got=address)
    with extras.named("ray", "submit"):
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            # (to connect, between bytes): an upload is answered when it is stored.
            options.setdefault("timeout", (10, 30 if method == "GET" else 300))
            return super()._do_request(method, endpoint, **options)

    for name in _CHATTY:  # until the process ends: the client logs while it is followed
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            return Client(address)
    except AuthenticationError as error:
        raise JobError(str(error), file=address) from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise JobError(
            f"no Ray job server answers ({type(error).__name__})",
            file=address,
            fix="start one with `ray start --head` on the cluster's head, or forward its port with "
            "`ray dashboard ray_cluster.yaml`",
        ) from None


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def run_job(
    client: JobSubmissionClient,
    entrypoint: str,
    working_dir: Path,
    *,
    submission_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    follow: bool = True,
    on_line: Callable[[str], None],
    progress: Callable[[str], None] | None = None,
) -> int:
    """Run a command line as a Ray Job in a copy of ``working_dir``; returns as :func:`submit`.

    Raises:
        BadInput: The id cannot be used.
        JobError: The job server refuses, a job of this id is another one, or the job never ran to
            an end.
    """
    progress = progress or on_line
    metadata = dict(metadata or {})
    name = submission_id or f"penstock-{secrets.token_hex(8)}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise BadInput(
            key="--id",
            expected="at most 100 letters, digits and any of _ . -, since it names a log file",
            got=repr(name),
        )
    try:
        found = _find(client, name) if submission_id else None
        if found is None:
            client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": str(working_dir), "env_vars": dict(_ENVIRONMENT)},
                metadata=metadata,
                entrypoint_num_cpus=0,
            )
            progress(f"job {name} submitted")
    except (OSError, RuntimeError) as error:
        # Refused, or the response was lost and the job exists nevertheless.
        found = _found_after(client, name, error)
    if found is not None:
        staged = (found.metadata or {}).get("staged")
        if (found.entrypoint, staged) != (entrypoint, metadata.get("staged")):
            raise JobError(
                f"the cluster has a job {name} with another command, recipe or scorer "
                f"({found.entrypoint})",
                key="--id",
                fix=f"choose another id, or see that job's log with `{_ray('logs', client, name)}`",
            )
        again = "; another id would run it again" if found.status.is_terminal() else ""
        progress(f"job {name} exists: {found.status}{again}")
    if not follow:
        progress(_ways(client, name))
        return 0
    try:
        return follow_job(client, name, on_line, progress)
    except KeyboardInterrupt:
        progress(f"stopped following; job {name} continues. {_ways(client, name)}")
        return INTERRUPTED


def _find(client: JobSubmissionClient, name: str) -> JobDetails | None:
    try:
        return client.get_job_info(name)
    except RuntimeError as error:
        if "status code 404" in str(error):
            return None
        raise


def _found_after(client: JobSubmissionClient, name: str, error: Exception) -> JobDetails:
    reason = str(error).strip().splitlines()[-1]
    try:
        found = _find(client, name)
    except (OSError, RuntimeError):
        found = None
    if found is None:
        raise JobError(
            f"the job server refused the job: {reason}", file=client.get_address()
        ) from None
    return found


def _ray(verb: str, client: JobSubmissionClient, name: str) -> str:
    return f"ray job {verb} {name} --address {client.get_address()}"


def _ways(client: JobSubmissionClient, name: str) -> str:
    return (
        f"Follow it with the same command and --id {name}, or with "
        f"`{_ray('logs', client, name)} --follow`; stop it with `{_ray('stop', client, name)}`"
    )


def follow_job(
    client: JobSubmissionClient,
    name: str,
    on_line: Callable[[str], None],
    progress: Callable[[str], None],
) -> int:
    """Pass each line of a job's log on once, until the job has ended; returns as :func:`submit`.

    A stream always starts at the log's beginning, so after a lost connection the lines that were
    passed on are skipped.

    Raises:
        JobError: The job was stopped or could not be started, or its server does not answer.
    """
    log = _Log(on_line)
    wait, stuck, lost = 1.0, False, None
    while True:
        try:
            job = _find(client, name)
        except (OSError, RuntimeError) as error:
            if lost is None:
                lost = time.monotonic()
                progress(f"{client.get_address()}: lost ({type(error).__name__}); trying again")
            if time.monotonic() - lost > _SERVER_TIMEOUT:
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
            _fetch_rest(client, name, log, progress)
            log.close()
            return _exit_status(job, name, progress)
        if stuck:  # without a stream the whole log can still be fetched
            log.feed(_whole(client, name) or "")
            time.sleep(wait)
        before = log.passed_on
        _read_stream(client, name, log, progress)
        stuck = log.passed_on == before
        wait = min(2 * wait, _LONGEST_WAIT) if stuck else 1.0


def _whole(client: JobSubmissionClient, name: str) -> str | None:
    try:
        return str(client.get_job_logs(name))
    except (OSError, RuntimeError):
        return None


def _fetch_rest(
    client: JobSubmissionClient, name: str, log: _Log, progress: Callable[[str], None]
) -> None:
    for _ in range(_TRIES):
        whole = _whole(client, name)
        if whole is not None:
            log.feed(whole)
            return
        time.sleep(1)
    progress(f"job {name}: the end of its log cannot be fetched; it is on the cluster's head")


class _Log:
    """Passes a log on once, though it is read in pieces and several times from its beginning."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.passed_on = 0
        self._on_line = on_line
        self._line = ""

    def feed(self, text: str, start: int = 0) -> int:
        """Take the piece of the log that starts at a character, and return where it ends."""
        new = text[max(0, self.passed_on - start) :]
        self.passed_on = max(self.passed_on, start + len(text))
        *lines, self._line = (self._line + new).split("\n")
        for line in lines:
            self._on_line(line)
        return start + len(text)

    def close(self) -> None:
        """Pass the last line on where no newline ended it."""
        if self._line:
            self._on_line(self._line)
            self._line = ""


def _read_stream(
    client: JobSubmissionClient, name: str, log: _Log, progress: Callable[[str], None]
) -> None:
    """Read one stream into the log, until the stream or the job ends."""
    position = silence = 0
    noted = False
    with contextlib.closing(_stream(client, name)) as pieces:
        for piece in pieces:
            if piece:
                position = log.feed(piece, position)
                silence = 0
                continue
            silence += 1
            try:
                job = client.get_job_info(name)
            except (OSError, RuntimeError):
                return
            if job.status.is_terminal() or silence == _REOPEN:
                return
            if job.status == "PENDING" and not noted:
                progress(f"job {name} waits to be started: {job.message}")
                noted = True


def _stream(client: JobSubmissionClient, name: str) -> Generator[str, None, None]:
    """Yield pieces of the log as they come, and an empty one after each :data:`_SILENCE`.

    A stream that breaks ends without an error; the caller reads whether the job has ended too.
    """
    import aiohttp

    pieces = client.tail_job_logs(name)

    async def take() -> str | None:
        return await anext(pieces, None)

    async def listen(piece: asyncio.Task[str | None]) -> bool:
        return bool((await asyncio.wait({piece}, timeout=_SILENCE))[0])

    async def leave() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await pieces.aclose()

    # Its own loop runs piece by piece, so that Ctrl-C between pieces is an ordinary exception.
    loop = asyncio.new_event_loop()
    try:
        while True:
            coming = loop.create_task(take())
            while not loop.run_until_complete(listen(coming)):
                yield ""
            try:
                piece = coming.result()
            except (aiohttp.ClientError, OSError, RuntimeError):
                return
            if piece is None:
                return
            yield piece
    finally:
        loop.run_until_complete(leave())
        loop.close()


def _exit_status(job: JobDetails, name: str, progress: Callable[[str], None]) -> int:
    if job.status == "SUCCEEDED":
        return 0
    if job.driver_exit_code is None:
        reason = (job.message or "no reason given").strip()
        raise JobError(f"{job.status}: {reason}", key=f"job {name}")
    if job.driver_exit_code == 2:
        return 2
    progress(f"job {name} failed with exit status {job.driver_exit_code}")
    return 1
