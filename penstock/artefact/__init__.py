"""An artefact: a directory of data files and one ``manifest.json``, which every stage writes.

::

    artefact/
      finished.py    Artefact: a finished artefact, read through its manifest
                     FileRecord: path, size and sha256 of one committed file; fingerprint
      draft.py       Draft: an unfinished artefact; fill() runs the parts without a record
      workspace.py   Workspace: a work directory, where artefacts are found or made
      journal.py     which recipe used which artefacts, and when; outside every fingerprint

An artefact is named by its *fingerprint*, the sha256 of (stage, stage version, its configuration,
the fingerprints of its inputs), so resuming, caching and cutting again are the same: an
artefact that exists is not made again. The cost is that every data file is hashed once when written
and once when read (sha256 runs at about 1.6 GB/s a core). In return, a changed byte is refused and
never trained on.

Only committed files are read. A data file is written beside its path, synced and renamed; the
driver then records it in ``records/``; the manifest, written last, makes the artefact exist.
A file without a record is invisible.
"""

from __future__ import annotations

from penstock.artefact.draft import Draft
from penstock.artefact.finished import FORMAT, Artefact, FileRecord, canonical, fingerprint
from penstock.artefact.workspace import Entry, Workspace, is_of_work

__all__ = [
    "FORMAT",
    "Artefact",
    "Draft",
    "Entry",
    "FileRecord",
    "Workspace",
    "canonical",
    "fingerprint",
    "is_of_work",
]
