"""Directories of models from elsewhere, looked at before a library loads them.

A model's directory can name code: modules of its own (``auto_map``, ``modules.json``), pickled
weights, kernels to be fetched. transformers asks on the terminal whether to run it unless
``trust_remote_code`` is False, and sentence-transformers 5 runs that of a local directory without a
question. Penstock runs none of it, whatever the library's version: what is refused here never
reaches a library, and ``trust_remote_code=False`` and ``use_safetensors=True`` are passed as well.

A model that has its own code beside a type that transformers knows is loaded by transformers' code.

Headers of weights may claim no more than their file (``weight_files.py``), and ``config.json`` no
sizes that no model has. While a library builds the model, it is compared with the weight files
(``bounded_building.py``). Files of tokenizers are examined.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from penstock.errors import InputError
from penstock.language_models.bounded_building import ModelFiles, sizes_problem
from penstock.language_models.model_settings import outside_file, settings_problem
from penstock.language_models.weight_files import (
    HeaderError,
    WeightTotals,
    opened_plain,
    read_header,
)
from penstock.opening import check_links_below
from penstock.tokenization.examining import examined

__all__ = ["check_model", "check_sentence_model"]

_MOST = 2**23
"""Bytes of a configuration; as Python's objects they may take 30 times as much."""

_MOST_INDEX = 2**26
"""Bytes of a list of weight files; DeepSeek-V3's has 9 MB."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
"""Names of weights that PyTorch unpickles."""

_MODULE = re.compile(
    r"sentence_transformers(\.[a-z_0-9]+)*\."
    "(Transformer|Pooling|Normalize|Dense|LayerNorm|Dropout|StaticEmbedding|WeightedLayerPooling)"
)
"""Modules that hold tensors and settings. Others load more models, or files of other formats."""

_ACTIVATION = re.compile(r"torch\.nn(\.modules\.(activation|linear))?\.[A-Z]\w*")
"""Activations of a ``Dense``, which sentence-transformers imports by this name and calls."""


def check_model(directory: str | Path, *, key: str | None) -> ModelFiles:
    """Check the directory of a transformers model; any other name is left to the hub's client.

    Args:
        directory: A directory, or a name on the hub.
        key: The recipe key of errors; None where the caller adds it.

    Returns:
        Its files, which limit what a library may build (:meth:`ModelFiles.bounding`).

    Raises:
        InputError: It can be loaded by its own code only, its weights are pickles, it is an adapter
            of another model, it has no ``config.json`` or no weights, a configuration is not one or
            has sizes that no model has, or a header of weights is false.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        return ModelFiles(root, None)
    _check_links(root, key)
    adapter = root / "adapter_config.json"
    if adapter.exists():
        raise InputError(
            "an adapter of another model, which would be loaded, too",
            key=key,
            file=adapter,
            fix="merge both into one model and save it, or remove the file",
        )
    generate = root / "custom_generate" / "generate.py"
    if generate.exists():  # transformers 4.56 runs it from a directory whatever it is told
        raise InputError(
            "its own code to generate texts would run, which it never does",
            key=key,
            file=generate,
            fix="remove the directory custom_generate",
        )
    if not (root / "config.json").exists():
        raise InputError(
            "this directory holds no config.json",
            key=key,
            file=root,
            fix="name the directory in which save_pretrained of transformers saved a model",
        )
    config = _read(root / "config.json", key)
    if "auto_map" in config and not _is_known(config.get("model_type")):
        raise InputError(
            "its own code would have to run, which it never does",
            key=key,
            file=root / "config.json",
            expected="a model_type that the installed transformers knows",
            got=f"{config.get('model_type')!r} and an auto_map",
            fix="convert the model to such a type",
        )
    totals = _check_weights(root, key)
    _check_index(root, key)
    if not any(root.glob("*.safetensors")):
        raise InputError(
            "this directory holds no weights",
            key=key,
            file=root,
            expected="model.safetensors",
            fix="name the directory in which save_pretrained of transformers saved a model",
        )
    for path in (root / "config.json", root / "generation_config.json"):
        _check_values(path, _read(path, key), key)
    _check_tokenizer(root / "tokenizer_config.json", key)
    return ModelFiles(root / "config.json", totals, "quantization_config" in config)


