"""Count the points of a process from its start: Python imports this module first."""

import os

from tests.harness import curation_points
from tests.harness.points import DIRECTORY

if DIRECTORY in os.environ:
    curation_points.watch()
