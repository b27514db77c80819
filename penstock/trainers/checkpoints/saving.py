"""When to save, what is saved, and what a run goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.artefact import FileRecord
from penstock.recipe import Checkpoint
from penstock.storage import atomic_file
from penstock.trainers.checkpoints.cursor import Cursor
from penstock.trainers.checkpoints.folder import Committed, Folder, record_durably
from penstock.trainers.checkpoints.schedule import CheckpointSchedule
from penstock.trainers.checkpoints.state import load_state, save_state
from penstock.trainers.group import Group

__all__ = ["Checkpoints", "records_of"]

STATE = "state"
"""The directory within a checkpoint for what is not DeepSpeed's."""


class Checkpoints:
    """The checkpoints of one run; every worker has one, and all call its methods together.

    Args:
        directory: The run's.
        settings: The recipe's ``train.checkpoint``; None to save none.
        shards: Digest of the shards artefact.
        seed: Of the run.
        group: The workers.
        say: Told in a line what the user should know of, and the step at which the run goes on
            where that is said; by rank 0 only.
    """

    def __init__(
        self,
        directory: Path,
        settings: Checkpoint | None,
        *,
        shards: str,
        seed: int,
        group: Group,
        say: Callable[[str, int | None], None],
    ) -> None:
        self.folder = Folder(directory / "checkpoints")
        self.pace = CheckpointSchedule(settings, group)
        self.ever = False
        """Whether this run has saved, or goes on from what an earlier attempt saved."""
        self._keep = (settings or Checkpoint()).keep
        self._shards = shards
        self._seed = seed
        self._group = group
        self._say = say

    def find(self) -> Cursor | None:
        """Where the newest whole checkpoint is, after reading every byte of it; None without one.

        Raises:
            TrainingError: It is of other shards, another seed, or a newer format.
        """
        found: tuple[str, list[Committed]] = ("", [])
        if self._group.rank == 0:
            found = self.folder.claim(), self.folder.committed()
            self.folder.sweep()
        self.folder.attempt, candidates = self._group.gather(found)[0]
        for candidate in candidates:
            faults = self._group.gather(candidate.fault(self._group.rank, self._group.workers))
            fault = next(filter(None, faults), None)
            if fault is None:
                cursor = candidate.cursor()
                cursor.check(candidate.path, self._shards, self._seed)
                self.ever = True
                if self._group.rank == 0:  # an attempt may have died between the newest and this
                    self.folder.keep(self._keep)
                return cursor
            self._tell(f"the checkpoint of step {candidate.step} is damaged ({fault})")
            if self._group.rank == 0:
                self.folder.set_aside(candidate)
        if candidates:
            self._tell("no checkpoint is whole; beginning anew")
        return None

    def load(self, cursor: Cursor, engine: Any) -> dict[str, bytes]:
        """Bring DeepSpeed's engine to where the checkpoint of :meth:`find` is.

        Returns:
            The files that :meth:`save` was given.
        """
        path = self.folder.at(cursor.step).path
        load_state(
            engine,
            path,
            self._group,
            wrote=cursor.workers,
            stage=cursor.stage,
        )
        by = f", written by {cursor.workers} worker{'s' * (cursor.workers > 1)}"
        others = by * (cursor.workers != self._group.workers)
        self._tell(f"going on at step {cursor.step} from {path}{others}", cursor.step)
        self.pace.saved()
        files = sorted((path / STATE).glob("*"))
        return {file.name: file.read_bytes() for file in files}

    def save(self, engine: Any, step: int, tokens: int, files: Mapping[str, bytes]) -> None:
        """Save, and remove what need not be kept any more.

        Args:
            engine: DeepSpeed's.
            step: The first that was not yet taken.
            tokens: Trained on before it.
            files: Whatever else is to be found again, by name; rank 0's are written.
        """
        directory = self.folder.temporary(step)
        if self._group.rank == 0:
            self.folder.begin(step)
        names = save_state(engine, directory, self._group.rank)  # which waits for rank 0
        if self._group.rank == 0:
            cursor = Cursor(
                step=step,
                tokens=tokens,
                shards=self._shards,
                seed=self._seed,
                workers=self._group.workers,
                stage=int(engine.zero_optimization_stage()),
            )
            names += [cursor.write(directory), *_write(directory, files)]
        # Whoever cannot write raises, so nothing is gathered and nothing published.
        gathered = self._group.gather(record_durably(directory, names))
        if self._group.rank == 0:
            self.folder.publish(step, [record for records in gathered for record in records])
            self.folder.keep(self._keep)
        self.ever = True
        self.pace.saved()

    def _tell(self, line: str, step: int | None = None) -> None:
        if self._group.rank == 0:
            self._say(line, step)


def records_of(directory: Path) -> list[FileRecord]:
    """The files of every checkpoint of a run, as their manifests have them; nothing is read."""
    records = []
    for kept in Folder(directory / "checkpoints").committed():
        prefix = kept.path.relative_to(directory).as_posix()
        manifest = FileRecord.found(directory, f"{prefix}/manifest.json")
        records += [replace(record, path=f"{prefix}/{record.path}") for record in kept.files]
        records.append(manifest)
    return sorted(records, key=lambda record: record.path)


def _write(directory: Path, files: Mapping[str, bytes]) -> list[str]:
    for name, data in files.items():
        with atomic_file(directory / STATE / name, durable=False) as sink:
            sink.write(data)
    return [f"{STATE}/{name}" for name in files]
