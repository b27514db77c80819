"""Commands for jobs on a cluster: submit one, see its state and log, stop it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.display import numbered
from penstock.jobs.options import Command, on_console, on_debug, on_trust
from penstock.jobs.terminal import write_json, write_line, write_log_line

if TYPE_CHECKING:  # commands import what they use
    from penstock.jobs.console import Console

__all__ = ["INTERRUPTED", "JOBS"]


def _on_server(command: Command) -> Command:
    return click.option(
        "--address",
        default="http://127.0.0.1:8265",
        show_default=True,
        help="The job server; its port can be forwarded with `ray dashboard`.",
    )(command)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_on_server
@click.option(
    "--job",
    type=click.Choice(["curate", "train", "compare"]),
    default="curate",
    show_default=True,
)
@click.option("--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key.")
@click.option("--id", "submission_id", help="Names the job; the same name is never run twice.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the job is accepted.")
@on_trust
@on_debug
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object as the last line: the job's own, or of --no-wait its id and address.",
)
def submit(
    recipe: Path,
    job: str,
    address: str,
    submission_id: str | None,
    no_wait: bool,
    as_json: bool,
    **sent: Any,
) -> None:
    """Run a command on a Ray cluster, follow its log, exit with its status."""
    from penstock.jobs.submit import new_id
    from penstock.jobs.submit import submit as run

    name = submission_id or new_id()
    status = run(
        recipe,
        job,
        address,
        submission_id=name,
        follow=not no_wait,
        on_line=write_log_line,
        progress=lambda line: write_line(line, sys.stderr),
        **sent,
    )
    if no_wait and as_json:
        write_json({"job": name, "address": address}, sys.stdout)
    sys.exit(status)


@click.command()
@click.argument("job", required=False)
@_on_server
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most jobs listed."
)
@on_console
def status(console: Console, job: str | None, address: str, limit: int) -> None:
    """Show the state of the jobs on a cluster, or of one: times, recipe, last progress line."""
    from penstock.jobs.job_logs import readable
    from penstock.jobs.job_server import connect
    from penstock.jobs.job_states import job_state, list_states

    client = connect(address)
    states, older = ([job_state(client, job)], 0) if job else list_states(client, limit)
    console.table(
        ("job", "state", "started (UTC)", "seconds", "recipe", "progress"),
        [
            (
                one.job,
                one.state,
                (one.started or "")[:19],
                "" if one.seconds is None else f"{one.seconds:,.0f}",
                f"{one.command or ''} {one.recipe or ''}".strip(),
                one.progress or "",
            )
            for one in states
        ],
    )
    if older:
        console.write(f"{numbered(older, 'older job')}; --limit lists more")
    if job and states[0].digest:
        console.write(f"digest {states[0].digest}")
    if job and states[0].message:  # of a failed job it ends with its log: the last line says why
        said = [line for line in map(readable, states[0].message.splitlines()) if line]
        for line in dict.fromkeys([*said[:1], states[0].error or said[-1]] if said else []):
            console.write(line)
    console.result({"jobs": [one.summary() for one in states], "older": older})


@click.command()
@click.argument("job")
@_on_server
@click.option(
    "--tail",
    type=click.IntRange(min=1),
    help="Of the lines that are there print the last only, as many.",
)
@click.option("--follow", is_flag=True, help="Wait for further lines; exit with the job's status.")
def logs(job: str, address: str, tail: int | None, follow: bool) -> None:
    """Print the log of a job on a cluster."""
    from penstock.jobs.job_logs import print_log
    from penstock.jobs.job_server import connect
    from penstock.jobs.job_states import known_job
    from penstock.jobs.submit import follow_submitted

    client = connect(address)
    known_job(client, job)
    if not follow:
        print_log(client, job, write_log_line, tail)
        return
    progress = lambda line: write_line(line, sys.stderr)  # noqa: E731
    sys.exit(follow_submitted(client, job, write_log_line, progress, tail))


@click.command()
@click.argument("job")
@_on_server
@on_console
def stop(console: Console, job: str, address: str) -> None:
    """Stop a job on a cluster, and wait until it has ended; what it has finished is kept."""
    from penstock.jobs.job_server import connect
    from penstock.jobs.job_states import stop_job

    state = stop_job(connect(address), job, progress=console.progress)
    console.write(f"job {state.job}: {state.state}")
    console.result({"jobs": [state.summary()]})


JOBS = (submit, status, logs, stop)
"""The commands, which :mod:`penstock.jobs.cli` adds to its group."""

INTERRUPTED: dict[str | None, str] = {
    "submit": "interrupted; `penstock status` shows whether the job was sent",
    "logs": "interrupted; the job is as it was",
    "status": "interrupted",
    "stop": "interrupted; `penstock status` shows whether the job has ended",
}
"""What is said of a command that Ctrl-C ended, where nothing is continued by running it again."""
