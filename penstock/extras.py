"""Optional libraries: each belongs to an extra of the package, and an error names it.

``pip install penstock`` is the engine with the local runner. Libraries of an extra are imported
where they are used; :func:`named` turns a failed import into one line, :func:`require` looks for
them before work starts::

    train: needs the module deepspeed, which is not installed; pip install 'penstock[train]'
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from penstock.errors import BadInput

__all__ = ["EXTRAS", "missing_extra", "missing_module", "named", "require"]

EXTRAS = {
    "ray": ("ray",),
    "encoders": ("torch", "transformers", "sentence_transformers", "faiss"),
    "train": ("torch", "transformers", "deepspeed", "ray", "tensorboard", "matplotlib"),
    "hf": ("datasets",),
    "s3": ("s3fs", "botocore"),
    "language": ("py3langid",),
    "tokens": ("gigatoken",),
    "tables": ("duckdb", "pandas"),
    "browse": ("duckdb", "starlette", "uvicorn"),
    "web": ("resiliparse", "brotli"),
    "trafilatura": ("trafilatura",),
}
"""The modules that each extra installs, as ``pyproject.toml`` lists their packages."""


def require(extra: str, key: str, modules: Sequence[str] | None = None) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Args:
        extra: A key of :data:`EXTRAS`.
        key: The recipe key or option that needs them.
        modules: Those that are needed; all of the extra by default.

    Raises:
        BadInput: One is not installed; ``fix`` names the extra.
    """
    wanted = EXTRAS[extra] if modules is None else modules
    if error := missing_module({extra: wanted}, key):
        raise error


def missing_module(modules: Mapping[str, Sequence[str]], key: str) -> BadInput | None:
    """Return the error for the first of these modules that is not installed; None if all are.

    Nothing is imported.

    Args:
        modules: Modules by extra.
        key: The recipe key or option that needs them.
    """
    for extra, names in modules.items():
        for name in names:
            if not _is_installed(name):
                return _missing(name, extra, key)
    return None


def _is_installed(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a finder that refuses it
        return False


@contextmanager
def named(extra: str | None = None, key: str | None = None) -> Iterator[None]:
    """Turn a failed import of an optional module into an error that names its extra.

    Args:
        extra: Preferred where several extras have the module.
        key: The recipe key or option that needs it.

    Raises:
        BadInput: An optional module is not installed; ``fix`` names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        problem = missing_extra(error, extra, key)
        if problem is None:
            raise
        raise problem from error


def missing_extra(
    error: ImportError, extra: str | None = None, key: str | None = None
) -> BadInput | None:
    """Return the error for a module of an extra that is not installed; None for other modules."""
    module = (error.name or "").partition(".")[0]
    extras = [name for name, modules in EXTRAS.items() if module in modules]
    if not extras or not isinstance(error, ModuleNotFoundError):
        return None
    return _missing(module, extra if extra in extras else extras[0], key)


def _missing(module: str, extra: str, key: str | None) -> BadInput:
    return BadInput(
        f"needs the module {module}, which is not installed",
        key=key,
        fix=f"pip install 'penstock[{extra}]'",
    )
