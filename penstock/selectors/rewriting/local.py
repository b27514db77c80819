"""Answers from a model in a directory, by transformers, in this process.

For small models and for where there is no server. One request at a time: in a batch, padding and
the neighbours move the last bits of the logits, and with them a drawn token. On the CPU an answer
is thus a function of the model, the request and the seed. What is traded away is speed: a server
such as vLLM's answers hundreds of requests side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from penstock.errors import SelectorError
from penstock.language_models.devices import one_thread
from penstock.resources import Resources
from penstock.selectors.encoders.encoders import contents_of
from penstock.selectors.parameters import one_of
from penstock.selectors.rewriting.base import GREEDY, Answer, Request, Sampling

__all__ = ["LocalModel", "encoded"]

Key = TypeVar("Key")


class LocalModel:
    """A causal language model of transformers.

    Args:
        model: A directory with ``config.json``, weights as safetensors, and a tokenizer. Its
            chat template is used; without one, system and user are parted by a blank line.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.
    """

    def __init__(self, *, model: str, device: str = "auto") -> None:
        if not isinstance(model, str) or not model or not (Path(model) / "config.json").is_file():
            raise SelectorError(
                f"model: expected the directory of a transformers model, got {model!r}"
            )
        self.model = model
        self.device = one_of("device", device, "auto", "cpu", "cuda")
        self._loaded: tuple[Any, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "device": self.device, "_loaded": None}

    @property
    def needs(self) -> Resources:
        """What a worker must have to load it; with ``auto`` it takes a GPU it happens to see."""
        return Resources(gpus=1 if self.device == "cuda" else 0, by="rewrite")

    def identity(self) -> Mapping[str, Any]:
        """The sha256 of the model's files."""
        return {"model": contents_of(self.model)}

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

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                self.model, local_files_only=True, use_safetensors=True, dtype="auto"
            )
            return tokenizer, model.to(device).eval(), device
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise SelectorError(f"model: {self.model} cannot be loaded: {error}") from None

    def _answer(
        self, request: Request, seed: int, tokenizer: Any, model: Any, device: str
    ) -> Answer:
        import torch

        ids = encoded(request, tokenizer)
        room = getattr(model.config, "max_position_embeddings", None)
        sampling = request.sampling
        if room is not None and len(ids) + sampling.max_tokens > room:
            return Answer(
                text="",
                error=f"{self.model}: expected a prompt of at most {room - sampling.max_tokens} "
                f"tokens beside {sampling.max_tokens} of an answer, got {len(ids)}",
            )
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
    """The prompt's token ids, as the model's chat template has it."""
    if not tokenizer.chat_template:
        return list(tokenizer(f"{request.system}\n\n{request.user}".strip())["input_ids"])
    text = tokenizer.apply_chat_template(
        request.messages, tokenize=False, add_generation_prompt=True
    )
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _settings(model: Any, sampling: Sampling) -> Any:
    """The request's own settings, and none of those that came with the model."""
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
    """The ids that end an answer."""
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
