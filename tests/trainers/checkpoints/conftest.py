"""One warm process for all tests that run workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trainers.checkpoints.runs import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Forks workers; starting it takes six seconds."""
    made = Warm(tmp_path_factory.mktemp("warm"))
    yield made
    made.close()
