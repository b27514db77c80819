"""Answers from a model in a directory, by transformers, in this process.

For small models and where there is no server. One request at a time: in a batch, padding and the
other requests change the last bits of the logits, and so a drawn token. On the CPU an answer
is thus a function of the model, the request and the seed. The cost is speed: a server
such as vLLM's answers hundreds of requests side by side.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field
from typing_extensions import Self

from penstock.errors import SelectorError
from penstock.language_models.devices import one_thread
from penstock.language_models.model_directory import check_model
from penstock.panics import panics_as_errors
from penstock.resources import Resources
from penstock.selectors.encoders.embedding import contents_of
from penstock.selectors.parameters import Declared, ModelName
from penstock.selectors.rewriting.base import (
    GREEDY,
    Answer,
    CompletionRequirements,
    Request,
    Sampling,
)
from penstock.tokenization.examining import examined

__all__ = ["LocalModel", "ModelInProcess", "encoded"]

Key = TypeVar("Key")


def _check_directory(model: str) -> str:
    if not (Path(model) / "config.json").is_file():
        raise SelectorError(expected="the directory of a transformers model", got=repr(model))
    check_model(model, key=None)
    return model


class ModelInProcess(Declared):
    """A model that each worker loads for itself."""

    model: ModelName

    _loaded: Any = None

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_loaded": None}}

    def split(self, workers: int) -> Self:
        """Return the model itself: each worker loads its own copy."""
        return self

    def identity(self) -> Mapping[str, Any]:
        """Return the sha256 of the files of a directory, or the name on the hub."""
        return {"model": contents_of(self.model)}

    def refused(self, tokens: int, sampling: Sampling, room: int) -> Answer | None:
        """Return an answer with an ``error`` where ``room`` has none for ``max_tokens``."""
        if tokens + sampling.max_tokens <= room:
            return None
        return Answer(
            text="",
            error=f"{self.model}: expected a prompt of at most {room - sampling.max_tokens} "
            f"tokens beside {sampling.max_tokens} of an answer, got {tokens}",
        )


class LocalModel(ModelInProcess):
    """A causal language model of transformers."""

    model: Annotated[ModelName, AfterValidator(_check_directory)] = Field(
        description="A directory with ``config.json``, weights as safetensors, and a tokenizer. "
        "Its chat template is used; without one, system and user are separated by a blank line.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="``cpu``, ``cuda``, or ``auto``: a GPU if there is one.",
    )

    @property
    def requirements(self) -> CompletionRequirements:
        """Return the GPU of a worker that loads it; with ``auto`` it uses any visible GPU."""
        gpus = 1 if self.device == "cuda" else 0
        return CompletionRequirements(resources=Resources(gpus=gpus, by="rewrite"))

    def answers(self, asked: Iterable[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        """Answer each (key, request, seed), in turn.

        A prompt that leaves no room for ``max_tokens`` in the model's context is answered with an
        ``error``.
        """
        if self._loaded is None:
            self._loaded = self._load()
        for key, request, seed in asked:
            yield key, self._answer(request, seed, *self._loaded)

    def _load(self) -> tuple[Any, Any, str]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        files = check_model(self.model, key="model")
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if (definition := Path(self.model) / "tokenizer.json").is_file():
            examined(definition, "model")
        with files.bounding("model"):
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    self.model, local_files_only=True, trust_remote_code=False
                )
                model = AutoModelForCausalLM.from_pretrained(
                    self.model,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype="auto",
                )
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise SelectorError(
                    f"cannot be loaded: {error}", key="model", file=self.model
                ) from None
        return tokenizer, model.to(device).eval(), device

    def _answer(
        self, request: Request, seed: int, tokenizer: Any, model: Any, device: str
    ) -> Answer:
        import torch

        with panics_as_errors("model"):
            ids = encoded(request, tokenizer)
        room = getattr(model.config, "max_position_embeddings", None)
        sampling = request.sampling
        if room is not None and (refused := self.refused(len(ids), sampling, room)):
            return refused
        prompt = torch.tensor([ids], device=device)
        settings = _settings(model, sampling)
        threads: AbstractContextManager[None] = one_thread() if device == "cpu" else nullcontext()
        with threads, torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            output = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), generation_config=settings
            )
        new = output[0, len(ids) :].tolist()
        return Answer(
            text=tokenizer.decode(new, skip_special_tokens=True),
            finish="stop" if new and new[-1] in _ends(model) else "length",
            prompt_tokens=len(ids),
            completion_tokens=len(new),
        )


def encoded(request: Request, tokenizer: Any) -> list[int]:
    """Encode a prompt by the model's chat template.

    Only the template gives special tokens. ``<|im_end|>`` in a document would end the user's turn,
    so the messages of such a request are encoded apart from the template, as letters.
    """
    letters = {"split_special_tokens": True}
    if not tokenizer.chat_template:
        text = f"{request.system}\n\n{request.user}".strip()
        return list(tokenizer(text, **letters)["input_ids"])
    messages = request.messages
    contents = {f"penstock-{secrets.token_hex(16)}": one["content"] for one in messages}
    plain = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    apart = any(token in text for token in plain for text in contents.values())
    if apart:
        messages = [{**one, "content": mark} for one, mark in zip(messages, contents)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    if not apart:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(contents)})", text):
        if piece in contents:
            ids += tokenizer(contents[piece], add_special_tokens=False, **letters)["input_ids"]
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def _settings(model: Any, sampling: Sampling) -> Any:
    """Make the request's own settings, without those of the model's directory."""
    from transformers import GenerationConfig

    ends = _ends(model)
    drawn = {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
    }
    return GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        **({"do_sample": False} if sampling.temperature == GREEDY else drawn),
    )


def _ends(model: Any) -> list[int]:
    """Return the ids that end an answer."""
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
