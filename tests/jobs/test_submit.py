"""Submission to a cluster: the job sent, and a real job server on loopback that runs it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadInput, JobError
from penstock.jobs import submit as module
from penstock.jobs.cli import main
from penstock.jobs.curate import curate
from penstock.jobs.job_logs import JobLog
from penstock.jobs.job_server import connect
from penstock.jobs.job_states import list_states, stop_job
from penstock.jobs.staging import stage
from penstock.jobs.submit import run_job, submit
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import load_recipe
from tests.pools import documents, write_jsonl


def test_submit_refuses_an_unknown_command(project: Path) -> None:
    with pytest.raises(BadInput, match="^--job: .*'rm'"):
        submit(project / "recipe.yaml", "rm", "http://127.0.0.1:1", on_line=print)


def test_submit_refuses_a_directory_to_trust_that_is_not_here(project: Path) -> None:
    with pytest.raises(BadInput) as info:
        submit(
            project / "recipe.yaml",
            "train",
            "http://127.0.0.1:1",
            trust=[Path("nope")],
            on_line=print,
        )
    assert (info.value.key, info.value.file) == ("--trust", "nope")


def test_debug_is_an_option_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(module, "submit", lambda *_, debug, **__: given.append(debug) or 0)
    for options in ((), ("--debug",)):
        assert CliRunner().invoke(main, ["submit", "recipe.yaml", *options]).exit_code == 0
    assert given == [False, True]


def test_a_comparison_without_held_out_files_is_not_sent(project: Path) -> None:
    notes: list[str] = []
    with pytest.raises(BadInput) as info:
        submit(
            project / "recipe.yaml",
            "compare",
            "http://127.0.0.1:1",
            settings=["evaluate=[]"],
            on_line=notes.append,
        )
    assert (info.value.key, notes) == ("evaluate", [])


@pytest.mark.parametrize("command", [["submit", "recipe.yaml"], ["logs", "first"]])
def test_an_interrupted_command_of_jobs_is_not_to_be_run_again(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "submit", interrupted)
    monkeypatch.setattr("penstock.jobs.job_server.connect", interrupted)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == module.INTERRUPTED
    assert "penstock: interrupted" in result.stderr and "same command" not in result.stderr


# The log -----------------------------------------------------------------------------------------


@given(st.text(alphabet="ab\n", max_size=60), st.data())
def test_a_log_read_many_times_is_passed_on_once(text: str, data: st.DataObject) -> None:
    lines: list[str] = []
    log = JobLog(lines.append)
    for _ in range(data.draw(st.integers(0, 4))):  # streams that break somewhere
        end = data.draw(st.integers(0, len(text)))
        cuts = sorted(data.draw(st.lists(st.integers(0, end), max_size=4)))
        for start, stop in zip([0, *cuts], [*cuts, end], strict=True):
            assert log.feed(text[start:stop], start) == stop
    log.feed(text)
    log.close()
    assert lines == text.split("\n")[: len(text.splitlines())]


def test_a_log_is_passed_on_without_colours_and_without_the_stack_of_a_stop() -> None:
    """As Ray 2.60 writes it where SIGTERM ends the driver."""
    lines: list[str] = []
    log = JobLog(lines.append)
    log.feed(
        "[   3.1 s] \x1b[36mcolumns\x1b[0m: 3 of 9 parts\n"
        "*** SIGTERM received at time=1764261234 on cpu 0 ***\n"
        "PC: @     0x7f7abc123456  (unknown)  epoll_wait\n"
        "    @     0x7f7abc000000  (unknown)  (unknown)\n"
        "[2026-11-27 16:33:54,123 E 12 12] logging.cc:474: *** SIGTERM received at time=1 on cpu 0"
        " ***\n"
        "[2026-11-27 16:33:54,123 E 12 12] logging.cc:474: PC: @     0x7f7abc123456  (unknown)\n"
        "[2026-11-27 16:33:54,123 E 12 12] logging.cc:474:     @     0x7f7abc000000  (unknown)\n"
        "mail me @ home"
    )
    log.close()
    assert lines == ["[   3.1 s] columns: 3 of 9 parts", "stopped by SIGTERM", "mail me @ home"]


def test_a_lost_head_is_told_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class LostHead:
        def get_job_info(self, _: str) -> None:
            raise ConnectionError

        def get_address(self) -> str:
            return "http://h:1"

    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    head: Any = LostHead()
    notes: list[str] = []
    with pytest.raises(JobError) as info:
        module.follow_job(head, "first", JobLog(print), notes.append)
    assert (info.value.file, clock[0]) == ("http://h:1", 1301.0)
    assert len(notes) == 11 and "300 s" in notes[0]
    assert "270 s more" in notes[1] and "0 s more" in notes[10]


# The job server ----------------------------------------------------------------------------------


TOKEN = secrets.token_hex(32)
"""The token of the head."""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in taken]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a real head's job server: its own ports, its own session, its own end.

    It authenticates by a token, as Ray does where it finds one; this process has it in a file, and
    no ``RAY_AUTH_MODE``. ``python`` in a job is this interpreter, and finds this checkout, as on a
    cluster that has Penstock installed.
    """
    port, dashboard, agent, client = _free_ports(4)
    directory = Path(tempfile.mkdtemp(prefix="pk-", dir="/tmp"))  # Ray's sockets: 107 characters
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    token = directory / "token"
    token.write_text(TOKEN + "\n")
    environment |= {
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all servers listen on loopback
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    arguments = (
        f"--head --block --num-cpus=2 --port={port} --dashboard-port={dashboard} "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client} "
        "--node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1 --include-dashboard=true "
        f"--object-store-memory={80 * 2**20} --disable-usage-stats --temp-dir={directory}"
    )
    ray = Path(sys.executable).parent / "ray"
    with open(directory / "start.log", "wb") as log:
        head = subprocess.Popen(
            [str(ray), "start", *arguments.split()], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _wait_for(address, head, directory / "start.log")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
            patch.delenv("RAY_AUTH_MODE", raising=False)
            patch.delenv("RAY_AUTH_TOKEN", raising=False)
            yield address
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(10)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=5)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180  # on a busy machine
    while time.monotonic() < deadline and head.poll() is None:
        with contextlib.suppress(requests.RequestException):
            # Answered only when the node's agent, which runs the jobs, is there too.
            headers = {"Authorization": f"Bearer {TOKEN}"}
            if requests.get(f"{address}/api/jobs/", headers=headers, timeout=2).ok:
                return
        time.sleep(0.2)
    raise AssertionError(f"no Ray head: {log.read_text()[-2000:]}")


