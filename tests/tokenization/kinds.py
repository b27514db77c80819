"""Small tokenizers of every kind of model; each can give its end of text for the letters of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

END = "</s>"
TEXTS = [
    "water turns the wheel, and 12 gates hold 345 days of it.",
    "I'll say that it's <b>old</s> news: don't go",
    "größe and 水力 \U0001f40d",
]
LETTERS = sorted({*"".join(TEXTS), *"</s>\n"} - {" "})


def special(name: str, **flags: bool) -> AddedToken:
    return AddedToken(name, special=True, normalized=False, **flags)


def byte_level(end: str = END, vocabulary: int = 340, **flags: bool) -> Tokenizer:
    """Byte-level BPE; merges make ``</s>`` where the pre-tokenizer leaves it whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    flags = {"special": True, "normalized": False, **flags}
    tokenizer.add_tokens([AddedToken(end, **flags)])
    return tokenizer


def pieces(merges: list[tuple[str, str]], letters: list[str], **model: object) -> Tokenizer:
    """BPE over letters, without a pre-tokenizer, as Llama 2's."""
    tokens = ["<unk>", "<s>", END, "\u2581", *letters, *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", **model))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Replace("\u2581", " ")
    tokenizer.add_special_tokens([special("<s>"), special(END)])
    return tokenizer


def llama(**model: object) -> Tokenizer:
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), (END, "a"), ("o", "l"), ("ol", "d")]
    return pieces(merges, LETTERS, **model)


def unigram() -> Tokenizer:
    known = [("<unk>", 0.0), ("<s>", 0.0), (END, 0.0), ("\u2581", -3.0)]
    known += [(letter, -5.0) for letter in LETTERS] + [("old", -6.0), ("</", -7.0)]
    tokenizer = Tokenizer(models.Unigram(known, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens([special("<s>"), special(END)])
    return tokenizer


def words(model: Callable[..., object] = models.WordLevel) -> Tokenizer:
    tokens = ["?", END, "<s>", "old", "news", "water", *LETTERS, *("##" + own for own in LETTERS)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(model(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([special("<s>"), special(END)])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, not flagged": lambda: byte_level(special=False),
    "byte-level, normalized": lambda: byte_level(normalized=True),
    "byte-level, strips": lambda: byte_level(lstrip=True, rstrip=True),
    "merges": llama,
    "ignore_merges": lambda: llama(ignore_merges=True),
    "unigram": unigram,
    "WordPiece": lambda: words(models.WordPiece),
    "WordLevel": words,
}


def saved(tokenizer: Tokenizer, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"
