"""Connect to Ray, in one place for passes over the corpus and for training sessions."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock import extras
from penstock.activity import step
from penstock.errors import JobError, PenstockError
from penstock.ray_token import Token, find_token
from penstock.temporary import private_directory

__all__ = ["DEBUG", "connect", "cpus", "extend_path", "on_loopback"]

DEBUG = "PENSTOCK_DEBUG"
"""Environment variable: if it is set, all that Ray logs is shown."""

_OBJECT_STORE = 512 * 2**20
"""Bytes of the object store: results are small records, and shared state is stored once."""

_WORKER_DIED = "A worker died or was killed while executing a task"
"""In what Ray prints of a worker that died."""

_REACHING = 10.0
"""Seconds for the port of ``RAY_ADDRESS`` to accept a connection, and for the head to answer."""


def connect(cpus: int | None = None, object_store: int = _OBJECT_STORE) -> Any:
    """Connect to this process's Ray, else that of ``RAY_ADDRESS``, else start one here.

    One that is started here has neither dashboard nor usage reports, and ends with the process.
    It listens on loopback alone, asks each caller for a token that only this user can read, and
    keeps its files in the private directory. Its workers do not import from the current directory
    before all others, as they do by default: other users may be able to write there. Tasks add the
    driver's module path behind their own (:func:`extend_path`).

    Ray itself tries a closed port for many minutes, and a head that asks for a token for 30 s. So
    the port is tried first, and the token, where ``grpc`` is there, which Ray's dashboard needs.

    Args:
        cpus: CPUs of a Ray started here; all by default. A cluster has its own number.
        object_store: Bytes of the object store of a Ray started here.

    Returns:
        The ``ray`` module.

    Raises:
        BadInput: Ray is not installed; ``fix`` names the extra.
        JobError: There is no Ray at ``RAY_ADDRESS``, it refuses the token, or none can be started.
        StorageError: The temporary directory cannot be written to.
    """
    with extras.named("ray", "--runner ray"):
        import ray

    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    debug = bool(os.environ.get(DEBUG))
    quiet = {
        "log_to_driver": debug,
        "logging_level": "info" if debug else "error",
        # A client has no directories in its settings, and pickles them.
        "job_config": None if (address or "").startswith("ray://") else _job_config(),
    }
    if not debug:
        _hide_lost_workers()
    if address and address != "local":
        with step(f"connecting to Ray at {address}"):
            loopback = _reach(address)
            try:
                with _settings(_authenticating() | (_ON_LOOPBACK if loopback else {})):
                    ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError) as error:
                raise JobError(
                    f"no Ray at {address} ({error})",
                    key="RAY_ADDRESS",
                    fix="start one with `ray start --head`, or unset RAY_ADDRESS",
                ) from None
        return ray
    try:
        with _closed_to_others() as directory:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=object_store,
                _temp_dir=str(directory),
                # Its server of metrics answers all users of the machine.
                _system_config={"enable_metrics_collection": False},
                **quiet,
            )
    except PenstockError:
        raise
    except Exception as error:  # Ray raises a bare Exception where a process is not up in time
        reason = " ".join(str(error).split())
        raise JobError(
            f"Ray could not be started on this machine: {reason}",
            fix="run again when the machine has CPU time and memory to spare: Ray's processes have "
            "30 s to start",
        ) from error
    if not on_loopback(ray):
        ray.shutdown()
        raise JobError(
            f"Ray {ray.__version__} listens on the network where it is started for one machine",
            fix="install the version of Ray that Penstock is tested with",
        )
    return ray


def _reach(address: str) -> bool:
    """Check that the head of an address answers, and takes the token that is found here.

    Ray takes the address of the machine's network in place of a loopback address, and tries it for
    more than a minute where its head listens on loopback alone.

    Returns:
        Whether the head listens on loopback alone, so that Ray has to take the address as it is.

    Raises:
        JobError: It does not answer, or refuses the token.
    """
    from ray._private.services import resolve_ip_for_localhost

    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:  # Ray says what is wrong with it
        return False
    if host is None or port is None:  # as of ``auto``
        return False
    if error := _unreachable(host, port):
        raise JobError(
            f"no Ray at {address} (no answer: {error.strerror or error})",
            key="RAY_ADDRESS",
            fix="start one with `ray start --head`, or unset RAY_ADDRESS",
        )
    token = find_token()
    if parts.scheme:
        return False
    if not _refuses(f"{host}:{port}", token):
        taken = resolve_ip_for_localhost(host)
        return taken != host and _unreachable(taken, port) is not None
    if token.value:
        problem = f"the Ray at {address} refuses the token of {token.place}"
    else:
        problem = f"the Ray at {address} asks for a token, and there is none here ({token.place})"
    raise JobError(
        problem,
        key="RAY_ADDRESS",
        fix="on the head `ray get-auth-token` prints it: write it to ~/.ray/auth_token, mode 0600, "
        "or to a file that RAY_AUTH_TOKEN_PATH names",
    )


def _unreachable(host: str, port: int) -> OSError | None:
    """Return the error of a connection, or None where one is accepted."""
    try:
        socket.create_connection((host, port), timeout=_REACHING).close()
    except OSError as error:
        return error
    return None


def _refuses(address: str, token: Token) -> bool:
    """Return whether a head answers that the token is wrong or missing; false for no answer."""
    try:
        import grpc
    except ImportError:
        return False
    own = (("authorization", f"Bearer {token.value}"),) if token.value else ()
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            asked = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
            asked(b"", timeout=_REACHING, metadata=own)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def _authenticating() -> dict[str, str]:
    """Return the setting with which Ray sends the token that is found here.

    A head without authentication takes calls with a token, too.
    """
    asked = "RAY_AUTH_MODE" not in os.environ and find_token().value
    return {"RAY_AUTH_MODE": "token"} if asked else {}


def _hide_lost_workers() -> None:
    """Hide Ray's thousand characters on each worker that died, for which runners have a line.

    The thread that prints them does not heed ``log_to_driver`` (Ray 2.60:
    ``listen_error_messages`` in ``ray/_private/worker.py``).
    """
    from ray._private import worker

    shown = worker.print_to_stdstream
    if getattr(shown, "__module__", "") == __name__:
        return

    def print_others(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        if not any(_WORKER_DIED in str(line) for line in data.get("lines", ())):
            shown(data, ignore_prefix)

    worker.print_to_stdstream = print_others


def extend_path(path: Iterable[str]) -> None:
    """Add the driver's module path behind this process's own."""
    sys.path.extend(place for place in path if place not in sys.path)


def _job_config() -> Any:
    """Return Ray's settings of a job without the directories that it puts first in ``sys.path``.

    They are the driver's current directory and that of its script (Ray 2.60: ``connect`` in
    ``ray/_private/worker.py``). A ``penstock`` that is not installed keeps its own directory.
    """
    from ray.job_config import JobConfig

    class _Isolated(JobConfig):
        def _get_proto_job_config(self) -> Any:
            proto = super()._get_proto_job_config()
            proto.py_driver_sys_path[:] = _uninstalled()
            return proto

    return _Isolated()


def _uninstalled() -> list[str]:
    """Return the package's directory where only the driver's script or current directory has it."""
    root = str(Path(__file__).resolve().parents[1])
    places = [os.path.realpath(place) for place in sys.path]
    first = 0 if getattr(sys.flags, "safe_path", False) else 1  # from Python 3.11 on
    return [root] if root in places[:first] and root not in places[first:] else []


def on_loopback(ray: Any) -> bool:
    """Return whether the connected Ray is one machine whose processes listen on loopback alone."""
    return str(ray.util.get_node_ip_address()) in ("127.0.0.1", "::1")


_LONGEST_DIRECTORY = 107 - len("/session_2026-11-26_20-58-43_158807_4194304/sockets/plasma_store")
"""Bytes of a directory in which Ray can make the names of its sockets."""


@contextmanager
def _closed_to_others() -> Iterator[Path]:
    """Set what makes a Ray that is started here private; yields the directory of its sessions.

    Ray takes the address of the machine's network as its own, and then listens on all, unless its
    "clusters" are off, as they are by default on macOS: then it takes 127.0.0.1, and listens there.
    Its default directory, ``/tmp/ray``, is open to all users for writing, and the token in
    ``~/.ray`` for reading. The settings are inherited by the processes that Ray starts, and are
    undone at the end, so that this process can connect to a cluster later.
    """
    directory = private_directory("ray", os.environ.get("RAY_TMPDIR"))
    if len(os.fsencode(directory)) > _LONGEST_DIRECTORY:
        directory = private_directory("ray", "/tmp")
    settings = {
        **_ON_LOOPBACK,
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"),
        # Servers of metrics, which answer all users of the machine, cannot start at this port.
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
    }
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        settings["RAY_AUTH_TOKEN_PATH"] = str(_token(directory / "token"))
    with _settings(settings):
        yield directory


_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has Ray take 127.0.0.1 as it is."""


@contextmanager
def _settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of Ray, which it has read already, and undo them at the end."""
    import ray._private.ray_constants as constants
    from ray._raylet import Config  # type: ignore[attr-defined]

    if not settings:
        yield
        return
    before = {name: os.environ.get(name) for name in settings}
    clusters = constants.ENABLE_RAY_CLUSTER
    os.environ.update(settings)
    constants.ENABLE_RAY_CLUSTER = clusters and not _ON_LOOPBACK.items() <= settings.items()
    Config.initialize("")
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _token(path: Path) -> Path:
    """Return the file of the token, which is made with mode 0600 where it does not exist.

    All sessions of a user share it: Ray reads it once in a process.
    """
    with suppress(FileExistsError):
        temporary = path.with_name(f".token-{secrets.token_hex(8)}")
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(temporary, path)  # whole or not at all
        finally:
            os.unlink(temporary)
    return path


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
