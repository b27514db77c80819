"""Read the YAML of a recipe into plain data, in bounded time and memory.

YAML can claim far more than it holds: aliases of aliases, nesting that ends Python's stack, numbers
of a million digits, tags that build objects. Each ends in one error with its line. Trade-off: a
recipe has at most 1 MiB, which PyYAML reads in about 10 s.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from penstock.errors import RecipeError

__all__ = ["MOST_BYTES", "read_yaml"]

MOST_BYTES = 2**20
"""Largest recipe, in bytes."""

_DEPTH = 50
"""Most values inside each other; the deepest key of a recipe has 7 above it."""

_ALIASED = 10_000
"""Most values that aliases may stand for, those inside of them included."""

_DIGITS = 100
"""Most characters of an integer."""


def read_yaml(text: str, file: object = None, once: bool = True) -> Any:
    """Read YAML: mappings, lists and scalars.

    Args:
        text: One document of YAML 1.1.
        file: Named in the error, with the line.
        once: Refuse a key that is given twice; else the last one counts, as for PyYAML.

    Raises:
        RecipeError: It is not YAML, or claims more than a recipe needs.
    """
    loader = None
    try:
        loader = _RecipeLoader(text)  # a SafeLoader: builds plain data only
        loader.once = once
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.problem, error.context) if part)
        mark = error.problem_mark
    except (yaml.YAMLError, ValueError) as error:  # an escape beyond U+10FFFF is a ValueError
        problem = f"not YAML: {' '.join(str(error).split())}"
        mark = None if loader is None else loader.get_mark()
    where = file if mark is None or file is None else f"{file}:{mark.line + 1}"
    raise RecipeError(problem, file=where)


def _refuse(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 as people write it: ``3e-3`` is a number, and no key may be given twice."""

    once = True

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._aliased = 0
        self._sizes: dict[yaml.Node, int] = {}
        """Values in each node that is complete, aliases followed."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            assert node is not None
            if node not in self._sizes:
                raise _refuse(
                    f"the alias *{event.anchor} is inside its own value", event.start_mark
                )
            self._aliased += self._sizes[node]
            if self._aliased > _ALIASED:
                raise _refuse(f"aliases stand for more than {_ALIASED:,} values", event.start_mark)
            return node
        self._depth += 1
        if self._depth > _DEPTH:
            raise _refuse(f"more than {_DEPTH} values inside each other", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._sizes[node] = 1 + sum(self._sizes[one] for one in _below(node))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML's constructors raise what Python's types raise
            kind = node.tag.rpartition(":")[2]
            raise _refuse(f"not a value of the kind {kind} ({error})", node.start_mark) from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if isinstance(node.value, str) and len(node.value) > _DIGITS:
            raise _refuse(f"an integer of more than {_DIGITS} characters", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            if self.once and key.value in lines:
                raise _refuse(
                    f"the key {key.value!r} was already given in line {lines[key.value]}; "
                    "remove one of them",
                    key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _below(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


_RecipeLoader.add_constructor("tag:yaml.org,2002:int", _RecipeLoader.construct_yaml_int)
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
