"""A plain function as a scorer, ``def score(texts: list[str]) -> Sequence[float]``.

It is named in a recipe as ``use: package.module:function``. A reweighter is another
(:class:`FunctionReweighter`). The module is looked for in the recipe's directory, then among what
is installed, then in the current directory. No directory goes into ``sys.path``
(:mod:`penstock.own_modules`): a file ``random.py`` beside the recipe does not replace Python's own
module, and a library imports nothing from there. The file and the local modules that it imports are
part of the score's identity (:mod:`penstock.plugin_code`): a change in one of them scores again.

An infinite score counts as none when it is stored, and ``curate`` says how many there are. It comes
from a division by zero or from log 0, not from a preference, and as a score +inf would put exactly
the faulty documents first.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from bdb import BdbQuit
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np

from penstock.errors import ScoringError, SelectorError
from penstock.own_modules import directory_of, find_own, serve_no_more
from penstock.own_sources import forget_changed, forget_namesakes
from penstock.plugin_code import PluginCode, code_of
from penstock.plugin_frames import describe_error, fix_of_error
from penstock.selectors.base import Documents, Fitting, Requirements
from penstock.selectors.reweighting.base import BatchRequirements, ScoredBatch, TrainingProgress

__all__ = [
    "FunctionReweighter",
    "FunctionScorer",
    "PluggedFunction",
    "load_object",
    "no_number",
]

_EXPECTED = "package.module:function with def score(texts: list[str]) -> Sequence[float]"

_adopted: dict[str, str] = {}
"""Top-level modules that were imported from a given directory, and the file of each."""


class PluggedFunction:
    """A user's function, by name.

    It is pickled as its name: each worker imports the function, and raises an error if the file
    there is another one.

    Args:
        use: ``package.module:function``.
        directories: The recipe's directory, and others that are searched behind what is installed.
        parameters: Passed to the function as keywords.
    """

    def __init__(
        self,
        use: str,
        directories: Sequence[Path] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.use = use
        self.directories = [Path(directory).absolute() for directory in directories]
        self.parameters = dict(parameters or {})
        self.function: Callable[..., Any] = load_object(use, self.directories)
        if not callable(self.function):
            got = f"{use}, a {type(self.function).__name__}"
            raise SelectorError(key="use", expected=_EXPECTED, got=got)
        self.code: PluginCode = code_of(self.function, use.partition(":")[0])
        """The module that is named, and the one that defines the function if it is another."""

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "function"}
        return {**own, "code": self.code.fields()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "code": PluginCode(*state["code"])})
        # On another machine the recipe's directory is the job's, the current one.
        self.function = load_object(self.use, self.directories)
        self.code.check()

    def called(self, given: Any) -> Any:
        """Call the function.

        Raises:
            ScoringError: The function raised.
        """
        try:
            return self.function(given, **self.parameters)
        except BdbQuit:  # ``q`` in the debugger
            raise KeyboardInterrupt from None
        except (Exception, SystemExit) as error:  # it is a plug-in's code
            raise ScoringError(
                f"{self.use} raised {describe_error(error)}", fix=fix_of_error(error)
            ) from error

    def identity(self) -> Mapping[str, Any]:
        """Return the function's name, its parameters, and the identity of its code."""
        return {"use": self.use, "parameters": self.parameters, "code": self.code.identity()}


class FunctionScorer(PluggedFunction):
    """Scores by calling a function with the batch's texts."""

    kind: ClassVar[Literal["scorer"]] = "scorer"
    version: ClassVar[int] = 1

    @property
    def requirements(self) -> Requirements:
        return Requirements()

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        """Return scores, (n,) float32; NaN where the function gave None.

        Raises:
            ScoringError: The function raised, or did not return one number for each text.
        """
        texts = documents.column("text").to_pylist()
        scores = _floats(self.called(texts), self.use, documents.column("id"))
        if scores.shape != (len(texts),):
            got = len(scores) if scores.ndim == 1 else f"an array of shape {scores.shape}"
            raise ScoringError(
                f"{self.use}: expected {len(texts)} scores, one for each text, got {got}"
            )
        return scores

    def save(self, directory: Path) -> None:
        """Do nothing: there is no state."""

    def load(self, directory: Path) -> None:
        """Do nothing: there is no state."""


