"""Tools that run Penstock in processes of its own and kill them; see README.md for a map."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository; it is on the PYTHONPATH of every process that a test starts."""

WHOLE = os.environ.get("PENSTOCK_FAULTS") == "all"
"""Run whole campaigns (``make faults``); the ordinary suite takes a part of each."""
