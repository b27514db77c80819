"""The times of saving, the content of a checkpoint, and the choice of the one to resume from."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from penstock.artefact import FileRecord, canonical
from penstock.errors import TrainingError
from penstock.recipe import Checkpoint, Train
from penstock.storage import atomic_file
from penstock.trainers.backends import find_backend
from penstock.trainers.backends.base import Backend, CanonicalState
from penstock.trainers.checkpoints.folder import Committed, Folder, record_durably
from penstock.trainers.checkpoints.signing import Signer
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.data.position import DataPosition
from penstock.trainers.group import Group

__all__ = ["FORMAT", "CheckpointSchedule", "Checkpoints", "Cursor", "pinned_steps", "records_of"]

FORMAT = 3
"""Format of checkpoints that are written; a larger one is refused. Format 1 names no back end,
format 2 no layout."""

CURSOR = "cursor.json"

STATE = "state"
"""The directory within a checkpoint for files that are not the back end's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The data cursor. Batches are a pure function of (shards, seed, start, step)."""

    step: int
    """The first step after the checkpoint."""
    tokens: int
    """Tokens trained on before that step."""
    shards: str
    """Digest of the shards artefact: the dataset."""
    seed: int
    workers: int
    """Number of workers that wrote the checkpoint."""
    backend: str
    """Name of the back end that wrote it."""
    layout: str = ""
    """Layout of the back end's state (:meth:`.backends.base.BackendModule.layout`)."""
    start: DataPosition | None = None
    """Where the run's data begins; None in older formats, where it is the beginning."""
    position: DataPosition | None = None
    """What was read of each source, for runs that continue from here; None in older formats."""
    format: int = FORMAT

    def write(self, directory: Path) -> str:
        """Write it into a checkpoint's directory; return the file's name."""
        with atomic_file(directory / CURSOR, durable=False) as sink:
            sink.write(canonical(asdict(self)))
        return CURSOR

    @classmethod
    def read(cls, files: VerifiedFiles) -> Cursor:
        """Read it from a checkpoint.

        Raises:
            ArtefactError: The file was changed.
            TrainingError: A newer Penstock wrote the checkpoint.
        """
        directory = files.directory
        values = json.loads(files.read(directory / CURSOR))
        if values["format"] > FORMAT:
            raise TrainingError(
                file=directory,
                expected=f"a checkpoint of format {FORMAT} or lower",
                got=values["format"],
                fix="upgrade Penstock, or delete the checkpoint to start from the first step",
            )
        if values["format"] == 1:
            values["backend"] = Train.model_fields["backend"].default
            del values["stage"]
        if values["format"] < 3:  # a run of other settings than these had another name
            train = Train(backend=values["backend"], dtype="float32")
            values["layout"] = find_backend(train.backend).layout(train)
        for name in ("start", "position"):
            if values.get(name) is not None:
                values[name] = DataPosition.parsed(values[name])
        return cls(**values)

    def check(self, directory: Path, shards: str, seed: int) -> None:
        """Refuse a checkpoint of another run.

        Raises:
            TrainingError: It was trained on other shards, or in another order.
        """
        if self.shards != shards:
            raise TrainingError(
                "resuming would repeat and skip data",
                file=directory,
                expected=f"a checkpoint of the shards {shards[:16]}",
                got=self.shards[:16],
                fix=f"train with the shards it began with, or delete {directory.parent}",
            )
        if self.seed != seed:
            raise TrainingError(
                file=directory,
                expected=f"a checkpoint of seed {seed}",
                got=self.seed,
                fix=f"delete {directory.parent} to start from the first step",
            )


class CheckpointSchedule:
    """Decide after every step whether to save, equally on every worker.

    Tokens are the same on all workers, clocks are not: rank 0's counts, and is broadcast. A
    broadcast is a collective, so it carries the number of steps until the next one, half of those
    that fit into the rest of the interval. A run of a minute broadcasts about once, one of an hour
    ten times between two checkpoints.

    Args:
        settings: The recipe's ``train.checkpoint``; None for never.
        group: The workers.
        at: Numbers of steps after which one is saved in any case.
        clock: Returns seconds; only rank 0's counts.
    """

    def __init__(
        self,
        settings: Checkpoint | None,
        group: Group,
        clock: Callable[[], float] = time.monotonic,
        *,
        at: Collection[int] = (),
    ) -> None:
        self._at = at
        self._tokens = settings.tokens if settings else None
        minutes = settings.minutes if settings else None
        self._seconds = None if minutes is None else 60 * minutes
        self._group = group
        self._clock = clock
        self._since = clock()
        self._steps = 0
        self._wait = 1

    def due(self, before: int, after: int, steps: int = 0) -> bool:
        """Return whether a checkpoint is due after a step.

        Args:
            before: Tokens trained on before it.
            after: Tokens trained on with it.
            steps: Steps taken with it.
        """
        if steps in self._at:
            return True
        if self._tokens is not None and before // self._tokens < after // self._tokens:
            return True
        if self._seconds is None:
            return False
        self._steps += 1
        self._wait -= 1
        if self._wait:
            return False
        self._wait = self._group.broadcast(self._steps_left(self._seconds))
        return self._wait == 0

    def saved(self) -> None:
        """Begin the next interval, after a checkpoint was written or loaded."""
        self._since = self._clock()
        self._steps = 0
        self._wait = 1

    def _steps_left(self, seconds: float) -> int:
        """Return the steps until the next broadcast; 0 if a checkpoint is due now."""
        gone = self._clock() - self._since
        if gone >= seconds:
            return 0
        return max(1, int((seconds - gone) / (gone / self._steps) / 2)) if gone else 1


