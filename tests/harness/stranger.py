"""A second user of this machine, for tests of what he can read, plant and break.

He is a real one, made by ``useradd``, so that the kernel decides. Where these tests do not run as
root they are skipped.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["Stranger", "second_user"]

_BECOME = """
import json, os, sys
uid = int(sys.argv[1])
exec(sys.argv[4])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.umask(0)
os.chdir("/")
found = None
values = json.loads(sys.argv[3])
exec(sys.argv[2])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Stranger:
    """A second user, and how code runs as him."""

    uid: int

    def run(self, code: str, before: str = "", **values: Any) -> Any:
        """Run Python as this user and return what it assigns to ``found``.

        Args:
            code: Lines that may use ``os``, ``json`` and ``values``.
            before: Imports, which run as root.
            values: What the code needs to know.
        """
        # The interpreter starts as root, since root's directories may be closed to others.
        made = subprocess.run(
            [sys.executable, "-I", "-c", _BECOME, str(self.uid), code, json.dumps(values), before],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout.splitlines()[-1])


@contextmanager
def second_user() -> Iterator[Stranger]:
    """Make a user, and delete it at the end."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("NOT RUN: a second user of this machine can be made by root alone")
    name = f"penstock-t{os.getpid()}"
    for left in range(20, -1, -1):  # another process may hold the lock of /etc/passwd
        made = subprocess.run(
            ["useradd", "--no-create-home", "--user-group", "--shell", "/bin/sh", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode == 0 or not left:
            break
        time.sleep(0.1)
    assert made.returncode == 0, made.stderr
    try:
        yield Stranger(pwd.getpwnam(name).pw_uid)
    finally:
        subprocess.run(["userdel", name], capture_output=True, check=False)
