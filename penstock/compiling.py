"""Compilation of the kernels by numba, with a cache on disk that sees changes in other files.

numba keeps compiled code in ``__pycache__``, in a file named by module, qualified name and line,
and discards it when the sha256 of the function's own source file changes. It does not look at the
functions and constants that were imported and compiled in: a loop that calls
:func:`penstock.arrow_text.decode_utf8` would run the old one after a change of
that file (read in ``numba/core/caching.py`` of 0.68, and shown by a test).

:func:`compiler` therefore adds a digest of the files a kernel depends on to the function's
qualified name. After a change there the name is new, and numba compiles anew. The cost is a file
that nothing reads any more in ``__pycache__``.

The cache is made of pickles and machine code, so that it may lie nowhere that another user can
write to. numba takes ``NUMBA_CACHE_DIR``, ``__pycache__``, or a directory of the home, and does not
look at its owner. :func:`cached` looks at that directory and those above it before anything is
loaded. Where it is not safe, one warning says so, and the code is kept in the private directory,
or, if there is none, only in memory; so it is where numba finds no directory that can be written
to.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba import njit
from numba.core import entrypoints
from numba.core import event as numba_events

from penstock.activity import set_compiling
from penstock.display import logger_of
from penstock.errors import StorageError
from penstock.garbage import collection_paused
from penstock.temporary import others_can_write, private_directory

__all__ = ["cached", "compiler", "is_compiled"]

_log = logger_of(__name__)


class _CompilationListener(numba_events.Listener):
    """Notes for a heartbeat that numba compiles; code that it loads from its cache is not told."""

    def on_start(self, event: Any) -> None:
        set_compiling(True)

    def on_end(self, event: Any) -> None:
        set_compiling(False)


numba_events.register("numba:compile", _CompilationListener())


_in_kernel = threading.local()
_load_extensions = entrypoints.init_all


def _load_extensions_elsewhere() -> None:
    """Load the extensions of numba that packages register, unless a kernel is made ready.

    numba imports them when it first loads or compiles a function: awkward, which comes with
    gigatoken, in 0.2 s of each process. No kernel takes its arrays; users' functions may.
    """
    if not getattr(_in_kernel, "now", False):
        _load_extensions()


entrypoints.init_all = _load_extensions_elsewhere


@contextmanager
def _without_extensions() -> Iterator[None]:
    before = getattr(_in_kernel, "now", False)
    _in_kernel.now = True
    try:
        yield
    finally:
        _in_kernel.now = before


def _started_quickly(kernel: Any) -> Any:
    """Let a kernel be made ready without extensions, and without garbage collection meanwhile."""
    make_ready = kernel._compile_for_args

    @functools.wraps(make_ready)
    def make_ready_quickly(*args: Any, **named: Any) -> Any:
        with collection_paused(), _without_extensions():
            return make_ready(*args, **named)

    kernel._compile_for_args = make_ready_quickly
    return kernel


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
    """Return ``numba.njit(cache=True, **options)`` that needs no directory to write to.

    Nothing is loaded from a directory that another user can write to.
    """

    def compile_function(function: Callable[..., Any]) -> Any:
        with suppress(RuntimeError):  # no place for the cache
            made = njit(cache=True, **options)(function)
            if _is_safe(str(made.stats.cache_path), function.__code__.co_filename):
                return _started_quickly(made)
        before = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = str(private_directory("numba"))
            return _started_quickly(njit(cache=True, **options)(function))
        except (RuntimeError, StorageError):
            return _started_quickly(njit(**options)(function))
        finally:
            numba.config.CACHE_DIR = before

    return compile_function


def is_compiled(kernel: Any) -> bool:
    """Return whether the code of a kernel is on disk, for its source and this kind of processor.

    Args:
        kernel: A function of :func:`cached` or :func:`compiler`.
    """
    file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    if file is None:  # it is kept in memory alone
        return False
    own = kernel.targetctx.codegen().magic_tuple()
    return any(key[1] == own for key in file._load_index())


@functools.cache
def _is_safe(cache: str, source: str) -> bool:
    """Return whether only this user, root and the owner of the source can write to a cache."""
    problem = others_can_write(Path(cache), Path(source).stat().st_uid)
    if problem is not None and _WARNED not in os.environ:
        os.environ[_WARNED] = cache  # workers are children of this process, and say it no more
        _log.warning(
            "%s: compiled code is not loaded from there, since another user could replace it: %s; "
            "close it to others, or set NUMBA_CACHE_DIR to a directory of your own",
            cache,
            problem,
        )
    return problem is None


_WARNED = "PENSTOCK_UNSAFE_NUMBA_CACHE"
"""Set where the warning was given."""
