"""A Ray that Penstock starts here: where it listens, and what a second user gets of it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from penstock.activity import current_steps
from penstock.cluster import connect, on_loopback
from penstock.errors import JobError
from penstock.temporary import private_directory
from tests.harness import ROOT
from tests.harness.sockets import listening
from tests.harness.stranger import Stranger

pytestmark = pytest.mark.usefixtures("ray_session")


def _ports_of_tests() -> set[int]:
    """Servers that other tests left listening, here or in processes of their own; Ray's sockets
    are not Python's."""
    # By type(): isinstance() asks a weak proxy, whose object may be gone, for its class.
    sockets = [one for one in gc.get_objects() if issubclass(type(one), socket.socket)]
    found = {
        one.getsockname()[1]
        for one in sockets
        if one.fileno() >= 0
        and one.family in (socket.AF_INET, socket.AF_INET6)
        and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    }
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "/ray/" not in " ".join(child.cmdline()):
                found |= {port for _, port in listening(child.pid)}
    return found


def _is_gloo(port: int) -> bool:
    """Whether a port of this process is PyTorch's, which does not answer HTTP/2 as Ray does."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as server:
        with contextlib.suppress(OSError):
            server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return not server.recv(9)
        return True


@pytest.fixture(scope="module")
def ports(ray_session: None) -> Iterator[dict[int, str]]:
    """Where Ray listens while a task and an actor run: the names of its processes by port."""
    import ray

    class Holder:
        def held(self) -> int:
            return 1

    actor = ray.remote(Holder).remote()
    assert ray.get([actor.held.remote(), ray.remote(lambda: 2).remote()]) == [1, 2]
    others = _ports_of_tests()
    found = {at: name for at, name in listening(os.getpid()).items() if at[1] not in others}
    assert {ip for ip, _ in found} <= {"127.0.0.1", "::1"}, found
    own = psutil.Process().net_connections("tcp")
    gloo = {
        one.laddr.port
        for one in own
        if one.status == psutil.CONN_LISTEN
        and one.laddr.port not in others
        and _is_gloo(one.laddr.port)
    }
    yield {port: name for (_, port), name in found.items() if port not in gloo}
    ray.kill(actor)


def test_every_port_of_a_local_ray_is_on_loopback(ports: dict[int, str]) -> None:
    """The address of the machine's network, ``::`` and 0.0.0.0: anyone could connect."""
    import ray

    names = list(ports.values())
    assert {"gcs_server", "raylet", "ray::RuntimeEnvAgent"} <= set(names)
    assert names.count("raylet") == 2 and any(name.startswith("ray::H") for name in names)
    assert on_loopback(ray)


CALLS = """
import encodings.idna, json, os, socket
import grpc
grpc.insecure_channel("127.0.0.1:1").close()
METHODS = {
    "gcs_server": "NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "NodeManagerService/GetNodeStats",
    "object manager": "ObjectManagerService/Pull",
    "worker": "CoreWorkerService/GetCoreWorkerStats",
    "agent": "ReporterService/GetTraceback",
}
def call(port, token):
    answers, sent = {}, [("authorization", "Bearer " + token)] if token else []
    for name, method in METHODS.items():
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=30, metadata=sent)
                answers[name] = "OK"
            except grpc.RpcError as error:
                answers[name] = error.code().name
    for path in ("metrics", "api/job_agent/jobs/", "logs/", "get_or_create_runtime_env"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as http:
            head = f"GET /{path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
            head += f"Authorization: Bearer {token}\\r\\n" * bool(token)
            http.sendall(f"{head}\\r\\n".encode())
            first = http.recv(100)
        if first.startswith(b"HTTP/"):
            answers[path] = first.split()[1].decode()
    return answers
"""


