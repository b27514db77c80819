"""A user's function as a rule: ``def drop(texts: list[str]) -> Sequence[bool]``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Workspace
from penstock.errors import RecipeError, ScoringError
from penstock.pipeline.checking import call_plugin
from penstock.pipeline.edited_code import edited_lines
from penstock.selectors.functions import PluggedFunction

__all__ = ["FunctionRule"]


class FunctionRule:
    """A user's rule: a text column that marks the documents it drops.

    It is named in a recipe as ``clean.rules: {NAME: {use: package.module:function}}``; other keys
    are passed to the function as keywords. It is called once for each text: of all changes of a
    recipe, only those of the file and of the keywords call it anew.

    Args:
        rule: Its key in the recipe.
        parameters: ``use``, and keywords of the function.
        directories: Where modules are looked for before the installed ones.

    Raises:
        RecipeError: The key is no plain name.
        SelectorError: There is no such function.
    """

    version = 1

    def __init__(
        self, rule: str, parameters: Mapping[str, Any], directories: Sequence[Path] = ()
    ) -> None:
        if re.fullmatch("[A-Za-z0-9_]+", rule) is None:
            raise RecipeError(expected="a name of letters, digits and _", got=repr(rule))
        self.rule = rule
        if not isinstance(parameters["use"], str):
            got = repr(parameters["use"])
            raise RecipeError(key="use", expected="package.module:function", got=got)
        keywords = {key: value for key, value in parameters.items() if key != "use"}
        self._function = PluggedFunction(parameters["use"], directories, keywords)

    @property
    def name(self) -> str:
        """The stage of its column."""
        return f"rule_{self.rule}"

    def config(self) -> dict[str, Any]:
        """Return the function's name, its keywords and the sha256 of its file."""
        return dict(self._function.identity())

    def changes(self, workspace: Workspace) -> list[str]:
        """Return a line if the code was edited since the rule was applied, else none."""
        own = self.config()
        key = f"clean.rules.{self.rule}"

        def of_rule(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
            return config if config.get("use") == own["use"] else None

        return list(edited_lines(key, workspace, self.name, own, of_rule))

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Call the function: (n,) large_string to n rows of ``drops``, bool.

        Raises:
            ScoringError: The function raised, or did not return one bool for each text.
        """
        key = f"clean.rules.{self.rule}"
        returned = call_plugin(key, None, self._function.called, texts.to_pylist())
        try:
            drops = np.asarray(returned)
        except ValueError:
            drops = np.empty(0)
        if drops.shape != (len(texts),) or (len(texts) and drops.dtype != np.bool_):
            raise ScoringError(
                key=key,
                expected=f"{len(texts)} truth values, one for each text",
                got=_described(returned),
                fix="return True or False for each text, as by bool(x)",
            )
        return pa.record_batch({"drops": pa.array(drops.astype(bool), pa.bool_())})


def _described(returned: Any) -> str:
    """Describe what is no list of truth values, in words of Python."""
    try:
        values = list(returned)
    except TypeError:
        return f"a {type(returned).__name__}"
    for position, value in enumerate(values):
        if not isinstance(value, (bool, np.bool_)):
            return f"{value!r:.80}, a {type(value).__name__}, for text {position}"
    return f"{len(values)}"
