"""The id of the Ray Job that this process is the driver of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

__all__ = ["current_job"]

_SETTINGS = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray's job server for a driver (2.60: ``JobSupervisor._get_driver_env_vars``)."""


def current_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the id by which ``penstock stop`` finds this process's job; None if it is no job."""
    try:
        name = json.loads(environment[_SETTINGS])["metadata"]["job_submission_id"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return name if re.fullmatch(r"[\w.-]{1,100}", str(name)) else None