def _wait_for_files(directory: Path, pattern: str) -> list[Path]:
    deadline = time.monotonic() + 90
    while not (found := list(directory.glob(pattern))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def _python(code: str) -> str:
    return f"python -c {shlex.quote(code)}"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A working directory for jobs that need no files."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/recipe.yaml").write_text("seed: 1\n")
    return tmp_path / "empty"


def test_the_log_streams_once_and_whole_over_a_connection_that_drops(
    cluster: str, empty: Path
) -> None:
    lines: list[str] = []
    followed = empty.parent / "followed"
    notes: list[str] = []
    code = f"""
import os, sys, time
for n in range(40):
    print("line", n)
    time.sleep(0.05)
print("to stderr, in UTF-8: \u00e9", file=sys.stderr)
for _ in range(600):  # a log that came only when it is whole would come without this line
    time.sleep(0.1 * (not os.path.exists({str(followed)!r})))
print('{{"last": 1}}' if os.path.exists({str(followed)!r}) else "not followed", end="")
"""
    with _Proxy(cluster) as proxy:

        def echo(line: str) -> None:
            lines.append(line)
            if line in ("line 5", "line 25"):
                proxy.cut()
            if line == "line 39":
                followed.touch()

        client = connect(proxy.address)
        assert run_job(client, _python(code), empty, on_line=echo, progress=notes.append) == 0
        assert proxy.cuts == 2
    numbered = [f"line {n}" for n in range(40)]
    # Ray writes the entrypoint to that file without a flush: it may come after the first line.
    assert [line for line in lines if line.startswith("line ")] == numbered
    assert lines[-2:] == ["to stderr, in UTF-8: \u00e9", '{"last": 1}']
    assert all(lines.count(line) == 1 for line in lines[-2:])
    notes = [note for note in notes if "waits to be started" not in note]  # a busy machine
    assert len(notes) == 1 and notes[0].startswith("job penstock-")


