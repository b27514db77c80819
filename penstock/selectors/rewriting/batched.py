"""Answers from a model on this machine's GPUs, by vLLM, in this process.

For a cluster without a server of its own: each worker loads the model and answers its documents'
requests hundreds at a time. A request's seed goes with it, but a token that is nearly as likely as
another can fall either way with its neighbours in the batch; so answers are kept in a journal,
never asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from penstock.errors import SelectorError
from penstock.resources import Resources
from penstock.selectors.encoders.encoders import contents_of
from penstock.selectors.parameters import model_name, whole
from penstock.selectors.rewriting.base import Answer, Request
from penstock.selectors.rewriting.local import encoded

__all__ = ["VllmModel"]

Key = TypeVar("Key")


class VllmModel:
    """A causal language model that vLLM runs.

    Args:
        model: A directory or a hub name. Its chat template is used.
        gpus: That one worker's model is spread over.
        batch: Requests that are handed over at a time; the next ones wait for the slowest of them.
        max_length: Tokens of prompt and answer together, at most; the model's own limit if not
            given, which may want more memory than there is.
    """

    def __init__(
        self, *, model: str, gpus: int = 1, batch: int = 1024, max_length: int | None = None
    ) -> None:
        self.model = model_name("model", model)
        self.gpus = whole("gpus", gpus)
        self.batch = whole("batch", batch)
        self.max_length = None if max_length is None else whole("max_length", max_length)
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    @property
    def needs(self) -> Resources:
        """What a worker must have to load it."""
        return Resources(gpus=self.gpus, by="rewrite")

    def identity(self) -> Mapping[str, Any]:
        """The name, or the sha256 of the files where it is a directory."""
        return {"model": contents_of(self.model)}

    def answers(self, asked: Iterable[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        """Answer each (key, request, seed), a batch at a time.

        A prompt that leaves no room for ``max_tokens`` is answered with an ``error``.

        Raises:
            SelectorError: vLLM is not installed, or cannot load the model.
        """
        source = iter(asked)
        while batch := list(islice(source, self.batch)):
            if self._loaded is None:
                self._loaded = self._load()
            yield from self._answered(batch)

    def _load(self) -> Any:
        try:
            import vllm
        except ImportError as error:
            raise SelectorError(
                f"vllm: expected vLLM to be installed where rewriting is done ({error}); pip "
                "install vllm there, or run its server and give `url`"
            ) from None
        try:
            return vllm.LLM(
                model=self.model,
                tensor_parallel_size=self.gpus,
                max_model_len=self.max_length,
                load_format="safetensors",
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise SelectorError(f"vllm: {self.model} cannot be loaded: {error}") from None

    def _answered(self, batch: list[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        import vllm

        tokenizer = self._loaded.get_tokenizer()
        room = self._loaded.llm_engine.model_config.max_model_len
        prompts, settings, keys = [], [], []
        for key, request, seed in batch:
            ids = encoded(request, tokenizer)
            sampling = request.sampling
            if len(ids) + sampling.max_tokens > room:
                yield (
                    key,
                    Answer(
                        text="",
                        error=f"{self.model}: expected a prompt of at most "
                        f"{room - sampling.max_tokens} tokens beside {sampling.max_tokens} of an "
                        f"answer, got {len(ids)}",
                    ),
                )
                continue
            keys.append(key)
            prompts.append({"prompt_token_ids": ids})
            settings.append(
                vllm.SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=seed,
                )
            )
        if not prompts:
            return
        found = self._loaded.generate(prompts, settings, use_tqdm=False)
        for key, output in zip(keys, found, strict=True):
            (answer,) = output.outputs
            yield (
                key,
                Answer(
                    text=answer.text,
                    finish=answer.finish_reason or "stop",
                    prompt_tokens=len(output.prompt_token_ids),
                    completion_tokens=len(answer.token_ids),
                ),
            )