def test_a_second_user_is_refused_at_every_port(stranger: Stranger, ports: dict[int, str]) -> None:
    """He could run any code as us, by a task of his own."""
    asking = "found = [call(port, values['token']) for port in values['ports']]"
    refused = stranger.run(asking, before=CALLS, ports=list(ports), token="")
    guessed = stranger.run(asking, before=CALLS, ports=list(ports), token="0" * 64)
    for answers in (*refused, *guessed):
        assert not {"OK", "200"} & set(answers.values()), answers
        assert {"UNAUTHENTICATED", "401", "403"} & set(answers.values()), answers
    token = (private_directory("ray", os.environ.get("RAY_TMPDIR")) / "token").read_text()
    mine = [
        set(own.values())
        for own in stranger.run(asking, before=CALLS, ports=list(ports), token=token)
    ]
    assert not any({"UNAUTHENTICATED", "401", "403"} & own for own in mine)  # the token opens all
    assert sum("OK" in own for own in mine) >= len(ports) - 2  # two speak HTTP


def test_a_second_user_reads_no_token_and_no_session(stranger: Stranger) -> None:
    """``~/.ray/auth_token`` had mode 0644, and the directories of sessions 0777."""
    directory = private_directory("ray", os.environ.get("RAY_TMPDIR"))
    assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    session = (directory / "session_latest").resolve()
    assert session.parent == directory and (session / "sockets" / "raylet").is_socket()
    paths = [directory / "token", directory, session, session / "logs", session / "sockets/raylet"]
    reach = """
found = []
for path in values["paths"]:
    for reach in (os.listdir, open, lambda path: os.mkdir(path + "/planted")):
        try:
            reach(path)
            found.append(path)
        except PermissionError:
            pass
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        found.append(path)
    except PermissionError:
        pass
"""
    assert stranger.run(reach, before="import socket", paths=list(map(str, paths))) == []


def test_names_of_a_token_that_others_planted_are_not_used(tmp_path: Path) -> None:
    """Tokens are made whole or not at all, once, with mode 0600 whatever the umask."""
    from penstock.cluster import _token

    before = os.umask(0)
    try:
        path = _token(tmp_path / "token")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        first = path.read_text()
        assert len(first) == 64 and _token(path).read_text() == first
        assert [one.name for one in tmp_path.iterdir()] == ["token"]
    finally:
        os.umask(before)


