"""Where PyTorch and Triton keep compiled code is set before any module of them reads it.

They take ``/tmp/torchinductor_NAME`` by default, which another user can make first, and PyTorch's
compiler already fails at its import where that is a file. That import follows from others: of
``torch.compiler.disable``, of a model of transformers, of a plug-in. So a finder that finds nothing
waits for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["CompilerImport"]

_COMPILERS = ("torch._dynamo", "torch._inductor", "torch.utils.cpp_extension", "triton")


class CompilerImport:
    """A finder that sets private caches at the import of a compiler, and finds nothing."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Set the caches; raises as :func:`penstock.temporary.set_private_caches`."""
        if name in _COMPILERS:
            from penstock.temporary import set_private_caches

            set_private_caches()


if CompilerImport not in sys.meta_path:
    sys.meta_path.insert(0, CompilerImport)
