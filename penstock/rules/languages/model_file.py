"""The file of a model: where it is, and what it is."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from penstock.errors import InputError
from penstock.extras import require
from penstock.opening import read_plain

__all__ = ["ModelFile"]

_PACKAGE = "py3langid"
_FILE = "data/model.npz.xz"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file with a model."""

    path: str
    sha256: str
    library: str
    """Name and version of the package that the file belongs to; empty for a file of one's own."""

    @classmethod
    def find(cls, path: str | None, key: str) -> ModelFile:
        """Find and hash a model.

        Args:
            path: A file; None for the one in py3langid, of which nothing is imported.
            key: The recipe key, for errors.

        Raises:
            BadInput: py3langid is not installed.
            InputError: The file cannot be read.
        """
        library = ""
        if path is None:
            require("language", key)
            spec = importlib.util.find_spec(_PACKAGE)
            assert spec is not None and spec.origin is not None
            path = str(Path(spec.origin).parent / _FILE)
            library = f"{_PACKAGE} {metadata.version(_PACKAGE)}"
        try:
            digest = hashlib.sha256(read_plain(path)).hexdigest()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", key=key, file=path) from None
        return cls(path, digest, library)

    def read(self) -> bytes:
        """Read the file.

        Raises:
            InputError: It cannot be read, or has changed.
        """
        try:
            content = read_plain(self.path)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self.path) from None
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise InputError(
                "the model is not the same on every node, or has changed",
                file=self.path,
                expected=f"sha256 {self.sha256}",
                got=digest,
            )
        return content
