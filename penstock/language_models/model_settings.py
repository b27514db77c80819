"""Settings of a model's directory, which name nothing outside of it and no code to be fetched.

transformers takes an implementation of attention from several keys of several files, also as a
mapping, and sentence-transformers passes ``model_args`` and others on as keywords of its loader. So
names of implementations and these keywords are compared with the known ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["entries", "outside_file", "settings_problem"]

_IMPLEMENTATIONS = {
    *("eager", "sdpa", "flex_attention", "paged|eager", "paged|sdpa"),
    *("flash_attention_2", "flash_attention_3", "flash_attention_4", "paged|flash_attention_2"),
    *("grouped_mm", "batched_mm"),
}
"""Implementations of attention and of experts that are part of transformers or PyTorch."""

_KERNELS = {"use_kernels", "kernel_config", "allow_all_kernels"}

_PLAIN = {
    *("max_seq_length", "do_lower_case", "transformer_task", "module_output_name"),
    *("unpad_inputs", "query_length", "document_length", "query_expansion", "modality_config"),
    "processing_kwargs",
}
"""Keys of ``sentence_bert_config.json`` that name neither files nor models."""

_PASSED_ON = {
    *("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args"),
    "config_kwargs",
}
"""Its keys whose values are keywords of loaders."""

_KEYWORDS = {
    *("attn_implementation", "torch_dtype", "dtype", "add_pooling_layer", "low_cpu_mem_usage"),
    *("use_cache", "use_safetensors", "trust_remote_code", "reference_compile", "is_decoder"),
    *("is_causal", "unpad_inputs", "use_memory_efficient_attention", "num_labels"),
    *("padding_side", "truncation_side", "padding", "truncation", "max_length", "use_fast"),
    *("model_max_length", "do_lower_case", "strip_accents", "add_prefix_space", "add_eos_token"),
    *("add_bos_token", "clean_up_tokenization_spaces", "pad_token", "eos_token", "bos_token"),
    *("unk_token", "cls_token", "sep_token", "mask_token", "split_special_tokens"),
}
"""Keywords of loaders that name neither files nor models."""

_METHOD = re.compile("forward|get_[a-z]+_features")
"""Methods of a model that give vectors; any other could be named, too."""


def settings_problem(file: str, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why settings of a model are refused, and the entry; None for sound ones.

    Args:
        file: The name of their file.
        settings: Its content.
    """
    for name, value in entries(settings):
        chosen = "attn_implementation" in name or "experts_implementation" in name
        if (chosen and not _is_known(value)) or (name in _KERNELS and value not in (None, False)):
            return "compiled code from elsewhere would be fetched and run", _shown(name, value)
    if not (file.startswith("sentence_") and file.endswith("_config.json")):
        return None
    elsewhere = "a setting that may name files or models elsewhere"
    for name, value in settings.items():
        if name in _PASSED_ON:
            passed = value if isinstance(value, dict) else {} if value is None else {"": value}
            for keyword, one in passed.items():
                plain = one is None or isinstance(one, (bool, int, float, str))
                implementation = keyword == "attn_implementation"
                if keyword not in _KEYWORDS or not (plain or implementation):
                    return elsewhere, _shown(f"{name}.{keyword}", one)
        elif name not in _PLAIN and value is not None:
            return elsewhere, _shown(name, value)
    for name, value in entries(settings.get("modality_config")):
        if name == "method" and not _METHOD.fullmatch(str(value)):
            return "a method that gives no vectors would be called", _shown(name, value)
    return None


def outside_file(root: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the entry of a ``tokenizer_config.json`` by which files elsewhere would be read.

    Earlier versions of transformers open these paths. Published files name some of their authors'
    machines, which do not exist.
    """
    if settings.get("init_inputs"):
        return _shown("init_inputs", settings["init_inputs"])
    for name, value in settings.items():
        paths = value if isinstance(value, list) else [value]
        for path in paths if re.search("_files?$", name) else ():
            if not isinstance(path, str) or not path:
                continue
            leads_out = Path(path).is_absolute() or ".." in Path(path).parts
            if leads_out and (root / path).exists():
                return _shown(name, path)
    return None


def _is_known(value: Any) -> bool:
    """Return whether a name of an implementation, or each of a mapping, is a known one.

    Some versions of transformers save ``_attn_implementation_autoset: true``.
    """
    if isinstance(value, dict):
        return all(one is None or one in _IMPLEMENTATIONS for one in map(_name, value.values()))
    return value is None or isinstance(value, bool) or _name(value) in _IMPLEMENTATIONS


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else repr(value)


def _shown(name: str, value: Any) -> str:
    return f"{name}: {value!r}"[:120]


def entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys and values of mappings within plain data."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield from one.items()
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
