"""Where a run was when a checkpoint was taken, and of what it is one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from penstock.artefact import canonical
from penstock.errors import TrainingError
from penstock.storage import atomic_file

__all__ = ["FORMAT", "Cursor"]

FORMAT = 1
"""Of a checkpoint's directory; a larger number is refused."""

NAME = "cursor.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The data cursor. Batches are a pure function of (shards, seed, step), so this is all."""

    step: int
    """The first step that was not yet taken."""
    tokens: int
    """Trained on before it."""
    shards: str
    """Digest of the shards artefact: the dataset."""
    seed: int
    workers: int
    """That wrote the checkpoint."""
    stage: int
    """Of ZeRO."""
    format: int = FORMAT

    def write(self, directory: Path) -> str:
        """Write it into a checkpoint's directory; gives the file's name."""
        with atomic_file(directory / NAME, durable=False) as sink:
            sink.write(canonical(asdict(self)))
        return NAME

    @classmethod
    def read(cls, directory: Path) -> Cursor:
        """Read it from a checkpoint's directory.

        Raises:
            TrainingError: A newer Penstock wrote the checkpoint.
        """
        values = json.loads((directory / NAME).read_bytes())
        if values["format"] > FORMAT:
            raise TrainingError(
                f"{directory}: a checkpoint of format {values['format']}, this Penstock reads up "
                f"to {FORMAT}; upgrade Penstock, or delete it to begin anew"
            )
        return cls(**values)

    def check(self, directory: Path, shards: str, seed: int) -> None:
        """Refuse a checkpoint of another run.

        Raises:
            TrainingError: It was trained on other shards, or in another order.
        """
        if self.shards != shards:
            raise TrainingError(
                f"{directory}: a checkpoint of the shards {self.shards[:16]}, this run is on "
                f"{shards[:16]}; going on would repeat and skip data: train with the shards it "
                f"began with, or delete {directory.parent} to begin anew"
            )
        if self.seed != seed:
            raise TrainingError(
                f"{directory}: a checkpoint of seed {self.seed}, this run has {seed}; delete "
                f"{directory.parent} to begin anew"
            )