def test_the_exit_status_is_the_jobs_and_the_id_is_an_idempotency_key(
    cluster: str, empty: Path
) -> None:
    client = connect(cluster)
    lines: list[str] = []
    notes: list[str] = []

    def run(code: int, *, said: str = "only once", sent: str = "digest", follow: bool) -> int:
        return run_job(
            client,
            _python(f"print('{said}', {code}); raise SystemExit({code})"),
            empty,
            submission_id=f"exits-{code}",
            metadata={"staged": sent},
            follow=follow,
            on_line=lines.append,
            progress=notes.append,
        )

    assert (run(2, follow=False), run(3, follow=False)) == (0, 0)
    assert lines == []
    assert f"`penstock logs exits-3 --address {cluster} --follow`" in notes[-1]
    assert (run(2, follow=True), run(3, follow=True)) == (2, 1)
    assert (lines.count("only once 2"), lines.count("only once 3")) == (1, 1)
    assert notes[-1].startswith("job exits-3 ")  # it may have ended before it was followed
    assert "job exits-3 failed with exit status 3" in notes
    notes.clear()
    assert run(2, follow=True) == 2
    assert lines.count("only once 2") == 2, "its log is passed on again, it did not run again"
    assert notes[-1] == "job exits-2 exists: FAILED; another id would run it again"
    assert notes == [notes[-1]] * 2, "at first, and again below the log"
    assert [job.submission_id for job in client.list_jobs()].count("exits-2") == 1
    for other in ({"said": "else"}, {"sent": "another digest"}):
        with pytest.raises(JobError, match="^--id: .*has a job exits-2 with another"):
            run(2, follow=True, **other)


def test_the_signal_that_killed_a_driver_is_named(cluster: str, empty: Path) -> None:
    notes: list[str] = []
    code = _python("import os; os.kill(os.getpid(), 9)")
    status = run_job(connect(cluster), code, empty, on_line=print, progress=notes.append)
    assert (status, "SIGKILL" in notes[-1], "another id" in notes[-1]) == (1, True, True)
    assert [module._signal_of(one) for one in (-9, 137, -15, 1, 255)] == [
        "SIGKILL", "SIGKILL", "SIGTERM", "", ""
    ]  # fmt: skip


def test_the_last_lines_then_those_that_follow(cluster: str, empty: Path) -> None:
    """And a tab of a log stays one."""
    goes_on = empty.parent / "goes_on"
    code = f"""
import os, time
for n in range(6):
    print("line", n, sep="\t")
while not os.path.exists({str(goes_on)!r}):
    time.sleep(0.1)
for n in range(6, 9):
    print("line", n, sep="\t")
"""
    client = connect(cluster)
    run_job(client, _python(code), empty, submission_id="tail", follow=False, on_line=print)
    lines: list[str] = []

    def echo(line: str) -> None:
        lines.append(line)
        goes_on.touch()

    deadline = time.monotonic() + 60
    while "line\t5" not in CliRunner().invoke(main, ["logs", "tail", "--address", cluster]).output:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert module.follow_submitted(client, "tail", echo, print, tail=2) == 0
    assert lines == [f"line\t{n}" for n in range(4, 9)]


def test_a_job_that_is_only_sent_is_named_in_json(cluster: str, project: Path) -> None:
    status, found = _penstock(
        "submit", str(project / "recipe.yaml"), "--address", cluster, "--no-wait"
    )
    assert (status, found["address"], set(found)) == (0, cluster, {"job", "address"})
    assert connect(cluster).get_job_info(found["job"]).submission_id == found["job"]
    _penstock("stop", found["job"], "--address", cluster)


