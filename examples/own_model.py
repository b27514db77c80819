"""A function with a model: text that a language model of yours finds easy comes first.

::

    select: {easy: {use: "own_model:score", model_directory: /models/tiny-llama}}
    budget: {tokens: 500_000, rank: easy}

The model is loaded once in each worker. The column's name has the code, the parameters and the
versions of torch and transformers, but not the files of the model: give another model another
directory, or write a class whose ``paths`` name the parameter (own_class.py has a class).
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _loaded(directory: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Never trust_remote_code: it would run code of whoever made the model.
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()
    return AutoTokenizer.from_pretrained(directory, local_files_only=True), model


def score(texts: list[str], *, model_directory: str, tokens: int = 256) -> list[float]:
    """Score each text by the mean log-likelihood of its first tokens."""
    import torch

    tokenizer, model = _loaded(model_directory)
    scores = []
    for text in texts:  # one by one: padding would make a score depend on the rest of the batch
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=tokens).input_ids
        if ids.shape[1] < 2:
            scores.append(float("nan"))  # never taken: nothing is predicted
            continue
        with torch.inference_mode():
            scores.append(-float(model(ids, labels=ids).loss))
    return scores
