"""Token ids by gigatoken against `tokenizers`, for byte-level BPE of four kinds, on the same text.

    python benchmarks/token_ids.py --json
    python benchmarks/token_ids.py --json --data 'pool/web-*.jsonl.zst' --published vocabularies

The kinds differ in their pre-tokenizer: GPT-2's expression; Llama 3's, with ``ignore_merges``;
Qwen's, after NFC; and the tokenizer that Penstock trains. ``--published`` is a directory with
``gpt2.json``, ``llama3.json`` or ``qwen.json``; a kind without one has the published expression and
a vocabulary that is trained on the text.

``ratio`` is the lowest of the four, in CPU time of one thread, with the encoder as workers use it:
it is made anew after 32 MiB. The sides take turns; the peer encodes one of ``--every`` documents.
Ids are compared on **every** document, on ``--hostile`` mixed texts, on long runs of characters,
and, with a vocabulary that shows every boundary between pre-tokens, on every code point beside
letters, digits, spaces, points, quotes and line ends. A difference ends the command with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers
from common import docstrings, jsonl, peer_module
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from penstock.tokenization.definition import (
    END_OF_TEXT,
    DeclaredTokens,
    Definition,
    end_of_text,
)
from penstock.tokenization.fast import FastEncoder, probes, refusal_of
from penstock.tokenization.hiding import text_settings, tokenizer_of

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
ROUNDS = 3
RUNS = ("a", " ", "\n", "1", "-", "\U0001f600", "ab1 ", "'s", "\u0301")


def main() -> None:
    """Measure, compare, and print the JSON object as the last line."""
    arguments = _arguments()
    peer_module("gigatoken")
    texts = list(islice(_texts(arguments.data), arguments.documents))
    size = sum(len(text.encode()) for text in texts)
    _note(f"{len(texts):,} documents, {size / 1e6:.1f} MB")
    found = {}
    for kind in arguments.kinds.split(","):
        found[kind] = _measure(kind, texts, arguments)
        _note(f"{kind}: {found[kind]}")
    worst = min(found.values(), key=lambda one: one["ratio"])
    different = sum(one["different"] for one in found.values())
    compared = sum(one["compared"] for one in found.values())
    print(
        json.dumps(
            {
                "name": "tokenize",
                "unit": "MB/s a core",
                "ours": worst["ours"],
                "peer": worst["peer"],
                "ratio": worst["ratio"],
                "checked": f"ids of {compared:,} texts, {len(found)} kinds: {different} different",
                "kinds": found,
            }
        )
    )
    if different:
        sys.exit("ids differ: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="as is: the JSON object comes last")
    parser.add_argument("--data", help="glob of .jsonl.zst files with `text`; docstrings if absent")
    parser.add_argument("--documents", type=int, default=10**9, help="at most so many")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="tokens of each kind")
    parser.add_argument("--hostile", type=int, default=10_000, help="mixed texts")
    parser.add_argument("--code-points", type=int, default=1, help="every so many code points")
    parser.add_argument("--published", help="directory of published tokenizers, by kind")
    parser.add_argument("--kinds", default="gpt2,llama3,qwen,own")
    parser.add_argument("--every", type=int, default=20, help="documents timed with the peer")
    parser.add_argument("--trained-on", type=int, default=8_000, help="documents of the training")
    return parser.parse_args()


def _texts(data: str | None) -> Iterator[str]:
    return docstrings() if not data else (row["text"] for row in jsonl(data))


def _trained(kind: str, texts: Sequence[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Train byte-level BPE with the pre-tokenizer of a kind."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    own = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in ("llama3", "qwen"):
        split = pre_tokenizers.Split(Regex(LLAMA3 if kind == "llama3" else QWEN), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        own = pre_tokenizers.Sequence([split, last])
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = own
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary if kind != "own" else vocabulary // 4,
        special_tokens=[END_OF_TEXT, "<|im_start|>", "<|im_end|>"][: 1 if kind == "own" else 3],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if kind == "qwen":  # as published: not special, so texts give its id
        plain = tokenizers.AddedToken("<tool_call>", special=False, normalized=False)
        tokenizer.add_tokens([plain])
    return tokenizer


def _measure(kind: str, texts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both sides, and count texts whose ids differ."""
    given = Path(arguments.published or "", f"{kind}.json")
    if arguments.published and given.is_file():
        trained = tokenizers.Tokenizer.from_file(str(given))
    else:
        trained = _trained(kind, texts[: arguments.trained_on], arguments.vocabulary)
    definition = Definition.of(trained)
    end = end_of_text(definition, DeclaredTokens())
    settings = text_settings(definition, ends=[end])
    if (refusal := refusal_of(settings)) is not None:
        sys.exit(f"{kind}: {refusal}")
    peer, fast = tokenizer_of(settings), FastEncoder(settings)
    ours, theirs = _timed(settings, peer, texts, arguments.every)
    hostile = [*probes(settings, arguments.hostile), *(run * 30_000 for run in RUNS)]
    hostile += [text.replace("1", END_OF_TEXT, 1) for text in hostile]
    pairs = [(peer, fast, texts), (peer, fast, hostile)]
    if kind != "own":  # that one has GPT-2's expression
        shown = _boundaries(trained)
        points = list(_code_points(arguments.code_points))
        pairs.append((tokenizer_of(shown), FastEncoder(shown), points))
    different = compared = 0
    for reference, encoder, some in pairs:
        for start in range(0, len(some), 500):
            part = some[start : start + 500]
            expected = reference.encode_batch_fast(part, add_special_tokens=False)
            different += sum(
                ids.tolist() != own.ids for ids, own in zip(encoder.encode(part), expected)
            )
            compared += len(part)
    return {
        "ours": round(ours / 1e6, 2),
        "peer": round(theirs / 1e6, 3),
        "ratio": round(ours / theirs, 1),
        "vocabulary": trained.get_vocab_size(),
        "compared": compared,
        "different": different,
    }


def _timed(
    settings: dict[str, Any], peer: tokenizers.Tokenizer, texts: Sequence[str], every: int
) -> tuple[float, float]:
    """Return bytes a second of CPU time of both sides; each round begins with a new encoder."""
    ours, theirs = [0.0, 0.0], [0.0, 0.0]
    for number in range(ROUNDS):
        part = texts[number::ROUNDS]
        some = part[::every]
        for spent, encode, own in (
            (ours, lambda own: FastEncoder(settings).encode(own), part),
            (theirs, lambda own: peer.encode_batch_fast(own, add_special_tokens=False), some),
        ):
            began = time.process_time()
            encode(own)
            spent[0] += time.process_time() - began
            spent[1] += sum(len(text.encode()) for text in own)
    return ours[1] / ours[0], theirs[1] / theirs[0]


_SIDES = ("a", "1", "\u0120", "'", ".", "\u010a")
"""Neighbours of a code point, as byte-level letters: those after 1 are a space and a line end."""


def _boundaries(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return settings whose tokens show whether a side and a code point are in one pre-token."""
    settings = json.loads(tokenizer.to_str())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [pair for side in _SIDES for own in letters for pair in ((side, own), (own, side))]
    tokens = dict.fromkeys([*letters, *map("".join, merges)])
    settings["model"] |= {
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": list(dict.fromkeys(merges)),
    }
    settings["added_tokens"] = []
    return settings


def _code_points(every: int) -> Iterator[str]:
    """Yield code points between the sides."""
    for code in range(0, 0x110000, every):
        if not 0xD800 <= code < 0xE000:
            yield "a{0}a 1{0}1 {0} .{0}. '{0}s {0}'s\n{0}\n".format(chr(code))


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
