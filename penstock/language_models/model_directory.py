"""Directories of models from elsewhere, looked at before a library loads them.

A model's directory can name code: modules of its own (``auto_map``, ``modules.json``), pickled
weights, kernels to be fetched. transformers asks on the terminal whether to run it unless
``trust_remote_code`` is False, and sentence-transformers 5 runs that of a local directory without a
question. Penstock runs none of it, whatever the library's version: what is refused here never
reaches a library, and ``trust_remote_code=False`` and ``use_safetensors=True`` are passed as well.

A model that has its own code beside a type that transformers knows is loaded by transformers' code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from penstock.errors import InputError
from penstock.language_models.model_settings import outside_file, settings_problem

__all__ = ["check_model", "check_sentence_model"]

_MOST = 2**26
"""Bytes of a configuration."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
"""Names of weights that PyTorch unpickles."""

_MODULE = re.compile(
    r"sentence_transformers(\.[a-z_0-9]+)*\."
    "(Transformer|Pooling|Normalize|Dense|LayerNorm|Dropout|StaticEmbedding|WeightedLayerPooling)"
)
"""Modules that hold tensors and settings. Others load more models, or files of other formats."""

_ACTIVATION = re.compile(r"torch\.nn(\.modules\.(activation|linear))?\.[A-Z]\w*")
"""Activations of a ``Dense``, which sentence-transformers imports by this name and calls."""


def check_model(directory: str | Path, *, key: str | None) -> None:
    """Check the directory of a transformers model; any other name is left to the hub's client.

    Args:
        directory: A directory, or a name on the hub.
        key: The recipe key of errors; None where the caller adds it.

    Raises:
        InputError: It can be loaded by its own code only, its weights are pickles, it is an adapter
            of another model, it has no ``config.json`` or no weights, or a configuration is not
            one.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        return
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
    _check_weights(root, key)
    if not any(root.glob("*.safetensors")):
        raise InputError(
            "this directory holds no weights",
            key=key,
            file=root,
            expected="model.safetensors",
            fix="name the directory in which save_pretrained of transformers saved a model",
        )
    for path in (root / "config.json", root / "generation_config.json"):
        _check_kernels(path, _read(path, key), key)
    _check_tokenizer(root / "tokenizer_config.json", key)


def check_sentence_model(directory: str | Path, *, key: str | None) -> None:
    """Check the directory of a sentence-transformers model, with all of its modules.

    Raises:
        InputError: As :func:`check_model`; or a module is none of those that hold tensors and
            settings only, or is outside of the directory.
    """
    root = Path(directory)
    source = root / "modules.json"
    if not source.exists():  # a plain transformers model
        check_model(root, key=key)
        return
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
            check_model(inside, key=key)
        _check_weights(inside, key)
        for config in (inside / "config.json", *sorted(inside.glob("sentence_*_config.json"))):
            values = _read(config, key)
            _check_kernels(config, values, key)
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


def _is_known(kind: Any) -> bool:
    """Return whether transformers has code of its own for a ``model_type``."""
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:  # what loads the model names the extra
        return True

    return isinstance(kind, str) and kind in CONFIG_MAPPING


def _check_weights(root: Path, key: str | None) -> None:
    if any(root.glob("*.safetensors")):
        return
    for pickled in (path for pattern in _PICKLES for path in sorted(root.glob(pattern))):
        raise InputError(
            "these weights are a pickle, which can run code and is never read",
            key=key,
            file=pickled,
            expected="model.safetensors",
            fix="where you trust its author, load it there with transformers and call "
            "save_pretrained",
        )


def _check_kernels(path: Path, config: Any, key: str | None) -> None:
    """Refuse settings by which code would be fetched, or files elsewhere be read."""
    if (problem := settings_problem(path.name, config)) is not None:
        raise InputError(
            problem[0],
            key=key,
            file=path,
            got=problem[1],
            fix="remove this entry, or write it into config.json or tokenizer_config.json",
        )


def _check_tokenizer(path: Path, key: str | None) -> None:
    if (entry := outside_file(path.parent, _read(path, key))) is not None:
        raise InputError(
            "a file outside of the directory would be read",
            key=key,
            file=path,
            got=entry,
            fix="remove this entry",
        )


def _read(path: Path, key: str | None, kind: type[Any] = dict) -> Any:
    """Read a JSON file; one that does not exist is empty, as for the libraries."""
    try:
        with open(path, "rb") as source:
            found = json.loads(source.read(_MOST))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot be read ({reason})", key=key, file=path) from None
    if not isinstance(found, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise InputError(key=key, file=path, expected=expected, got=type(found).__name__)
    return found