class Checkpoints:
    """The checkpoints of one run; every worker has one, and all call its methods together.

    Args:
        directory: The run's.
        settings: The recipe's ``train.checkpoint``; None to save none.
        shards: Digest of the shards artefact.
        seed: The run's seed.
        backend: Name of the back end.
        layout: Layout of its state, with the settings of this attempt.
        group: The workers.
        signer: Signs what is saved, and decides what is read.
        progress: Called on rank 0 with a line for the user, and with the step at which the run
            resumes where the line is about that.
        pins: Numbers of steps after which a checkpoint is saved and never removed.
        generation: Number of the driver's lease, as of :class:`Folder`.
    """

    def __init__(
        self,
        directory: Path,
        settings: Checkpoint | None,
        *,
        shards: str,
        seed: int,
        backend: str,
        layout: str,
        group: Group,
        signer: Signer,
        progress: Callable[[str, int | None], None],
        pins: Collection[int] = (),
        generation: int = 0,
    ) -> None:
        self.folder = Folder(directory / "checkpoints", generation)
        self.schedule = CheckpointSchedule(settings, group, at=pins)
        self.pins = pins
        """Numbers of steps whose checkpoints are never removed."""
        self.ever = False
        """True if this run has saved, or resumes from a checkpoint of an earlier attempt."""
        self._keep = (settings or Checkpoint()).keep
        self._own = Cursor(
            step=0,
            tokens=0,
            shards=shards,
            seed=seed,
            workers=group.workers,
            backend=backend,
            layout=layout,
        )
        self._found = VerifiedFiles(self.folder.path, {})
        self._group = group
        self.signer = signer
        self._progress = progress

    def find(self) -> Cursor | None:
        """Find the newest whole checkpoint, reading every byte of it; None without one.

        Raises:
            TrainingError: It is of other shards, another seed, or a newer format; or this user
                did not sign it for this run and step, and its directory is not trusted; or a later
                driver's attempt has begun.
        """
        found: tuple[str, list[tuple[Committed, str | TrainingError | None]]] = ("", [])
        if self._group.rank == 0:
            found = (
                self.folder.claim(),
                [(one, self._check(one)) for one in self.folder.committed()],
            )
            self.folder.sweep()
        self.folder.attempt, candidates = self._group.gather(found)[0]
        for candidate, checked in candidates:
            if isinstance(checked, TrainingError):
                raise checked
            fault = checked
            if fault is None:
                share = candidate.fault(self._group.rank, self._group.workers)
                fault = next(filter(None, self._group.gather(share)), None)
            if fault is None:
                files = VerifiedFiles.of(candidate.path, candidate.files)
                cursor = Cursor.read(files)
                cursor.check(candidate.path, self._own.shards, self._own.seed)
                self._found, self.ever = files, True
                if self._group.rank == 0:  # an attempt may have been killed after the newest one
                    self.folder.keep(self._keep, self.pins)
                return cursor
            self.report(f"the checkpoint of step {candidate.step} is damaged ({fault})")
            if self._group.rank == 0:
                self.folder.hide(candidate.path, "damaged")
        if candidates:
            self.report("no checkpoint is whole; beginning anew")
        return None

    def _check(self, candidate: Committed) -> str | TrainingError | None:
        """Check a signature; return a fault of the manifest, or the error that ends the run."""
        try:
            return candidate.manifest.fault(candidate.path, self.signer)
        except TrainingError as error:
            return error

    def load(self, cursor: Cursor, backend: Backend) -> dict[str, bytes]:
        """Give a back end the state of the checkpoint that :meth:`find` returned.

        Returns:
            The files that :meth:`save` was given.
        """
        source, others = self._found, ""
        if cursor.workers != self._own.workers:
            others = f", written by {cursor.workers} worker{'s' * (cursor.workers > 1)}"
        if (cursor.backend, cursor.layout) == (self._own.backend, self._own.layout):
            backend.load(source, cursor.workers)
        else:
            same = cursor.backend == self._own.backend
            others += ", converted" if same else f", written by {cursor.backend}"
            self.restore(source, cursor, backend)
        self.report(f"going on at step {cursor.step} from {source.directory}{others}", cursor.step)
        self.schedule.saved()
        state = source.directory / STATE
        return {name: source.read(state / name) for name in source.names(state)}

    def save(
        self,
        backend: Backend,
        step: int,
        tokens: int,
        files: Mapping[str, bytes],
        *,
        start: DataPosition | None = None,
        position: DataPosition | None = None,
    ) -> None:
        """Save, and remove checkpoints beyond the number to keep.

        Args:
            backend: Back end whose state is saved.
            step: The first that was not yet taken.
            tokens: Trained on before it.
            files: Further files, by name; those of rank 0 are written.
            start: Where the run's data began.
            position: What was read of each source before the step.
        """
        directory = self.folder.temporary(step)
        if self._group.rank == 0:
            self.folder.begin(step)
        names = backend.save(directory)
        if self._group.rank == 0:
            cursor = replace(self._own, step=step, tokens=tokens, start=start, position=position)
            names.append(cursor.write(directory))
            for name, data in files.items():
                with atomic_file(directory / STATE / name, durable=False) as sink:
                    sink.write(data)
                names.append(f"{STATE}/{name}")
        # A worker that cannot write raises, so nothing is gathered and nothing published.
        gathered = self._group.gather(record_durably(directory, names))
        if self._group.rank == 0:
            records = [record for own in gathered for record in own]
            self.folder.publish(step, records, self.signer)
            self.folder.keep(self._keep, self.pins)
        self.ever = True
        self.schedule.saved()

    def restore(
        self,
        files: VerifiedFiles,
        cursor: Cursor,
        backend: Backend,
        check: Callable[[CanonicalState], CanonicalState] = lambda state: state,
    ) -> None:
        """Give a back end the state of any checkpoint, through the canonical one.

        Args:
            files: Those of a checkpoint of this run or another, of any back end and layout.
            cursor: That of the checkpoint.
            backend: It may have trained already.
            check: Returns a state that compares what is read of it.
        """
        writer, scratch = find_backend(cursor.backend), self.folder.scratch
        own = writer.converted(files, scratch) if self._group.rank == 0 else files
        backend.restore(check(writer.read_state(self._group.gather(own)[0])))
        self._group.barrier()
        if self._group.rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)

    def go_back(self, backend: Backend, before: int) -> int | None:
        """Give a back end the state of the newest whole checkpoint of at most ``before`` steps.

        Returns:
            The steps that it had taken, or None if there is no such checkpoint.
        """
        found = self.folder.committed() if self._group.rank == 0 else []
        candidates = [(one, self._check(one)) for one in found if one.step <= before]
        for candidate, checked in self._group.gather(candidates)[0]:
            if isinstance(checked, TrainingError):
                raise checked
            share = candidate.fault(self._group.rank, self._group.workers)
            if checked is None and not any(self._group.gather(share)):
                files = VerifiedFiles.of(candidate.path, candidate.files)
                self.restore(files, Cursor.read(files), backend)
                return int(candidate.step)
        return None

    def report(self, line: str, step: int | None = None) -> None:
        """Tell the user, once for all workers; ``step`` is where a run resumes."""
        if self._group.rank == 0:
            self._progress(line, step)


def pinned_steps(settings: Checkpoint | None, tokens: int, batch: int) -> frozenset[int]:
    """Return the numbers of steps after which ``checkpoint.at`` wants checkpoints.

    Args:
        settings: The recipe's ``train.checkpoint``.
        tokens: The run's budget.
        batch: Tokens of a global batch. A share of the budget is reached in a step, after which
            the checkpoint is written.
    """
    pins = settings.at if settings else ()
    return frozenset(
        pin if isinstance(pin, int) else max(1, math.ceil(pin * tokens / batch)) for pin in pins
    )


def records_of(directory: Path) -> list[FileRecord]:
    """Return the files of every checkpoint of a run from their manifests, without reading them."""
    records = []
    for kept in Folder(directory / "checkpoints").committed():
        prefix = kept.path.relative_to(directory).as_posix()
        records += [replace(record, path=f"{prefix}/{record.path}") for record in kept.files]
        records.append(FileRecord.found(directory, f"{prefix}/manifest.json"))
    return sorted(records, key=lambda record: record.path)
