"""Compilation of the kernels by numba, with a cache on disk that sees changes in other files.

numba keeps compiled code in ``__pycache__``, in a file named by module, qualified name and line,
and discards it when the sha256 of the function's own source file changes. It does not look at the
functions and constants that were imported and compiled in: a loop that calls
:func:`penstock.arrow_text.decode_utf8` would run the old one after a change of
that file (read in ``numba/core/caching.py`` of 0.68, and shown by a test).

:func:`compiler` therefore adds a digest of the files a kernel depends on to the function's
qualified name. After a change there the name is new, and numba compiles anew. The cost is a file
that nothing reads any more in ``__pycache__``.

Where neither ``__pycache__`` nor a directory of the home can be written to, numba refuses to
decorate a function; :func:`cached` then keeps the code in the private directory, or, if there is
none, only in memory. The cache is made of pickles, so that it may lie nowhere that another user can
write to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba import njit

from penstock.errors import StorageError
from penstock.temporary import private_directory

__all__ = ["cached", "compiler"]


def compiler(*modules: ModuleType, inlined: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function on its first call, without the GIL.

    Reference counting is off (``_nrt=False``): with it, helpers that take arrays were four times
    slower. So compiled functions allocate nothing.

    Args:
        modules: Every module whose compiled functions or constants the decorated functions use,
            directly or through each other.
        inlined: Inline the function wherever a compiled function calls it.
    """
    contents = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    digest = hashlib.sha256(contents).hexdigest()[:12]

    def compile_function(function: Callable[..., Any]) -> Any:
        if modules:
            function.__qualname__ += f"_with_{digest}"
        options = {"nogil": True, "error_model": "numpy", "_nrt": False}
        return cached(forceinline=inlined, **options)(function)

    return compile_function


def cached(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return ``numba.njit(cache=True, **options)`` that needs no directory to write to."""

    def compile_function(function: Callable[..., Any]) -> Any:
        with suppress(RuntimeError):  # no place for the cache
            return njit(cache=True, **options)(function)
        before = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = str(private_directory("numba"))
            return njit(cache=True, **options)(function)
        except (RuntimeError, StorageError):
            return njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return compile_function