def test_the_state_of_a_failed_command_has_its_error(cluster: str, empty: Path) -> None:
    sent = "python -m penstock curate nope.yaml --json"
    assert run_job(connect(cluster), sent, empty, submission_id="no-file", on_line=print) == 2
    status, found = _penstock("status", "no-file", "--address", cluster)
    [state] = found["jobs"]
    assert (status, state["state"], state["digest"]) == (0, "FAILED", None)
    assert state["error"].startswith("penstock: ") and "nope.yaml" in state["error"]
    shown = CliRunner().invoke(main, ["status", "no-file", "--address", cluster])
    assert shown.output.splitlines()[-1] == state["error"]


def test_a_head_that_has_just_been_started_is_waited_for(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StartingHead:
        requests = 0

        def submit_job(self, **_: Any) -> None:
            self.requests += 1
            if self.requests < 4:
                raise RuntimeError("Request failed with status code 500: No available agent to ...")

        def get_address(self) -> str:
            return "http://h:1"

    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    head: Any = StartingHead()
    notes: list[str] = []
    assert run_job(head, "true", empty, follow=False, on_line=print, progress=notes.append) == 0
    assert head.requests == 4
    assert [note.startswith("http://h:1: ") for note in notes[:2]] == [True, False]


def test_of_a_long_log_only_the_end_is_read(cluster: str, empty: Path) -> None:
    """64 MiB of lines, then progress; and 3 MiB in one line, as of a progress bar."""
    code = r"""
line = "x" * 1023 + "\n"
for _ in range(64):
    print(line * 1024, end="")
print("[  12.3 s] columns, length: 3 of 9 parts")
print("é\r\nlast")
"""
    client = connect(cluster)
    assert run_job(client, _python(code), empty, submission_id="long-log", on_line=len,
                   metadata={"penstock": "0"}, progress=len) == 0  # fmt: skip
    bar = "print('y' * 3 * 2**20)"
    assert run_job(client, _python(bar), empty, submission_id="one-line", on_line=len,
                   metadata={"penstock": "0"}, progress=len) == 0  # fmt: skip
    with _Proxy(cluster) as proxy:
        where = ("--address", proxy.address)
        code_, found = _penstock("status", "long-log", *where)
        assert (code_, found["jobs"][0]["progress"]) == (0, "columns, length: 3 of 9 parts")
        assert proxy.received < 2**20
        states, _ = list_states(connect(proxy.address))
        assert {one.job: one.progress for one in states}["one-line"] is None
        assert proxy.received < 4 * 2**20
        before = proxy.received
        tail = CliRunner().invoke(main, ["logs", "long-log", "--tail", "3", *where])
        assert tail.output.splitlines() == [
            "[  12.3 s] columns, length: 3 of 9 parts", "é", "last"
        ]  # fmt: skip
        assert proxy.received - before < 2**20
        whole = CliRunner().invoke(main, ["logs", "long-log", *where])
        assert whole.output.splitlines()[-3:] == tail.output.splitlines()
        assert whole.output.count("x" * 1023) == 64 * 1024
        assert proxy.received > 64 * 2**20
    states, older = list_states(client, limit=1)
    assert [one.job for one in states] == ["one-line"] and older >= 1
    assert _penstock("status", "--limit", "1", "--address", cluster)[1]["older"] == older
    both = CliRunner().invoke(
        main, ["logs", "long-log", "--tail", "3", "--follow", "--address", cluster]
    )
    assert (both.exit_code, both.stdout) == (0, tail.output)


def test_a_scorer_travels_and_the_jobs_workers_import_it(
    cluster: str, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "staged").mkdir()
    staged = stage(project / "recipe.yaml", tmp_path / "staged")
    code = """
import os, ray
from penstock.recipe_file import load_recipe
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="error")

@ray.remote(num_cpus=0)
def work():
    import my_scorer, selectors
    from helpers.deep import scorers
    return [*my_scorer.score(["ab", "c"]), len(scorers.score([])), selectors.__file__]

recipe = load_recipe("recipe.yaml")
*scores, standard = ray.get(work.remote())
print("RESULT", recipe.work_directory, len(list(recipe.resolve("pool").glob("*"))), scores)
print("STANDARD", standard)
"""
    lines: list[str] = []
    assert run_job(connect(cluster), _python(code), staged.directory, on_line=lines.append) == 0
    assert f"RESULT {project}/out 0 [2, 1, 9]" in lines
    [standard] = [line for line in lines if line.startswith("STANDARD")]
    assert "_ray_pkg" not in standard


pytestmark = pytest.mark.filterwarnings(  # Ray's, of aiohttp
    "ignore:ssl=None is deprecated:DeprecationWarning"
)


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)
def test_ctrl_c_stops_following_and_not_the_job(cluster: str, empty: Path) -> None:
    client = connect(cluster)
    notes: list[str] = []

    def echo(line: str) -> None:
        if line == "started":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    code = _python("import time; print('started'); time.sleep(60)")
    status = run_job(client, code, empty, submission_id="long", on_line=echo, progress=notes.append)
    assert status == module.INTERRUPTED
    assert client.get_job_status("long") == "RUNNING"
    assert "stopped following; job long continues." in notes[-1]
    assert f"`penstock stop long --address {cluster}`" in notes[-1]
    state = stop_job(client, "long", progress=notes.append)
    assert (state.state, state.terminal) == ("STOPPED", True)
    assert stop_job(client, "long", progress=notes.append) == state
    with pytest.raises(JobError, match="^job long: STOPPED") as info:
        run_job(client, code, empty, submission_id="long", on_line=print, progress=notes.append)
    assert "another id" in str(info.value.fix)
    assert notes[-1] == "job long exists: STOPPED; another id would run it again"


