"""Models are built only as large as their weight files.

A library builds a model from ``config.json`` and then fills it from the files. A config of 10⁶
layers takes more than a minute before a weight is missed. So what PyTorch registers while the
library builds is counted, and compared with the headers of the files: any kind of model, without a
formula for it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import InputError, PenstockError
from penstock.language_models.model_settings import entries
from penstock.language_models.weight_files import WeightTotals

__all__ = ["ModelFiles", "sizes_problem"]

_SIZE = re.compile(
    r"(^|_)(num|n|d|dim|dims|size|sizes|layers?|depths?|heads?|width|widths|channels|labels|hidden"
    r"|ffn|inner|vocab|experts?|blocks?|rank|groups|kernel|stride|features|dimension|projection)"
    r"(_|$)"
)
_NO_SIZE = re.compile(r"param|position|tok|ctx|context|length|window|theta|sample|step|epoch|byte")
_LARGEST_SIZE = 2**20
"""Widths, layers, heads and labels; the largest published has 2¹⁶."""

_LARGEST = 2**24
"""Entries of a vocabulary, as in :mod:`penstock.tokenization.examining`."""

_TIMES = 4
"""A model registers a tied table several times, and a head may be missing in its files."""

_SPARE = 2**24
"""Numbers beyond those of the files: biases, scales."""

_SPARE_BUFFERS = 2**27
"""Numbers of buffers that no file holds, such as GPT-2's causal masks."""

_SPARE_TENSORS = 1_024

_MODULES = 32
"""Modules for each tensor."""


class _TooLargeError(Exception):
    """Not a kind of exception that libraries and their callers expect."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model that was looked at, as a limit of what is built from them."""

    config: Path
    totals: WeightTotals | None
    """None for a model on the hub, which has no limit here."""
    is_packed: bool = False
    """True for quantised weights: a number of a file holds several of the model."""

    @contextmanager
    def bounding(self, key: str | None) -> Iterator[None]:
        """Limit what this thread builds.

        Raises:
            InputError: It is more than the files hold; or the library raised an error of a kind
                that the caller does not expect, which malformed configs do.
        """
        import torch

        try:
            with ExitStack() as stack:
                if self.totals is not None:
                    _count(stack, self.totals, self.is_packed)
                yield
        except (PenstockError, MemoryError, torch.OutOfMemoryError):
            raise
        except _TooLargeError as error:
            totals = self.totals or WeightTotals()
            raise InputError(
                key=key,
                file=self.config,
                expected=f"a model of the size of its weight files: {totals.tensors:,} tensors, "
                f"{totals.numbers:,} numbers",
                got=str(error),
                fix="take config.json and the weights from one model",
            ) from None
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:300]
            raise InputError(
                f"cannot be loaded ({type(error).__name__}: {reason})", key=key, file=self.config
            ) from None


def _count(stack: ExitStack, totals: WeightTotals, is_packed: bool) -> None:
    """Count what this thread registers until the stack is closed."""
    from torch.nn.modules import module

    own = threading.get_ident()
    held = 8 * totals.bytes if is_packed else totals.numbers  # at least a bit for each
    tensors = _TIMES * totals.tensors + _SPARE_TENSORS
    most = {
        "tensors": tensors,
        "modules": _MODULES * tensors,
        "numbers": _TIMES * held + _SPARE,
        "numbers of buffers": _TIMES * held + _SPARE_BUFFERS,
    }
    counts = dict.fromkeys(most, 0)

    def add(what: str, count: int) -> None:
        counts[what] += count
        if counts[what] > most[what]:
            raise _TooLargeError(f"more than {most[what]:,} {what}")

    def parameter(_owner: Any, _name: str, value: Any) -> None:
        if threading.get_ident() == own and value is not None:
            add("tensors", 1)
            add("numbers", value.numel())

    def buffer(_owner: Any, _name: str, value: Any) -> None:
        if threading.get_ident() == own and value is not None:
            add("numbers of buffers", value.numel())

    def submodule(_owner: Any, _name: str, _value: Any) -> None:
        if threading.get_ident() == own:
            add("modules", 1)

    for register, hook in (
        (module.register_module_parameter_registration_hook, parameter),
        (module.register_module_buffer_registration_hook, buffer),
        (module.register_module_module_registration_hook, submodule),
    ):
        stack.callback(register(hook).remove)


def sizes_problem(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a size in a config that no model has: what is expected and what was found."""
    for name, value in entries(config):
        lowered = str(name).lower()
        if not _SIZE.search(lowered) or _NO_SIZE.search(lowered):
            continue
        most = _LARGEST if "vocab" in lowered else _LARGEST_SIZE
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not number <= most:
                return f"{name} of at most {most:,}", str(number)[:40]
    return None
