"""Where the processes of a test listen."""

from __future__ import annotations

import contextlib

import psutil

__all__ = ["listening"]


def listening(pid: int) -> dict[tuple[str, int], str]:
    """Return the names of a process and its descendants by the address and port they listen at.

    As ``ss -ltnp`` lists them, for these processes alone.
    """
    found = {}
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            for connection in one.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    ip = connection.laddr.ip.removeprefix("::ffff:")
                    found[ip, connection.laddr.port] = one.name()
    return found