@pytest.mark.parametrize("name", ["../../etc/x", "a b", "-rf", "x" * 101])
def test_an_id_that_could_be_a_path_is_refused(empty: Path, name: str) -> None:
    with pytest.raises(BadInput, match="^--id: "):
        run_job(None, "true", empty, submission_id=name, on_line=print)  # type: ignore[arg-type]


def test_the_address_given_is_the_one_used(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own client would let either variable override it."""
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert connect(cluster).get_address() == cluster
    assert os.environ["RAY_ADDRESS"] == os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


def test_a_token_that_is_missing_or_wrong_is_told_with_its_place(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0123456789abcdef-of-another-cluster")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    with pytest.raises(JobError) as info:
        connect(cluster)
    assert info.value.file == cluster
    assert f"RAY_AUTH_TOKEN_PATH={wrong}" in info.value.problem
    assert "0123456789abcdef" not in str(info.value)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JobError) as info:
        connect(cluster)
    assert f"{tmp_path}/.ray/auth_token: No such file" in info.value.problem
    assert "ray get-auth-token" in str(info.value.fix)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    assert connect(cluster).list_jobs() is not None
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(JobError, match="RAY_AUTH_MODE=disabled"):
        connect(cluster)


def test_a_job_that_is_not_there_is_bad_input(cluster: str) -> None:
    for command in ("status", "logs", "stop"):
        result = CliRunner().invoke(main, [command, "nobodys", "--address", cluster])
        assert (result.exit_code, "nobodys" in result.stderr) == (2, True)


def test_no_server_is_told_with_what_to_start() -> None:
    [port] = _free_ports(1)
    address = f"http://127.0.0.1:{port}"
    with pytest.raises(JobError, match=rf"{address}: no Ray job server .*`ray start --head`"):
        connect(address)


def test_another_server_is_no_job_server(tmp_path: Path) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(JobError, match="no Ray job server answers"):
            connect(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://head:10001", "auto", "os://x", ""])
def test_an_address_that_is_not_http_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="^--address: "):
        connect(address)


class _Proxy:
    """A way to a server on loopback that can be cut like a cable."""

    def __init__(self, address: str) -> None:
        self.cuts = 0
        self.received = 0
        """Bytes that came from the server."""
        self._port = int(address.rpartition(":")[2])
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> _Proxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._close()

    def cut(self) -> None:
        """Drop every connection there is."""
        self.cuts += 1
        self._close()

    def _close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                self._start(lambda near=near, far=far: self._pump(near, far, 0))
                self._start(lambda near=near, far=far: self._pump(far, near, 1))

    def _pump(self, source: socket.socket, sink: socket.socket, counted: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.received += counted * len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    @staticmethod
    def _start(work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()


def _penstock(*arguments: str) -> tuple[int, Any]:
    """Run a command of this process; return its status and the JSON object of its last line."""
    result = CliRunner().invoke(main, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def test_a_submitted_recipe_is_stopped_resumed_and_gives_the_digest_of_a_local_run(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line is fixed, whatever the recipe is called, and names no path."""
    (tmp_path / "staged").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "staged"))
    recipe = tmp_path / "it's; touch $HOME.yaml"
    write_jsonl(tmp_path / "pool.jsonl", documents(120))
    waits = tmp_path / "waits"
    waits.touch()
    (tmp_path / "lengths.py").write_text(
        "import os, time\n\ndef score(texts):\n"
        f"    while os.path.exists({str(waits)!r}):\n        time.sleep(0.05)\n"
        "    return [len(t) for t in texts]\n"
    )
    recipe.write_text(
        "work: there\ncorpus: [{path: pool.jsonl}]\nselect: {length: {use: 'lengths:score'}}\n"
        "budget: {tokens: 1_500, rank: length}\ntokenizer: {train: {vocab_size: 384}}\n"
        "shards: {sequence_length: 32}\n"
    )
    where = ("--address", cluster)
    sent = CliRunner().invoke(main, ["submit", str(recipe), *where, "--id", "first", "--no-wait"])
    assert sent.exit_code == 0, sent.output
    verdicts = _wait_for_files(tmp_path / "there", "*/*/manifest.json")
    code, found = _penstock("status", "first", *where)
    [state] = found["jobs"]
    assert (code, state["job"], state["state"]) == (0, "first", "RUNNING")
    assert (state["command"], state["recipe"]) == ("curate", recipe.name)
    assert state["progress"] and state["seconds"] > 0 and state["ended"] is None
    code, found = _penstock("stop", "first", *where)
    assert (code, found["jobs"][0]["state"]) == (0, "STOPPED")
    assert found["jobs"][0]["ended"] >= found["jobs"][0]["started"]
    log = CliRunner().invoke(main, ["logs", "first", *where])
    assert log.exit_code == 0 and state["progress"] in log.output
    assert "\\x1b" not in log.output and not re.search("@ +0x", log.output), log.output
    waits.unlink()
    made = {one: one.stat().st_mtime_ns for one in verdicts}
    lines: list[str] = []
    status = submit(recipe, "curate", cluster, debug=True, on_line=lines.append, progress=print)
    assert status == 0, "\n".join(lines)
    assert made == {one: one.stat().st_mtime_ns for one in verdicts}, "made again"
    local = curate(load_recipe(recipe, ["work=here"]), LocalRunner(1))
    summary = json.loads(lines[-1])
    assert summary["digest"] == local.shards.digest
    assert Path(summary["shards"]).parent == tmp_path / "there" / "shards"
    assert not list((tmp_path / "staged").glob("penstock-job-*")), "the staged copy is left"
    jobs = connect(cluster).list_jobs()
    jobs = [job for job in jobs if job.metadata.get("recipe") == recipe.name]
    assert len(jobs) == 2
    listed = _penstock("status", *where)[1]["jobs"]
    assert [one["state"] for one in listed[:2]] == ["SUCCEEDED", "STOPPED"]
    assert listed[0]["exit_status"] == 0
    assert [one["digest"] for one in listed[:2]] == [summary["digest"], None]
    connected = ["Connected to Ray cluster" in own for own in (log.output, "\n".join(lines))]
    assert connected == [False, True], "what Ray logs is shown with --debug alone"
    assert TOKEN not in json.dumps(listed) + log.output + sent.output + "".join(lines)
    for job in jobs:
        assert TOKEN not in repr(job)
        debug = " --debug" * (job.submission_id != "first")
        assert job.entrypoint == f"python -m penstock curate recipe.yaml --runner ray --json{debug}"
        assert str(tmp_path) not in str(job.metadata)
