"""Hosts on one machine, made of network, process, mount and name spaces, and a switch.

Each host has its own address, process ids, host name, shared memory and temporary directory; they
share the disk below the test's directory, as machines share a network file system. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_PREFIX = "penstock"
_PRIVATE = "/tmp/ray"
"""Directory of Ray's sockets, whose paths may be no longer than 107 bytes."""

_BOOT = f"""
hostname $0
mount -t tmpfs tmpfs {_PRIVATE}
mount -t tmpfs tmpfs /dev/shm
echo "127.0.0.1 localhost" > {_PRIVATE}/hosts
for entry; do echo "$entry" | tr = " " >> {_PRIVATE}/hosts; done
mount --bind {_PRIVATE}/hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf
sleep infinity
"""
"""First command of a host. Names come from a file: lookups without name server take seconds."""


def missing() -> str | None:
    """Return why hosts cannot be made on this machine, or None."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"needs the command {tool}"
    name = f"{_PREFIX}-{os.getpid()}-try"
    made = _command("ip", "netns", "add", name)
    _command("ip", "netns", "del", name)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else None


@dataclass(frozen=True)
class Host:
    """One host; ``name`` is also its host name."""

    name: str
    address: str
    space: str
    """Its network namespace."""
    init: subprocess.Popen[bytes]
    """The host's first process; everything on the host ends with it."""

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one on this host."""
        [inside] = psutil.Process(self.init.pid).children()
        spaces = ["--mount", "--uts", "--net", "--pid"]
        return ["nsenter", "--target", str(inside.pid), *spaces, "--", *command]

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command on this host to its end."""
        done = _command(*self.command(command), environment=environment)
        assert done.returncode == 0, f"{self.name}: {done.stdout}\n{done.stderr}"


@dataclass(frozen=True)
class Network:
    """Hosts on one switch."""

    switch: str
    hosts: Mapping[str, Host]

    def cut(self, name: str) -> None:
        """Disconnect a host from the switch: packets are lost, without a notice."""
        _ip("-n", self.switch, "link", "set", name, "down")

    def reconnect(self, name: str) -> None:
        """Connect a host to the switch again."""
        _ip("-n", self.switch, "link", "set", name, "up")


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Make hosts 10.77.0.1, 10.77.0.2, ... of these names; remove them when the block ends."""
    _sweep()
    Path(_PRIVATE).mkdir(exist_ok=True)
    base = f"{_PREFIX}-{os.getpid()}"
    hosts: dict[str, Host] = {}
    spaces: list[str] = []
    try:
        switch = _space(f"{base}-switch", spaces)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        for name, address in addresses.items():
            space = _space(f"{base}-{name}", spaces)
            _ip("-n", switch, *f"link add {name} type veth peer name eth0 netns {space}".split())
            _ip("-n", switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            hosts[name] = Host(name, address, space, _started(space, name, addresses))
        yield Network(switch, hosts)
    finally:
        for host in hosts.values():
            host.init.kill()
            host.init.wait()
        for space in spaces:
            _command("ip", "netns", "del", space)


def _started(space: str, name: str, known: Mapping[str, str]) -> subprocess.Popen[bytes]:
    unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["ip", "netns", "exec", space, *unshare, "sh", "-c", _BOOT, name]
    command += [f"{address}={other}" for other, address in known.items()]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_end_with_parent,  # noqa: PLW1509  nothing but a system call
    )
    while not _is_up(process.pid):
        assert process.poll() is None, f"{name} did not start"
        time.sleep(0.01)
    return process


def _is_up(pid: int) -> bool:
    """Return whether the last command of the boot is running."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(pid).children(recursive=True)
        return any(child.name() == "sleep" for child in below)
    return False


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _space(name: str, spaces: list[str]) -> str:
    _ip("netns", "add", name)
    spaces.append(name)
    return name


def _sweep() -> None:
    """Remove namespaces that a killed test run has left."""
    for name in _command("ip", "netns", "list").stdout.split():
        prefix, _, rest = name.partition("-")
        owner = rest.partition("-")[0]
        with suppress(ValueError):
            if prefix == _PREFIX and not psutil.pid_exists(int(owner)):
                _command("ip", "netns", "del", name)


def _ip(*arguments: str) -> None:
    done = _command("ip", *arguments)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _command(
    *command: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
