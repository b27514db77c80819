"""Errors of the operating system without the name of a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.jobs.cli import main
from penstock.jobs.os_errors import os_error_text

ROOT = Path(__file__).resolve().parents[2]
_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "c1"}}'}


@pytest.mark.parametrize(("environment", "words"), [({}, "current"), (_JOB, "submit again")])
def test_a_working_directory_that_was_deleted_is_named(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    """A node that shares Ray's session directory deletes those of the jobs at its end."""
    (tmp_path / "gone").mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd())\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'penstock', 'curate', 'recipe.yaml'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "gone",
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "directory is gone" in done.stderr and words in done.stderr
    assert "Errno" not in done.stderr


def test_an_error_without_a_file_has_its_place_in_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("penstock.jobs.listing.list_artefacts", fail)
    result = CliRunner().invoke(main, ["ls", str(tmp_path)])
    assert result.exit_code == 1
    assert "Too many open files (in penstock/jobs/cli.py:" in result.stderr
    assert result.stderr.rstrip().endswith(", ls)")


def test_an_error_with_a_file_is_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(OSError) as info:
        (tmp_path / "nothing").read_text()
    assert os_error_text(info.value) == str(info.value)
    assert os_error_text(OSError("socket")) == "socket (no traceback)"
