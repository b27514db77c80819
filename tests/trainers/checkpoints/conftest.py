"""One process that forks the workers of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.training import Trainings


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Fork workers of training runs from one process, which takes six seconds to start."""
    made = Trainings(tmp_path_factory.mktemp("trainings"))
    yield made
    made.close()
