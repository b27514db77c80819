"""Answers from a model on this machine's GPUs, by vLLM, in this process.

For a cluster without a server: each worker loads the model and answers its documents' requests
hundreds at a time. A seed is sent with each request, but a choice between two nearly equally likely
tokens depends on the other requests of the batch; so answers are kept in a journal and never
requested again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from penstock.errors import SelectorError
from penstock.language_models.model_directory import check_model
from penstock.resources import Resources
from penstock.selectors.parameters import ModelName, Whole
from penstock.selectors.rewriting.base import Answer, CompletionRequirements, Request
from penstock.selectors.rewriting.local import ModelInProcess, encoded
from penstock.tokenization.examining import examined

__all__ = ["VllmModel"]

Key = TypeVar("Key")


class VllmModel(ModelInProcess):
    """A causal language model that vLLM runs."""

    model: ModelName = Field(
        description="A directory or a hub name. Its chat template is used.",
    )
    gpus: Whole = Field(
        default=1,
        description="GPUs that one worker's model is distributed over.",
    )
    batch: Whole = Field(
        default=1024,
        description="Requests that are handed over at a time; the next ones wait for the "
        "slowest of them.",
    )
    max_length: Whole | None = Field(
        default=None,
        description="Tokens of prompt and answer together, at most; the model's own limit if "
        "not given, which may need more memory than there is.",
    )

    @property
    def requirements(self) -> CompletionRequirements:
        return CompletionRequirements(resources=Resources(gpus=self.gpus, by="rewrite"))

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
                f"vLLM is not installed on this worker ({error})",
                key="vllm",
                fix="pip install vllm there, or run its server and give `url`",
            ) from None
        check_model(self.model, key="vllm")
        if (definition := Path(self.model) / "tokenizer.json").is_file():
            examined(definition, "vllm")
        try:
            return vllm.LLM(
                model=self.model,
                tensor_parallel_size=self.gpus,
                max_model_len=self.max_length,
                load_format="safetensors",
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise SelectorError(f"cannot be loaded: {error}", key="vllm", file=self.model) from None

    def _answered(self, batch: list[tuple[Key, Request, int]]) -> Iterator[tuple[Key, Answer]]:
        import vllm

        tokenizer = self._loaded.get_tokenizer()
        room = self._loaded.llm_engine.model_config.max_model_len
        prompts, settings, keys = [], [], []
        for key, request, seed in batch:
            ids = encoded(request, tokenizer)
            sampling = request.sampling
            if refused := self.refused(len(ids), sampling, room):
                yield key, refused
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
