"""Whether what was made before is still what was recorded, before it is handed over again.

What a run makes was hashed as it was written. What it finds may have lain there for a year, so on
a file system every byte is compared, by all workers, at 1.6 GB/s a core. In a store only names and
sizes are, for a thousand files a request: a store replaces objects whole and keeps checksums of
its own, and fetching all shards to one's machines is more than a second look should cost. Who
reads them, as our trainer, compares their bytes there too.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.artefact import Artefact, FileRecord
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath, is_remote

__all__ = ["check_files"]

_HERE = 256 << 20
"""Bytes in all that the driver compares by itself: workers take as long to start."""


@dataclass(frozen=True, slots=True)
class _File:
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
    if is_remote(artefact.path):
        return
    files = [_File(artefact.path, record) for record in artefact.files]
    if sum(record.bytes for record in artefact.files) <= _HERE:
        for file in files:
            _compare(file, None)
        return
    for _ in runner.run(_compare, files):
        pass


def _compare(file: _File, _: object) -> None:
    Artefact(file.artefact, {}, ()).verified(file.record)
