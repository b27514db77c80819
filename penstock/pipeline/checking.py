"""Verify an artefact that was found, before it is used again.

Files that a run makes are hashed as they are written. Files that it finds may be a year old, so on
a file system every byte is compared, by all workers, at 1.6 GB/s a core. In a store only names and
sizes are compared, a thousand files a request. A store replaces whole objects and keeps its own
checksums, and downloading all shards costs too much for a check. Readers of the shards, as the
trainer, compare the bytes there, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.artefact import Artefact, FileRecord
from penstock.pipeline.runner import Runner
from penstock.storage import (
    AnyPath,
    store_of,
)

__all__ = ["check_files"]

_IN_DRIVER = 256 << 20
"""Bytes in all up to which the driver compares the files itself: workers take as long to start."""


@dataclass(frozen=True, slots=True)
class _ArtefactFile:
    artefact: AnyPath
    record: FileRecord

    @property
    def label(self) -> str:
        return f"{self.artefact / self.record.path}"


def check_files(artefact: Artefact, runner: Runner) -> None:
    """Compare every file of an artefact with its record.

    Raises:
        ArtefactError: One is missing, or is not the one that was recorded.
    """
    artefact.check_sizes()
    if store_of(artefact.path).keeps_checksums:
        return
    files = [_ArtefactFile(artefact.path, record) for record in artefact.files]
    if sum(record.bytes for record in artefact.files) <= _IN_DRIVER:
        for file in files:
            _compare(file, None)
        return
    for _ in runner.run(_compare, files):
        pass


def _compare(file: _ArtefactFile, _: object) -> None:
    file.record.verified(file.artefact)