class FunctionReweighter(PluggedFunction):
    """Weights by calling a function: ``def reweight(losses: np.ndarray) -> Sequence[float]``.

    It is named in a recipe as ``train.reweight: {use: package.module:function}``. It gets the mean
    losses of a global batch's samples, (n,) float64 in nats, and gives one weight for each, of
    which only the ratios matter.
    """

    version: ClassVar[int] = 1

    @property
    def requirements(self) -> BatchRequirements:
        return BatchRequirements()

    def is_uniform(self, moment: TrainingProgress) -> bool:
        """Return false: the weights of a function may always differ."""
        return False

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        returned = self.called(batch.losses.copy())
        if hasattr(returned, "__array__") or not hasattr(returned, "__iter__"):
            return np.asarray(returned)
        return np.asarray(list(returned))

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        return {}

    def state(self) -> Mapping[str, np.ndarray]:
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing: there is no state."""


def load_object(use: str, directories: Sequence[Path]) -> Any:
    """Import the object that ``package.module:name`` names.

    Args:
        use: What it names.
        directories: The recipe's directory, and others that are searched behind what is installed;
            the current directory is the last.

    Raises:
        SelectorError: The module cannot be imported or has no such name; begins with ``use:``.
    """
    module_name, colon, name = use.partition(":")
    if not colon or not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise SelectorError(key="use", expected=_EXPECTED, got=repr(use))
    module = _module(module_name, [Path(directory) for directory in directories])
    found = getattr(module, name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        near = difflib.get_close_matches(name, own, n=1) or own[:5] or ["none"]
        raise SelectorError(
            key="use",
            expected=f"a function of {module_name}, such as {', '.join(near)}",
            got=repr(name),
        )
    return found


def _module(name: str, directories: Sequence[Path]) -> ModuleType:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise SelectorError(
            f"{top} is a module of Python's own library",
            key="use",
            fix="give the scorer's file another name",
        )
    behind = [*directories[1:], Path.cwd()]
    places = [str(directory) for directory in (*directories, *behind)]
    try:
        spec = find_own(top, directories[:1])
        if spec is None and (top in _adopted or (top not in sys.modules and not find_spec(top))):
            spec = find_own(top, behind, chosen=False)
        if spec and spec.origin and not _already_loaded(top, spec.origin):
            _adopt(top, spec)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            looked = ", ".join(dict.fromkeys(places)) or "no directory"
            raise SelectorError(
                f"no module {error.name!r} in {looked}, nor installed",
                key="use",
                fix="put its file beside the recipe or install its package",
            ) from None
        raise SelectorError(
            f"{name} imports {error.name!r}, which is not installed", key="use", fix="install it"
        ) from error
    except SelectorError:
        raise
    except (Exception, SystemExit) as error:  # any code may run at its top level
        raise SelectorError(
            f"importing {name} raised {describe_error(error)}",
            key="use",
            fix=fix_of_error(error) or f"fix it, or try: python -c 'import {name}'",
        ) from error


def _already_loaded(top: str, origin: str) -> bool:
    """Check whether Python has already imported this very module; then it is kept."""
    loaded = sys.modules.get(top)
    if loaded is None or top in _adopted:
        return False
    found = getattr(loaded, "__file__", None)
    if found is None or Path(found).resolve() != Path(origin).resolve():
        serve_no_more([top])  # else this process's workers would import it for the other
        raise SelectorError(
            f"{origin} has the name of a module that is in use already ({found})",
            key="use",
            fix="rename it",
        )
    return True


def _adopt(top: str, spec: ModuleSpec) -> None:
    """Import a module before an installed one of the same name, again if a file changed."""
    directory = directory_of(spec).absolute()
    changed = forget_changed(directory)
    if namesakes := forget_namesakes(directory):
        serve_no_more(namesakes - {top})
        changed = True
    if not changed and _adopted.get(top) == str(spec.origin) and top in sys.modules:
        return
    for loaded in [key for key in sys.modules if key == top or key.startswith(f"{top}.")]:
        del sys.modules[loaded]
    module = module_from_spec(spec)
    sys.modules[top] = module
    try:
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[top]
        raise
    _adopted[top] = str(spec.origin)


def no_number(returned: Any) -> int | None:
    """Return the position of the first item of a list that is no number and not None; or None."""
    if not isinstance(returned, (list, tuple)):
        return None
    for index, item in enumerate(returned):
        if item is None or isinstance(item, (float, int, np.number, np.bool_)):
            continue
        try:
            if isinstance(item, (str, bytes)) or np.ndim(item):
                return index
            float(item)  # such as of a tensor
        except (TypeError, ValueError):
            return index
    return None


def _floats(returned: Any, use: str, ids: Any) -> np.ndarray:
    """Convert numbers, and None for NaN, to float32 of any shape; ids name a wrong one."""
    expected = f"{use}: expected one number for each text"
    if isinstance(returned, (str, bytes, Mapping)) or np.isscalar(returned) or returned is None:
        raise ScoringError(f"{expected}, got {type(returned).__name__}")
    if not isinstance(returned, np.ndarray) and not hasattr(returned, "__array__"):
        try:
            returned = list(returned)
        except TypeError:
            raise ScoringError(f"{expected}, got {type(returned).__name__}") from None
        wrong = no_number(returned)
        if wrong is not None:
            got = f"{returned[wrong]!r:.80}"
            document = f"document {ids[wrong]}" if wrong < len(ids) else f"text {wrong}"
            raise ScoringError(f"{expected}, got {got} for {document}")
        returned = [np.nan if item is None else item for item in returned]
    try:
        array = np.asarray(returned)
        if array.dtype.kind == "O" and any(isinstance(one, (str, bytes)) for one in array.flat):
            raise TypeError("texts in place of numbers")
        if array.dtype.kind not in "fiubO":
            raise TypeError(f"an array of {array.dtype}")
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ScoringError(f"{expected}, got something else: {error}") from None