def check_sentence_model(directory: str | Path, *, key: str | None) -> ModelFiles:
    """Check the directory of a sentence-transformers model, with all modules and tokenizers.

    Returns:
        As :func:`check_model`.

    Raises:
        InputError: As :func:`check_model`; or a module is none of those that hold tensors and
            settings only, or is outside of the directory.
    """
    root = Path(directory)
    _check_links(root, key)
    source = root / "modules.json"
    if not source.exists():  # a plain transformers model
        _examine_tokenizer(root, key)
        return check_model(root, key=key)
    _examine_tokenizer(root, key)
    totals, packed = WeightTotals(), False
    modules = _read(source, key, list)
    for module in modules:
        found = module if isinstance(module, dict) else {}
        kind, path = str(found.get("type")), str(found.get("path"))
        if not _MODULE.fullmatch(kind):
            raise InputError(
                "a module that is not one of sentence-transformers' own for texts: its code would "
                "run, which it never does",
                key=key,
                file=source,
                got=repr(kind),
                fix="convert the model to modules that hold tensors and settings only",
            )
        parts = Path(path).parts
        if Path(path).is_absolute() or ".." in parts:
            raise InputError(
                key=key, file=source, expected="modules below this directory", got=repr(path)
            )
        inside = root.joinpath(*parts)
        if kind.endswith(".Transformer"):
            packed |= check_model(inside, key=key).is_packed
        totals += _check_weights(inside, key)
        if inside != root:
            _examine_tokenizer(inside, key)
        for config in (inside / "config.json", *sorted(inside.glob("sentence_*_config.json"))):
            values = _read(config, key)
            _check_values(config, values, key)
            activation = values.get("activation_function")
            if not kind.endswith(".Dense") or config.name != "config.json":
                continue
            if not _ACTIVATION.fullmatch(str(activation)):
                raise InputError(
                    key=key,
                    file=config,
                    expected="an activation_function of torch.nn, such as "
                    "torch.nn.modules.activation.Tanh",
                    got=repr(activation),
                )
    return ModelFiles(source, totals, packed)


def _check_links(root: Path, key: str | None) -> None:
    """Refuse links of other users: a library opens files by their paths."""
    try:
        check_links_below(root)
    except InputError as error:
        raise error if key is None else error.under(key) from None


def _is_known(kind: Any) -> bool:
    """Return whether transformers has code of its own for a ``model_type``."""
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:  # what loads the model names the extra
        return True

    return isinstance(kind, str) and kind in CONFIG_MAPPING


def _examine_tokenizer(root: Path, key: str | None) -> None:
    if (definition := root / "tokenizer.json").is_file():
        examined(definition, key)


def _check_weights(root: Path, key: str | None) -> WeightTotals:
    """Compare the headers of weights with their files; refuse pickles where there are none."""
    totals = WeightTotals()
    found = sorted(root.glob("*.safetensors"))
    for path in found:
        try:
            with opened_plain(path) as source:
                totals += read_header(source)
        except (OSError, HeaderError) as error:
            raise InputError(
                f"not safetensors that can be used: {error}",
                key=key,
                file=path,
                fix="copy or download the file again",
            ) from None
    if found:
        return totals
    for pickled in (path for pattern in _PICKLES for path in sorted(root.glob(pattern))):
        raise InputError(
            "these weights are a pickle, which can run code and is never read",
            key=key,
            file=pickled,
            expected="model.safetensors",
            fix="where you trust its author, load it there with transformers and call "
            "save_pretrained",
        )
    return totals


def _check_index(root: Path, key: str | None) -> None:
    """Refuse a list of weight files that names others than those of this directory."""
    path = root / "model.safetensors.index.json"
    if (root / "model.safetensors").exists():  # the list is not read
        return
    listed = _read(path, key, most=_MOST_INDEX).get("weight_map", {})
    names = {str(name) for name in listed.values()} if isinstance(listed, dict) else {repr(listed)}
    for name in sorted(names):
        if Path(name).name != name or not (root / name).is_file():
            raise InputError(
                key=key, file=path, expected="files of this directory", got=repr(name)[:80]
            )


def _check_values(path: Path, config: Any, key: str | None) -> None:
    """Refuse sizes that no model has, and settings that fetch code or read files elsewhere."""
    if (problem := sizes_problem(config)) is not None:
        raise InputError(
            key=key,
            file=path,
            expected=problem[0],
            got=problem[1],
            fix="take config.json and the weights from one model",
        )
    if (problem := settings_problem(path.name, config)) is not None:
        raise InputError(problem[0], key=key, file=path, got=problem[1], fix="remove this entry")


def _check_tokenizer(path: Path, key: str | None) -> None:
    if (entry := outside_file(path.parent, _read(path, key))) is not None:
        raise InputError(
            "a file outside of the directory would be read",
            key=key,
            file=path,
            got=entry,
            fix="remove this entry",
        )


def _read(path: Path, key: str | None, kind: type[Any] = dict, most: int = _MOST) -> Any:
    """Read a JSON file; one that does not exist is empty, as for the libraries."""
    try:
        with opened_plain(path) as source:
            content = source.read(most + 1)
        if len(content) > most:
            raise ValueError(f"more than {most:,} bytes")
        found = json.loads(content)
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot be read ({reason})", key=key, file=path) from None
    if not isinstance(found, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise InputError(key=key, file=path, expected=expected, got=type(found).__name__)
    return found
