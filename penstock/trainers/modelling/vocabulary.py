"""The tokenizer of a model to continue from, against the one that made the shards.

This module imports no PyTorch: each driver and Ray Train's controller import it, and their imports
took 3.9 s of CPU time with PyTorch and its compiler, and take 0.9 s now.
"""

from __future__ import annotations

from pathlib import Path

from penstock.display import logger_of
from penstock.errors import RecipeError
from penstock.tokenization.definition import Definition

__all__ = ["check_tokenizer"]

_log = logger_of(__name__)


def check_tokenizer(model: str, tokenizer: Path) -> None:
    """Compare the vocabulary of a model's own tokenizer with the one that made the shards.

    A model's table may be larger than the shards' vocabulary, so its size alone does not show that
    the shards were made by another tokenizer. Each id would then mean another token, and the
    exported model would have the wrong tokenizer.

    Every token of the shards' tokenizer must have the same id in the model's; the model's may have
    more. A model without ``tokenizer.json`` cannot be compared, and is accepted with a warning.

    Args:
        model: Directory or hub name, the value of ``train.model.hf``.
        tokenizer: The ``tokenizer.json`` of the shards.

    Raises:
        RecipeError: A token has another id, or none; or there is no such model.
    """
    own = _own_tokenizer(model)
    if own is None:
        _log.warning("train.model.hf: %s: no tokenizer.json to compare the shards with", model)
        return
    expected = Definition.read(own, "train.model.hf").vocabulary
    found = Definition.read(tokenizer).vocabulary
    other = [(number, token) for token, number in found.items() if expected.get(token) != number]
    if not other:
        return
    number, token = min(other)
    meaning = {number: token for token, number in expected.items()}.get(number)
    raise RecipeError(
        key="train.model.hf",
        file=model,
        expected="shards made by the model's own tokenizer",
        got=f"{len(other):,} of {len(found):,} tokens with other ids: {number} is {token!r} in the "
        f"shards and {meaning!r} in the model",
        fix=f"set `tokenizer: {model}`",
    )


def _own_tokenizer(model: str) -> Path | None:
    """Find the ``tokenizer.json`` of a model directory, or of a name on the hub."""
    directory = Path(model).expanduser()
    if directory.is_dir():
        file = directory / "tokenizer.json"
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(model, "tokenizer.json"))
    except EntryNotFoundError:
        return None
    except Exception as error:  # any transport or name error
        raise RecipeError(
            key="train.model.hf",
            expected="a directory that save_pretrained wrote, or a name on the hub",
            got=f"{model!r} ({type(error).__name__})",
        ) from None