def test_the_environment_is_as_before(ray_session: None) -> None:
    """Settings of a local Ray would keep this process from joining a cluster later."""
    import ray._private.ray_constants as constants

    assert constants.ENABLE_RAY_CLUSTER
    assert not {"RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & os.environ.keys()


IMPORTING = """
import json
from penstock.cluster import connect
ray = connect(1, object_store=80 * 2**20)

@ray.remote
def places():
    import colorsys, sys, penstock
    return [colorsys.__file__, penstock.__file__, sys.path]

print(json.dumps(ray.get(places.remote())))
"""


def test_workers_import_nothing_from_the_directory_that_a_command_starts_in(tmp_path: Path) -> None:
    """Attack: ``penstock/__init__.py`` or ``colorsys.py`` in a directory that others write to.

    Ray puts the directories of the driver and of its script first in the module path.
    """
    hostile, scripts = tmp_path / "hostile", tmp_path / "scripts"
    (hostile / "penstock").mkdir(parents=True)
    scripts.mkdir()
    for planted in (hostile / "penstock" / "__init__.py", hostile / "colorsys.py"):
        planted.write_text("raise SystemExit('planted')")
    (scripts / "driver.py").write_text(IMPORTING)
    done = subprocess.run(
        [sys.executable, scripts / "driver.py"],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    colorsys, package, path = json.loads(done.stdout.splitlines()[-1])
    assert Path(colorsys).parent == Path(os.__file__).parent
    assert Path(package) == ROOT / "penstock" / "__init__.py"
    assert not {str(hostile), str(scripts)} & set(path)


def test_a_package_that_is_not_installed_is_found_by_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout that is run by ``python -m penstock``, or by a script beside the package."""
    from penstock.cluster import _job_config, _uninstalled

    monkeypatch.chdir(tmp_path)
    others = [
        place for place in sys.path if os.path.realpath(place) not in (str(ROOT), str(tmp_path))
    ]
    for path, found in (
        ([str(ROOT), *others], [str(ROOT)]),
        ([str(tmp_path), *others, str(ROOT)], []),
        ([str(ROOT), *others, str(ROOT)], []),
        (["", *others], []),
    ):
        monkeypatch.setattr(sys, "path", path)
        assert _uninstalled() == found
        settings = _job_config()
        settings._py_driver_sys_path.extend([path[0], str(tmp_path)])  # as Ray does
        assert list(settings._get_proto_job_config().py_driver_sys_path) == found


def test_the_command_imports_nothing_from_the_directory_that_it_starts_in(tmp_path: Path) -> None:
    """``python -m`` puts it first: modules there replaced those of libraries."""
    for name in ("click", "colorsys", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("penstock")


_TASK = "print(ray.get(ray.remote(lambda: 2).options(num_cpus=0).remote()))"


def _connected(task: str = _TASK, **environment: str) -> subprocess.CompletedProcess[str]:
    """Connect to this process's Ray from another process, as ``penstock curate`` does; run a task.

    The process has no ``RAY_AUTH_MODE``, and Ray listens on loopback alone, which it is not told.
    """
    import ray

    code = (
        "import os\nfrom penstock.cluster import connect\nfrom penstock.errors import JobError\n"
        "before = dict(os.environ)\n"
        "try:\n    ray = connect()\nexcept JobError as error:\n    raise SystemExit(str(error))\n"
        "names = 'RAY_AUTH_MODE', 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'\n"
        "assert [os.environ.get(n) for n in names] == [before.get(n) for n in names]\n" + task
    )
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            **own,
            "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_a_driver_sends_the_token_that_it_finds() -> None:
    """Without RAY_AUTH_MODE Ray's own client says after 30 s that it cannot connect."""
    token = private_directory("ray", os.environ.get("RAY_TMPDIR")) / "token"
    found = _connected(RAY_AUTH_TOKEN_PATH=str(token))
    assert (found.returncode, found.stdout.strip()) == (0, "2"), found.stderr


def test_what_ray_says_of_a_worker_that_died_is_hidden_without_debug() -> None:
    """The runner has a line of its own; the rest of what Ray reports is shown."""
    token = private_directory("ray", os.environ.get("RAY_TMPDIR")) / "token"
    task = (
        "import time\n"
        "kill = ray.remote(lambda: os._exit(9)).options(num_cpus=0, max_retries=0)\n"
        "try:\n    ray.get(kill.remote())\nexcept ray.exceptions.RayError:\n    print('lost')\n"
        "time.sleep(3)\n"
    )
    hidden = _connected(task, RAY_AUTH_TOKEN_PATH=str(token))
    assert (hidden.returncode, hidden.stdout.strip()) == (0, "lost"), hidden.stderr
    assert "A worker died" not in hidden.stderr
    shown = _connected(task, RAY_AUTH_TOKEN_PATH=str(token), PENSTOCK_DEBUG="1")
    assert "A worker died" in shown.stdout + shown.stderr


def test_a_token_that_is_refused_or_missing_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0123456789abcdef-of-another-cluster")
    refused = _connected(RAY_AUTH_TOKEN_PATH=str(wrong))
    missing = _connected(HOME=str(tmp_path))
    assert (refused.returncode, missing.returncode) == (1, 1)
    assert f"RAY_AUTH_TOKEN_PATH={wrong}" in refused.stderr
    assert f"{tmp_path}/.ray/auth_token" in missing.stderr
    assert all(one.stderr.startswith("RAY_ADDRESS: ") for one in (refused, missing))
    assert "0123456789abcdef" not in refused.stderr


def test_the_step_of_connecting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 80 s, in which the command said its own name alone."""
    names: list[str] = []

    def reach(address: str) -> bool:
        names.extend(step.name for step in current_steps())
        raise JobError("no answer", file=address)

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("penstock.cluster._reach", reach)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(JobError):
        connect()
    assert names[-1] == "connecting to Ray at 127.0.0.1:9"
