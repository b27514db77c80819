"""A checkpoint's manifest: the records of its files, signed.

::

    {"files": [{"path", "bytes", "sha256", "facts"}, ...],
     "run": name of the run's directory, "step": first step after the checkpoint,
     "key": name of the key, "signature": HMAC-SHA256 of the JSON without this entry}

Run and step are signed, so that a checkpoint counts in no other run and for no other step. Without
a key a manifest can be read, but gives no signature that any signer accepts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from penstock.artefact import FileRecord, canonical
from penstock.errors import TrainingError
from penstock.trainers.checkpoints.signing import Signer

__all__ = ["MANIFEST", "SignedManifest"]

MANIFEST = "manifest.json"

_MOST = 2**26
"""Bytes of a manifest: about 250,000 files."""


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """The records of a checkpoint's files, by paths relative to it, and who signed them."""

    files: tuple[FileRecord, ...]
    key: str = ""
    """Name of the key; empty where nothing is signed, ``?`` where nothing could be read."""
    signature: str = ""
    run: str = ""
    """Name of the run's directory; empty in those of older versions."""
    step: int = 0

    @classmethod
    def of(cls, files: Sequence[FileRecord], signer: Signer, run: str, step: int) -> SignedManifest:
        """Sign the records of files of a run's checkpoint."""
        unsigned = cls(tuple(files), signer.name, run=run, step=step)
        return replace(unsigned, signature=signer.sign(unsigned._content()))

    @classmethod
    def read(cls, directory: Path) -> SignedManifest:
        """Read the manifest of a checkpoint; one that cannot be read has a record that no file
        matches."""
        try:
            # A pipe in its place would wait for a writer.
            opened = os.open(directory / MANIFEST, os.O_RDONLY | os.O_NONBLOCK)
            with open(opened, "rb") as source:
                content = source.read(_MOST)
            found = json.loads(content)
            # Unsigned ones of older versions are lists of files.
            values = dict(found) if isinstance(found, dict) else {"files": found}
            made = cls(
                tuple(map(FileRecord.parsed, values["files"])),
                str(values.get("key", "")),
                str(values.get("signature", "")),
                str(values.get("run", "")),
                values.get("step", 0),
            )
            if type(made.step) is not int:
                raise TypeError(made.step)
            made.encoded()  # raises where a value cannot be written, such as NaN
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return cls((FileRecord(path=MANIFEST, bytes=0, sha256="one that can be read"),), "?")
        return made

    def encoded(self) -> bytes:
        """Return the bytes of the manifest's file."""
        return canonical({**self._entries(), "signature": self.signature})

    def fault(self, directory: Path, signer: Signer) -> str | None:
        """Check the signature, and return what is wrong with one that this key should have made.

        Args:
            directory: The checkpoint's.
            signer: Has the user's key, and the directories to trust.

        Raises:
            TrainingError: The manifest is not signed, or with another key, or is of another run
                or step, and the directory is not trusted. None of its files was read.
        """
        if self.key == "?":
            return f"{directory / MANIFEST}: cannot be read"
        got = f"one with the key {self.key!r}" if self.key else "none, as of an older version"
        if self.key == signer.name and not self.run:
            got = "one without run and step, as of an older version"
        elif self.key == signer.name:
            if signer.signed(self._content(), self.signature):
                if (self.run, f"step-{self.step:08d}") == (
                    directory.parents[1].name,
                    directory.name,
                ):
                    return None
                got = f"that of step {self.step} of run {self.run}"
            else:
                return f"{directory / MANIFEST}: the signature is not that of its content"
        if signer.trusts(directory):
            return None
        raise TrainingError(
            "this checkpoint may be someone else's, and reading it could run their code",
            file=directory / MANIFEST,
            expected=f"a signature of this place with the key {signer.name} "
            f"({signer.source or 'of this run'})",
            got=got,
            fix=f"run again with `--trust {directory.parent.parent}` if only people whom you trust "
            f"can write there, or delete {directory.parent} to start from the first step",
        )

    def _entries(self) -> dict[str, object]:
        files = [asdict(record) for record in self.files]
        return {"files": files, "key": self.key, "run": self.run, "step": self.step}

    def _content(self) -> bytes:
        return canonical(self._entries())
