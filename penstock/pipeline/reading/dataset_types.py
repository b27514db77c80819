"""The types of columns that a Hugging Face dataset declares: names of plain types, and no others.

`datasets` calls the member of pyarrow that a declared ``dtype`` names, without arguments, whatever
it is: ``create_library_symlinks`` writes into pyarrow's directory, ``log_memory_allocations`` lasts
until the process ends. Types are declared in the header of a ``README.md``, in
``.huggingface.yaml``, ``dataset_info.json`` and ``dataset_infos.json``, in the metadata
``huggingface`` of Arrow and Parquet schemas, and in extension types of their fields. The first five
are compared with a list before `datasets` reads them, so that the error names the file and the key;
:func:`guard_types` covers extension types and datasets of the hub.

Pictures and sound may be declared: the rows are taken as Arrow, which decodes no such column.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from penstock.errors import InputError
from penstock.storage import AnyPath

__all__ = ["check_declared", "check_metadata", "guard_types"]

_PLAIN = frozenset(
    [
        "binary",
        "binary_view",
        "bool",
        "bool8",
        "bool_",
        "date32",
        "date64",
        "double",
        "float",
        "float16",
        "float32",
        "float64",
        "int16",
        "int32",
        "int64",
        "int8",
        "json",
        "json_",
        "large_binary",
        "large_string",
        "large_utf8",
        "month_day_nano_interval",
        "null",
        "string",
        "string_view",
        "uint16",
        "uint32",
        "uint64",
        "uint8",
        "utf8",
        "uuid",
    ]
)
"""The names at which `datasets` 5.2 and pyarrow 26 have a type without parameters."""

_WITH_PARAMETERS = re.compile(
    r"(timestamp|duration|time32|time64|fixed_size_binary)\[[\w ,=/+:-]{1,80}\]"
    r"|decimal(128|256)\([\d, -]{1,20}\)"
)

_FEATURES = frozenset(
    [
        "Array2D",
        "Array3D",
        "Array4D",
        "Array5D",
        "Audio",
        "BioSequence",
        "BioStructure",
        "ClassLabel",
        "Image",
        "Json",
        "LargeList",
        "List",
        "Mesh",
        "Nifti",
        "Pdf",
        "Sequence",
        "Translation",
        "TranslationVariableLanguages",
        "Value",
        "Video",
    ]
)

_LISTS = ("large_list", "list", "sequence")
"""Keys of YAML whose value is the type of the elements."""

_HOLDERS = (*_LISTS, "dtype", "struct")
"""Keys of YAML whose value holds types."""

_FIX = "give its files by a path without hf:, which reads no declared types, or correct the type"


_Path = tuple["_Path | None", object]
"""A key, after that of the mapping or list above it."""


def check_declared(declared: Any, file: AnyPath | str, yaml: bool = False) -> None:
    """Check the types of all ``features`` in what describes a dataset.

    Args:
        declared: The content of the file.
        file: Named in the error.
        yaml: Whether types are written as in the header of a README, else as in JSON.

    Raises:
        InputError: One of them is no plain type.
    """
    left: list[tuple[Any, _Path | None, bool, bool]] = [(declared, None, False, False)]
    seen: set[tuple[int, bool, bool]] = set()  # YAML's aliases may repeat values
    while left:
        value, above, declares, is_type = left.pop()
        if not isinstance(value, (dict, list)) or (id(value), declares, is_type) in seen:
            continue
        seen.add((id(value), declares, is_type))
        if isinstance(value, list):
            left += [(own, (above, at), declares, is_type) for at, own in enumerate(value)]
            continue
        if declares:
            for key, got in _unknown(value, yaml, yaml and is_type):
                raise _refusal((above, key), got, file)
        for name, own in value.items():
            inside = declares or name == "features"
            holds = name in _HOLDERS or not declares
            left.append((own, (above, name), inside, inside and holds))


def _unknown(value: dict[Any, Any], yaml: bool, is_type: bool) -> Iterator[tuple[object, object]]:
    """Yield the keys and names of a mapping that stand for a type, and are none in the list."""
    for key in ("dtype", *_LISTS):
        name = value.get(key)
        if isinstance(name, str) and not (_is_type(name) or (yaml and _is_feature(name))):
            yield key, name
    name = value.get("_type")
    if isinstance(name, str) and name not in _FEATURES:
        yield "_type", name
    first = next((key for key in value if key != "name"), "dtype")
    if is_type and first not in _HOLDERS and not _is_feature(str(first)):
        yield first, first


def _is_type(name: str) -> bool:
    return name in _PLAIN or _WITH_PARAMETERS.fullmatch(name) is not None


def _is_feature(name: str) -> bool:
    """Return whether `datasets` makes the name of a feature of one in YAML."""
    return "".join(part.capitalize() for part in name.split("_")) in _FEATURES


def check_metadata(metadata: dict[bytes, bytes] | None, file: AnyPath | str) -> None:
    """Check the types in the metadata of an Arrow or Parquet schema.

    Args:
        metadata: The schema's.
        file: Named in the error.

    Raises:
        InputError: One of them is no plain type.
    """
    try:
        declared = json.loads((metadata or {}).get(b"huggingface", b"null"))
    except (ValueError, RecursionError):  # `datasets` cannot read it either
        return
    check_declared(declared, file)


def _refusal(path: _Path, got: object, file: AnyPath | str) -> InputError:
    keys: list[object] = []
    above: _Path | None = path
    while above is not None:
        above, key = above
        keys.append(key)
    return InputError(
        "declares a column by a name that is no type",
        key=".".join(map(str, reversed(keys))),
        file=file,
        expected="a plain type, as string, int64, timestamp[s] or ClassLabel",
        got=repr(got),
        fix=_FIX,
    )


class _PlainTypes:
    """`datasets`' function from a declared type to Arrow's, for names of plain types only."""

    def __init__(self, resolve: Callable[[str], Any]) -> None:
        self._resolve = resolve

    def __call__(self, name: str) -> Any:
        if not (isinstance(name, str) and _is_type(name)):
            raise ValueError(f"a column is declared as {name!r}, which is no type")
        return self._resolve(name)


def guard_types() -> None:
    """Let `datasets` resolve names of plain types only, in this process until it ends."""
    module: Any = importlib.import_module("datasets.features.features")
    resolve = vars(module).get("string_to_arrow")
    if resolve is not None and not isinstance(resolve, _PlainTypes):
        module.string_to_arrow = _PlainTypes(resolve)
