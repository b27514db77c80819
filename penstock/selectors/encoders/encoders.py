"""The names of encoders, and encoders that were saved."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from penstock.selectors.base import Encoder
from penstock.selectors.encoders.hidden import HiddenEncoder
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder
from penstock.storage import sha256_file

__all__ = ["EncoderName", "contents_of", "load_encoder"]

_NAME = re.compile(r"(?P<base>.+?)(?:@(?P<layer>\d+))?(?P<gpu>@cuda)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderName:
    """An encoder's name in its parts: ``bert@9@cuda`` is layer 9 of ``bert``, on a GPU."""

    base: str
    layer: int | None
    gpu: bool

    @classmethod
    def of(cls, name: str) -> EncoderName:
        parts = _NAME.fullmatch(name)
        if parts is None:  # an empty one
            return cls(base=name, layer=None, gpu=False)
        layer = parts["layer"]
        return cls(
            base=parts["base"], layer=None if layer is None else int(layer), gpu=bool(parts["gpu"])
        )


def contents_of(name: str) -> str | dict[str, str]:
    """Return the sha256 of each file of a model's directory, or the name if it is no directory.

    A layer or a GPU in an encoder's name is part of its contents.
    """
    root = Path(EncoderName.of(name).base)
    if not root.is_dir():
        return name
    files = sorted(path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): sha256_file(path) for path in files}
    suffix = name.removeprefix(EncoderName.of(name).base)
    return {**found, "@": suffix} if suffix else found


def load_encoder(directory: Path) -> Encoder:
    """Load the encoder that was saved in ``directory``."""
    if (directory / "encoder.table.npy").exists():
        return StaticEncoder.load(directory)
    saved = json.loads((directory / "encoder.json").read_text())
    if "layer" in saved:
        return HiddenEncoder(**saved)
    return SentenceEncoder(**saved)
